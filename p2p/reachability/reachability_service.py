"""Reachability on the event loop: links in, dial-backs and statements out, over `ReachabilityCore`.

Both sides of the dial-back are here. As a server it obeys `DialBackRules`; as a client it requests what the core finds due.
Neighbours receive the result (`reachability`), and their statements go into the address book: an address is believed only
where the link shows the same IP address, so that no peer makes this node dial a third party.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections import Counter
from functools import partial
from typing import Final

import msgspec

from p2p.addresses.address import INBOUND, PeerFound
from p2p.base.errors import Code, ConnectFailed, P2PError
from p2p.base.host_port import format_host_port, is_ip, normal_host
from p2p.base.network_group import is_local
from p2p.ground.owned_tasks import OwnedTasks
from p2p.reachability.dial_back import (
    CAPABILITY,
    DIALLED,
    FAILED,
    METHOD,
    NONCE_LENGTH,
    PROOF,
    PROOF_BYTES,
    REFUSED,
    DialBackAnswer,
    DialBackBody,
    DialBackRules,
)
from p2p.reachability.gateway import ipv4_route, ipv6_route
from p2p.reachability.observed_address import Observation
from p2p.reachability.port_mapping_service import PortMappingService
from p2p.reachability.punch_service import PunchService, ReachabilityHost
from p2p.reachability.reachability import (
    Action,
    DialBackRequest,
    DialBackServer,
    MappingProbe,
    ReachabilityCore,
)
from p2p.wire.link import PeerLink
from p2p.wire.messages import Codec, Envelope, Reachability, pack

log = logging.getLogger(__name__)

TICK: Final = 0.5  # seconds between looks at what is due
REQUEST_TIMEOUT: Final = 12.0  # seconds: the server's delay and its dial
MAX_STATED: Final = 4  # addresses of one statement that are used
MAX_NAT: Final = 40  # characters of the kind of NAT of a newer version
MESSAGE: Final = "reachability"


class ReachabilityService:
    """Owner of the core, the dial-back server, and the statements of neighbours."""

    def __init__(
        self,
        core: ReachabilityCore,
        host: ReachabilityHost,
        rng: random.Random,
        *,
        mapping: bool = False,
    ) -> None:
        """`mapping`: request a port mapping from the router, once a node outside is linked."""
        self.core = core
        self.counters: Counter[str] = Counter()  # dial-backs served and requested, by outcome
        self.stated: dict[str, Reachability] = {}  # latest statement of each neighbour
        self._mappings: list[PortMappingService] = []  # IPv4, IPv6
        if mapping:
            self._mappings = [
                PortMappingService(core.listen_port, partial(self._mapped, version), rng, route)
                for version, route in ((4, ipv4_route), (6, ipv6_route))
            ]
        self._node_id = host.node_id
        self._direct = host.links
        self._peers = host.peers
        self._rpc = host.rpc
        self._now = host.now
        self._codec = Codec()
        self._rules = DialBackRules(rng)
        self._said: Reachability | None = None
        self._tasks = OwnedTasks(log)
        self.punching = PunchService(core, host, rng)
        self._direct.follow(self)
        self._rpc.serve(METHOD, self._on_dial_back, body_type=DialBackBody)
        self._peers.handle(MESSAGE, self._on_statement)
        self._peers.follow(self)

    async def start(self) -> None:
        self._tasks.every(TICK, self._look, name="reachability")

    @property
    def mapping_text(self) -> str:
        """State of the port mapping, for people; empty if it is off."""
        if not self._mappings:
            return ""
        ipv4, ipv6 = self._mappings
        return f"{ipv4.text}; {ipv6.text}" if ipv6.made else ipv4.text

    async def stop(self) -> None:
        """End what is under way, and delete the port mapping."""
        for mapping in self._mappings:
            await mapping.stop()
        await self.punching.stop()
        await self._tasks.close()

    # Links

    def link_up(self, link: PeerLink) -> None:
        info = link.peer
        now = self._now()
        able = info.carrier == "tcp" and CAPABILITY in info.capabilities.supported_protocols
        server = DialBackServer(info.node_id, info.address, info.dialled) if able else None
        observation = None
        if info.carrier == "tcp" and is_ip(info.observed[0]):
            observation = Observation(
                observer=info.node_id,
                observer_address=info.address,
                seen_host=normal_host(info.observed[0]),
                seen_port=info.observed[1],
                local=info.local,
                outbound=info.outbound,
                at=now,
            )
        self.core.link_up(server, observation, now)
        if not is_local(info.address):
            for mapping in self._mappings:
                mapping.begin()
        if MESSAGE in info.capabilities.supported_protocols and self._said is not None:
            self._send(link, self._said)

    def link_down(self, link: PeerLink, code: Code | None, reason: str) -> None:
        self.core.link_down(link.peer.node_id, self._now())
        self.stated.pop(link.peer.node_id, None)

    # Own reachability

    def _look(self) -> None:
        for action in self.core.due(self._now()):
            self._tasks.start(self._carry_out(action))
        self.state_changes()
        self.punching.look()

    async def _carry_out(self, action: Action) -> None:
        if isinstance(action, MappingProbe):
            await self._probe_mapping(action)
        else:
            await self._request_dial_back(action)

    async def _probe_mapping(self, probe: MappingProbe) -> None:
        port = None
        try:
            seen = await self._direct.probe(
                probe.host, probe.port, probe.server, from_listener=True
            )
            port = seen[1]
        except ConnectFailed as error:
            log.debug("mapping probe: %s", error)
        self.core.mapping_probed(probe, port, self._now())

    async def _request_dial_back(self, request: DialBackRequest) -> None:
        dialled = None
        try:
            answer = await self._ask(request, b"")
            if answer.status == PROOF and answer.size <= PROOF_BYTES[1]:
                answer = await self._ask(request, bytes(max(answer.size, 0)))
            dialled = {DIALLED: True, FAILED: False}.get(answer.status)
            known = answer.status in (DIALLED, FAILED, PROOF, REFUSED)
            self.counters[f"asked_{answer.status if known else 'other'}"] += 1
        except (P2PError, ValueError) as error:
            log.debug("dial-back: %s", error)
        where = format_host_port(request.host, request.port)
        if self.core.dial_back_answered(request, dialled, self._now()):
            log.info("external address %s: %s", where, "reachable" if dialled else "not reachable")
        self.state_changes()

    async def _ask(self, request: DialBackRequest, proof: bytes) -> DialBackAnswer:
        body = DialBackBody(request.host, request.port, request.nonce, proof)
        answer: DialBackAnswer = await self._rpc.call(
            request.server, METHOD, body, timeout=REQUEST_TIMEOUT, result_type=DialBackAnswer
        )
        return answer

    # Reachable

    def probed(self, nonce: bytes, address: str) -> None:
        if nonce:
            self.core.probe_arrived(nonce)

    def announced_port(self, address: str, port: int) -> int:
        return self.core.announced_port(address, port)

    def _mapped(self, version: int, address: tuple[str, int] | None) -> None:
        self.core.mapped(address, self._now(), version)
        self.state_changes()

    # Statements

    def state_changes(self) -> None:
        """Send the statement to neighbours if it has changed."""
        statement = self.core.statement(self._now())
        if statement == self._said:
            return
        self._said = statement
        for link in self._peers.links.values():
            if MESSAGE in link.peer.capabilities.supported_protocols:
                self._send(link, statement)

    def _send(self, link: PeerLink, statement: Reachability) -> None:
        link.send(
            Envelope(
                type=MESSAGE,
                from_=self._node_id,
                to="",
                timestamp=int(time.time() * 1000),
                payload=msgspec.Raw(pack(statement)),
            )
        )

    def _on_statement(self, link: PeerLink, envelope: Envelope) -> None:
        """Raises MalformedMessage: not a statement."""
        statement: Reachability = self._codec.payload(MESSAGE, envelope.payload)
        node, seen = link.peer.node_id, normal_host(link.peer.address)
        stated = [
            (normal_host(host), port)
            for host, port in statement.addresses[:MAX_STATED]
            if is_ip(host) and 1 <= port <= 65535
        ]
        self.stated[node] = msgspec.structs.replace(
            statement, addresses=stated, nat=statement.nat[:MAX_NAT]
        )
        if not is_local(seen) and statement.reachable is not None:
            self._peers.withdraw(node, seen, keep=[port for host, port in stated if host == seen])
        for host, port in stated:
            if host == seen:
                self._peers.found(PeerFound(host, port, node, INBOUND))
            elif (":" in host) != (":" in seen):
                # Its address of the other kind is a claim, as one that another peer passes on.
                self._peers.found(PeerFound(host, port, node, "exchange", node, via_address=seen))

    def is_mapped(self, link: PeerLink) -> bool:
        """Return True for a link that the accepting side's router let in through a port mapping."""
        info = link.peer
        if info.carrier != "tcp" or info.punched or is_local(normal_host(info.address)):
            return False
        if not info.outbound:
            return self.core.is_mapped()
        statement = self.stated.get(info.node_id)
        return statement is not None and statement.mapped

    # Server

    async def _on_dial_back(self, caller: str, body: DialBackBody) -> DialBackAnswer:
        answer = await self._serve(caller, body)
        self.counters[f"served_{answer.status}"] += 1
        return answer

    async def _serve(self, caller: str, body: DialBackBody) -> DialBackAnswer:
        link = self._peers.links.get(caller)
        if link is None or link.peer.carrier != "tcp":
            return DialBackAnswer(REFUSED, "no direct link to you")
        if len(body.nonce) != NONCE_LENGTH:
            return DialBackAnswer(REFUSED, f"the nonce has {NONCE_LENGTH} bytes")
        decision = self._rules.decide(
            caller, link.peer.address, body.host, body.port, len(body.proof), self._now()
        )
        if decision.action == "refuse":
            return DialBackAnswer(REFUSED, decision.reason)
        if decision.action == "proof":
            return DialBackAnswer(PROOF, size=decision.proof)
        await asyncio.sleep(decision.delay)
        try:
            await self._direct.probe(normal_host(body.host), body.port, caller, body.nonce)
        except ConnectFailed as error:
            return DialBackAnswer(FAILED, str(error)[:200])
        return DialBackAnswer(DIALLED)


def new_nonce() -> bytes:
    """Return a nonce that cannot be guessed."""
    return secrets.token_bytes(NONCE_LENGTH)
