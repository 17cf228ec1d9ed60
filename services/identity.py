"""Who a node is: certificates that name a role and a name, and a key to seal values to their holder.

An *authority* signs certificates; each names its holder in a URI, `parley://<role>/<name>`, and carries the DNS name
`<name>.<role>.parley`, by which gRPC itself checks that it talks to the expected node. Beside the certificate's key
(EC P-256, for TLS and signatures) every identity has an X25519 key, whose public half it signs: the *bundle* of
certificate, public key and signature lets anyone who knows the authority seal values to the holder.

Private keys are made where they are used, in files that only their owner may read. A directory of an identity holds
`ca.pem`, `certificate.pem`, `key.pem`, `sealing_key.pem`; one of an authority `ca.pem` and `ca_key.pem`.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, get_args

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from parley.errors import IdentityError

Role = Literal["coordinator", "dealer", "party", "submitter"]
ROLES: tuple[Role, ...] = get_args(Role)

AUTHORITY_CERTIFICATE = "ca.pem"
AUTHORITY_KEY = "ca_key.pem"
CERTIFICATE = "certificate.pem"
KEY = "key.pem"
SEALING_KEY = "sealing_key.pem"

AUTHORITY_DAYS = 3650
CERTIFICATE_DAYS = 365
CLOCK_SKEW = timedelta(minutes=5)
"""New certificates are valid from this long ago, so that machines whose clocks differ a little accept them."""

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SEALING_CONTEXT = b"parley sealing key 1\0"
_SEALING_BLOCK = re.compile(
    rb"-----BEGIN PARLEY SEALING KEY-----\n([A-Za-z0-9+/=\n]+)-----END PARLEY SEALING KEY-----\n?\Z"
)
MAXIMUM_BUNDLE_BYTES = 16384

_DAMAGED = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What the library raises of a damaged certificate; it is parsed only as far as it is asked for, each time anew."""


@dataclass(frozen=True)
class Caller:
    """A role and a name that a certificate has proved (or, in insecure mode on loopback, that were only claimed)."""

    role: Role
    name: str

    def __str__(self) -> str:
        return f"{self.role} {self.name}"


# ---- names --------------------------------------------------------------------------------------------------------


def check_name(name: str) -> str:
    """Return `name` if it can be a node's name (lower case letters, digits, hyphens); else raise IdentityError."""
    if not _NAME.fullmatch(name):
        raise IdentityError(
            f"{name!r} cannot be a node's name: use 1 to 63 lower case letters, digits and hyphens, "
            "with no hyphen at the beginning or end"
        )
    return name


def check_role(role: str) -> Role:
    """Return `role` if it is one; else raise IdentityError."""
    for known in ROLES:
        if role == known:
            return known
    raise IdentityError(f"{role!r} is no role: use one of {', '.join(ROLES)}")


def identity_uri(role: Role, name: str) -> str:
    """The URI by which a certificate names its holder."""
    return f"parley://{role}/{name}"


def target_name(role: Role, name: str) -> str:
    """The DNS name in every certificate of that role and name, by which TLS checks whom it talks to."""
    return f"{name}.{role}.parley"


def parse_identity_uri(uri: str) -> Caller:
    """The role and name of `parley://<role>/<name>`; raises IdentityError for anything else."""
    match = re.fullmatch(r"parley://([a-z]+)/([a-z0-9-]+)", uri)
    if match is None:
        raise IdentityError(f"{uri!r} does not name a Parley role and name (parley://<role>/<name>)")
    return Caller(check_role(match[1]), check_name(match[2]))


