"""Dial-back: its messages, and the server's rules for dialling an address because a peer requests it (after AutoNAT v2). No I/O.

A peer that wants to know if an address of its own can be reached asks a neighbour to dial it. A stranger must not be able
to make nodes dial third parties cheaply, so:

- one address a request, an IP address and never a name;
- a private address is dialled only for a peer that is seen at it;
- an address from which the peer is not seen costs it 30 to 100 kB of upload first, which is more than the dial costs the
  address's owner;
- no host is dialled more than once a minute for peers that are seen elsewhere, for all requesters and ports together, and no
  address (host and port) more than once a minute for peers that are seen there; what others had dialled is not held against these;
- limits for each requester, for the network group in which it is seen, and for all, which takes many groups to reach.
"""

from __future__ import annotations

import ipaddress
import random
from typing import Final, Literal

import msgspec

from p2p.base.host_port import format_host_port, normal_host
from p2p.base.network_group import is_local, network_group
from p2p.base.reach import Reach, ip_of, is_other_service, reach
from p2p.ground.bounded_map import BoundedMap
from p2p.ground.peer_texts import Sentence, Word
from p2p.ground.tokens import Tokens, TokenTable

METHOD: Final = "dial_back"
# Among a peer's protocols: it answers probes and requests for dial-backs
CAPABILITY: Final = "probe"
NONCE_LENGTH: Final = 16  # bytes

DIALLED: Final = "dialled"  # the server's probe was answered
FAILED: Final = "failed"  # it was not
PROOF: Final = "proof"  # upload that many bytes first
REFUSED: Final = "refused"  # no dial was made

TARGET_INTERVAL: Final = 60.0  # seconds between dials of one target
PROOF_BYTES: Final = (30_000, 100_000)  # uploaded first where the address is not the observed one
PROOF_TIME: Final = 30.0  # seconds for the upload
REQUESTER_RATE: Final = 1 / 10  # requests a second of one peer ...
REQUESTER_BURST: Final = 6.0
GROUP_RATE: Final = 1 / 5  # of all peers that are seen in one network group ...
GROUP_BURST: Final = 12.0
ALL_RATE: Final = 10.0  # ... and of all
ALL_BURST: Final = 100.0
MAX_REQUESTERS: Final = 1000
# Seconds at most before a dial elsewhere, so that many nodes do not dial together
THIRD_PARTY_DELAY: Final = 3.0


class DialBackBody(msgspec.Struct, rename="camel"):
    """Request to dial `host` and `port` and send `nonce` there."""

    host: Word
    port: int
    nonce: bytes
    proof: bytes = b""  # the upload that was demanded


class DialBackAnswer(msgspec.Struct, rename="camel"):
    status: Word
    reason: Sentence = ""
    size: int = 0  # of the proof


class DialBackDecision(msgspec.Struct, frozen=True):
    """`proof`: bytes to upload before the request is repeated. `delay`: seconds to wait before the dial."""

    action: Literal["dial", "proof", "refuse"]
    reason: str = ""
    proof: int = 0
    delay: float = 0.0


class _Demand(msgspec.Struct, frozen=True):
    target: tuple[str, int]
    size: int
    until: float


class DialBackRules:
    """Decisions about requests of peers. Times are monotonic seconds."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._requesters = TokenTable(REQUESTER_RATE, REQUESTER_BURST, MAX_REQUESTERS)
        self._groups = TokenTable(GROUP_RATE, GROUP_BURST, MAX_REQUESTERS)
        self._demands: BoundedMap[str, _Demand] = BoundedMap(MAX_REQUESTERS)
        self._all = Tokens(ALL_BURST)
        # Never evicted early, or the limit could be flushed: `ALL_RATE` bounds the entries of a minute.
        self._dialled: dict[str, float] = {}

    def decide(
        self, requester: str, seen: str, host: str, port: int, proof: int, now: float
    ) -> DialBackDecision:
        """Decide about a request of a peer seen at `seen`, with `proof` bytes uploaded."""
        fault = _fault(seen, host, port)
        if fault:
            return DialBackDecision("refuse", fault)
        host = normal_host(host)
        own = host == normal_host(seen)
        self._forget(now)
        if (format_host_port(host, port) if own else _target(host)) in self._dialled:
            return DialBackDecision("refuse", "this address was dialled within the last minute")
        demand = self._demands.get(requester)
        owed = not own and not _paid(demand, (host, port), proof, now)
        if owed and demand is not None and demand.until > now and demand.target == (host, port):
            return DialBackDecision("proof", proof=demand.size)
        if not self._within_rates(requester, network_group(seen), now):
            return DialBackDecision("refuse", "too many requests")
        if owed:
            size = self._rng.randint(*PROOF_BYTES)
            self._demands[requester] = _Demand((host, port), size, now + PROOF_TIME)
            return DialBackDecision("proof", proof=size)
        self._demands.pop(requester, None)
        self._dialled[_target(host)] = now
        if own:
            self._dialled[format_host_port(host, port)] = now
        return DialBackDecision(
            "dial", delay=0.0 if own else self._rng.uniform(0.0, THIRD_PARTY_DELAY)
        )

    def _within_rates(self, requester: str, group: str, now: float) -> bool:
        if not self._requesters.take(now, requester) or not self._groups.take(now, group):
            return False
        return self._all.take(now, ALL_RATE, ALL_BURST)

    def _forget(self, now: float) -> None:
        ended = [key for key, at in self._dialled.items() if now - at >= TARGET_INTERVAL]
        for key in ended:
            del self._dialled[key]


def _fault(seen: str, host: str, port: int) -> str:
    if ip_of(host) is None or reach(host) <= Reach.LINK:
        return "not an IP address that can be dialled"
    if is_other_service(port):
        return "not a port of a node"
    if is_local(host) and normal_host(host) != normal_host(seen):
        return "a private address from which you are not seen"
    return ""


def _paid(demand: _Demand | None, target: tuple[str, int], proof: int, now: float) -> bool:
    return (
        demand is not None
        and demand.target == target
        and now < demand.until
        and proof >= demand.size
    )


def _target(host: str) -> str:
    """Return the key under which dials for others are counted: the address, of IPv6 its /64."""
    if ":" in host:
        return str(ipaddress.ip_network(f"{host}/64", strict=False))
    return host
