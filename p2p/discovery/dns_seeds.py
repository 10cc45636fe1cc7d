"""DNS seeds: discovery of the nodes that names publish (DNS_SEEDS).

Under `_exchange-node._tcp.NAME` are SRV records (RFC 2782) with hosts and ports, and TXT records of the form
`node=ID@HOST:PORT`, which add the node's id, so that only this node is accepted at the address. A name
without either is a host: its addresses are dialled at the default port.

Nothing here is proven. A forged answer leads to other nodes of the same network, no further: ids and signatures are
checked when a link is made.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import dns.asyncresolver
import dns.exception
import dns.nameserver
import dns.rdatatype
import dns.resolver

from p2p.addresses.reconnect import Reconnect
from p2p.base.host_port import is_ip, normal_host, parse_host_port
from p2p.base.identity import is_node_id
from p2p.base.reach import Reach
from p2p.discovery.strategy import BaseStrategy, describe

log = logging.getLogger(__name__)

DEFAULT_PORT: Final = 3000
MIN_INTERVAL: Final = 60.0  # seconds between lookups of a name, whatever its time to live
MAX_INTERVAL: Final = 3600.0
TIMEOUT: Final = 10.0  # seconds for one question, all servers and repetitions included
MAX_ADDRESSES: Final = 128  # reported for a name at a time


SERVICE: Final = "_exchange-node._tcp"
MAX_RECORDS: Final = 64  # of a kind that are used
_NODE: Final = "node="


@dataclass(frozen=True, slots=True)
class ServiceRecord:
    """An SRV record."""

    priority: int
    weight: int
    port: int
    target: str


@dataclass(frozen=True, slots=True)
class SeedPeer:
    """A node that a seed names. `host`: an IP address or a name."""

    host: str
    port: int
    node_id: str | None = None


def seed_peers(services: Iterable[ServiceRecord], texts: Iterable[str]) -> list[SeedPeer]:
    """Return the nodes that the records name, by priority; with an id if a text has one.

    Records that cannot be read are left out: a seed also serves later versions.
    """
    ids = {
        (peer.host, peer.port): peer for peer in map(_of_text, list(texts)[:MAX_RECORDS]) if peer
    }
    found: dict[tuple[str, int], SeedPeer] = {}
    ordered = sorted(services, key=lambda record: (record.priority, -record.weight))
    for record in ordered[:MAX_RECORDS]:
        host = normal_host(record.target)
        if host and 1 <= record.port <= 65535:  # "." as target: not offered here
            key = (host, record.port)
            found.setdefault(key, ids.pop(key, SeedPeer(host, record.port)))
    return [*found.values(), *ids.values()]


def _of_text(text: str) -> SeedPeer | None:
    node_id, at, address = text.removeprefix(_NODE).partition("@")
    if not text.startswith(_NODE) or not at or not is_node_id(node_id):
        return None
    try:
        return SeedPeer(*parse_host_port(address), node_id)
    except ValueError:
        return None


class Lookup(Protocol):
    """Questions to the DNS. Each answer is empty if there are no such records, and has its time to live in
    seconds. Each raises OSError if no server answers."""

    async def services(self, name: str) -> tuple[list[ServiceRecord], float]: ...
    async def texts(self, name: str) -> tuple[list[str], float]: ...
    async def addresses(self, name: str) -> tuple[list[str], float]: ...


def _resolver(servers: Sequence[tuple[str, int]]) -> dns.asyncresolver.Resolver:
    resolver = dns.asyncresolver.Resolver(configure=not servers)
    resolver.lifetime = TIMEOUT
    if servers:
        resolver.nameservers = [dns.nameserver.Do53Nameserver(*server) for server in servers]
    return resolver


class DnsLookup:
    """Lookup at `servers` (addresses with ports), or at the system's."""

    def __init__(self, servers: Sequence[tuple[str, int]] = ()) -> None:
        self._resolver = _resolver(servers)

    async def services(self, name: str) -> tuple[list[ServiceRecord], float]:
        answer, ttl = await self._ask(name, "SRV")
        return [
            ServiceRecord(r.priority, r.weight, r.port, str(r.target).rstrip(".")) for r in answer
        ], ttl

    async def texts(self, name: str) -> tuple[list[str], float]:
        answer, ttl = await self._ask(name, "TXT")
        return [b"".join(r.strings).decode("ascii", "replace") for r in answer], ttl

    async def addresses(self, name: str) -> tuple[list[str], float]:
        if is_ip(name):
            return [normal_host(name)], MAX_INTERVAL
        (four, ttl_four), (six, ttl_six) = await asyncio.gather(
            self._ask(name, "A"), self._ask(name, "AAAA")
        )
        return [normal_host(r.address) for r in (*six, *four)], min(ttl_four, ttl_six)

    async def _ask(self, name: str, kind: str) -> tuple[list[Any], float]:
        """Return at most `MAX_RECORDS` records and their time to live."""
        try:
            answer = await self._resolver.resolve(name, kind, raise_on_no_answer=False)
        except dns.resolver.NXDOMAIN:
            return [], MAX_INTERVAL
        except dns.resolver.NoNameservers:
            raise OSError("no DNS server answers this name") from None
        except dns.exception.Timeout:
            raise OSError(f"no DNS server answered in {TIMEOUT:g} s") from None
        except dns.exception.DNSException as error:
            raise OSError(str(error) or type(error).__name__) from None
        if answer.rrset is None:
            return [], MAX_INTERVAL
        return list(answer.rrset)[:MAX_RECORDS], float(answer.rrset.ttl)


