"""Records as bytes: msgpack, every record an array that begins with the name of its kind.

msgpack has no integers beyond 64 bits, and sums of price times quantity can be greater. Records with
such a one take a slower way, on which it is written as decimal text; every reader takes both.
"""

from __future__ import annotations

from typing import Any

import msgspec

_fast = msgspec.msgpack.Encoder().encode


def pack(value: object) -> bytes:
    """`value`: structs, lists of structs and what is in them."""
    try:
        return _fast(value)
    except OverflowError:
        return _fast(_narrow(msgspec.to_builtins(value, builtin_types=(bytes,))))


def _narrow(value: Any) -> Any:
    """`value` with every integer that msgpack cannot hold as text."""
    if type(value) is int:
        return value if -(2**63) <= value < 2**64 else str(value)
    if isinstance(value, dict):
        return {key: _narrow(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_narrow(each) for each in value]
    return value


def unpacker(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    """Decodes what `pack` gives of values of type `kind`; raises msgspec.DecodeError."""
    return msgspec.msgpack.Decoder(kind, strict=False)
