"""Scenarios of a DHT of our nodes, and their results."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf

from node.virtual.virtual_dht import Conditions, VirtualHost, VirtualNetwork, address
from p2p.grenache.dht.compact_addresses import unpack
from p2p.grenache.dht.dht_settings import K
from p2p.grenache.dht.iterative_search import IterativeSearch
from p2p.grenache.dht.krpc import FindNode
from p2p.grenache.dht.lookups import LookupResult
from p2p.grenache.dht.routing_table import number
from p2p.grenache.directory import Address


@dataclass(slots=True)
class Lookups:
    """Outcomes of lookups."""

    right: int = 0
    wrong: list[str] = field(default_factory=list)
    hops: list[int] = field(default_factory=list)
    messages: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def success(self) -> float:
        total = self.right + len(self.wrong)
        return self.right / total if total else 0.0

    def text(self) -> str:
        def spread(values: list[float] | list[int], scale: float, unit: str) -> str:
            if not values:
                return "-"
            ordered = sorted(value * scale for value in values)
            p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
            return f"mean {statistics.fmean(ordered):.1f}{unit}, p99 {p99:.1f}{unit}"

        return (
            f"{self.right} of {self.right + len(self.wrong)} lookups right "
            f"({100 * self.success:.2f} %)\n"
            f"  hops      {spread(self.hops, 1, '')}\n"
            f"  messages  {spread(self.messages, 1, '')}\n"
            f"  latency   {spread(self.seconds, 1000, ' ms')}"
        )


def look_up(
    network: VirtualNetwork, host: VirtualHost, service: bytes, right: Address, into: Lookups
) -> None:
    """Begin a lookup; its outcome goes `into` when it ends."""
    began = network.clock.now

    def done(found: LookupResult) -> None:
        into.hops.append(found.hops)
        into.messages.append(found.messages)
        into.seconds.append(network.clock.now - began)
        listed = host.node.listed(network.clock.now, service, found.peers)
        if right in listed:
            into.right += 1
        else:
            into.wrong.append(f"{service!r} at {host.address}: {listed}")

    host.call(lambda now: host.node.lookup(now, service, done))


def network_of(
    nodes: int, seed: int, conditions: Conditions | None = None, bootstraps: int = 1
) -> VirtualNetwork:
    """Nodes that joined one after another through the first ones, 20 a second."""
    network = VirtualNetwork(seed, conditions)
    first = tuple(address(n) for n in range(1, bootstraps + 1))
    for n in range(1, nodes + 1):
        network.add(address(n), tuple(a for a in first if a != address(n)))
        network.run(0.05)
    network.run(10)
    return network


@dataclass(slots=True)
class Churn:
    """Result of `churn`."""

    steady: Lookups
    churning: Lookups
    after: Lookups
    left: int
    sent_per_node_second: float  # datagrams of all kinds, in the quiet at the end


def churn(
    nodes: int,
    seed: int,
    *,
    services: int = 200,
    lookups: int = 400,
    share: float = 0.2,
    seconds: float = 60.0,
    window: float = 20.0,
    quiet: float = 10.0,
    conditions: Conditions | None = None,
) -> Churn:
    """Announce services and look them up: in the quiet; while `share` of the nodes leaves and as many
    join, spread over `seconds`; and after that. Announcers and the bootstrap node stay and announce again
    every 30 s, as services do; the rest may go. A node is asked once it has had an answer itself. Before
    and after, the lookups are spread over `window` seconds; in `quiet` seconds at the end the datagrams
    of upkeep are counted."""
    network = network_of(nodes, seed, conditions)
    rng = network.rng
    result = Churn(Lookups(), Lookups(), Lookups(), 0, 0.0)
    everybody = list(network.hosts.values())
    stay = everybody[: nodes // 2]
    where = {b"service-%d" % n: (rng.choice(stay), 1000 + n) for n in range(services)}

    def announce(service: bytes) -> None:
        host, port = where[service]
        host.call(lambda now: host.node.announce(now, service, port, None, lambda holders: None))
        network.clock.after(30.0, lambda: announce(service))

    for service in where:
        network.clock.after(rng.uniform(0.0, 5.0), lambda service=service: announce(service))
    network.run(8)

    def ask(into: Lookups, over: float) -> None:
        for _ in range(lookups):
            network.clock.after(rng.uniform(0.0, over), lambda: ask_once(into))

    def ask_once(into: Lookups) -> None:
        service = rng.choice(list(where))
        announcer, port = where[service]
        joined = [h for h in network.hosts.values() if h is not announcer and h.node.good_nodes]
        host = rng.choice(joined)
        look_up(network, host, service, (announcer.address[0], port), into)

    ask(result.steady, window)
    network.run(window + 5)

    leaving = rng.sample(everybody[nodes // 2 :], int(nodes * share))
    result.left = len(leaving)
    newest = nodes
    for host in leaving:
        network.clock.after(
            rng.uniform(0.0, seconds), lambda host=host: network.remove(host.address)
        )
        newest += 1
        network.clock.after(
            rng.uniform(0.0, seconds),
            lambda n=newest: network.add(address(n), (address(1),)),
        )
    ask(result.churning, seconds)
    network.run(seconds + 5)
    ask(result.after, window)
    network.run(window + 5)
    before = network.sent
    network.run(quiet)
    result.sent_per_node_second = (network.sent - before) / quiet / len(network.hosts)
    return result


def all_know(hosts: Iterable[VirtualHost], place: Address, node_id: bytes) -> bool:
    """Report if every node has this id, and no other, for that address."""
    contacts = [host.node._core.table.at(place) for host in hosts]
    return all(contact is not None and contact.id == node_id for contact in contacts)


def restart(seed: int, nodes: int = 8) -> dict[str, float]:
    """A node restarts at its address with another id. Seconds until every other node has the new id in
    the place of the old, and whether an announcement made right after is seen everywhere."""
    network = network_of(nodes, seed)
    place = address(3)
    old = network.hosts[place].node.id
    network.remove(place)
    new = network.add(place, (address(1),)).node.id
    others = [host for host in network.hosts.values() if host.address != place]

    took = network.run_until(lambda: all_know(others, place, new), 60.0)
    assert old != new
    announcer = others[-1]
    announcer.call(
        lambda now: announcer.node.announce(now, b"after", 7, None, lambda holders: None)
    )
    network.run(1)
    lookups = Lookups()
    for host in network.hosts.values():
        look_up(network, host, b"after", (announcer.address[0], 7), lookups)
    network.run(2)
    return {"healed_after": took, "lookups": lookups.success}


def silent_restart(seed: int, nodes: int = 8) -> float:
    """As `restart`, but the new process has no bootstrap address and sends nothing on its own. Seconds
    until the others have its new id."""
    network = network_of(nodes, seed)
    place = address(3)
    network.remove(place)
    new = network.add(place).node.id
    others = [host for host in network.hosts.values() if host.address != place]

    def ask() -> None:  # somebody uses the network
        look_up(network, network.rng.choice(others), b"anything", place, Lookups())
        network.clock.after(0.5, ask)

    ask()
    return network.run_until(lambda: all_know(others, place, new), 60.0)


def dead_node(seed: int, nodes: int = 8, one_way: float = 0.001) -> dict[str, float]:
    """Kill one of few nodes. Returns the seconds of lookups before, in the first second, and later.
    `one_way`: the least delay of a datagram; the largest is 1 ms more, and twice that at most."""
    most = min(2 * one_way, one_way + 0.001)
    network = network_of(nodes, seed, Conditions(latency=(one_way, most), jitter=0.0002, loss=0.0))
    asker = network.hosts[address(2)]
    figures = {}
    for phase, wait in (("before", 0.0), ("at_once", 0.0), ("later", 5.0)):
        if phase == "at_once":
            network.remove(address(3))
        network.run(wait)
        lookups = Lookups()
        look_up(network, asker, b"nobody", address(1), lookups)
        network.run(6)
        figures[phase] = lookups.seconds[0] if lookups.seconds else inf
    return figures


def black_hole(seed: int, others: int, wait: float, one_way: float = 0.024) -> dict[str, float]:
    """Seconds of the first lookup of a node `wait` seconds after its start, when one of its bootstrap
    addresses never answered. `others`: nodes besides it; the first of them is a bootstrap node too. The
    lookup without the black hole is `without`."""
    figures = {}
    for phase, holes in (("without", 0), ("with", 1)):
        conditions = Conditions(latency=(one_way, one_way + 0.001), jitter=0.0002, loss=0.0)
        network = network_of(others, seed, conditions)
        known = [address(n) for n in range(1, min(others, 1) + 1)]
        known += [address(9_999)] * holes
        asker = network.add(address(others + 1), tuple(known))
        network.run(wait)
        lookups = Lookups()
        look_up(network, asker, b"nobody", address(1), lookups)
        network.run(6)
        figures[phase] = lookups.seconds[0] if lookups.seconds else inf
    return figures


def partition(seed: int, nodes: int = 24, split: float = 120.0) -> dict[str, float]:
    """The network splits in two halves and is joined again. Lookups of what was announced on the own side
    while it was split; seconds from joining until what the other side announces is found."""
    network = network_of(nodes, seed, bootstraps=2)
    hosts = list(network.hosts.values())
    network.partition({host.address[0]: n % 2 for n, host in enumerate(hosts)})
    network.run(split)
    inside = Lookups()
    for side in (0, 1):
        announcer, asker = hosts[side], hosts[side + 2]
        service = b"inside-%d" % side
        announcer.call(
            lambda now, a=announcer, s=service: a.node.announce(now, s, 80, None, lambda n: None)
        )
        network.run(3)
        look_up(network, asker, service, (announcer.address[0], 80), inside)
        network.run(5)
    network.partition({})
    found = {"seen": False}

    def announce() -> None:
        hosts[0].call(lambda now: hosts[0].node.announce(now, b"joined", 81, None, lambda n: None))
        network.clock.after(2.0, announce)

    def ask() -> None:
        asker = hosts[-1]  # on the other side

        def done(result: LookupResult) -> None:
            found["seen"] |= (hosts[0].address[0], 81) in [unpack(p) for p in result.peers]

        asker.call(lambda now: asker.node.lookup(now, b"joined", done))
        network.clock.after(0.5, ask)

    announce()
    ask()
    took = network.run_until(lambda: found["seen"], 120.0)
    return {"inside": inside.success, "joined_after": took}


def lone_node(seed: int) -> dict[str, float]:
    """A node alone, with an announcement, gains a neighbour. Seconds until each finds what the other
    announced."""
    network = VirtualNetwork(seed)
    lone = network.add(address(1), (address(9),))  # its bootstrap node is down
    holders: list[int] = []
    lone.call(lambda now: lone.node.announce(now, b"lone", 80, None, holders.append))
    network.run(3)
    alone = Lookups()
    look_up(network, lone, b"lone", ("127.0.0.1", 80), alone)
    network.run(3)
    neighbour = network.add(address(2), (address(1),))
    found = {"lone": False, "neighbour": False}
    neighbour.call(lambda now: neighbour.node.announce(now, b"new", 81, None, holders.append))

    def ask() -> None:
        def by_neighbour(result: LookupResult) -> None:
            found["neighbour"] |= bool(result.peers)

        def by_lone(result: LookupResult) -> None:
            listed = lone.node.listed(network.clock.now, b"new", result.peers)
            found["lone"] |= (neighbour.address[0], 81) in listed

        neighbour.call(lambda now: neighbour.node.lookup(now, b"lone", by_neighbour))
        lone.call(lambda now: lone.node.lookup(now, b"new", by_lone))
        network.clock.after(0.2, ask)

    ask()
    took = network.run_until(lambda: all(found.values()), 60.0)
    return {"alone": alone.success, "holders_alone": holders[0], "met_after": took}


def bootstrap_down(seed: int) -> float:
    """The bootstrap node is down when another starts, and comes up 7 s later. Seconds from then until
    the other knows it."""
    network = VirtualNetwork(seed)
    early = network.add(address(2), (address(1),))
    network.run(7)
    network.add(address(1))
    return network.run_until(lambda: early.node.good_nodes > 0, 120.0)


def closest_found(nodes: int, seed: int, targets: int = 50) -> float:
    """The share of the K really closest nodes that searches for random ids find."""
    network = network_of(nodes, seed)
    hosts = list(network.hosts.values())
    hits = 0
    for _ in range(targets):
        target = network.rng.randbytes(20)
        asker = network.rng.choice(hosts)
        others = [host for host in hosts if host is not asker]
        others.sort(key=lambda host: number(host.node.id) ^ number(target))
        best = {host.address for host in others[:K]}
        ended: list[IterativeSearch] = []
        asker.call(
            lambda now, asker=asker, target=target, ended=ended: asker.node._core.search(
                now, FindNode(target), target, lambda *_: True, lambda now, s: ended.append(s)
            )
        )
        network.run_until(lambda ended=ended: bool(ended), 10.0)
        hits += len(best & {candidate.address for candidate in ended[0].closest()})
    return hits / (targets * min(K, nodes - 1))
