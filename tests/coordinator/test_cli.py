"""The command line without a cluster: what it imports, and what it says of wrong input."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coordinator.cli.errors import BUG, DENIED, FAILED, TIMEOUT, UNREACHABLE, USAGE, classify, report_error
from coordinator.cli.errors import CONFLICT as MISSING
from parley.errors import Denied, IdentityError, InputError, NotFound, ProtocolError, Unreachable
from services.identity import create_authority, issue

ROOT = Path(__file__).resolve().parent.parent.parent
SAMPLE = ROOT / "deploy" / "compose" / "sample"
Run = Callable[..., Any]


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    """A submitter's."""
    issue(create_authority(tmp_path / "ca"), tmp_path / "submitter", "submitter", "ann")
    return tmp_path / "submitter"


@pytest.fixture
def nowhere() -> str:
    """An address at which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def test_the_command_line_starts_without_pytorch_and_grpc() -> None:
    program = "import sys, coordinator.cli; print([name for name in ('torch', 'grpc', 'numpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_every_command_has_help(parley: Run) -> None:
    for command in (
        ["up"], ["down"], ["status"], ["demo"], ["health"], ["coordinator", "serve"], ["dealer", "serve"],
        ["party", "serve"], ["ca", "init"], ["ca", "issue"], ["data", "add"], ["data", "list"], ["data", "remove"],
        ["job", "validate"], ["job", "submit"], ["job", "list"], ["job", "show"], ["job", "watch"], ["job", "cancel"],
        ["job", "result"], ["model", "export"],
    ):  # fmt: skip
        done = parley(*command, "--help")
        assert done.code == 0, command
        assert "Usage: parley" in done.out


@pytest.mark.parametrize(
    "arguments",
    [
        ["upp"],
        ["job"],
        ["job", "sumbit", "x"],
        ["job", "submit"],
        ["job", "submit", "job.yaml", "--formt", "json"],
        ["job", "list", "--format", "xml"],
        ["job", "list", "--limit", "0"],
        ["job", "list", "--limit", "many"],
        ["up", "--parties", "x"],
        ["demo", "--model", "transformer"],
        ["demo", "--epochs", "0"],
        ["demo", "--parties", "1"],
        ["party", "serve"],
        ["health"],
        ["ca", "issue", "--dir", "x"],
    ],
)
def test_wrong_arguments(parley: Run, arguments: list[str]) -> None:
    done = parley(*arguments)
    assert done.code == USAGE, done
    if arguments != ["job"]:  # a group without a command shows its help
        assert done.error.startswith("error: USAGE (2): ")
        assert "--help`" in done.error
    assert done.out == "" or arguments == ["job"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("x"), USAGE),
        (NotFound("x"), MISSING),
        (IdentityError("x"), UNREACHABLE),
        (Unreachable("x"), UNREACHABLE),
        (Denied("x"), DENIED),
        (ProtocolError("x"), FAILED),
        (ZeroDivisionError("x"), BUG),
    ],
)
def test_exit_codes(error: Exception, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert classify(error)[1] == code
    assert report_error(error) == code
    assert capsys.readouterr().err.count("\n") == 1


def test_an_error_of_several_lines_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    report_error(InputError("first\nsecond"))
    assert capsys.readouterr().err == "error: INVALID (2): first | second\n"


# ---- job files ----------------------------------------------------------------------------------------------------


def job_with(tmp_path: Path, old: str, new: str) -> Path:
    """The sample's job file with a change."""
    text = (SAMPLE / "softmax.yaml").read_text()
    assert old in text
    path = tmp_path / "job.yaml"
    path.write_text(text.replace(old, new))
    return path


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("kind: train", "kind: [train", "job.yaml:2"),
        ("kind: train", "knd: train", "did you mean"),
        ("parties: [alice, bob, carol]", "parties: [alice, bob]", "`carol` is not among the parties"),
        ("epochs: 3", "epochs: -3", "epochs"),
        ("epochs: 3", "epochs: three", "epochs"),
        ("metrics: [alice, bob, carol, submitter]", "metrics: [mallory]", "`mallory` is not known here"),
        ("kind: train", "kind: predict", "in a job of kind predict"),
    ],
)
@pytest.mark.parametrize("command", ["validate", "submit"])
def test_a_wrong_job_file_is_refused_before_anything_else(
    parley: Run, tmp_path: Path, command: str, old: str, new: str, says: str
) -> None:
    out = tmp_path / "out"
    options = ["--out", out] if command == "submit" else []
    done = parley("job", command, job_with(tmp_path, old, new), *options)
    assert done.code == USAGE, done
    assert says in done.error
    assert "job.yaml" in done.error
    assert done.out == ""
    assert not out.exists()


