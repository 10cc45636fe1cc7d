"""Node ids derived from the public address of their node (BEP 42), which prevents chosen positions."""

from __future__ import annotations

import random
from typing import Final

from p2p.base.reach import Reach, reach
from p2p.grenache.dht.compact_addresses import pack_host
from p2p.grenache.dht.krpc import ID_BYTES

_MASK: Final = (0x03, 0x0F, 0x3F, 0xFF)


def _crc32c_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_TABLE: Final = _crc32c_table()


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli, RFC 3720 appendix B.4)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _prefix(host: str, r: int) -> int:
    """Return the checksum whose first 21 bits begin the id of a node at `host`."""
    masked = bytearray(part & mask for part, mask in zip(pack_host(host), _MASK, strict=True))
    masked[0] |= (r & 7) << 5
    return crc32c(bytes(masked))


def make_id(host: str, rng: random.Random) -> bytes:
    """Return a random id that fits the address."""
    last = rng.randrange(256)
    head = (_prefix(host, last) & 0xFFFFF800 | rng.getrandbits(11)).to_bytes(4, "big")
    return head + rng.randbytes(ID_BYTES - 5) + bytes([last])


def fits(node_id: bytes, host: str) -> bool:
    """Return True if a node at `host` may have this id. Every id fits a private or loopback address."""
    if reach(host) is not Reach.PUBLIC:
        return True
    return (int.from_bytes(node_id[:4], "big") ^ _prefix(host, node_id[-1])) & 0xFFFFF800 == 0
