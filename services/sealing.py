"""Sealing a value to one receiver: ephemeral X25519, HKDF-SHA256, AES-256-GCM.

A sealed value is `version (1 byte) ‖ ephemeral public key (32) ‖ ciphertext and tag (n + 16)`. The key is derived from
the shared secret with both public keys as salt, and is used once, so the nonce is fixed. The *context* (what the value
is: session, slot, receiver) is authenticated and not sent: a value opened in another context is refused.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from typing_extensions import Buffer

from parley.errors import IdentityError, ProtocolError

OVERHEAD = 1 + 32 + 16
"""Bytes by which a sealed value is longer than the value."""

_VERSION = b"\x01"
_NONCE = bytes(12)


def seal(receiver: bytes, context: bytes, plaintext: Buffer) -> bytes:
    """Seal `plaintext` to the holder of the X25519 public key `receiver` (32 bytes), bound to `context`.

    Raises IdentityError where `receiver` is no usable key.
    """
    ephemeral = X25519PrivateKey.generate()
    try:
        shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(receiver))
    except ValueError as error:
        raise IdentityError("the receiver's sealing key is not a valid X25519 public key") from error
    public = ephemeral.public_key().public_bytes_raw()
    return _VERSION + public + AESGCM(_key(shared, public, receiver)).encrypt(_NONCE, memoryview(plaintext), context)


def unseal(key: X25519PrivateKey, context: bytes, sealed: Buffer) -> bytes:
    """The value that was sealed to `key` in `context`.

    Raises ProtocolError where it was sealed to another key or for another context, or was changed on its way.
    """
    view = memoryview(sealed).cast("B")
    if len(view) < OVERHEAD or view[:1] != _VERSION:
        raise ProtocolError("a sealed value is damaged or of another version: seal it again with this build")
    public = bytes(view[1:33])
    try:
        shared = key.exchange(X25519PublicKey.from_public_bytes(public))
        receiver = key.public_key().public_bytes_raw()
        return AESGCM(_key(shared, public, receiver)).decrypt(_NONCE, view[33:], context)
    except (InvalidTag, ValueError) as error:
        raise ProtocolError(
            "a sealed value cannot be opened: it was sealed to another key, for another purpose, or changed"
        ) from error


def _key(shared: bytes, ephemeral: bytes, receiver: bytes) -> bytes:
    return HKDF(hashes.SHA256(), 32, salt=ephemeral + receiver, info=b"parley sealing 1").derive(shared)