def certificate_identity(certificate: x509.Certificate) -> Caller:
    """The one role and name that a certificate names; raises IdentityError where there is none, or several."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except x509.ExtensionNotFound:
        uris = []
    except _DAMAGED as error:
        raise IdentityError("the names in the certificate are damaged: have it issued or sent again") from error
    ours = [uri for uri in uris if uri.startswith("parley://")]
    if len(ours) != 1:
        raise IdentityError(
            f"the certificate names {len(ours) or 'no'} Parley identities, not one: issue it with Parley's authority"
        )
    return parse_identity_uri(ours[0])


# ---- the authority ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Authority:
    """A certificate authority with its private key: whoever holds it decides who takes part."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def certificate_pem(self) -> bytes:
        """The public certificate, which every node needs."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @classmethod
    def load(cls, directory: Path) -> Authority:
        """Read an authority that `create_authority` made; raises IdentityError."""
        certificate = _load_certificate(directory / AUTHORITY_CERTIFICATE)
        return cls(certificate, _load_key(directory / AUTHORITY_KEY, certificate))

    def sign(
        self,
        public_key: ec.EllipticCurvePublicKey,
        role: Role,
        name: str,
        hosts: Sequence[str] = (),
        days: float = CERTIFICATE_DAYS,
    ) -> x509.Certificate:
        """A certificate for `public_key`: the step that an enrolment ends with. The private key is never needed.

        `hosts` are further DNS names and IP addresses of the node; localhost, 127.0.0.1 and ::1 are always there.
        """
        check_name(name)
        check_role(role)
        names: list[x509.GeneralName] = [
            x509.UniformResourceIdentifier(identity_uri(role, name)),
            x509.DNSName(target_name(role, name)),
        ]
        for host in dict.fromkeys(["localhost", "127.0.0.1", "::1", *hosts]):
            try:
                names.append(x509.IPAddress(ipaddress.ip_address(host)))
            except ValueError:
                try:
                    names.append(x509.DNSName(host))
                except ValueError as error:
                    raise IdentityError(f"{host!r} is neither a host name nor an IP address") from error
        now = datetime.now(UTC)
        issuer = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        return (
            x509.CertificateBuilder()
            .subject_name(_distinguished_name(f"{role}/{name}"))
            .issuer_name(self.certificate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(now, now + timedelta(days=days)) - CLOCK_SKEW)
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(authority=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False)
            .sign(self.key, hashes.SHA256())
        )


def create_authority(directory: Path, name: str = "Parley development authority") -> Authority:
    """Make an authority in `directory`; raises IdentityError where there is one already."""
    if (directory / AUTHORITY_KEY).exists() or (directory / AUTHORITY_CERTIFICATE).exists():
        raise IdentityError(f"{directory} holds an authority already: use it, or name another directory")
    authority = _new_authority(name)
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_private(directory / AUTHORITY_KEY, _key_pem(authority.key))
    (directory / AUTHORITY_CERTIFICATE).write_bytes(authority.certificate_pem)
    return authority


def _new_authority(name: str) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _distinguished_name(name)
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate, key)


def issue(
    authority: Authority,
    directory: Path,
    role: Role,
    name: str,
    hosts: Sequence[str] = (),
    days: float = CERTIFICATE_DAYS,
) -> Identity:
    """Make keys in `directory` and sign their certificate: for development, where one machine plays all roles.

    An enrolment does the same in two places: `create_keys` at the node, `Authority.sign` at the authority,
    `install_certificate` at the node.
    """
    key = create_keys(directory)
    certificate = authority.sign(key.public_key(), role, name, hosts, days)
    install_certificate(directory, certificate, authority.certificate)
    return Identity.load(directory, check=days > 0)


def create_keys(directory: Path) -> ec.EllipticCurvePrivateKey:
    """Make the private keys of an identity in `directory` and return the certificate's."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = ec.generate_private_key(ec.SECP256R1())
    write_private(directory / KEY, _key_pem(key))
    write_private(directory / SEALING_KEY, _key_pem(X25519PrivateKey.generate()))
    return key


def install_certificate(directory: Path, certificate: x509.Certificate, authority: x509.Certificate) -> None:
    """Place a signed certificate, and that of its authority, beside the keys that it belongs to."""
    for name, content in ((CERTIFICATE, certificate), (AUTHORITY_CERTIFICATE, authority)):
        (directory / name).write_bytes(content.public_bytes(serialization.Encoding.PEM))


# ---- identities ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Identity:
    """A node's certificate and keys. Its representation shows no key."""

    role: Role
    name: str
    authority_pem: bytes
    certificate_pem: bytes
    _key: ec.EllipticCurvePrivateKey
    _sealing_key: X25519PrivateKey

    def __repr__(self) -> str:
        return f"Identity({self.role}/{self.name})"

    @classmethod
    def load(cls, directory: Path, check: bool = True) -> Identity:
        """Read an identity and, with `check`, verify that its peers will accept it.

        Raises IdentityError that says which file is missing, unreadable, expired or does not belong to the others.
        """
        certificate = _load_certificate(directory / CERTIFICATE)
        authority = _load_certificate(directory / AUTHORITY_CERTIFICATE)
        key = _load_key(directory / KEY, certificate)
        sealing_key = _read_private(directory / SEALING_KEY)
        if not isinstance(sealing_key, X25519PrivateKey):
            raise IdentityError(f"{directory / SEALING_KEY} holds no X25519 key: issue the identity again")
        if check:
            check_certificate(certificate, authority, str(directory / CERTIFICATE))
        holder = certificate_identity(certificate)
        return cls(
            holder.role,
            holder.name,
            authority.public_bytes(serialization.Encoding.PEM),
            certificate.public_bytes(serialization.Encoding.PEM),
            key,
            sealing_key,
        )

    @classmethod
    def ephemeral(cls, role: Role, name: str) -> Identity:
        """An identity that lives in memory only, signed by an authority of its own: for insecure mode on loopback."""
        authority = _new_authority("Parley ephemeral authority")
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = authority.sign(key.public_key(), role, name).public_bytes(serialization.Encoding.PEM)
        return cls(role, name, authority.certificate_pem, certificate, key, X25519PrivateKey.generate())

    @property
    def key_pem(self) -> bytes:
        """The certificate's private key, for TLS only."""
        return _key_pem(self._key)

    @property
    def sealing_private_key(self) -> X25519PrivateKey:
        """The key that opens what was sealed to this identity (services/sealing.py)."""
        return self._sealing_key

    @property
    def sealing_public_key(self) -> bytes:
        """Its public half, 32 bytes."""
        return self._sealing_key.public_key().public_bytes_raw()

    @property
    def expires(self) -> datetime:
        """When the certificate ends."""
        return x509.load_pem_x509_certificate(self.certificate_pem).not_valid_after_utc

    @property
    def bundle(self) -> bytes:
        """Certificate, sealing public key and the signature that binds them, for others to verify and seal to."""
        public = self.sealing_public_key
        signature = self._key.sign(_SEALING_CONTEXT + public, ec.ECDSA(hashes.SHA256()))
        block = base64.encodebytes(public + signature)
        return (
            self.certificate_pem
            + b"-----BEGIN PARLEY SEALING KEY-----\n"
            + block
            + b"-----END PARLEY SEALING KEY-----\n"
        )

    def check(self) -> None:
        """Verify again that peers accept the certificate (a node runs for months); raises IdentityError."""
        check_certificate(
            x509.load_pem_x509_certificate(self.certificate_pem),
            x509.load_pem_x509_certificate(self.authority_pem),
            f"the certificate of {self.role} {self.name}",
        )


