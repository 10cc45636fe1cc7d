"""Messages of PCP (RFC 6887) and NAT-PMP (RFC 6886), as far as a TCP port mapping needs them. No I/O.

A router's answers are read strictly: fixed lengths, fixed fields, an upper bound before anything else. An answer that is
not exactly of the expected form is None, never an exception.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Final

import msgspec

PORT: Final = 5351  # of the router, UDP
MAX_DATAGRAM: Final = 1100  # RFC 6887, section 7
NONCE_LENGTH: Final = 12

_PCP: Final = 2  # version
_NAT_PMP: Final = 0
_ANNOUNCE: Final = 0
_MAP: Final = 1
_TCP: Final = 6  # IANA protocol number
_ANSWER: Final = 0x80

_PCP_REQUEST: Final = struct.Struct("!BBHI16s")
_PCP_ANSWER: Final = struct.Struct("!BBBBII12x")
_PCP_MAP: Final = struct.Struct("!12sB3xHH16s")
_PMP_MAP_REQUEST: Final = struct.Struct("!BBHHHI")
_PMP_HEAD: Final = struct.Struct("!BBHI")
_PMP_ADDRESS: Final = struct.Struct("!BBHI4s")
_PMP_MAP: Final = struct.Struct("!BBHIHHI")

SUCCESS: Final = 0
UNSUPPORTED_VERSION: Final = 1  # in both protocols

PCP_RESULTS: Final = {
    2: "not authorised",
    3: "malformed request",
    4: "unsupported operation",
    7: "network failure",
    8: "no resources",
    9: "unsupported protocol",
    10: "quota exceeded",
    11: "cannot provide the external address",
    12: "another NAT is between this machine and the router",
}
PMP_RESULTS: Final = {
    2: "not authorised",
    3: "network failure",
    4: "no resources",
    5: "unsupported operation",
}


class MappingAnswer(msgspec.Struct, frozen=True):
    """Router's answer. `external_port` 0: it was not about a mapping. Times in seconds."""

    result: int
    epoch: int  # seconds since the router lost its mappings
    lifetime: int = 0
    internal_port: int = 0
    external_port: int = 0
    external_host: str = ""


# PCP


def pcp_map(
    client: str, nonce: bytes, internal: int, external: tuple[str, int], lifetime: int
) -> bytes:
    """Return a MAP request. `external`: suggestion; lifetime 0 deletes the mapping."""
    head = _PCP_REQUEST.pack(_PCP, _MAP, 0, lifetime, _packed(client))
    host = _packed(external[0]) if external[0] else _none(client)
    return head + _PCP_MAP.pack(nonce, _TCP, internal, external[1], host)


def pcp_announce(client: str) -> bytes:
    """Return an ANNOUNCE request: its answer shows the epoch."""
    return _PCP_REQUEST.pack(_PCP, _ANNOUNCE, 0, 0, _packed(client))


def read_pcp(data: bytes, nonce: bytes) -> MappingAnswer | None:
    """Read an answer to `pcp_map` with this nonce, or to `pcp_announce`. None: it is neither."""
    if not _PCP_ANSWER.size <= len(data) <= MAX_DATAGRAM or len(data) % 4:
        return None
    version, operation, _, result, lifetime, epoch = _PCP_ANSWER.unpack_from(data)
    if version != _PCP or operation not in (_ANSWER | _MAP, _ANSWER | _ANNOUNCE):
        return None
    if operation == _ANSWER | _ANNOUNCE:
        return MappingAnswer(result, epoch)
    if len(data) < _PCP_ANSWER.size + _PCP_MAP.size:
        return None
    echoed, protocol, internal, external, host = _PCP_MAP.unpack_from(data, _PCP_ANSWER.size)
    if echoed != nonce or protocol != _TCP:
        return None
    return MappingAnswer(result, epoch, lifetime, internal, external, _text(host))


def wants_nat_pmp(data: bytes) -> bool:
    """Return True for the answer of a router that knows NAT-PMP alone (RFC 6887, appendix A)."""
    return 2 <= len(data) <= MAX_DATAGRAM and data[0] == _NAT_PMP and bool(data[1] & _ANSWER)


# NAT-PMP


def pmp_address() -> bytes:
    """Return a request for the external address: its answer shows the epoch too."""
    return bytes((_NAT_PMP, 0))


def pmp_map(internal: int, external: int, lifetime: int) -> bytes:
    """Return a request for a TCP mapping. `external`: suggestion; lifetime 0 deletes the mapping."""
    return _PMP_MAP_REQUEST.pack(_NAT_PMP, 2, 0, internal, external, lifetime)


def read_pmp(data: bytes) -> MappingAnswer | None:
    """Read an answer to `pmp_address` or `pmp_map`. None: it is neither."""
    if len(data) < _PMP_HEAD.size or len(data) > _PMP_MAP.size:
        return None
    version, operation, result, epoch = _PMP_HEAD.unpack_from(data)
    if version != _NAT_PMP or operation not in (_ANSWER, _ANSWER | 2):
        return None
    if result != SUCCESS:
        return MappingAnswer(result, epoch)
    if operation == _ANSWER:
        if len(data) != _PMP_ADDRESS.size:
            return None
        *_, host = _PMP_ADDRESS.unpack(data)
        return MappingAnswer(result, epoch, external_host=str(ipaddress.IPv4Address(host)))
    if len(data) != _PMP_MAP.size:
        return None
    *_, internal, external, lifetime = _PMP_MAP.unpack(data)
    return MappingAnswer(result, epoch, lifetime, internal, external)


# Addresses of PCP are 16 bytes


def _packed(host: str) -> bytes:
    ip = ipaddress.ip_address(host)
    return ip.packed if ip.version == 6 else b"\0" * 10 + b"\xff\xff" + ip.packed


def _none(client: str) -> bytes:
    """Return the address that suggests none, of the kind of the client's."""
    return bytes(16) if ":" in client else _packed("0.0.0.0")


def _text(packed: bytes) -> str:
    ip = ipaddress.IPv6Address(packed)
    return str(ip.ipv4_mapped or ip)
