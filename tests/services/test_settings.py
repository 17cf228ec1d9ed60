"""Settings from file and environment, and every mistake named. Logs without secrets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest
import structlog

from parley.errors import InputError
from services.logs import configure_logs, get_logger
from services.settings import (
    CoordinatorSettings,
    DealerSettings,
    PartySettings,
    ServiceSettings,
    load_settings,
    split_address,
)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("PARLEY_")]:
        monkeypatch.delenv(name)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_yaml_and_toml_mean_the_same(tmp_path: Path) -> None:
    first = write(
        tmp_path / "a.yaml", "name: alice\nlisten: 0.0.0.0:7701\ntls: {directory: tls}\nlog: {level: debug}\n"
    )
    second = write(
        tmp_path / "a.toml", 'name="alice"\nlisten="0.0.0.0:7701"\n[tls]\ndirectory="tls"\n[log]\nlevel="debug"\n'
    )
    settings = load_settings(PartySettings, first)
    assert settings == load_settings(PartySettings, second)
    assert settings.tls.directory == tmp_path / "tls"
    assert settings.log.level == "debug"
    assert settings.chunk_bytes == 1 << 20


def test_the_environment_precedes_the_file_and_the_command_line_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "d.yaml", "name: dealer\ntls: {directory: tls}\nbudget_bytes: 1000000\n")
    monkeypatch.setenv("PARLEY_BUDGET_BYTES", "2000000")
    monkeypatch.setenv("PARLEY_TLS__DIRECTORY", "/elsewhere")
    settings = load_settings(DealerSettings, path)
    assert settings.budget_bytes == 2_000_000
    assert settings.tls.directory == Path("/elsewhere")
    assert load_settings(DealerSettings, path, budget_bytes=3_000_000).budget_bytes == 3_000_000


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (PartySettings, "nmae: alice", "unknown key nmae; did you mean name?"),
        (PartySettings, "name: a\ntls: {directry: x}", "unknown key tls.directry; did you mean directory?"),
        (CoordinatorSettings, "parties: [{nam: a}]", r"unknown key parties\[0\].nam; did you mean name?"),
        (PartySettings, "listen: 127.0.0.1:7", "name: Field required"),
        (PartySettings, "name: a", "tls.directory is not set"),
        (PartySettings, "name: A B\ninsecure: true", "cannot be a node's name"),
        (PartySettings, "name: a\ninsecure: true\nlisten: 0.0.0.0:7701", "insecure is for loopback only"),
        (PartySettings, "name: a\ninsecure: true\nadvertise: alice.example:7701", "insecure is for loopback only"),
        (PartySettings, "name: a\ninsecure: true\nlisten: nowhere", "listen is 'nowhere': write host:port"),
        (PartySettings, "name: a\ninsecure: true\nmetrics_listen: 0.0.0.0:9", "metrics are served on loopback only"),
        (PartySettings, "name: a\ninsecure: true\nchunk_bytes: 99999999", "chunk_bytes"),
        (PartySettings, "name: a\ninsecure: true\nlog: {level: loud}", "log.level"),
        (DealerSettings, "name: a\ninsecure: true\nbudget_bytes: 1", "budget_bytes"),
        (
            CoordinatorSettings,
            "name: c\ninsecure: true\nparties: [{name: a, address: '10.0.0.1:1'}]",
            "a is at 10.0.0.1",
        ),
        (
            CoordinatorSettings,
            "name: c\ninsecure: true\nparties: [{name: a, address: 'localhost:1'}, {name: a, address: 'localhost:2'}]",
            "more than once",
        ),
        (PartySettings, "- a\n- b", "does not hold keys and values"),
        (PartySettings, "a: [", "is no YAML"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, kind: type[ServiceSettings], text: str, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("?", r"\?")):
        load_settings(kind, write(tmp_path / "s.yaml", text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing.yaml cannot be read"):
        load_settings(PartySettings, tmp_path / "missing.yaml")


def test_misspelt_variables_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_INSECUR", "true")
    with pytest.raises(InputError, match="did you mean PARLEY_INSECURE"):
        load_settings(PartySettings, name="a", insecure=True)
    monkeypatch.delenv("PARLEY_INSECUR")
    monkeypatch.setenv("PARLEY_TLS__DIR", "x")
    with pytest.raises(InputError, match="PARLEY_TLS__DIR"):
        load_settings(PartySettings, name="a", insecure=True)


def test_overrides_alone_suffice() -> None:
    assert load_settings(PartySettings, name="a", insecure=True).address == "127.0.0.1:0"


@pytest.mark.parametrize(
    ("text", "parts"), [("a:1", ("a", 1)), ("[::1]:7700", ("::1", 7700)), ("127.0.0.1:0", ("127.0.0.1", 0))]
)
def test_addresses(text: str, parts: tuple[str, int]) -> None:
    assert split_address(text) == parts


@pytest.mark.parametrize("text", ["", ":1", "a", "a:", "a:x", "a:70000", "::1:7700", "a:-1"])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(InputError):
        split_address(text)


def test_logs_show_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("info", "json", role="party", name="alice")
    try:
        get_logger("test").info(
            "opened",
            session="s1",
            attempt=3,
            share=41421356,
            payload=b"\x01\x02",
            rows=numpy.arange(3) + 41421356,
            nested={"mask": [41421356], "parties": ["alice"]},
            text="-----BEGIN PRIVATE KEY-----\n41421356",
        )
        get_logger("test").debug("not shown")
    finally:
        structlog.reset_defaults()
        configure_logs("warning", "console")
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    entry = json.loads(line)
    assert "41421356" not in line
    assert (entry["role"], entry["session"], entry["attempt"]) == ("party", "s1", 3)
    assert entry["payload"] == "<2 bytes>"
    assert entry["nested"]["parties"] == ["alice"]