def check_certificate(certificate: x509.Certificate, authority: x509.Certificate, where: str) -> Caller:
    """Verify dates and issuer and return whom the certificate names; raises IdentityError that explains.

    TLS would say no more than "Socket closed" of any of these.
    """
    try:
        certificate.verify_directly_issued_by(authority)
    except (*_DAMAGED, InvalidSignature) as error:
        raise IdentityError(
            f"{where} was not issued by the authority of {AUTHORITY_CERTIFICATE} "
            f"({authority.subject.rfc4514_string()}): take both from the same authority"
        ) from error
    now = datetime.now(UTC)
    for what, checked in (("", certificate), ("the authority of ", authority)):
        if now > checked.not_valid_after_utc:
            raise IdentityError(
                f"{what}{where} expired on {checked.not_valid_after_utc:%Y-%m-%d %H:%M} UTC "
                f"(now {now:%Y-%m-%d %H:%M}): issue a new one"
            )
        if now < checked.not_valid_before_utc:
            raise IdentityError(
                f"{what}{where} is valid only from {checked.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on "
                f"(now {now:%Y-%m-%d %H:%M}): set this machine's clock, or wait"
            )
    return certificate_identity(certificate)


def verify_bundle(bundle: bytes, authority_pem: bytes | None, role: Role, name: str) -> bytes:
    """The sealing public key (32 bytes) of `role` and `name`, or IdentityError where the bundle does not prove it.

    `authority_pem` None skips the issuer, for insecure mode on loopback only.
    """
    where = f"the identity bundle of {role} {name}"
    match = _SEALING_BLOCK.search(bundle) if len(bundle) <= MAXIMUM_BUNDLE_BYTES else None
    if match is None:
        raise IdentityError(f"{where} is damaged: have it sent again")
    try:
        block = base64.b64decode(match[1])
        certificate = x509.load_pem_x509_certificate(bundle[: match.start()])
        authority = None if authority_pem is None else x509.load_pem_x509_certificate(authority_pem)
        key = certificate.public_key()
    except _DAMAGED as error:
        raise IdentityError(f"{where} is damaged: have it sent again") from error
    # The issuer first: nothing else in a certificate means anything before its signature does.
    holder = (
        certificate_identity(certificate) if authority is None else check_certificate(certificate, authority, where)
    )
    if (holder.role, holder.name) != (role, name):
        raise IdentityError(f"{where} is that of {holder}")
    public, signature = block[:32], block[32:]
    try:
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise InvalidSignature
        key.verify(signature, _SEALING_CONTEXT + public, ec.ECDSA(hashes.SHA256()))
        X25519PublicKey.from_public_bytes(public)
    except (InvalidSignature, ValueError) as error:
        raise IdentityError(f"{where} carries a sealing key that its certificate has not signed") from error
    return public


# ---- files --------------------------------------------------------------------------------------------------------


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, never leaving half of it; raises IdentityError where one exists."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise IdentityError(f"{path} exists already: remove it, or name another directory") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise IdentityError(f"{path} is missing: issue the identity, or set `tls.directory`") from error
    except OSError as error:
        raise IdentityError(f"{path} cannot be read: {error.strerror}") from error


def _load_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(_read(path))
    except _DAMAGED as error:
        raise IdentityError(f"{path} holds no certificate in PEM form") from error


def _read_private(path: Path) -> object:
    content = _read(path)
    if path.stat().st_mode & 0o077:
        raise IdentityError(f"others than the owner may read {path}: chmod 600 {path}")
    try:
        return serialization.load_pem_private_key(content, password=None)
    except _DAMAGED as error:
        raise IdentityError(f"{path} holds no private key in PEM form") from error


def _load_key(path: Path, certificate: x509.Certificate) -> ec.EllipticCurvePrivateKey:
    key = _read_private(path)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise IdentityError(f"{path} does not belong to the certificate beside it: issue the identity again")
    return key


def _key_pem(key: ec.EllipticCurvePrivateKey | X25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _distinguished_name(name: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Parley"), x509.NameAttribute(NameOID.COMMON_NAME, name[:64])]
    )


def _key_usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )
