"""The job file: what is accepted, and how everything else is refused."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from coordinator.jobfile import load_job, parse_job
from parley.errors import InputError

TRAIN = """\
kind: train                          # the job of the documentation
name: fashion-softmax
parties: [alice, bob, carol]
data:
  train: {stack: [alice/train, bob/train, carol/train]}
  test:  {stack: [alice/test, bob/test, carol/test]}
model: {builtin: softmax_regression}
train:
  loss: cross_entropy
  optimizer: {sgd: {lr: 1e-1}}
  epochs: 3
  batch_size: 128
  seed: 7
evaluate: {metrics: [accuracy, loss]}
reveal:
  model: [alice]
  metrics: [alice, bob, carol, submitter]
checkpoint: {every_steps: 50, keep: 2}
"""
AGGREGATE = """\
kind: aggregate
name: salaries
parties: [alice, bob]
data: {input: {stack: [alice/salary, bob/salary]}}
aggregate: {statistics: [sum, mean], columns: [income, 0]}
reveal: {result: [submitter]}
"""


def fault(text: str) -> str:
    with pytest.raises(InputError) as caught:
        parse_job(text, "job.yaml")
    return str(caught.value)


def changed(text: str, path: str, value: Any) -> str:
    """The job with the value at `path` replaced, or removed where it is None."""
    job = yaml.safe_load(text.replace("1e-1", "0.1"))
    *parents, last = path.split(".")
    here = job
    for key in parents:
        here = here.setdefault(key, {})
    if value is None:
        del here[last]
    else:
        here[last] = value
    return yaml.safe_dump(job)


def test_the_documented_job(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(TRAIN)
    job = load_job(tmp_path / "job.yaml")
    assert job.train is not None
    assert job.train.optimizer.sgd.lr == 0.1
    assert (job.train.shuffle, job.train.drop_last, job.precision.fraction_bits) == (True, False, 16)
    assert job.evaluate is not None
    assert job.evaluate.every == "end"
    assert list(dict(job.data.sources())) == ["train", "test"]
    assert [reference for _, reference in job.data.train.references()] == ["alice/train", "bob/train", "carol/train"]  # type: ignore[union-attr]


def test_an_aggregation() -> None:
    job = parse_job(AGGREGATE)
    assert job.aggregate is not None
    assert (job.aggregate.statistics, job.aggregate.columns) == (["sum", "mean"], ["income", 0])


def test_canonical_json_tells_jobs_apart_and_nothing_else() -> None:
    job = parse_job(TRAIN)
    assert parse_job(changed(TRAIN, "name", "fashion-softmax")).to_canonical_json() == job.to_canonical_json()
    assert parse_job(changed(TRAIN, "train.shuffle", True)).digest() == job.digest()
    assert parse_job(changed(TRAIN, "train.optimizer.sgd.lr", 0.2)).digest() != job.digest()
    assert parse_job(changed(TRAIN, "reveal.model", ["bob"])).digest() != job.digest()
    assert parse_job(changed(TRAIN, "parties", ["bob", "alice", "carol"])).digest() != job.digest()
    whole = parse_job(changed(TRAIN, "train.optimizer.sgd.lr", 1))
    assert whole.digest() == parse_job(changed(TRAIN, "train.optimizer.sgd.lr", 1.0)).digest()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("lr: 1e-1", "lr: fast", "job.yaml:10: train.optimizer.sgd.lr: input should be a valid number, not 'fast'"),
        ("lr: 1e-1", "lr: 0", "job.yaml:10: train.optimizer.sgd.lr: input should be greater than 0, not 0"),
        ("lr: 1e-1", "lr: .nan", "job.yaml:10: train.optimizer.sgd.lr: input should be a finite number"),
        ("{lr: 1e-1}", "{lr: 1, momentun: 0.9}", "momentun: unknown key: did you mean `momentum`?"),
        ("{lr: 1e-1}", "{lr: 1, nesterov: true}", "job.yaml:10: train.optimizer.sgd.nesterov: needs a momentum"),
        ("sgd:", "adam:", "train.optimizer.adam: unknown key: known keys here: sgd"),
        ("epochs: 3", "epoch: 3", "job.yaml:11: train.epoch: unknown key: did you mean `epochs`?"),
        ("epochs: 3", "epochs: 3.5", "job.yaml:11: train.epochs: input should be a valid integer"),
        ("epochs: 3", "epochs: 3\n  epochs: 4", "job.yaml:12: the key `epochs` is here for the second time"),
        ("epochs: 3", "epochs: true", "job.yaml:11: train.epochs"),
        ("loss: cross_entropy", "loss: cross-entropy", "did you mean cross_entropy?"),
        (
            "loss: cross_entropy",
            "loss: mse",
            "job.yaml:9: train.loss: softmax_regression is trained with cross_entropy",
        ),
        ("softmax_regression}", "mlp}", "job.yaml:7: model.hidden: is missing: an mlp needs it"),
        ("softmax_regression}", "mlp, hidden: [0]}", "model.hidden[0]: input should be greater than or equal to 1"),
        ("softmax_regression}", "mlp, entry: 'a.py:B'}", "job.yaml:7: model: needs either `builtin` or `entry`"),
        ("builtin: softmax_regression", "entry: os.system", "job.yaml:7: model.entry: 'os.system': write the file"),
        ("builtin: softmax_regression", "entry: 'a.py:B', args: {a: [.inf]}", "model.args: holds a number that is not"),
        ("builtin: softmax_regression", "entry: 'a.py:B', hidden: [3]", "model.hidden: is for built-in models"),
        ("softmax_regression}", "softmax_regression, args: {a: 1}}", "model.args: is for `entry`"),
        ("bob/train,", "dave/train,", "job.yaml:5: data.train.stack[1]: `dave` is not among the parties"),
        ("bob/train,", "alice/train,", "job.yaml:5: data.train.stack[1]: `alice/train` is here twice"),
        ("bob/train,", "train,", "data.train.stack[1]: 'train': write the party and its dataset as `party/dataset`"),
        ("bob/train,", "bob/../train,", "data.train.stack[1]"),
        ("[alice, bob, carol]\n", "[alice, bob, bob]\n", "job.yaml:3: parties[2]: `bob` is named twice"),
        ("[alice, bob, carol]\n", "[alice]\n", "job.yaml:3: parties: list should have at least 2 items"),
        ("[alice, bob, carol]\n", "[alice, bob, dealer]\n", "job.yaml:3: parties[2]: `dealer` is the name of a role"),
        ("[alice, bob, carol]\n", "[alice, bob, Carol]\n", "parties[2]: 'Carol': use at most 64 lower-case letters"),
        ("model: [alice]", "model: [alcie]", "job.yaml:16: reveal.model[0]: `alcie` is not known here: receivers are"),
        ("model: [alice]", "model: [alice, alice]", "reveal.model[1]: `alice` is named twice"),
        ("model: [alice]", "predictions: [alice]", "reveal.predictions: a job of kind train has no such result"),
        ("  metrics: [alice, bob, carol, submitter]", "", "reveal.metrics: is missing"),
        ("evaluate: {metrics: [accuracy, loss]}\n", "", "data.test: nothing in this job reads it: add `evaluate`"),
        ("metrics: [accuracy, loss]", "metrics: [auc]", "evaluate.metrics[0]: 'auc' is not one of accuracy or loss"),
        ("metrics: [accuracy, loss]", "metrics: [loss, loss]", "evaluate.metrics: a metric is named twice"),
        ("kind: train", "kind: tarin", "job.yaml:1: kind: 'tarin' is not one of train, evaluate, predict or aggregate"),
        ("every_steps: 50", "every_steps: 0", "job.yaml:18: checkpoint.every_steps"),
        ("checkpoint:", "precision: {fraction_bits: 30}\ncheckpoint:", "job.yaml:18: precision.fraction_bits"),
        ("checkpoint:", "precision: {fraction_bits: 9}\ncheckpoint:", "job.yaml:18: precision.fraction_bits"),
        ("seed: 7", "seed: -7", "job.yaml:13: train.seed"),
        ("name: fashion-softmax", "name: ../x", "job.yaml:2: name"),
    ],
)
def test_faults_are_named_by_line_path_and_mend(old: str, new: str, message: str) -> None:
    assert old in TRAIN
    assert message in fault(TRAIN.replace(old, new, 1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            changed(TRAIN, "data.train", {"join": ["alice/a", "bob/b"], "on": "id"}),
            "data.train.join: a join of columns",
        ),
        (changed(TRAIN, "data.train", {"features": "alice/a", "labels": "bob/b"}), "data.train.features: features and"),
    ],
)
def test_what_is_not_available_yet_is_refused_as_such(text: str, message: str) -> None:
    assert message in fault(text)
    assert "not available yet: stack rows" in fault(text)


def test_kinds_that_are_not_available_yet() -> None:
    predict = (
        "kind: predict\nname: p\nparties: [a, b]\ndata: {input: {stack: [a/x]}}\nmodel: {builtin: mlp, hidden: [3]}\n"
    )
    assert "job.yaml:1: kind: predict is not available yet" in fault(predict + "reveal: {predictions: [a]}")
    evaluate = predict.replace("predict", "evaluate").replace("input", "test") + "evaluate: {metrics: [loss]}\n"
    assert "job.yaml:1: kind: evaluate is not available yet" in fault(evaluate + "reveal: {metrics: [a]}")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("train", None, "train: is missing: a job of kind train needs it"),
        ("model", None, "model: is missing"),
        ("data.train", None, "data.train: is missing"),
        ("data.test", None, "data.test: is missing"),
        ("data.input", {"stack": ["bob/x"]}, "data.input: nothing in this job reads it: remove it"),
        ("data.train", {}, "data.train: needs one of `stack`, `join`, or `features` and `labels`; found none"),
        ("data.train", {"stack": ["bob/x"], "on": "id"}, "found `stack` and `join`"),
        ("data.train", {"stack": []}, "data.train.stack: list should have at least 1 item"),
        ("aggregate", {"statistics": ["sum"], "columns": [1]}, "aggregate: has no meaning in a job of kind train"),
        ("reveal", {}, "reveal: the job reveals nothing to anyone"),
        ("model.classes", 0, "model.classes"),
        ("model.builtin", "transformer", "model.builtin: 'transformer' is not one of"),
    ],
)
def test_parts_that_do_not_fit_each_other(path: str, value: Any, message: str) -> None:
    assert message in fault(changed(TRAIN, path, value))


def test_aggregations_that_do_not_fit() -> None:
    assert "statistics[0]: 'median' is not one of sum or mean" in fault(AGGREGATE.replace("sum", "median"))
    assert "aggregate.columns: something is named twice" in fault(AGGREGATE.replace("income", "0"))
    assert "reveal.model: a job of kind aggregate has no such result" in fault(AGGREGATE.replace("result", "model"))
    assert "data.input: is missing" in fault(AGGREGATE.replace("input:", "train:"))


keys = st.sampled_from(["kind", "name", "parties", "data", "model", "train", "reveal", "stack", "sgd", "lr", "x"])
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | keys,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=5,
)


@given(path=st.sampled_from(["kind", "name", "parties", "data", "data.train", "data.train.stack", "model", "train",
                             "train.optimizer", "train.optimizer.sgd", "evaluate", "reveal", "reveal.model",
                             "precision", "checkpoint"]), value=values)  # fmt: skip
def test_any_value_anywhere_is_read_or_refused(path: str, value: Any) -> None:
    if value is None:
        return
    try:
        job = parse_job(changed(TRAIN, path, value))
    except InputError:
        pass
    else:
        assert parse_job(yaml.safe_dump(job.model_dump(mode="json", exclude_none=True))) == job
