"""Misbehaviours of the simulation, carried out against real nodes over TLS links."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any, Final, cast

from processes import NodeProcess

from exchange.feeds.exchange_messages import MESSAGES
from p2p.base.errors import Code
from p2p.base.identity import Identity
from p2p.services import service_mesh
from p2p.wire.direct_links import DirectConnectionService, LinkSettings
from p2p.wire.link import LinkOwner, PeerLink
from p2p.wire.messages import Codec, Envelope
from tests.simulation.clock import EPOCH_US
from tests.simulation.dishonest.attacker import NETWORK, Attacker
from tests.simulation.dishonest.misbehaviours import Misbehaviour
from tests.simulation.keys import RealKeys

PROBED: Final = "BTC-USD"  # the market of honest orders that are timed: the last, see `Attacker`
_codec = Codec({**MESSAGES, **service_mesh.MESSAGES})


class _Clock:
    """The machine's clock, as the virtual time of a simulation."""

    @property
    def now(self) -> float:
        return time.time() - EPOCH_US / 1e6

    def after(self, delay: float, call: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_later(delay, call)


class _Links(LinkOwner):
    """Links to the victims, as the network of a simulation and as a link handler."""

    def __init__(self) -> None:
        self.links: dict[int, PeerLink] = {}
        self.ended: list[str] = []
        self._muted = False
        self.attacker: Attacker | None = None

    def send(self, sender: int, peer: int, kind: str, packed: bytes) -> None:
        if not self._muted:
            self.links[peer].send_packed(packed)

    def mute(self, edge: object, number: int) -> None:
        self._muted = True

    def close(self, number: int) -> None:
        for link in self.links.values():
            link.close(Code.SHUTDOWN, "the test is over")

    def unread(self, victim: int, attacker: int) -> int:
        return self.links[victim].outbox_bytes

    def link_up(self, link: PeerLink) -> None:
        number = len(self.links)
        self.links[number] = link
        if self.attacker is not None:
            self.attacker.link_up(number)

    def link_down(self, link: PeerLink, code: Code | None, reason: str) -> None:
        self.ended.append(reason or str(code))
        if self.attacker is not None:
            self.attacker.link_down(self._number(link))

    def message(self, link: PeerLink, envelope: Envelope) -> None:
        if self.attacker is not None:
            self.attacker.message(self._number(link), _codec.encode(envelope))

    def _number(self, link: PeerLink) -> int:
        return next((number for number, own in self.links.items() if own is link), -1)


class RealAttacker:
    """One identity with a link to each victim, in a thread of its own. `ended`: how its links ended."""

    def __init__(self, kind: type[Misbehaviour], victims: list[NodeProcess], seed: str) -> None:
        self._kind, self._victims, self._seed = kind, victims, seed
        self._links = _Links()
        self.sent: dict[str, int] = {}
        self._over = threading.Event()
        self._linked = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def ended(self) -> list[str]:
        return self._links.ended

    def __enter__(self) -> RealAttacker:
        self._thread.start()
        assert self._linked.wait(20.0), "the attacker found no way in"
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join(20.0)
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            asyncio.run(self._attack())
        except BaseException as error:
            self._error = error
            self._linked.set()

    def _note_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._error = self._error or context.get("exception") or RuntimeError(context["message"])

    async def _attack(self) -> None:
        asyncio.get_running_loop().set_exception_handler(self._note_error)
        identity = Identity.generate()
        service = DirectConnectionService(
            identity,
            self._links,
            _codec,
            LinkSettings(NETWORK, True, "attacker"),
        )
        markets = sorted(instrument_keys(), key=lambda key: (key.startswith(PROBED), key))
        attacker = Attacker(
            1,
            cast(Any, RealKeys(identity)),
            markets,
            clock=cast(Any, _Clock()),
            network=cast(Any, self._links),
            unread=self._links.unread,
            node_id_of=lambda number: self._victims[number % len(self._victims)].node_id,
            seed=self._seed,
        )
        for victim in self._victims:
            host, _, port = victim.p2p_address.rpartition(":")
            await service.dial(host, int(port))
        for number in self._links.links:
            attacker.link_up(number)
        self._links.attacker = attacker
        attacker.misbehaviours.append(self._kind(attacker))
        attacker.begin()
        self._linked.set()
        await asyncio.to_thread(self._over.wait)
        self.sent = dict(attacker.sent)
        attacker.leave()
        await asyncio.sleep(0.2)
        await service.stop()


def instrument_keys() -> list[str]:
    """Keys of the markets that the nodes of these tests have by default."""
    from exchange.model.instruments import Instruments

    return [instrument.key for instrument in Instruments.default()]
