"""Peer policy: pinned peers, banned peers, and the closed network of PEER_ALLOW. Kept over restarts.

Pins are node ids. Bans name a node id, an IP address or a network (CIDR), and end by themselves. A pin exempts a peer
from slots and rates, never from proofs and sizes. A ban wins over a pin.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

import msgspec

from p2p.base.errors import Code
from p2p.base.host_port import is_ip, normal_host
from p2p.base.identity import is_node_id
from p2p.ground.durable_file import replace_file
from p2p.ground.own_file import read_own
from p2p.peers.link_slots import LinkRefusal

log = logging.getLogger(__name__)

POLICY_FILE: Final = "peer-policy.json"  # pins and bans, beside the remembered peers
MAX_BANS: Final = 10_000  # the one that ends first makes room
MAX_FILE: Final = 4 * 1024 * 1024  # bytes
ABUSE_BAN: Final = 600.0  # seconds; after a link was ended for abuse


class PeerBan(msgspec.Struct, frozen=True):
    """`until`: seconds since the epoch."""

    subject: str
    until: float
    reason: str = ""


class _PolicyFile(msgspec.Struct):
    version: int = 1
    pins: list[str] = []
    bans: list[PeerBan] = []


class PeerPolicy:
    """Decisions of the operator about peers. `wall` gives seconds since the epoch."""

    def __init__(
        self, path: Path | None, *, allow: Collection[str] = (), wall: Callable[[], float]
    ) -> None:
        """Load the policy at `path`; without a path it is kept in memory only."""
        self._path = path
        self._wall = wall
        self.allow = frozenset(allow)
        self.pins: set[str] = set()
        self._bans: dict[str, PeerBan] = {}
        self._networks: dict[str, ipaddress.IPv4Network | ipaddress.IPv6Network] = {}
        self._ended: dict[str, None] = {}  # subjects of bans that ended, for `take_ended`
        self._load()

    # Pins

    def pin(self, node_id: str) -> None:
        """Exempt a peer from slots and rates.

        Raises:
            ValueError: not a node id.
            OSError: the policy cannot be written.
        """
        if not is_node_id(node_id):
            raise ValueError(f"{node_id[:60]!r} is not a node id; see 'exchange-node peers'")
        self.pins.add(node_id)
        self._save()

    def unpin(self, node_id: str) -> bool:
        """Remove a pin; returns False if there is none. Raises OSError as `pin`."""
        if node_id not in self.pins:
            return False
        self.pins.discard(node_id)
        self._save()
        return True

    # Bans

    def ban(self, subject: str, seconds: float, reason: str = "") -> PeerBan:
        """Refuse a node id, an IP address or a network for some time.

        Raises:
            ValueError: the subject is none of these, or the time is not positive.
            OSError: the policy cannot be written.
        """
        subject = normal_subject(subject)
        if not 0 < seconds <= 10 * 366 * 86400:
            raise ValueError(f"a ban of {seconds:g} s; must be from 1 s to 10 years")
        ban = PeerBan(subject, round(self._wall() + seconds, 3), reason[:200])
        self._add(ban)
        self._save()
        return ban

    def unban(self, subject: str) -> bool:
        """Remove a ban; returns False if there is none. Raises as `ban`."""
        subject = normal_subject(subject)
        self._networks.pop(subject, None)
        if self._bans.pop(subject, None) is None:
            return False
        self._save()
        return True

    def bans(self) -> list[PeerBan]:
        """Return the bans that have not ended, the one that ends first at the start."""
        self._drop_ended()
        return sorted(self._bans.values(), key=lambda ban: ban.until)

    def take_ended(self) -> list[str]:
        """Return the subjects whose bans ended by themselves since the last call."""
        self._drop_ended()
        ended, self._ended = list(self._ended), {}
        return [subject for subject in ended if subject not in self._bans]

    def banned(self, node_id: str, address: str) -> PeerBan | None:
        """Return the ban of a node id or of its address. An empty node id asks for the address alone."""
        if not self._bans:
            return None
        host = normal_host(address.partition("%")[0])
        found = self._bans.get(node_id) or self._bans.get(host)
        if found is None and self._networks and is_ip(host):
            ip = ipaddress.ip_address(host)
            name = next((name for name, net in self._networks.items() if ip in net), None)
            found = None if name is None else self._bans[name]
        if found is not None and found.until <= self._wall():
            self._drop_ended()
            return self.banned(node_id, address)
        return found

    def refusal(self, node_id: str, address: str) -> LinkRefusal | None:
        """Return the refusal of a banned peer, or of one outside a closed network."""
        ban = self.banned(node_id, address)
        if ban is not None:
            left = max(1, round(ban.until - self._wall()))
            why = f": {ban.reason}" if ban.reason else ""
            return LinkRefusal(Code.ABUSE, f"this node refuses you for {left} s more{why}")
        if self.allow and node_id not in self.allow:
            return LinkRefusal(
                Code.WRONG_NETWORK,
                "this node links only to the node ids in its PEER_ALLOW, and yours is not among them",
            )
        return None

    def _add(self, ban: PeerBan) -> None:
        if ban.subject not in self._bans and len(self._bans) >= MAX_BANS:
            first = min(self._bans.values(), key=lambda other: other.until)
            del self._bans[first.subject]
            self._networks.pop(first.subject, None)
        self._bans[ban.subject] = ban
        if "/" in ban.subject:
            self._networks[ban.subject] = ipaddress.ip_network(ban.subject)

    def _drop_ended(self) -> None:
        now = self._wall()
        for subject in [s for s, ban in self._bans.items() if ban.until <= now]:
            del self._bans[subject]
            self._networks.pop(subject, None)
            if len(self._ended) < MAX_BANS:
                self._ended[subject] = None

    # File

    def _load(self) -> None:
        if self._path is None or not self._path.exists():
            return
        if self._path.stat().st_size > MAX_FILE:
            raise ValueError(f"{self._path} is longer than {MAX_FILE} bytes")
        try:
            file = msgspec.json.decode(read_own(self._path), type=_PolicyFile)
            pins = {pin for pin in file.pins if is_node_id(pin)}
            bans = [PeerBan(normal_subject(b.subject), b.until, b.reason) for b in file.bans]
        except ValueError as error:
            # Going on without it would let banned peers in again.
            raise ValueError(
                f"{self._path} cannot be read ({error}); correct or remove it"
            ) from error
        self.pins = pins
        for ban in bans:
            self._add(ban)
        self._drop_ended()

    def _save(self) -> None:
        if self._path is None:
            return
        file = _PolicyFile(pins=sorted(self.pins), bans=self.bans())
        data = msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n"
        replace_file(self._path, data)


def normal_subject(text: str) -> str:
    """Return the canonical form of the subject of a ban.

    Raises:
        ValueError: neither a node id nor an IP address nor a network.
    """
    text = text.strip()
    if is_node_id(text):
        return text
    if is_ip(text):
        return normal_host(text)
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        raise ValueError(
            f"{text[:60]!r} cannot be banned; expected a node id, an IP address or a network such as "
            "203.0.113.0/24"
        ) from None
    if network.prefixlen == network.max_prefixlen:
        return str(network.network_address)
    return str(network)


def covers(subject: str, node_id: str | None, host: str) -> bool:
    """Report if a ban of `subject` (in its canonical form) concerns a node id at a host."""
    if "/" not in subject:
        return subject in (node_id, normal_host(host))
    return is_ip(host) and ipaddress.ip_address(host) in ipaddress.ip_network(subject)
