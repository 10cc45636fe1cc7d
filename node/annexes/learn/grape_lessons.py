"""Steps 1 and 2: Grapes that find each other, and workers that announce themselves. The DHT's own nodes on a
virtual network.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from node.annexes.learn.sheet import Settings, Sheet
from node.virtual.server_model import VirtualTime, seeded
from node.virtual.simulated_workers import SimulatedWorker
from node.virtual.virtual_dht import Conditions, VirtualHost, VirtualNetwork, address
from p2p.adaptive import Load, Outcome
from p2p.grenache.dht.dht_settings import DhtSettings
from p2p.grenache.dht.lookups import LookupResult

SERVICE = b"job_service"


def cluster_of(
    seed: int, grapes: int, delay_s: float, settings: DhtSettings | None = None
) -> VirtualNetwork:
    """Return Grapes that have just started; all but the first bootstrap from the first."""
    conditions = Conditions(latency=(0.5 * delay_s, 1.5 * delay_s), jitter=0.0002, loss=0.0)
    network = VirtualNetwork(seed, conditions)
    for number in range(1, grapes + 1):
        network.add(address(number), (address(1),) if number > 1 else (), settings)
    return network


def look_up(
    network: VirtualNetwork, host: VirtualHost, service: bytes = SERVICE
) -> tuple[float, int]:
    """Return the seconds of a lookup and the number of addresses found."""
    began = network.clock.now
    ended: list[tuple[float, int]] = []

    def done(found: LookupResult) -> None:
        listed = host.node.listed(network.clock.now, service, found.peers)
        ended.append((network.clock.now - began, len(listed)))

    host.call(lambda now: host.node.lookup(now, service, done))
    network.run_until(lambda: bool(ended), 10.0, step=0.001)
    return ended[0] if ended else (inf, 0)


def announce(network: VirtualNetwork, host: VirtualHost, port: int) -> None:
    host.call(lambda now: host.node.announce(now, SERVICE, port, None, lambda holders: None))


def cluster(seed: int, settings: Settings) -> Sheet:
    """Step 1."""
    sheet = Sheet()
    grapes = max(2, int(settings["grapes"]))
    network = cluster_of(seed, grapes, settings["delay_ms"] / 1000)
    hosts = list(network.hosts.values())
    formed = network.run_until(
        lambda: all(host.node.good_nodes == grapes - 1 for host in hosts), 60.0, step=0.005
    )
    sheet.event(
        formed, f"each of {grapes} Grapes knows the other {grapes - 1}; they had one address"
    )
    announce(network, hosts[-1], 1337)
    network.run(1.0)
    rows = []
    for number, host in enumerate(hosts, 1):
        seconds, found = look_up(network, host)
        rows.append((f"Grape {number}", 1000 * seconds, found))
    sheet.table(("lookup of 'job_service' at", "ms", "workers found"), rows)
    before = sum(found > 0 for _, _, found in rows)
    network.remove(hosts[0].address)
    sheet.event(network.clock.now, "Grape 1, the one that all started from, is killed")
    left = hosts[1:]
    first = [look_up(network, host) for host in left]
    network.run(5.0)
    later = [look_up(network, host) for host in left]
    sheet.table(
        ("lookup without Grape 1, slowest", "ms", "Grapes that find the worker"),
        [
            ("at once", 1000 * max(s for s, _ in first), sum(n > 0 for _, n in first)),
            ("5 s later", 1000 * max(s for s, _ in later), sum(n > 0 for _, n in later)),
        ],
    )
    sheet.figure("neighbours", min(len(hosts) - 1, hosts[-1].node.good_nodes + 1), 0)
    sheet.figure("formed_ms", 1000 * formed, 0)
    sheet.figure("found_before", before / len(hosts))
    sheet.figure("found_after", sum(n > 0 for _, n in first) / len(left))
    sheet.figure("first_lookup_ms", 1000 * max(s for s, _ in first), 1)
    sheet.figure("later_lookup_ms", 1000 * max(s for s, _ in later), 1)
    return sheet


def workers(seed: int, settings: Settings) -> Sheet:
    """Step 2."""
    sheet = Sheet()
    max_age = max(1.0, settings["max_age_s"])
    network = cluster_of(seed, 3, 0.002, DhtSettings(peer_max_age=max_age))
    network.run(2.0)
    hosts = list(network.hosts.values())
    client = hosts[0]

    def count(wanted: Callable[[int], bool], step: float) -> float:
        return network.run_until(
            lambda: wanted(look_up(network, client)[1]), 3.0 * max_age + 10.0, step=step
        )

    announce(network, hosts[1], 1337)
    visible = count(lambda n: n == 1, 0.001)
    sheet.event(
        network.clock.now, f"worker 1 announced; a lookup finds it {1000 * visible:.0f} ms later"
    )
    announce(network, hosts[2], 1338)
    count(lambda n: n == 2, 0.001)
    sheet.event(network.clock.now, "worker 2 serves the same name; a lookup finds both")
    hosts[2].call(lambda now: hosts[2].node.withdraw(now, SERVICE, 1338, None, lambda n: None))
    goodbye = count(lambda n: n == 1, 0.001)
    sheet.event(
        network.clock.now, f"worker 2 stopped and said so; gone after {1000 * goodbye:.0f} ms"
    )
    crashed = count(lambda n: n == 0, max_age / 200)
    sheet.event(network.clock.now, f"worker 1 crashed; its entry expired after {crashed:.0f} s")
    busy, median = _serving(seed, settings["load"])
    sheet.text()
    sheet.text(
        f"A worker good for 200 requests a second gets {200 * settings['load']:.0f}: "
        f"{100 * busy:.0f} % are refused at once as busy, the others take {1000 * median:.0f} ms."
    )
    sheet.figure("visible_ms", 1000 * visible, 1)
    sheet.figure("gone_after_goodbye_ms", 1000 * goodbye, 1)
    sheet.figure("gone_after_crash_s", crashed, 1)
    sheet.figure("busy_share", busy)
    sheet.figure("median_ms", 1000 * median, 1)
    return sheet


def _serving(seed: int, load: float) -> tuple[float, float]:
    """Offer a worker `load` times what it can do for 5 s. Returns refused share, median seconds."""
    time = VirtualTime()
    worker = SimulatedWorker(time, seeded("worker", seed), "worker")
    rng = seeded("requests", seed)
    took: list[float] = []
    refused = 0

    def ask() -> None:
        sent = time.now

        def reply(outcome: Outcome, report: Load | None) -> None:
            nonlocal refused
            if outcome == "ok":
                took.append(time.now - sent)
            else:
                refused += 1

        worker.arrive(reply)
        if time.now < 5.0:
            time.after(rng.expovariate(200.0 * max(0.01, load)), ask)

    ask()
    time.run(10.0)
    took.sort()
    return refused / (refused + len(took)), took[len(took) // 2]
