"""Bencoding (BEP 3): integers, byte strings, lists and dictionaries with byte-string keys.

Encoding is canonical. Decoding requires well-formed input to the last byte, with one exception:
keys may come in any order, as in the decoders of other DHT programs. A duplicate key is refused,
since programs differ in which of the two they use.
"""

from __future__ import annotations

from typing import Final, TypeAlias

Value: TypeAlias = "int | bytes | list[Value] | dict[bytes, Value]"

MAX_BYTES: Final = 65_535  # no datagram is longer
MAX_DEPTH: Final = 16  # KRPC needs 3; a stored value may nest a little
MAX_DIGITS: Final = 20  # of an integer with its sign: 64 bits

_I, _L, _D, _E = b"ilde"
_DIGITS: Final = frozenset(b"0123456789")


class BencodeError(ValueError):
    """Input is not bencode, or exceeds the limits."""


def encode(value: Value) -> bytes:
    """Encode in canonical form: keys sorted, no leading zeros.

    Raises:
        BencodeError: a part has no bencoded form (text, booleans, None, floats).
    """
    parts: list[bytes] = []
    try:
        _encode(value, parts, 0)
    except TypeError:  # keys of several types have no order
        raise BencodeError("keys are byte strings") from None
    return b"".join(parts)


def _encode(value: Value, parts: list[bytes], depth: int) -> None:
    if isinstance(value, bytes):
        parts.append(b"%d:%b" % (len(value), value))
        return
    if isinstance(value, int) and not isinstance(value, bool):
        parts.append(b"i%de" % value)
        return
    if depth >= MAX_DEPTH:
        raise BencodeError(f"nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict):
        parts.append(b"d")
        for key in sorted(value):
            if type(key) is not bytes:
                raise BencodeError("keys are byte strings")
            item = value[key]
            if isinstance(item, bytes):  # nearly always; saves a call
                parts.append(b"%d:%b%d:%b" % (len(key), key, len(item), item))
            else:
                parts.append(b"%d:%b" % (len(key), key))
                _encode(item, parts, depth + 1)
        parts.append(b"e")
    elif isinstance(value, list):
        parts.append(b"l")
        for item in value:
            if isinstance(item, bytes):
                parts.append(b"%d:%b" % (len(item), item))
            else:
                _encode(item, parts, depth + 1)
        parts.append(b"e")
    else:
        raise BencodeError(f"{type(value).__name__} has no bencoded form")


def decode(data: bytes) -> Value:
    """Decode the value in `data`, which has to be all of it.

    Raises:
        BencodeError: not a value, too long, or nested too deep.
    """
    if len(data) > MAX_BYTES:
        raise BencodeError(f"{len(data)} bytes; expected at most {MAX_BYTES}")
    try:
        value, end = _decode(data, 0, 0)
    except IndexError:
        raise BencodeError("ends too early") from None
    if end != len(data):
        raise BencodeError(f"{len(data) - end} bytes too many")
    return value


def _decode(data: bytes, at: int, depth: int) -> tuple[Value, int]:
    first = data[at]
    if first in _DIGITS:
        return _string(data, at)
    if first == _I:
        return _integer(data, at + 1)
    if depth >= MAX_DEPTH:
        raise BencodeError(f"nested more than {MAX_DEPTH} deep")
    if first == _D:
        at += 1
        entries: dict[bytes, Value] = {}
        while data[at] != _E:
            key, at = _string(data, at)
            if key in entries:
                raise BencodeError(f"duplicate key {key[:20]!r}")
            if data[at] in _DIGITS:  # nearly always; saves a call
                entries[key], at = _string(data, at)
            else:
                entries[key], at = _decode(data, at, depth + 1)
        return entries, at + 1
    if first == _L:
        at += 1
        items: list[Value] = []
        while data[at] != _E:
            item, at = _string(data, at) if data[at] in _DIGITS else _decode(data, at, depth + 1)
            items.append(item)
        return items, at + 1
    raise BencodeError(f"byte {first} at {at} begins no value")


def _string(data: bytes, at: int) -> tuple[bytes, int]:
    colon = data.find(b":", at, at + MAX_DIGITS)
    digits = data[at:colon] if colon >= 0 else b""
    if not digits.isdigit() or (digits[0] == 48 and len(digits) > 1):
        raise BencodeError(f"no length of a string at {at}")
    start = colon + 1
    end = start + int(digits)
    if end > len(data):
        raise BencodeError(f"the string at {at} is longer than the data")
    return data[start:end], end


def _integer(data: bytes, at: int) -> tuple[int, int]:
    end = data.find(b"e", at, at + MAX_DIGITS + 1)
    digits = data[at:end] if end >= 0 else b""
    magnitude = digits[1:] if digits[:1] == b"-" else digits
    if not magnitude.isdigit() or (magnitude[0] == 48 and digits != b"0"):
        raise BencodeError(f"no integer at {at}")
    return int(digits), end + 1
