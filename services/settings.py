"""Settings of the three services, from a file (YAML or TOML) and from the environment.

`PARLEY_LISTEN=…` or, for a nested key, `PARLEY_TLS__DIRECTORY=…` takes precedence over the file. An unknown key, in
the file or in the environment, is refused with the nearest known one.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from parley.errors import IdentityError, InputError
from services.frames import MAXIMUM_PAYLOAD
from services.identity import Role, check_name

PREFIX = "PARLEY_"
DELIMITER = "__"

Port = Annotated[int, Field(ge=0, le=65535)]
Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, le=3600)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TLSSettings(_Section):
    """Where the node's identity is: `ca.pem`, `certificate.pem`, `key.pem`, `sealing_key.pem`."""

    directory: Path | None = None


class KeepaliveSettings(_Section):
    """When a peer that hangs is given up: `interval_seconds` without a sign of life, then `timeout_seconds` more."""

    interval_seconds: Seconds = 8.0
    timeout_seconds: Seconds = 5.0


class LimitSettings(_Section):
    """What one caller, or one session, may take of this node."""

    sessions: Positive = 16
    """Sessions at the same time."""
    parties: Positive = 8
    """Parties of one session."""
    plan_nodes: Positive = 1_000_000
    plan_bytes: Positive = 6 << 20
    """Bytes of one serialized plan."""
    memory_bytes: Positive = 8 << 30
    """Peak memory that the cost report of a plan may ask for."""
    waiting_streams: Positive = 64
    """Streams that wait for their session to be opened here."""
    commands: Positive = 64
    """Commands of one session that are not yet answered."""
    repetitions: Positive = 1024
    """Executions of a plan in one command."""
    session_plans_bytes: Positive = 256 << 20
    """Bytes of all serialized plans of one session."""
    message_bytes: Positive = 1 << 30
    """Bytes of one command or answer, which travels in parts: a client's share, a result."""


class LogSettings(_Section):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "json"


class ServiceSettings(BaseSettings):
    """What all services have in common."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter=DELIMITER, extra="forbid", frozen=True, env_ignore_empty=True
    )

    name: str
    """The node's name, as its certificate has it."""
    listen: str = "127.0.0.1:0"
    """host:port to listen on; port 0 takes a free one."""
    advertise: str = ""
    """host:port under which others reach this node; empty for the address listened on."""
    tls: TLSSettings = TLSSettings()
    insecure: bool = False
    """No TLS, and callers are believed: on loopback only."""
    data_directory: Path = Path("data")
    chunk_bytes: Annotated[int, Field(ge=4096, le=MAXIMUM_PAYLOAD)] = 1 << 20
    """Messages longer than this travel in parts."""
    connect_seconds: Seconds = 15.0
    """How long a peer may take to open its stream of a session."""
    grace_seconds: Seconds = 5.0
    """How long calls under way may take to end when the service stops."""
    keepalive: KeepaliveSettings = KeepaliveSettings()
    limits: LimitSettings = LimitSettings()
    log: LogSettings = LogSettings()
    metrics_listen: str = ""
    """host:port of the metrics for Prometheus, on loopback; empty for none."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is passed: `load_settings` brings file, environment and command line together."""
        return (init_settings,)

    @property
    def address(self) -> str:
        """The address to tell others, as far as the settings know it (the port may be 0 until the server listens)."""
        return self.advertise or self.listen

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_name(self.name)
        host, _ = split_address(self.listen, "listen")
        if self.advertise:
            split_address(self.advertise, "advertise")
        if self.insecure:
            if not is_loopback(host):
                raise InputError(f"insecure is for loopback only, and listen is {self.listen}: set tls.directory")
            if self.advertise and not is_loopback(split_address(self.advertise)[0]):
                raise InputError(f"insecure is for loopback only, and advertise is {self.advertise}: set tls.directory")
        elif self.tls.directory is None:
            raise InputError("tls.directory is not set: name the directory of this node's certificate")
        if self.metrics_listen and not is_loopback(split_address(self.metrics_listen, "metrics_listen")[0]):
            raise InputError(f"metrics_listen is {self.metrics_listen}: metrics are served on loopback only")
        return self


class PartySettings(ServiceSettings):
    """A party node."""

    threads: Positive = 1
    """Threads that compute; 1 where several nodes share a machine."""


class DealerSettings(ServiceSettings):
    """The dealer."""

    threads: Positive = 1
    budget_bytes: Annotated[int, Field(ge=1 << 16)] = 64 << 20
    """Bytes of corrections that may be under way to one party before the dealer waits for it."""


class NodeAddress(_Section):
    """A node that the coordinator knows."""

    name: str
    address: str

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_name(self.name)
        split_address(self.address, f"the address of {self.name}")
        return self


