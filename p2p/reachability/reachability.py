"""Reachability of this node: which addresses to announce, and what to report to the operator. No I/O.

The driver passes links, observations and results, calls `due`, and carries out what it returns:
- `DialBackRequest`: request a dial-back from a server, and pass its answer to `dial_back_answered`;
- `MappingProbe`: probe a peer from the listening port, and pass the outside port to `mapping_probed`.

`statement` is the message for neighbours; it changes when an address is verified or fails.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from p2p.base.host_port import is_ip, normal_host
from p2p.base.network_group import is_local
from p2p.reachability.candidates import CandidateAddress, Source
from p2p.reachability.hole_punching import PunchEndpoint
from p2p.reachability.nat_kind import NatVerdict, nat_kind
from p2p.reachability.observed_address import ExternalAddress, Observation, ObservedAddresses
from p2p.wire.messages import Reachability

PROBE_INTERVAL: Final = 600.0  # seconds between looks at the NAT's mapping
PROBE_RETRY: Final = 60.0
PROBES: Final = 3  # peers probed
FIRST_DELAY: Final = 0.5  # seconds from the first observation to the first action


class DialBackServer(msgspec.Struct, frozen=True):
    """Linked peer that dials back. `dialled`: where this node dialled it, if it did."""

    node_id: str
    address: str
    dialled: tuple[str, int] | None = None


class DialBackRequest(msgspec.Struct, frozen=True):
    server: str
    host: str
    port: int
    nonce: bytes


class MappingProbe(msgspec.Struct, frozen=True):
    server: str
    host: str
    port: int


Action = DialBackRequest | MappingProbe


class ReachabilityCore:
    """All decisions. Times are monotonic seconds; `new_nonce` returns 16 unpredictable bytes."""

    def __init__(
        self,
        listen_port: int,
        new_nonce: Callable[[], bytes],
        *,
        given: Sequence[tuple[str, int]] = (),
    ) -> None:
        """`listen_port`: 0 if this node accepts no links. `given`: external addresses from the operator."""
        self.listen_port = listen_port
        self.observed = ObservedAddresses()
        self._new_nonce = new_nonce
        self._given = list(given)
        self._mapped: dict[int, tuple[str, int]] = {}  # by IP version
        self._servers: dict[str, DialBackServer] = {}
        self._candidates: dict[tuple[str, int], CandidateAddress] = {}
        self._ports: dict[str, int] = {}  # outside port of the listening port, by probed address
        self._probing: set[str] = set()
        self._next_probe: dict[str, float] = {}
        self._not_before = 0.0

    # Input

    def link_up(
        self, server: DialBackServer | None, observation: Observation | None, now: float
    ) -> None:
        """Add a link. `server`: None for a peer that does not dial back, or is on this LAN."""
        if observation is not None and self.observed.add(observation):
            self._not_before = max(self._not_before, now + FIRST_DELAY)
        if server is not None and not is_local(server.address):
            self._servers[server.node_id] = server
        self._refresh(now)

    def link_down(self, node_id: str, now: float) -> None:
        self._servers.pop(node_id, None)
        self._probing.discard(node_id)
        self._next_probe.pop(node_id, None)
        self.observed.link_lost(node_id, now)

    def mapped(self, address: tuple[str, int] | None, now: float, version: int = 4) -> None:
        """Record the external address of a port mapping that was made, None when it has ended. `version`: of IP."""
        self._mapped.pop(version, None)
        if address is not None:
            self._mapped[version] = address
        self._refresh(now)
        candidate = None if address is None else self._candidates.get(address)
        if candidate is not None:
            candidate.check_soon(now)

    def probe_arrived(self, nonce: bytes) -> bool:
        """Record a probe at the listener; returns True if a request of this node caused it."""
        return any(each.probe_arrived(nonce) for each in self._candidates.values())

    def dial_back_answered(
        self, request: DialBackRequest, dialled: bool | None, now: float
    ) -> bool:
        """Record the answer to a request, as `CandidateAddress.answered`; returns True if the statement changed."""
        candidate = self._candidates.get((request.host, request.port))
        server = self._servers.get(request.server)
        if candidate is None:
            return False
        address = server.address if server is not None else request.server
        return candidate.answered(request.server, address, dialled, now)

    def mapping_probed(self, probe: MappingProbe, port: int | None, now: float) -> None:
        """Record the outside port that a probed peer saw, None if the probe failed."""
        self._probing.discard(probe.server)
        if port is not None:
            self._ports[probe.host] = port
        self._next_probe[probe.server] = now + (PROBE_RETRY if port is None else PROBE_INTERVAL)

    # Output

    def due(self, now: float) -> list[Action]:
        """Return what to do now. Each is under way from then on."""
        self._refresh(now)
        if now < self._not_before:
            return []
        actions: list[Action] = []
        addresses = {node: server.address for node, server in self._servers.items()}
        for candidate in self._candidates.values():
            fitting = {
                node: address
                for node, address in addresses.items()
                if (":" in address) == (":" in candidate.host)
            }
            chosen = candidate.due(fitting, now)
            if chosen is not None:
                nonce = self._new_nonce()
                candidate.request(chosen, nonce, now)
                actions.append(DialBackRequest(chosen, candidate.host, candidate.port, nonce))
        actions += self._probes(now)
        return actions

    def _probes(self, now: float) -> list[MappingProbe]:
        external = self.external(now)
        if external is None or not external.translated or not self.listen_port:
            return []
        probes: list[MappingProbe] = []
        used = len(self._probing) + sum(at > now for at in self._next_probe.values())
        for server in self._servers.values():
            if used >= PROBES:
                break
            idle = (
                server.node_id not in self._probing
                and self._next_probe.get(server.node_id, 0) <= now
            )
            if idle and server.dialled is not None and is_ip(server.dialled[0]):
                self._probing.add(server.node_id)
                used += 1
                probes.append(MappingProbe(server.node_id, server.address, server.dialled[1]))
        return probes

    def external(self, now: float) -> ExternalAddress | None:
        """Return the external IPv4 address by vote, else the IPv6 one."""
        return self.observed.external(now, 4) or self.observed.external(now, 6)

    def is_own(self, host: str, now: float) -> bool:
        """Return True for an external address of this node: from the operator, mapped, or confirmed by those who see it."""
        seen = [self.observed.external(now, version) for version in (4, 6)]
        own = [each.host for each in seen if each is not None and each.confirmed]
        own += [each for each, _ in (*self._mapped.values(), *self._given)]
        return normal_host(host) in map(normal_host, own)

    def candidates(self) -> list[CandidateAddress]:
        return list(self._candidates.values())

    def verified(self) -> list[CandidateAddress]:
        """Return the addresses to announce."""
        return [each for each in self._candidates.values() if each.verified]

    def reachable(self) -> bool | None:
        """Return True if an address is verified, None if none has a result yet."""
        verdicts = [each.verified for each in self._candidates.values()]
        if True in verdicts:
            return True
        return False if verdicts and None not in verdicts else None

    def nat(self, now: float) -> NatVerdict | None:
        """Return the NAT, None before any observation from outside."""
        external = self.external(now)
        if external is None:
            return None
        unaided = [each for each in self._candidates.values() if each.source == "observed"]
        return nat_kind(
            translated=external.translated,
            reachable=unaided[0].verified if unaided else None,
            mapped_ports=list(self._ports.items()),
            listen_port=self.listen_port,
            observations=self.observed.current(now),
        )

    def statement(self, now: float) -> Reachability:
        """Return the message for neighbours."""
        nat = self.nat(now)
        return Reachability(
            reachable=self.reachable(),
            addresses=[each.key for each in self.verified() if is_ip(each.host)],
            nat="" if nat is None else nat.kind,
            mapped=self.is_mapped(),
        )

    def is_mapped(self) -> bool:
        """Return True if an address is verified that the router maps."""
        return any(each.source == "mapped" for each in self.verified())

    def announced_port(self, address: str, port: int) -> int:
        """Return the port to state to a peer at an IP address: where it can dial this node, 0 for nowhere."""
        return port if not address or is_local(address) else self.outside_port(port)

    def outside_port(self, port: int) -> int:
        """Return the port at which nodes elsewhere can dial this one, 0 if they cannot."""
        if self.reachable() is False:
            return 0
        external = [each for each in self.verified() if each.source != "operator"]
        ports = {each.port for each in external}
        return port if not ports or port in ports else min(ports)

    def punch_endpoint(self, now: float) -> PunchEndpoint | None:
        """Return where peers see the listening port, None if this node is reachable or does not know it."""
        external, nat = self.external(now), self.nat(now)
        if external is None or nat is None or self.reachable() is not False:
            return None
        ports = Counter(self._ports.values())
        port = ports.most_common(1)[0][0] if ports else self.listen_port
        return PunchEndpoint(external.host, port, nat.kind)

    # Candidates

    def _refresh(self, now: float) -> None:
        """Make the candidates follow observed, mapped and given addresses."""
        wanted: dict[tuple[str, int], Source] = {}
        if self.listen_port:
            for version in (4, 6):
                external = self.observed.external(now, version)
                if external is not None:
                    wanted[external.host, self.listen_port] = "observed"
            for host, port in self._mapped.values():
                if not is_local(host):
                    wanted[normal_host(host), port] = "mapped"
            for host, port in self._given:
                wanted[normal_host(host), port] = "operator"
        for key in [key for key in self._candidates if key not in wanted]:
            del self._candidates[key]
        for key, source in wanted.items():
            known = self._candidates.get(key)
            if known is None:
                self._candidates[key] = CandidateAddress(*key, source)
            elif known.source != source:
                # A mapping at the observed address: the earlier verdict was about a closed port.
                self._candidates[key] = CandidateAddress(*key, source)