@pytest.mark.parametrize("command", ["validate", "submit"])
def test_a_missing_or_binary_job_file(parley: Run, tmp_path: Path, command: str) -> None:
    done = parley("job", command, tmp_path / "none.yaml")
    assert (done.code, "none.yaml" in done.error) == (USAGE, True)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    assert parley("job", command, tmp_path / "bytes.yaml").code == USAGE
    assert parley("job", command, tmp_path).code == USAGE


def descriptions(tmp_path: Path, **changes: Any) -> Path:
    """What three parties would say of the sample's data."""
    rows = []
    for party in ("alice", "bob", "carol"):
        for split, count in (("train", 499), ("test", 100)):
            rows.append({"name": f"{party}/{split}_x", "shape": [count, 64], "kind": "real", "bound": 1.0} | changes)
            rows.append({"name": f"{party}/{split}_y", "shape": [count, 10], "kind": "one_hot", "bound": 1.0})
    path = tmp_path / "descriptions.json"
    path.write_text(json.dumps(rows))
    return path


def test_validate_says_what_is_read_revealed_and_spent_from_descriptions_alone(parley: Run, tmp_path: Path) -> None:
    shown = parley("job", "validate", SAMPLE / "softmax.yaml", "--descriptions", descriptions(tmp_path))
    assert shown.code == 0, shown
    for text in ("alice/train_x", "499, 64", "model.weight", "metrics.accuracy.{epoch}", "multiply adds", "total"):
        assert text in shown.out
    done = parley(
        "job", "validate", SAMPLE / "softmax.yaml", "--descriptions", descriptions(tmp_path), "--format", "json"
    )
    found = done.record
    assert found["model"] == {"weight": [10, 64], "bias": [10]}
    assert {entry["name"]: entry["to"] for entry in found["reveals"]}["model.weight"] == ["alice", "submitter"]
    train = next(stage for stage in found["stages"] if stage["stage"] == "train")
    assert train["repetitions"] == 36
    assert train["rounds"] / 36 <= 20
    assert found["total"]["dealer_bytes"] == sum(stage["dealer_bytes"] for stage in found["stages"])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "data list --format json"),
        ("[1]", "does not describe a dataset"),
        ('[{"name": "x", "shape": [1], "kind": "real", "bound": 1}]', "dataset of a party"),
        ("[]", "no party offers"),
    ],
)
def test_wrong_descriptions(parley: Run, tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "d.json"
    path.write_text(content)
    done = parley("job", "validate", SAMPLE / "softmax.yaml", "--descriptions", path)
    assert (done.code, says in done.error) == (USAGE, True), done.err


def test_data_that_does_not_fit_the_job(parley: Run, tmp_path: Path) -> None:
    done = parley("job", "validate", SAMPLE / "softmax.yaml", "--descriptions", descriptions(tmp_path, bound=1e9))
    assert (done.code, "beyond the range" in done.error) == (USAGE, True), done.err


# ---- the connection -----------------------------------------------------------------------------------------------

ASKING = [
    ["job", "list"],
    ["job", "show", "x"],
    ["job", "watch", "x"],
    ["job", "cancel", "x"],
    ["job", "result", "x"],
    ["data", "list"],
    ["model", "export", "x", "--out", "m.safetensors"],
]


@pytest.mark.parametrize("command", [*ASKING, ["job", "submit", str(SAMPLE / "softmax.yaml")]], ids=" ".join)
def test_nothing_says_where_the_coordinator_is(parley: Run, command: list[str]) -> None:
    done = parley(*command)
    assert done.code == UNREACHABLE, done
    assert "parley up" in done.error


@pytest.mark.parametrize("command", ASKING, ids=" ".join)
def test_no_identity(parley: Run, command: list[str], tmp_path: Path, nowhere: str) -> None:
    done = parley(*command, "--coordinator", nowhere, "--identity", tmp_path / "none")
    assert (done.code, "is missing" in done.error) == (UNREACHABLE, True), done.err


def test_a_coordinator_that_cannot_be_reached(parley: Run, identity: Path, nowhere: str, tmp_path: Path) -> None:
    start = time.monotonic()
    done = parley("job", "list", "--coordinator", nowhere, "--identity", identity)
    assert (done.code, nowhere in done.error) == (UNREACHABLE, True), done.err
    done = parley(
        "job", "submit", SAMPLE / "softmax.yaml", "--coordinator", nowhere, "--identity", identity,
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert (done.code, nowhere in done.error) == (UNREACHABLE, True), done.err
    assert not list((tmp_path / "out").iterdir())
    assert time.monotonic() - start < 20


def test_the_environment_names_the_coordinator(
    parley: Run, identity: Path, nowhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARLEY_COORDINATOR", f"main@{nowhere}")
    monkeypatch.setenv("PARLEY_IDENTITY", str(identity))
    done = parley("job", "list")
    assert (done.code, f"coordinator main at {nowhere}" in done.error) == (UNREACHABLE, True), done.err
    monkeypatch.setenv("PARLEY_COORDINATOR", "no-port")
    done = parley("job", "list")
    assert (done.code, "host:port" in done.error) == (USAGE, True), done.err


def test_the_identity_of_a_node_submits_nothing(parley: Run, tmp_path: Path, nowhere: str) -> None:
    issue(create_authority(tmp_path / "ca"), tmp_path / "dealer", "dealer", "dealer")
    done = parley("job", "list", "--coordinator", nowhere, "--identity", tmp_path / "dealer")
    assert (done.code, "identity of a dealer" in done.error) == (UNREACHABLE, True), done.err


# ---- ca, data, services -------------------------------------------------------------------------------------------


def test_an_authority_and_its_identities(parley: Run, tmp_path: Path) -> None:
    assert parley("ca", "init", "--dir", tmp_path / "ca").code == 0
    again = parley("ca", "init", "--dir", tmp_path / "ca")
    assert (again.code, "already" in again.error) == (UNREACHABLE, True)
    issued = ["ca", "issue", "--dir", tmp_path / "ca", "--role", "party", "--name", "alice"]
    assert parley(*issued, "--hosts", "alice,10.0.0.1", "--out", tmp_path / "alice").code == 0
    assert (tmp_path / "alice" / "key.pem").stat().st_mode & 0o777 == 0o600
    assert parley(*issued, "--out", tmp_path / "alice").code == UNREACHABLE
    for wrong in (["--role", "king", "--name", "alice"], ["--role", "party", "--name", "Alice!"]):
        done = parley("ca", "issue", "--dir", tmp_path / "ca", *wrong, "--out", tmp_path / "wrong")
        assert done.code == USAGE, done
        assert not (tmp_path / "wrong").exists()
    done = parley(
        "ca", "issue", "--dir", tmp_path / "none", "--role", "party", "--name", "bob", "--out", tmp_path / "b"
    )
    assert (done.code, "ca.pem" in done.error) == (UNREACHABLE, True), done.err
    assert not (tmp_path / "b").exists()


@pytest.fixture
def party(tmp_path: Path) -> Path:
    """Settings of a party."""
    issue(create_authority(tmp_path / "party-ca"), tmp_path / "identity", "party", "alice")
    path = tmp_path / "alice.yaml"
    path.write_text("name: alice\ntls: {directory: identity}\ndata_directory: state\nlisten: 127.0.0.1:7700\n")
    return path


def test_data_is_registered_once_and_again(parley: Run, party: Path, tmp_path: Path) -> None:
    from coordinator.cli.data import DATASETS
    from party_node.service import DATASETS as OF_THE_SERVICE

    assert DATASETS == OF_THE_SERVICE
    (tmp_path / "ages.csv").write_text("age\n40\n50\n")
    registration = tmp_path / "ages.yaml"
    registration.write_text("name: ages\npath: ages.csv\nbound: 120\n")
    first = parley("data", "add", registration, "--config", party, "--format", "json")
    assert (first.code, "registered `ages`" in first.err) == (0, True)
    assert json.loads(first.out)[0]["shape"] == [2, 1]
    again = parley("data", "add", registration, "--config", party)
    assert (again.code, "unchanged" in again.err) == (0, True)
    (tmp_path / "ages.csv").write_text("age\n40\n51\n")
    assert "replaced" in parley("data", "add", registration, "--config", party).err
    listed = parley("data", "list", "--config", party, "--format", "jsonl")
    assert listed.record["name"] == "alice/ages"
    assert parley("data", "remove", "ages", "--config", party).code == 0
    gone = parley("data", "remove", "ages", "--config", party)
    assert (gone.code, "ages" in gone.error) == (MISSING, True)


@pytest.mark.parametrize(
    ("registration", "csv", "says"),
    [
        ("name: ages\npath: none.csv\nbound: 1\n", "age\n1\n", "none.csv"),
        ("name: ages\npath: ages.csv\n", "age\n1\n", "bound"),
        ("name: ages\npath: ages.csv\nbound: 1\ncolums: [age]\n", "age\n1\n", "columns"),
        ("name: ages\npath: ages.csv\nbound: 1\ncolumns: [height]\n", "age\n1\n", "height"),
        ("name: ages\npath: ages.csv\nbound: 1\n", "age\nold\n", "old"),
        ("name: ages\npath: ages.csv\nbound: 1\n", "age\nNaN\n", "row"),
        ("name: ages\npath: ages.csv\nbound: 1\n", "age\n2\n", "bound"),
        ("name: ages\npath: ages.csv\nbound: 1\n", "", "ages.csv"),
    ],
)
def test_data_that_cannot_be_registered(
    parley: Run, party: Path, tmp_path: Path, registration: str, csv: str, says: str
) -> None:
    (tmp_path / "ages.csv").write_text(csv)
    (tmp_path / "ages.yaml").write_text(registration)
    done = parley("data", "add", tmp_path / "ages.yaml", "--config", party)
    assert (done.code, says in done.error) == (USAGE, True), done.err
    assert parley("data", "list", "--config", party, "--format", "json").out.strip() == "[]"


@pytest.mark.parametrize("command", [["health"], ["data", "list"], ["party", "serve"], ["coordinator", "serve"]])
@pytest.mark.parametrize(
    ("settings", "code"),
    [
        (None, USAGE),
        ("listen: [", USAGE),
        ("name: alice\n", USAGE),
        ("name: alice\ninsecure: true\nlisten: 0.0.0.0:7700\n", USAGE),
        ("name: alice\ntls: {directory: identity}\nlistn: 127.0.0.1:1\n", USAGE),
    ],
)
def test_settings_that_cannot_be_used(
    parley: Run, tmp_path: Path, command: list[str], settings: str | None, code: int
) -> None:
    path = tmp_path / "node.yaml"
    if settings is not None:
        path.write_text(settings)
    done = parley(*command, "--config", path)
    assert done.code == code, done
    assert "node.yaml" in done.error


def test_serving_without_an_identity(parley: Run, tmp_path: Path) -> None:
    path = tmp_path / "alice.yaml"
    path.write_text("name: alice\ntls: {directory: identity}\ndata_directory: state\n")
    done = parley("party", "serve", "--config", path)
    assert (done.code, "is missing" in done.error) == (UNREACHABLE, True), done.err


def test_health_of_a_node_that_does_not_run(parley: Run, party: Path) -> None:
    done = parley("health", "--config", party, "--timeout", "2")
    assert (done.code, "127.0.0.1:7700" in done.error) == (UNREACHABLE, True), done.err


def test_a_local_cluster_that_is_not_there(parley: Run, tmp_path: Path) -> None:
    for command in (["down"], ["status"], ["job", "list"], ["data", "list"]):
        done = parley(*command, "--dir", tmp_path / "none")
        assert (done.code, "parley up" in done.error) == (MISSING, True), done.err
    for parties in (1, 9):
        done = parley("up", "--parties", parties, "--dir", tmp_path / "new")
        assert (done.code, "2 to 8" in done.error) == (USAGE, True), done.err
        assert not (tmp_path / "new").exists()


def test_a_model_is_written_as_safetensors_only(parley: Run, tmp_path: Path) -> None:
    done = parley("model", "export", "x", "--out", tmp_path / "model.pt")
    assert (done.code, ".safetensors" in done.error) == (USAGE, True)


def test_a_timeout_has_its_own_code() -> None:
    from coordinator.cli.errors import TimeLimit

    assert classify(TimeLimit("x"))[1] == TIMEOUT
