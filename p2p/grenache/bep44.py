"""Values in the DHT (BEP 44): keys, signatures, and checks of values to put.

A value is a byte string here and bencoded inside: its key is the SHA-1 of `11:hello world`, and a
signature covers the same bytes. Other implementations may store numbers, lists and dictionaries;
those are stored and returned unchanged, see `p2p.grenache.dht.stores`.
"""

from __future__ import annotations

from hashlib import sha1
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from p2p.grenache.directory import MAX_SALT, MAX_VALUE, MutableItem
from p2p.grenache.errors import BadInput

MAX_SEQ: Final = 2**63 - 1  # BEP 44: a 64-bit number
PUBLIC_KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64


def bencoded(value: bytes) -> bytes:
    """Bencode a byte string."""
    return b"%d:%b" % (len(value), value)


def immutable_key(value: bytes) -> bytes:
    """Return the 20-byte key of an immutable value."""
    return sha1(bencoded(value), usedforsecurity=False).digest()


def mutable_key(public_key: bytes, salt: bytes = b"") -> bytes:
    """Return the 20-byte key of the values of a key pair (and salt)."""
    return sha1(public_key + salt, usedforsecurity=False).digest()


def signed_part(seq: int, bencoded_value: bytes, salt: bytes = b"") -> bytes:
    """Return the signed bytes: the items of a bencoded dictionary, without its `d` and `e`."""
    head = b"4:salt" + bencoded(salt) if salt else b""
    return b"%b3:seqi%de1:v%b" % (head, seq, bencoded_value)


def signature_fits(
    public_key: bytes, signature: bytes, seq: int, bencoded_value: bytes, salt: bytes = b""
) -> bool:
    """Return True if `signature` was made with that key over this version. Never raises."""
    if len(public_key) != PUBLIC_KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(
            signature, signed_part(seq, bencoded_value, salt)
        )
    except (InvalidSignature, ValueError):  # ValueError: not a point of the curve
        return False
    return True


def sign(
    private: Ed25519PrivateKey,
    seq: int,
    value: bytes,
    *,
    salt: bytes = b"",
    cas: int | None = None,
) -> MutableItem:
    """Return the signed version `seq` of the value of a key pair. `cas`: version that it may
    replace.

    Raises:
        BadInput: too large, or a number out of range.
    """
    unsigned = MutableItem(
        private.public_key().public_bytes_raw(), seq, value, bytes(SIGNATURE_BYTES), salt, cas
    )
    check(unsigned)
    signature = private.sign(signed_part(seq, bencoded(value), salt))
    return MutableItem(unsigned.public_key, seq, value, signature, salt, cas)


def verify(item: MutableItem) -> bool:
    """Return True if the item's signature was made with its key. Never raises."""
    return signature_fits(
        item.public_key, item.signature, item.seq, bencoded(item.value), item.salt
    )


def check_value(value: bytes) -> None:
    """Refuse what does not fit.

    Raises:
        BadInput: with the sentence that the Node.js Grape has for it.
    """
    if not isinstance(value, bytes):
        raise BadInput("ERR_GRAPE_VALUE", f"a value is bytes, not {_kind(value)}")
    if len(value) >= MAX_VALUE:
        raise BadInput("v must be less than 1000 bytes in put()", f"it has {len(value)}")


def check_salt(salt: bytes) -> None:
    """Refuse what does not fit.

    Raises:
        BadInput: with the sentence that the Node.js Grape has for it.
    """
    if not isinstance(salt, bytes):
        raise BadInput("ERR_GRAPE_SALT", f"a salt is bytes, not {_kind(salt)}")
    if len(salt) > MAX_SALT:
        raise BadInput("opts.salt is > 64 bytes long", f"it has {len(salt)}")


def check(item: MutableItem) -> None:
    """Check that a Grape would store the item. The signature is checked by `verify`.

    Raises:
        BadInput: with the Node.js Grape's message as its code.
    """
    check_value(item.value)
    if len(item.public_key) != PUBLIC_KEY_BYTES:
        raise BadInput(
            "opts.k ed25519 public key must be 32 bytes", f"it has {len(item.public_key)}"
        )
    if len(item.signature) != SIGNATURE_BYTES:
        raise BadInput(
            "opts.sign function or options.sig signature is required for mutable put",
            f"a signature has {SIGNATURE_BYTES} bytes, not {len(item.signature)}",
        )
    check_salt(item.salt)
    if not _is_version(item.seq):
        raise BadInput("opts.seq not an integer", f"expected 0 to {MAX_SEQ}, not {item.seq!r}")
    if item.cas is not None and not _is_version(item.cas):
        raise BadInput(
            "opts.cas must be an integer if provided", f"expected 0 to {MAX_SEQ}, not {item.cas!r}"
        )


def _kind(wrong: object) -> str:
    advice = "; encode it first" if isinstance(wrong, str) else ""
    return f"{type(wrong).__name__}{advice}"


def _is_version(number: object) -> bool:
    return type(number) is int and 0 <= number <= MAX_SEQ
