"""Certificates, bundles and sealed values: what is proved, and what each mistake is called."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import example, given, settings
from hypothesis import strategies as st

from parley.errors import IdentityError, ProtocolError
from services.identity import (
    AUTHORITY_CERTIFICATE,
    CERTIFICATE,
    KEY,
    SEALING_KEY,
    Authority,
    Caller,
    Identity,
    check_name,
    create_authority,
    create_keys,
    install_certificate,
    issue,
    parse_identity_uri,
    verify_bundle,
)
from services.sealing import OVERHEAD, seal, unseal
from tests.services.harness import Office


def test_a_certificate_names_role_name_and_hosts(office: Office, tmp_path: Path) -> None:
    issue(office.authority, tmp_path / "a", "party", "alice", ["10.1.2.3", "alice.example"])
    certificate = x509.load_pem_x509_certificate((tmp_path / "a" / CERTIFICATE).read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["parley://party/alice"]
    assert {"alice.party.parley", "localhost", "alice.example"} == set(names.get_values_for_type(x509.DNSName))
    assert {str(address) for address in names.get_values_for_type(x509.IPAddress)} == {"127.0.0.1", "::1", "10.1.2.3"}


def test_private_files_are_their_owners(office: Office, tmp_path: Path) -> None:
    issue(office.authority, tmp_path, "dealer", "dealer")
    for name in (KEY, SEALING_KEY):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    (tmp_path / KEY).chmod(0o644)
    with pytest.raises(IdentityError, match="chmod 600"):
        Identity.load(tmp_path)


def test_nothing_is_overwritten(office: Office, tmp_path: Path) -> None:
    issue(office.authority, tmp_path / "a", "party", "alice")
    with pytest.raises(IdentityError, match="exists already"):
        issue(office.authority, tmp_path / "a", "party", "alice")
    create_authority(tmp_path / "ca")
    with pytest.raises(IdentityError, match="holds an authority already"):
        create_authority(tmp_path / "ca")
    assert Authority.load(tmp_path / "ca").certificate_pem


@pytest.mark.parametrize("name", [AUTHORITY_CERTIFICATE, CERTIFICATE, KEY, SEALING_KEY])
def test_a_missing_or_damaged_file_is_named(office: Office, tmp_path: Path, name: str) -> None:
    issue(office.authority, tmp_path, "party", "alice")
    (tmp_path / name).write_text("damaged")
    with pytest.raises(IdentityError, match=name):
        Identity.load(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(IdentityError, match=f"{name} is missing"):
        Identity.load(tmp_path)


def test_an_expired_certificate_is_explained(office: Office, tmp_path: Path) -> None:
    identity = issue(office.authority, tmp_path, "party", "alice", days=-1)
    with pytest.raises(IdentityError, match="expired on"):
        identity.check()
    with pytest.raises(IdentityError, match="expired on"):
        Identity.load(tmp_path)


def test_a_certificate_of_another_authority_is_explained(office: Office, tmp_path: Path) -> None:
    other = create_authority(tmp_path / "other", "Another authority")
    issue(office.authority, tmp_path / "a", "party", "alice")
    (tmp_path / "a" / AUTHORITY_CERTIFICATE).write_bytes(other.certificate_pem)
    with pytest.raises(IdentityError, match=r"was not issued by .*Another authority"):
        Identity.load(tmp_path / "a")


def test_a_key_of_another_certificate_is_explained(office: Office, tmp_path: Path) -> None:
    issue(office.authority, tmp_path / "a", "party", "alice")
    issue(office.authority, tmp_path / "b", "party", "bob")
    (tmp_path / "a" / KEY).write_bytes((tmp_path / "b" / KEY).read_bytes())
    with pytest.raises(IdentityError, match="does not belong to the certificate"):
        Identity.load(tmp_path / "a")


def test_enrolment_needs_only_the_public_key(office: Office, tmp_path: Path) -> None:
    public = create_keys(tmp_path).public_key()
    install_certificate(tmp_path, office.authority.sign(public, "party", "dora"), office.authority.certificate)
    assert Identity.load(tmp_path).name == "dora"


@pytest.mark.parametrize("name", ["", "Alice", "a/b", "a.b", "-a", "a-", "a" * 64, "a b", "é"])
def test_names_that_could_be_mistaken_are_refused(name: str) -> None:
    with pytest.raises(IdentityError):
        check_name(name)


@pytest.mark.parametrize("uri", ["parley://party/", "parley://king/a", "parley://party/a/b", "http://party/a", ""])
def test_uris_of_no_identity_are_refused(uri: str) -> None:
    with pytest.raises(IdentityError):
        parse_identity_uri(uri)


def test_a_bundle_proves_the_sealing_key(office: Office) -> None:
    alice, authority = office.identity("party", "alice"), office.authority.certificate_pem
    assert verify_bundle(alice.bundle, authority, "party", "alice") == alice.sealing_public_key
    with pytest.raises(IdentityError, match="is that of party alice"):
        verify_bundle(alice.bundle, authority, "party", "bob")
    with pytest.raises(IdentityError, match="is that of party alice"):
        verify_bundle(alice.bundle, authority, "submitter", "alice")


def test_a_sealing_key_of_somebody_else_is_refused(office: Office) -> None:
    alice, mallory = office.identity("party", "alice"), office.identity("party", "mallory")
    forged = alice.certificate_pem + mallory.bundle[len(mallory.certificate_pem) :]
    with pytest.raises(IdentityError, match="has not signed"):
        verify_bundle(forged, office.authority.certificate_pem, "party", "alice")


def test_a_bundle_of_another_authority_is_refused(office: Office) -> None:
    stranger = Identity.ephemeral("party", "alice")
    with pytest.raises(IdentityError, match="was not issued by"):
        verify_bundle(stranger.bundle, office.authority.certificate_pem, "party", "alice")
    assert verify_bundle(stranger.bundle, None, "party", "alice") == stranger.sealing_public_key


@settings(max_examples=500)
@example(place=0.4375, change=1)  # within a name of the certificate
@example(place=0.04296875, change=2)  # its version
@given(place=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
def test_damaged_bundles_never_pass(office: Office, place: float, change: int) -> None:
    bundle = bytearray(office.identity("party", "alice").bundle)
    bundle[int(place * len(bundle))] ^= change
    try:
        public = verify_bundle(bytes(bundle), office.authority.certificate_pem, "party", "alice")
    except IdentityError:
        return
    assert public == office.identity("party", "alice").sealing_public_key  # white space, or a line's end


def test_no_key_is_shown(office: Office) -> None:
    assert repr(office.identity("party", "alice")) == "Identity(party/alice)"
    assert str(Caller("party", "alice")) == "party alice"


@given(context=st.binary(max_size=40), plaintext=st.binary(max_size=200))
def test_only_the_receiver_opens_in_the_same_context(office: Office, context: bytes, plaintext: bytes) -> None:
    alice, bob = office.identity("party", "alice"), office.identity("party", "bob")
    sealed = seal(alice.sealing_public_key, context, plaintext)
    assert len(sealed) == len(plaintext) + OVERHEAD
    assert unseal(alice.sealing_private_key, context, memoryview(sealed)) == plaintext
    assert sealed != seal(alice.sealing_public_key, context, plaintext)
    with pytest.raises(ProtocolError):
        unseal(bob.sealing_private_key, context, sealed)
    with pytest.raises(ProtocolError):
        unseal(alice.sealing_private_key, context + b"!", sealed)


@given(place=st.integers(0, OVERHEAD + 4), change=st.integers(1, 255), length=st.integers(0, OVERHEAD + 4))
def test_damaged_sealed_values_are_refused(office: Office, place: int, change: int, length: int) -> None:
    alice = office.identity("party", "alice")
    sealed = bytearray(seal(alice.sealing_public_key, b"", b"value"))
    with pytest.raises(ProtocolError):
        unseal(alice.sealing_private_key, b"", sealed[:length])
    # The last bit of an X25519 public key has no meaning, but the key is derived from all of its bits.
    sealed[place] ^= change
    with pytest.raises(ProtocolError):
        unseal(alice.sealing_private_key, b"", sealed)


def test_sealing_to_no_key_is_refused() -> None:
    for key in (b"", bytes(31), bytes(32)):
        with pytest.raises(IdentityError):
            seal(key, b"", b"value")
