from __future__ import annotations

import asyncio
import random

import pytest

from p2p.reachability.port_mapper import LIFETIME, MOST_RENEWAL, PortMapping
from p2p.reachability.upnp_lease import (
    CONFLICT,
    PERMANENT_ONLY,
    WATCH,
    UpnpGateway,
    UpnpLease,
    UpnpRefused,
)

pytestmark = pytest.mark.looptime


class Router:
    """A router's table of mappings."""

    def __init__(self) -> None:
        self.address = "198.51.100.7"
        self.entries: dict[int, int] = {}  # external port -> lifetime
        self.taken: set[int] = set()
        self.permanent_only = False
        self.added: list[tuple[float, int, int]] = []
        self.silent = False

    async def _answer(self) -> None:
        await asyncio.sleep(3600 if self.silent else 0.01)

    async def external_address(self) -> str:
        await self._answer()
        return self.address

    async def add(self, external: int, lifetime: int) -> None:
        await self._answer()
        if external in self.taken:
            raise UpnpRefused(CONFLICT, "conflict (718)")
        if self.permanent_only and lifetime:
            raise UpnpRefused(PERMANENT_ONLY, "only permanent leases (725)")
        self.entries[external] = lifetime
        self.added.append((asyncio.get_running_loop().time(), external, lifetime))

    async def holds(self, external: int) -> bool:
        await self._answer()
        return external in self.entries

    async def delete(self, external: int) -> None:
        await self._answer()
        del self.entries[external]


class Run:
    """A lease of port 3000 at a router."""

    def __init__(self, router: Router) -> None:
        self.router = router
        self.lease = UpnpLease(3000, self._find, random.Random(1))
        self._task = asyncio.create_task(self.lease.run())

    async def _find(self) -> UpnpGateway:
        await self.router._answer()
        return self.router

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    @property
    def mapping(self) -> PortMapping:
        assert self.lease.mapping is not None
        return self.lease.mapping


async def test_a_port_is_mapped_renewed_at_half_its_lifetime_and_deleted_at_the_end() -> None:
    run = Run(Router())
    await asyncio.sleep(1)
    assert (run.mapping.host, run.mapping.port, run.mapping.protocol) == (
        "198.51.100.7",
        3000,
        "UPnP",
    )
    await asyncio.sleep(LIFETIME + 10)
    times = [at for at, *_ in run.router.added]
    assert [round(after - times[0]) for after in times[1:]] == pytest.approx(
        [LIFETIME / 2, LIFETIME], abs=3
    )
    assert run.mapping.made == 1
    await run.stop()
    assert run.router.entries == {}
    assert run.lease.mapping is None


async def test_a_router_that_grants_permanent_leases_only_gets_one_and_loses_it_at_the_end() -> (
    None
):
    router = Router()
    router.permanent_only = True
    run = Run(router)
    await asyncio.sleep(1)
    assert router.entries == {3000: 0}
    await asyncio.sleep(MOST_RENEWAL + 10)
    assert [lifetime for *_, lifetime in router.added] == [0, 0]
    await run.stop()
    assert router.entries == {}


async def test_a_port_of_another_machine_is_left_to_it() -> None:
    router = Router()
    router.taken = {3000}
    run = Run(router)
    await asyncio.sleep(1)
    assert run.mapping.port not in router.taken
    assert router.entries == {run.mapping.port: LIFETIME}
    await run.stop()


async def test_a_router_that_has_restarted_gets_the_mapping_again() -> None:
    run = Run(Router())
    await asyncio.sleep(1)
    run.router.entries.clear()
    await asyncio.sleep(WATCH + 1)
    assert run.router.entries == {3000: LIFETIME}
    assert run.mapping.made == 2
    await run.stop()


async def test_a_new_address_outside_is_noticed() -> None:
    run = Run(Router())
    await asyncio.sleep(1)
    run.router.address = "198.51.100.99"
    await asyncio.sleep(WATCH + 1)
    assert run.mapping.host == "198.51.100.99"
    await run.stop()


async def test_a_router_that_falls_silent_loses_the_mapping_and_is_asked_again() -> None:
    run = Run(Router())
    await asyncio.sleep(1)
    run.router.silent = True
    await asyncio.sleep(WATCH + 40)
    assert run.lease.mapping is None
    assert run.lease.problem == "the router does not answer by UPnP"
    run.router.silent = False
    await asyncio.sleep(100)
    assert run.mapping.port == 3000
    await run.stop()


@pytest.mark.parametrize("address", ["", "0.0.0.0", "1.2.3", "localhost", "<b>"])
async def test_an_answer_that_is_no_address_maps_nothing(address: str) -> None:
    router = Router()
    router.address = address
    run = Run(router)
    await asyncio.sleep(5)
    assert run.lease.mapping is None
    assert "no address outside" in run.lease.problem
    assert router.entries == {}
    await run.stop()


async def test_attempts_become_rare_while_a_router_refuses() -> None:
    router = Router()
    router.taken = set(range(65_536))
    run = Run(router)
    tries = 0

    async def refuse(external: int, lifetime: int) -> None:
        nonlocal tries
        tries += 1
        raise UpnpRefused(606, "not authorized (606)")

    router.add = refuse  # type: ignore[method-assign]
    await asyncio.sleep(7200)
    assert 5 < tries < 15
    assert run.lease.problem == "the router refuses by UPnP: not authorized (606)"
    await run.stop()