class DnsSeedStrategy(BaseStrategy):
    """Look the names up, again when their records expire, and sooner after a failure."""

    name = "dns"

    def __init__(
        self,
        names: Sequence[str],
        lookup: Lookup | None = None,
        *,
        by: Reach = Reach.PUBLIC,
        rng: random.Random | None = None,
    ) -> None:
        """`by`: narrowest reach of addresses that are taken from the seeds."""
        super().__init__()
        self._by = by
        self._names = list(dict.fromkeys(names))
        self._lookup = lookup or DnsLookup()
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, guards nothing
        self._retry = Reconnect(30.0, maximum=MAX_INTERVAL)
        self._states = dict.fromkeys(self._names, "being looked up")

    async def _open(self) -> None:
        if not self._names:
            self._state, self._detail = "off", "no DNS seeds are configured"
            return
        self._describe()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for name in self._names:
                group.create_task(self._watch(name))

    async def _watch(self, name: str) -> None:
        failures = 0
        while True:
            try:
                count, ttl = await self._look(name)
            except OSError as error:
                failures += 1
                reason = describe(error)
                if failures == 1:
                    log.warning(
                        "DNS seed %s cannot be looked up (%s); the node tries again", name, reason
                    )
                self._states[name] = f"cannot be looked up: {reason}"
                wait = self._retry.wait(failures, self._rng)
            else:
                failures = 0
                self._states[name] = f"{count} addresses" if count else "names no node"
                wait = min(max(ttl, MIN_INTERVAL), MAX_INTERVAL) * self._rng.uniform(1.0, 1.1)
            self._describe()
            await asyncio.sleep(wait)

    async def _look(self, name: str) -> tuple[int, float]:
        """Report what a name has; returns the number of addresses and the seconds they are good for.

        Raises:
            OSError: no server answers.
        """
        where = f"{SERVICE}.{name}"
        (services, ttl), (texts, ttl_texts) = await asyncio.gather(
            self._lookup.services(where), self._lookup.texts(where)
        )
        ttl = min(ttl, ttl_texts)
        peers = seed_peers(services, texts) or [SeedPeer(name, DEFAULT_PORT)]
        answers = await asyncio.gather(
            *(self._lookup.addresses(peer.host) for peer in peers), return_exceptions=True
        )
        count = 0
        failure: OSError | None = None
        for peer, answer in zip(peers, answers, strict=True):
            if isinstance(answer, OSError):
                failure = answer  # of one host; the others are as good
                continue
            if isinstance(answer, BaseException):
                raise answer
            addresses, its_ttl = answer
            ttl = min(ttl, its_ttl)
            for address in addresses[: MAX_ADDRESSES - count]:
                self._report(address, peer.port, peer.node_id, by=self._by)
                count += 1
        if failure is not None and not count:
            raise failure
        return count, ttl

    def _describe(self) -> None:
        self._detail = ", ".join(f"{name} ({state})" for name, state in self._states.items())
