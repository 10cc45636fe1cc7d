"""Hole punching on the event loop: offers over RPC, and the simultaneous dial. Decisions: `PunchPlan`."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from typing import Final, Protocol

from p2p.base.errors import ConnectFailed, HandshakeRefused, P2PError
from p2p.base.host_port import normal_host
from p2p.ground.owned_tasks import OwnedTasks
from p2p.peers.peer_manager import PeerManager
from p2p.reachability.hole_punching import (
    METHOD,
    SYNC_METHOD,
    UNDER_WAY,
    PunchAnswer,
    PunchEndpoint,
    PunchOffer,
    PunchPlan,
    PunchSync,
    PunchTarget,
)
from p2p.reachability.reachability import ReachabilityCore
from p2p.rpc.rpc import Rpc
from p2p.wire.direct_links import DirectConnectionService, ExpectedPunch

log = logging.getLogger(__name__)

NONCE_LENGTH: Final = 16
OFFER_TIMEOUT: Final = 5.0  # seconds
TRIES: Final = 3
EARLIER: Final = "an earlier version, which does not confirm punches"
PAUSE: Final = 0.5  # seconds between tries


class ReachabilityHost(Protocol):
    """Parts of a node that reachability uses: `p2p.overlay.Overlay`."""

    node_id: str
    links: DirectConnectionService
    peers: PeerManager
    rpc: Rpc

    def now(self) -> float:
        """Return monotonic seconds."""
        ...

    def relayed(self) -> Collection[str]:
        """Return the nodes that are reached without a link."""
        ...


class PunchService:
    """Maker of punched links to nodes that are relayed to."""

    def __init__(self, core: ReachabilityCore, host: ReachabilityHost, rng: random.Random) -> None:
        self.plan = PunchPlan(host.node_id, rng)
        self.counters: Counter[str] = Counter()
        self._core = core
        self._node_id = host.node_id
        self._direct = host.links
        self._peers = host.peers
        self._rpc = host.rpc
        self._relayed = host.relayed
        self._now = host.now
        self._tasks = OwnedTasks(log)  # one punch at a time
        self._syncs = OwnedTasks(log, expected=(P2PError,))
        self._rpc.serve(METHOD, self._on_offer, body_type=PunchOffer)
        self._rpc.serve(SYNC_METHOD, self._on_sync, body_type=PunchSync)

    async def stop(self) -> None:
        await self._tasks.close()
        await self._syncs.close()

    def look(self) -> None:
        """Begin the next punch, if one is due. Called now and then."""
        links = self._peers.links
        if self._tasks or self._endpoint() is None or len(links) >= self._peers.max_peers:
            return
        punched = sum(link.peer.punched for link in links.values())
        node = self.plan.next_peer(self._relayed(), punched, self._now())
        if node is not None:
            self._tasks.start(self._offer(node))

    def _endpoint(self) -> PunchEndpoint | None:
        """Return None while this node needs no punching, or cannot say where it is seen."""
        return self._core.punch_endpoint(self._now())

    # The side that offers

    async def _offer(self, node: str) -> None:
        try:
            reason = await self._punch_with(node)
        except P2PError as error:
            reason = str(error)
        self._ended(node, reason)

    async def _punch_with(self, node: str) -> str:
        """Offer, synchronise and dial; returns why there is no link, empty for success."""
        own = self._endpoint()
        if own is None:
            return "the external address is not known any more"
        nonce = secrets.token_bytes(NONCE_LENGTH)
        before = self._now()
        answer: PunchAnswer = await self._rpc.call(
            node,
            METHOD,
            PunchOffer(own.host, own.port, own.nat, nonce, confirm=True),
            timeout=OFFER_TIMEOUT,
            result_type=PunchAnswer,
        )
        trip = self._now() - before
        host = normal_host(answer.host)
        refused = answer.reason[:200] or self.plan.refusal(
            own, host, answer.port, answer.nat, self._now()
        )
        if not refused and not answer.confirm:
            refused = EARLIER
        if refused:
            return refused
        target = PunchTarget(node, host, answer.port, nonce, self._now())
        self._begin(target)
        sync = self._syncs.start(
            self._rpc.call(node, SYNC_METHOD, PunchSync(nonce), timeout=OFFER_TIMEOUT)
        )
        await asyncio.sleep(trip / 2)
        try:
            return await self._dial(target)
        finally:
            sync.cancel()
            with suppress(asyncio.CancelledError, P2PError):
                await sync

    # The side that accepts

    async def _on_offer(self, caller: str, offer: PunchOffer) -> PunchAnswer:
        own, host = self._endpoint(), normal_host(offer.host)
        now = self._now()
        refused = self.plan.refusal(own, host, offer.port, offer.nat, now, offered=True)
        if caller in self._peers.links:
            refused = "linked already"
        elif len(offer.nonce) != NONCE_LENGTH:
            refused = f"the nonce has {NONCE_LENGTH} bytes"
        elif own is None and self._core.reachable():
            refused = "can be dialled without a punch"
        elif not refused and not offer.confirm:
            refused = EARLIER
        if refused or own is None:
            self.plan.note(caller, refused, now)
            return PunchAnswer(reason=refused, nat="" if own is None else own.nat)
        self._begin(PunchTarget(caller, host, offer.port, offer.nonce, now, offered=True))
        return PunchAnswer(own.host, own.port, own.nat, confirm=True)

    async def _on_sync(self, caller: str, sync: PunchSync) -> bool:
        target = self.plan.synced(caller, sync.nonce)
        if target is None or self._tasks:
            return False
        self._tasks.start(self._follow(target))
        return True

    async def _follow(self, target: PunchTarget) -> None:
        self._ended(target.node, await self._dial(target))

    # Both

    def _begin(self, target: PunchTarget) -> None:
        """Record a punch, and expect connections of it for as long as it may take."""
        self.plan.begin(target)
        expected = ExpectedPunch(target.node, self._node_id < target.node, target.nonce)
        self._direct.expect_punch(target.host, target.port, expected)
        loop = asyncio.get_running_loop()
        loop.call_later(UNDER_WAY, self._direct.forget_punch, target.host, target.port)

    async def _dial(self, target: PunchTarget) -> str:
        """Dial until there is a link; returns why there is none."""
        reason = "no try"
        for number in range(TRIES):
            if target.node in self._peers.links:
                return ""
            if number:
                await asyncio.sleep(PAUSE)
            try:
                await self._direct.punch(target.host, target.port)
            except (ConnectFailed, HandshakeRefused) as error:
                reason = str(error)
        return "" if target.node in self._peers.links else reason

    def _ended(self, node: str, reason: str) -> None:
        self.counters["failed" if reason else "punched"] += 1
        log.info("hole punching with %s: %s", node, reason or "linked")
        if self.plan.current is not None and self.plan.current.node == node:
            self._direct.forget_punch(self.plan.current.host, self.plan.current.port)
        self.plan.ended(node, reason, self._now())
