"""Builds the stubs from `protos/`: `python -m services.build_protocol`.

Those of the services go to `services/protocol/`, those of plans, which need no gRPC, to `parley/plan/`.

Needs grpcio-tools and mypy-protobuf. The result is committed, so that nobody else needs them.
"""

from __future__ import annotations

import re
import shutil
import sys
import sysconfig
from importlib import import_module, resources
from pathlib import Path

NAMES = ("session", "party", "dealer", "coordinator")
ROOT = Path(__file__).resolve().parent.parent
MARK = "# @generated from protos/ by `python -m services.build_protocol`; not to be edited.\n"


def plugin(name: str) -> str:
    """The path of a protoc plugin of this environment; raises SystemExit where it is not installed."""
    path = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    if path is None:
        raise SystemExit(f"{name} is missing: pip install mypy-protobuf")
    return f"--plugin={name}={path}"


def build(target: Path) -> list[Path]:
    """Write the stubs of all protocol files to `target` and return their paths."""
    protoc = import_module("grpc_tools.protoc")
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob("*_pb2*"):
        old.unlink()
    status = protoc.main(
        [
            "protoc",
            plugin("protoc-gen-mypy"),
            plugin("protoc-gen-mypy_grpc"),
            f"--proto_path={ROOT / 'protos'}",
            f"--proto_path={resources.files('grpc_tools') / '_proto'}",
            f"--python_out={target}",
            f"--grpc_python_out={target}",
            f"--mypy_out=quiet:{target}",
            f"--mypy_grpc_out=quiet:{target}",
            *(f"{name}.proto" for name in NAMES),
        ]
    )
    if status:
        raise SystemExit(int(status))
    written = sorted(target.glob("*_pb2*"))
    for path in written:
        text = path.read_text()
        # protoc knows no Python packages: it imports its neighbours as if they lay on the path.
        text = re.sub(r"^import (\w+_pb2)( as \w+)?$", r"from services.protocol import \1\2", text, flags=re.MULTILINE)
        path.write_text(MARK + text)
    (target / "__init__.py").write_text(MARK + '"""Generated stubs of the protocol in `protos/`."""\n')
    return written


def build_plan(target: Path) -> list[Path]:
    """Write the stubs of plan.proto to `target` and return their paths."""
    protoc = import_module("grpc_tools.protoc")
    outputs = [f"--python_out={target}", f"--mypy_out=quiet:{target}"]
    status = protoc.main(
        ["protoc", plugin("protoc-gen-mypy"), f"--proto_path={ROOT / 'protos'}", *outputs, "plan.proto"]
    )
    if status:
        raise SystemExit(int(status))
    written = sorted(target.glob("plan_pb2*"))
    for path in written:
        path.write_text(MARK + path.read_text())
    return written


def main() -> int:
    """Build the committed stubs."""
    for path in [*build(ROOT / "services" / "protocol"), *build_plan(ROOT / "parley" / "plan")]:
        sys.stderr.write(f"{path.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
