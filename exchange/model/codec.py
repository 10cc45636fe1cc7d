"""Codec of journal records: msgpack, each record an array that begins with its tag.

msgpack has no integers beyond 64 bits, and sums of price times quantity can be greater. Such integers
are written as decimal text, by a slower path; readers accept both. Of a list, only the records that have such
integers take it.
"""

from __future__ import annotations

from typing import Any

import msgspec

_fast = msgspec.msgpack.Encoder().encode


def pack(value: object) -> bytes:
    """Encode structs, lists of structs and their contents."""
    try:
        return _fast(value)
    except OverflowError:
        if isinstance(value, list):
            return _fast([msgspec.Raw(pack(each)) for each in value])
        return _fast(_narrow(msgspec.to_builtins(value, builtin_types=(bytes,))))


def _narrow(value: Any) -> Any:
    """Return `value` with every integer that msgpack cannot hold as text."""
    if type(value) is int:
        return value if -(2**63) <= value < 2**64 else str(value)
    if isinstance(value, dict):
        return {key: _narrow(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_narrow(each) for each in value]
    return value


def unpacker(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    """Return the decoder of `pack` for values of type `kind`. It raises msgspec.DecodeError."""
    return msgspec.msgpack.Decoder(kind, strict=False)