class CoordinatorSettings(ServiceSettings):
    """The coordinator."""

    parties: list[NodeAddress] = []
    dealer: NodeAddress | None = None
    window: Positive = 8
    """Commands that a node has before it, so that it never waits for the next."""
    window_bytes: Positive = 64 << 20
    """Bytes of these commands; one is always sent, however large."""

    @model_validator(mode="after")
    def _check_nodes(self) -> Self:
        names = [party.name for party in self.parties]
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"parties: {name!r} is there more than once")
        if self.insecure:
            for node in [*self.parties, *([self.dealer] if self.dealer else [])]:
                if not is_loopback(split_address(node.address)[0]):
                    raise InputError(f"insecure is for loopback only, and {node.name} is at {node.address}")
        return self


Settings = TypeVar("Settings", bound=ServiceSettings)

SETTINGS_OF_ROLE: Mapping[Role, type[ServiceSettings]] = {
    "party": PartySettings,
    "dealer": DealerSettings,
    "coordinator": CoordinatorSettings,
}


def load_settings(kind: type[Settings], path: Path | None = None, **overrides: Any) -> Settings:
    """The settings of a service from a file (by its name YAML or TOML), the environment and `overrides`.

    `overrides`, from the command line, take precedence over both. Relative paths in the file start where the file is.
    Raises InputError that names the key.
    """
    values = {} if path is None else _read(path)
    _refuse_unknown(kind, values, str(path), "")
    if path is not None:
        _resolve(values, path.resolve().parent)
    _refuse_unknown_environment(kind)
    _refuse_unknown(kind, overrides, "the command line", "")
    try:
        settings = kind(**_merged(_merged(values, EnvSettingsSource(kind)()), overrides))
    except (InputError, SettingsError) as error:
        raise InputError(f"{path or 'settings'}: {error}") from error
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'settings'}: {_message(problem)}" for problem in error.errors()
        )
        raise InputError(f"{path or 'settings'}: {problems}") from error
    return settings


def split_address(address: str, what: str = "the address") -> tuple[str, int]:
    """Host and port of `host:port` (`[host]:port` for IPv6); raises InputError."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise InputError(f"{what} is {address!r}: write host:port, such as 127.0.0.1:7700")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise InputError(f"{what} is {address!r}: write an IPv6 address in brackets, [::1]:7700")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself, and cannot be anything else."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_name(name: str) -> None:
    try:
        check_name(name)
    except IdentityError as error:
        raise InputError(str(error)) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    try:
        values = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    except (tomllib.TOMLDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} is no {'TOML' if path.suffix == '.toml' else 'YAML'}: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise InputError(f"{path} does not hold keys and values")
    return values


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both, section by section, with `above` where both have a value."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _resolve(values: dict[str, Any], base: Path) -> None:
    """Let the paths in a file start where the file is."""
    if isinstance(values.get("data_directory"), str):
        values["data_directory"] = str(base / values["data_directory"])
    tls = values.get("tls")
    if isinstance(tls, dict) and isinstance(tls.get("directory"), str):
        values["tls"] = {**tls, "directory": str(base / tls["directory"])}


def _section(annotation: Any) -> type[BaseModel] | None:
    """The section that an annotation (perhaps a list or an option of it) holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        found = _section(argument)
        if found is not None:
            return found
    return None


def _refuse_unknown(kind: type[BaseModel], values: Mapping[str, Any], where: str, prefix: str) -> None:
    for key, value in values.items():
        field = kind.model_fields.get(key)
        if field is None:
            raise InputError(f"{where}: unknown key {prefix}{key}{_nearest(key, kind.model_fields)}")
        section = _section(field.annotation)
        if section is None:
            continue
        for index, entry in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(entry, Mapping):
                at = f"{prefix}{key}[{index}]." if isinstance(value, list) else f"{prefix}{key}."
                _refuse_unknown(section, entry, where, at)


def _refuse_unknown_environment(kind: type[ServiceSettings]) -> None:
    known = {PREFIX + key.upper() for key in kind.model_fields}
    for variable in os.environ:
        if not variable.startswith(PREFIX):
            continue
        key, _, rest = variable[len(PREFIX) :].lower().partition(DELIMITER)
        field = kind.model_fields.get(key)
        if field is None:
            # The environment is shared: what belongs to another role, or to the command line, is not ours to judge.
            near = _nearest(variable, known)
            if near:
                raise InputError(f"environment: unknown variable {variable}{near}")
            continue
        section = _section(field.annotation)
        if rest and section is not None and rest.split(DELIMITER)[0] not in section.model_fields:
            names = {f"{PREFIX}{key.upper()}{DELIMITER}{name.upper()}" for name in section.model_fields}
            raise InputError(f"environment: unknown variable {variable}{_nearest(variable, names)}")


def _nearest(key: str, known: Any) -> str:
    near = difflib.get_close_matches(key, list(known), n=1, cutoff=0.75 if key.startswith(PREFIX) else 0.5)
    return f"; did you mean {near[0]}?" if near else ""


def _message(problem: Any) -> str:
    return str(problem["msg"]).removeprefix("Value error, ")
