"""Identity of a node: an Ed25519 key, and the node id derived from its public part.

Keys are made, read and written by cryptography (OpenSSL). Signatures are made and checked by libsodium, in
about half the time: an order that another node shows has one of each, one that it takes has several.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from nacl.bindings import crypto_sign, crypto_sign_open
from nacl.exceptions import BadSignatureError

from p2p.ground.durable_file import replace_file

NODE_ID_LENGTH = 32  # characters: 160 bits in base32
PUBLIC_KEY_LENGTH = 32  # bytes
SIGNATURE_LENGTH = 64  # bytes


def node_id_of(public_key: bytes) -> str:
    """Return the node id of a raw 32-byte Ed25519 public key: 160 bits of its SHA-256, base32, lower case."""
    digest = hashlib.sha256(b"exchange-node id\x00" + public_key).digest()
    return base64.b32encode(digest[:20]).decode("ascii").lower()


def is_node_id(text: str) -> bool:
    """Return True if `text` has the form of a node id."""
    return len(text) == NODE_ID_LENGTH and all(
        c in "abcdefghijklmnopqrstuvwxyz234567" for c in text
    )


def verify(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Return True if `signature` over `message` was made with the key of `public_key` (RFC 8032). Never
    raises.
    """
    # libsodium is given both in one piece: a signature of another length would be read as another message.
    if len(signature) != SIGNATURE_LENGTH or len(public_key) != PUBLIC_KEY_LENGTH:
        return False
    try:
        crypto_sign_open(signature + message, public_key)
    except BadSignatureError:
        return False
    return True


class Identity:
    """A private key with the node id that it proves."""

    def __init__(self, private_key: Ed25519PrivateKey) -> None:
        self.private_key = private_key
        self.public_key: bytes = private_key.public_key().public_bytes(
            Encoding.Raw, PublicFormat.Raw
        )
        self.node_id: str = node_id_of(self.public_key)
        self._secret = private_key.private_bytes_raw() + self.public_key  # as libsodium has it

    @classmethod
    def generate(cls) -> Identity:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes) -> Identity:
        """Make the identity of a 32-byte seed: the same seed gives the same node (tests, simulation)."""
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def load(cls, path: Path) -> Identity:
        """Read the key at `path`.

        Raises:
            ValueError: the file is not an Ed25519 private key in PEM form, or others may read it.
            OSError: the file cannot be read.
        """
        if path.stat().st_mode & 0o077:
            raise ValueError(
                f"{path} can be read by other users; run: chmod 600 {path} "
                "(and consider making a new key if it may have been copied)"
            )
        try:
            key = load_pem_private_key(path.read_bytes(), password=None)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is not a private key in PEM form: {error}") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError(f"{path} has a key of another type; expected Ed25519")
        return cls(key)

    def save(self, path: Path) -> None:
        """Write the key to `path`, with mode 0600, replacing an existing file.

        Raises:
            OSError: the file cannot be written.
        """
        pem = self.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        replace_file(path, pem)

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte Ed25519 signature of `message`."""
        return crypto_sign(message, self._secret)[:SIGNATURE_LENGTH]

    def __repr__(self) -> str:
        return f"Identity({self.node_id})"
