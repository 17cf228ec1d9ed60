"""The strict YAML reader."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from parley.errors import InputError
from services.yamlfile import StrictModel, build, dump, parse, read


class Inner(StrictModel):
    rate: float = Field(default=1.0, gt=0)
    on: bool = False


class Outer(StrictModel):
    name: str
    words: list[str] = Field(default_factory=list)
    inner: Inner = Inner()
    many: list[Inner] = Field(default_factory=list)


def fault(text: str) -> str:
    with pytest.raises(InputError) as caught:
        parse(text, "f.yaml", Outer)
    return str(caught.value)


def test_values_mean_what_they_seem_to_mean() -> None:
    outer = parse("name: no\nwords: [on, 010, 2020-01-01, 1_0]\ninner: {rate: 1e-3, on: true}", "f", Outer)
    assert outer == Outer(name="no", words=["on", "010", "2020-01-01", "1_0"], inner=Inner(rate=1e-3, on=True))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nname: b", "f.yaml:2: the key `name` is here for the second time (first on line 1)"),
        ("name: a\ninner:\n  on: true\n  on: true", "f.yaml:4: the key `on` is here for the second time"),
        ("name: a\ninner:\n  raet: 1", "f.yaml:3: inner.raet: unknown key: did you mean `rate`?"),
        ("name: a\nmany:\n- {rate: 1}\n- {zzzz: 1}", "f.yaml:4: many[1].zzzz: unknown key: known keys here: rate, on"),
        ("name: a\ninner:\n  rate: '1'", "f.yaml:3: inner.rate: input should be a valid number, not '1'"),
        ("name: a\ninner:\n  rate: -1", "f.yaml:3: inner.rate: input should be greater than 0, not -1"),
        ("name: a\ninner:\n  rate: .inf", "f.yaml:3: inner.rate: input should be a finite number"),
        ("name: 3", "f.yaml:1: name: input should be a valid string, not 3"),
        ("words: []", "f.yaml:1: name: is missing: add it"),
        ("name: &a x\nwords: [*a]", "f.yaml:1: anchors and aliases are not accepted"),
        ("name: !!python/object:os.system x", "f.yaml:1: the tag tag:yaml.org,2002:python/object:os.system"),
        ("name: !!binary x", "f.yaml:1: the tag"),
        ("1: a", "f.yaml:1: a key must be text"),
        ("name: a\n---\nname: b", "f.yaml:2: but found another document"),
        ("name: [", "f.yaml:1:"),
        ("", "f.yaml:1: expected keys and values (`key: value`), found nothing"),
        ("- a", "found a list"),
        ("name: \x00", "f.yaml: not YAML"),
        ("name: " + "[" * 40 + "]" * 40, "f.yaml:1: nested deeper than 32 levels"),
        ("<<: {name: a}", "unknown key"),
    ],
)
def test_faults_are_named_by_line_and_path(text: str, message: str) -> None:
    assert message in fault(text)


def test_every_problem_is_named_in_order_and_at_most_eight() -> None:
    assert [line.split(": ")[0] for line in fault("nam: a\nwords: x\ninner: 3").splitlines()] == [
        "f.yaml:1",
        "f.yaml:1",
        "f.yaml:2",
        "f.yaml:3",
    ]
    many = "\n".join(f"key{index}: 1" for index in range(20))
    assert fault(many).splitlines()[8:] == ["and 13 more problems"]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.yaml: cannot be read \(No such file"):
        read(tmp_path / "none.yaml", Outer)
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9")
    with pytest.raises(InputError, match="not UTF-8 text at byte 6"):
        read(tmp_path / "latin.yaml", Outer)
    (tmp_path / "long.yaml").write_bytes(b"#" * (1 << 20) + b"#")
    with pytest.raises(InputError, match="longer than"):
        read(tmp_path / "long.yaml", Outer)


def test_a_model_built_in_python_has_the_same_messages() -> None:
    with pytest.raises(InputError, match=r"^options: inner.raet: unknown key: did you mean `rate`"):
        build({"name": "a", "inner": {"raet": 1.0}}, "options", Outer)


text = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12)
awkward = st.sampled_from(
    ["1e-3", "on", "null", "~", "010", "1:30", "=", "<<", "true", ".nan", "- a", "*a", "&a", "1_0"]
)


@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_any_text_is_read_or_refused(source: str) -> None:
    try:
        parse(source, "f", Outer)
    except InputError:
        pass


@given(name=text | awkward, words=st.lists(text | awkward), rate=st.floats(min_value=1e-300, max_value=1e300))
def test_what_is_dumped_is_read_back(name: str, words: list[str], rate: float) -> None:
    outer = Outer(name=name, words=words, inner=Inner(rate=rate))
    assert parse(dump(outer), "f", Outer) == outer
