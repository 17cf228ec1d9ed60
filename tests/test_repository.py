"""What holds for the whole repository: floors, dependencies, generated code, and nothing of one machine only."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("parley", "services", "party_node", "dealer", "coordinator")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# docs/architecture.md. The longest prefix decides; a module imports from floors below its own, or from its own group.
FLOORS = {
    "coordinator": 7,
    "parley": 6.5,  # the facade: what `import parley` offers
    "parley.remote": 6.2,
    "party_node": 6,
    "dealer": 6,
    "parley.cluster": 6,
    "services": 5,
    "parley.pytorch": 5,
    "parley.runtime": 4,
    "parley.functions": 4,
    "parley.plan": 3,
    "parley.protocols": 2,
    "parley.plan.graph": 1,
    "parley.ring": 1,
    "parley.errors": 0,
}


def tracked() -> list[Path]:
    """Every file that git holds or would take."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        output = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        pytest.skip(f"not a git checkout: {error}")
    return [path for name in output.split("\0") if name and (path := ROOT / name).is_file()]


def modules() -> dict[str, Path]:
    """The modules of the distribution by name, generated ones left out."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if "_pb2" not in path.name:
                parts = path.relative_to(ROOT).with_suffix("").parts
                found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: set[str]) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that a file imports, at its top or within a function."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.relative_to(ROOT)}:{node.lineno}: write the import in full"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield node.lineno, full if full in known else str(node.module)


def group(module: str) -> tuple[str, float] | None:
    """The entry of FLOORS that a module belongs to, and its floor; None for what is not ours."""
    for length in range(module.count(".") + 1, 0, -1):
        prefix = ".".join(module.split(".")[:length])
        if prefix in FLOORS and (prefix != "parley" or module == "parley"):
            return prefix, FLOORS[prefix]
    assert module.split(".")[0] not in PACKAGES, f"{module} has no floor: docs/architecture.md and FLOORS name none"
    return None


def climbing(importer: str, imported: str) -> bool:
    """Whether `importer` may not import `imported`."""
    source, target = group(importer), group(imported)
    if source is None or target is None:
        return False
    return source[0] != target[0] and source[1] <= target[1]


def test_the_rule_of_floors_refuses_what_it_should() -> None:
    assert climbing("parley.ring.fixed", "parley.protocols.base")
    assert climbing("parley.plan.graph", "parley.plan.checker")
    assert climbing("party_node.service", "coordinator.jobs")
    assert climbing("party_node.service", "dealer.service")
    assert climbing("parley.pytorch.tensor", "services.streams")
    assert climbing("parley.runtime.party", "parley.functions.linear")
    assert not climbing("parley.runtime.party", "parley.runtime.channel")
    assert not climbing("coordinator.cli", "parley.ring.fixed")
    assert not climbing("parley.cluster", "services.streams")


def test_imports_only_go_down() -> None:
    found = modules()
    known = set(found)
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name} imports {imported}"
        for name, path in found.items()
        for line, imported in imports(path, known)
        if climbing(name, imported)
    ]
    assert not wrong, "imports that climb a floor or cross it:\n" + "\n".join(wrong)


def test_no_circle_of_imports_between_modules() -> None:
    found = modules()
    known = set(found)
    graph = {name: {target for _, target in imports(path, known) if target in known} for name, path in found.items()}
    done: set[str] = set()
    trail: list[str] = []

    def visit(name: str) -> None:
        assert name not in trail, "a circle of imports: " + " → ".join([*trail[trail.index(name) :], name])
        if name in done:
            return
        trail.append(name)
        for target in sorted(graph[name] - {name}):
            visit(target)
        trail.pop()
        done.add(name)

    for name in graph:
        visit(name)


def test_the_library_works_without_a_network() -> None:
    """Everything of parley/ but the client of a cluster is importable where neither gRPC nor a service is installed."""
    names = [name for name in modules() if name.startswith("parley") and name not in {"parley.remote", "parley"}]
    program = (
        "import sys, importlib\n"
        "for name in ('grpc', 'services', 'coordinator', 'dealer', 'party_node'): sys.modules[name] = None\n"
        f"for name in {['parley', *names]!r}: importlib.import_module(name)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


def test_every_import_is_a_declared_dependency() -> None:
    distributions = {
        "google": "protobuf",
        "grpc": "grpcio",
        "grpc_health": "grpcio-health-checking",
        "grpc_tools": "grpcio-tools",
        "pydantic_core": "pydantic",  # comes with it at the one version that fits
        "sklearn": "scikit-learn",
        "yaml": "pyyaml",
    }
    own = {*PACKAGES, "examples", "benchmarks"}
    extras = ["grpcio-tools", *PROJECT["optional-dependencies"]["demo"]]
    declared = {canonicalize_name(Requirement(line).name) for line in [*PROJECT["dependencies"], *extras]}
    wrong = []
    for path in modules().values():
        for line, imported in imports(path, set()):
            top = imported.split(".")[0]
            name = canonicalize_name(distributions.get(top, top))
            if top not in sys.stdlib_module_names and top not in own and name not in declared:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {top}")
    assert not wrong, "imported, and not among the dependencies of pyproject.toml:\n" + "\n".join(wrong)


def test_constraints_pin_what_pyproject_asks_for() -> None:
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            pins[canonicalize_name(name)] = version
    asked = [*PROJECT["dependencies"], *(line for extra in PROJECT["optional-dependencies"].values() for line in extra)]
    for line in asked:
        requirement = Requirement(line)
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin is not None, f"{requirement.name} has no exact version in constraints.txt"
        assert pin in requirement.specifier, (
            f"constraints.txt has {requirement.name}=={pin}, pyproject.toml asks for {line}"
        )


def test_generated_stubs_are_those_of_the_protocol_files(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed: the stubs cannot be built again")
    sources = sorted((ROOT / "protos").glob("*.proto"))
    assert sources
    compiled = tmp_path / "all.bin"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'protos'}", f"--descriptor_set_out={compiled}"]
    result = subprocess.run([*command, *map(str, sources)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr

    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    fresh = {file.name: file for file in FileDescriptorSet.FromString(compiled.read_bytes()).file}
    committed = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*_pb2.py")):
            module = import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
            committed[module.DESCRIPTOR.name] = module.DESCRIPTOR
    assert set(committed) == set(fresh), "each file of protos/ has its stubs, and no other: make protocol"
    for name, file in fresh.items():
        kept = type(file)()
        committed[name].CopyToProto(kept)
        for each in (kept, file):
            each.ClearField("source_code_info")
            for message in each.message_type:
                clear_json_names(message)
        assert kept == file, f"the stubs of {name} are older than it: make protocol"


def clear_json_names(message: object) -> None:
    """protoc writes them into descriptor sets and the Python runtime does not give them back."""
    for field in [*message.field, *message.extension]:  # type: ignore[attr-defined]
        field.ClearField("json_name")
    for nested in message.nested_type:  # type: ignore[attr-defined]
        clear_json_names(nested)


# Names are put together here, so that this file does not hold what it looks for.
REGISTRIES = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("files", "pythonhosted", "org"),
        ("deb", "debian", "org"),
        ("registry", "npmjs", "org"),
        ("download", "pytorch", "org"),
        ("docker", "io"),
        ("ghcr", "io"),
        ("quay", "io"),
    )
]
MACHINE_PATHS = re.compile(
    r"(?<![\w.-])/(?:" + "|".join(("wor" + "k/", "roo" + "t/", r"home/(?!parley)\w+", r"opt/(?:wheels|pypi)")) + ")"
)


def test_nothing_of_one_machine_and_no_registry_is_committed() -> None:
    wrong = []
    for path in tracked():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            host = next((host for host in REGISTRIES if re.search(rf"(?<![\w.]){re.escape(host)}", line)), None)
            if host or MACHINE_PATHS.search(line):
                wrong.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not wrong, "paths of one machine, or hosts of a registry:\n" + "\n".join(wrong)


def test_no_large_file_is_committed() -> None:
    large = [str(path.relative_to(ROOT)) for path in tracked() if path.stat().st_size > 1 << 20]
    assert not large, f"more than 1 MiB: {large}"


def test_the_floors_are_those_of_the_documentation() -> None:
    """Every group of FLOORS is named in docs/architecture.md, and every package there is a group."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    section = text.split("## Floors", 1)[1].split("##", 1)[0]
    for prefix in FLOORS:
        written = prefix.replace(".", "/")
        assert written in section, f"docs/architecture.md has no floor for {written}"
