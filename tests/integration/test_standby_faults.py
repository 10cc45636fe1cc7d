"""Take-overs under load: machines that are killed, frozen, cut off or full, with a real PostgreSQL for the lease."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from machine_pair import WITHIN, MachinePair, trades
from postgres_server import PostgresServer
from processes import NodeProcess, Nodes, bootstrap_options, eventually, run_cli

from node.client.exchange_client import ClientError

LAUNCHER: Final = (str(Path(__file__).with_name("full_disk_node.py")),)
LONGER_THAN_A_LEASE: Final = 6.5  # s

Fault = Callable[[MachinePair], None]


@pytest.fixture
def database(postgres: PostgresServer) -> PostgresServer:
    postgres.execute("DROP TABLE IF EXISTS exchange_node_lease")
    postgres.execute("DROP SCHEMA IF EXISTS exchange CASCADE")
    return postgres


@pytest.fixture
def pair(nodes: Nodes, database: PostgresServer) -> Iterator[MachinePair]:
    made = MachinePair(nodes, database, EXPORT_POSTGRES=database.url)
    yield made
    made.close()


def kill(pair: MachinePair) -> None:
    pair.node.send_signal(signal.SIGKILL)


def freeze(pair: MachinePair) -> None:
    pair.node.send_signal(signal.SIGSTOP)


def cut_off(pair: MachinePair) -> None:
    pair.links[pair.node.name].cut()
    pair.stores[pair.node.name].cut()


def deafen(pair: MachinePair) -> None:
    """The node gets nothing from its standby and from the store."""
    pair.links[pair.node.name].cut(down=False)
    pair.stores[pair.node.name].cut(up=False)


def mute(pair: MachinePair) -> None:
    """Nothing from the node reaches its standby and the store."""
    pair.links[pair.node.name].cut(up=False)
    pair.stores[pair.node.name].cut(down=False)


def fill_disk(pair: MachinePair) -> None:
    full_file(pair.node).touch()


def full_file(machine: NodeProcess) -> Path:
    return machine.data_dir.with_suffix(".full")


def find(pair: MachinePair) -> None:
    """The lost machine is there again."""
    for forwarder in (*pair.links.values(), *pair.stores.values()):
        forwarder.heal()
    if pair.node.running:
        pair.node.send_signal(signal.SIGCONT)
        try:
            pair.node.get_order(next(iter(pair.acknowledged.values())))
        except ClientError:
            return
        raise AssertionError("two machines answer")


def exported(node: NodeProcess) -> bool:
    views = node.status().exports
    return bool(views) and all(view.state == "running" and view.behind == 0 for view in views)


def check_database(pair: MachinePair, database: PostgresServer) -> None:
    eventually(lambda: exported(pair.node), what=lambda: pair.node.log)
    place = ("--data-dir", str(pair.node.data_dir))
    done = run_cli("export", "verify", *place, EXPORT_POSTGRES=database.url)
    assert done.returncode == 0, done.stdout + done.stderr
    ((orders,),) = database.ask("SELECT count(*) FROM exchange.orders")
    assert orders >= len(pair.acknowledged)


def check_peer(peer: NodeProcess, node: NodeProcess) -> None:
    """A peer has the node's feed as the node has it, and saw no other one under its numbers."""

    def same() -> bool:
        feeds = peer.ask(lambda client: client.feeds())
        (feed,) = [each for each in feeds if each.owner == node.node_id and each.open_orders]
        assert feed.given_up is None
        return feed.open_orders == node.status().open_orders and feed.behind == 0

    eventually(same, what=lambda: peer.log)
    assert "contradict" not in peer.log


LOST: Final[dict[str, Fault]] = {
    "killed": kill,
    "frozen": freeze,
    "cut off": cut_off,
    "deaf": deafen,
    "mute": mute,
    "full": fill_disk,
}


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "faults",
    [
        pytest.param(["killed"], id="killed"),
        pytest.param(["cut off"], id="cut off"),
        pytest.param([*LOST] * 4, id="all", marks=pytest.mark.long),
    ],
)
def test_a_node_that_is_lost_trades_on_another_machine_and_loses_nothing(
    nodes: Nodes, pair: MachinePair, database: PostgresServer, faults: list[str]
) -> None:
    peer = nodes.make("peer").start()
    for machine in (pair.node, pair.other):
        machine.options = bootstrap_options(peer.p2p_address)
        machine.program = LAUNCHER
        machine.settings["FULL_FILE"] = str(full_file(machine))
    pair.start()
    took: dict[str, list[float]] = {}
    for number, name in enumerate(faults):
        seconds = pair.take_over(
            lambda name=name: LOST[name](pair),  # type: ignore[misc]
            lambda: find(pair),
            lambda: check_peer(peer, pair.other),
        )
        took.setdefault(name, []).append(round(seconds, 1))
        check_peer(peer, pair.node)
        if number + 1 < len(faults):
            full_file(pair.other).unlink(missing_ok=True)
            pair.make_standby()
            pair.wait_until_in_sync()
    assert max(max(each) for each in took.values()) < WITHIN, took
    assert len(pair.acknowledged) > 5 * len(faults)
    check_database(pair, database)
    print(f"{len(pair.acknowledged)} orders acknowledged; s until trading: {took}")


HARMLESS: Final[dict[str, Fault]] = {
    "link": lambda pair: pair.links[pair.node.name].cut(),
    "frames": lambda pair: pair.links[pair.node.name].cut(up=False),
    "acknowledgements": lambda pair: pair.links[pair.node.name].cut(down=False),
    "store of the node": lambda pair: pair.stores[pair.node.name].cut(),
    "answers to the node": lambda pair: pair.stores[pair.node.name].cut(up=False),
    "requests of the node": lambda pair: pair.stores[pair.node.name].cut(down=False),
    "store of the standby": lambda pair: pair.stores[pair.other.name].cut(),
    "both stores": lambda pair: [each.cut() for each in pair.stores.values()],  # type: ignore[func-returns-value]
    "full standby": lambda pair: full_file(pair.other).touch(),
}


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "faults",
    [
        pytest.param(["acknowledgements"], id="acknowledgements"),
        pytest.param([*HARMLESS], id="all", marks=pytest.mark.long),
    ],
)
def test_a_node_that_can_prove_itself_goes_on_alone(
    nodes: Nodes, pair: MachinePair, database: PostgresServer, faults: list[str]
) -> None:
    peer = nodes.make("peer").start()
    pair.node.options = pair.other.options = bootstrap_options(peer.p2p_address)
    pair.other.program = LAUNCHER
    pair.other.settings["FULL_FILE"] = str(full_file(pair.other))
    pair.start()
    for name in faults:
        with pair.load():
            began = time.monotonic()
            HARMLESS[name](pair)
            eventually(lambda: trades(pair.node), what=lambda: pair.node.log)
            took = time.monotonic() - began
            assert took < WITHIN, (name, took)
            time.sleep(max(0.0, LONGER_THAN_A_LEASE - took))
            assert trades(pair.node), name
            assert not pair.other.runtime_path.exists(), name
            for forwarder in (*pair.links.values(), *pair.stores.values()):
                forwarder.heal()
            if name == "full standby":
                assert pair.other.exit_code() != 0
                full_file(pair.other).unlink()
                pair.other.launch()
            pair.wait_until_in_sync()
        pair.check()
        check_peer(peer, pair.node)
    check_database(pair, database)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("delay", [0.0, 0.1])  # s to the standby
@pytest.mark.parametrize("linked", [True, False])  # a peer is, while the node is lost
def test_acknowledgement_by_the_first_loses_only_unreplicated_commits(
    nodes: Nodes, database: PostgresServer, delay: float, linked: bool
) -> None:
    peer = nodes.make("peer").start()
    pair = MachinePair(nodes, database, STANDBY_ACK="first")
    try:
        for machine in (pair.node, pair.other):
            del machine.settings["LEASE_POSTGRES"]
            machine.options = bootstrap_options(peer.p2p_address)
        if not linked:
            pair.node.options = ()
        pair.links["one"].delay = delay
        pair.node.start()
        pair.launch_standby()
        place = ("--data-dir", str(pair.other.data_dir))
        eventually(lambda: "connected  yes" in run_cli("standby", "status", *place).stdout)
        pair.promote_lossy(peer)
        ages = [pair.lost_at - int(name.rpartition("-")[2]) / 1e9 for name in pair.lost()]
        oldest = f", the oldest {max(ages):.2f} s old" if ages else ""
        print(
            f"delay {delay:g} s, peer {'linked' if linked else 'not linked'}: "
            f"{len(ages)} of {len(pair.acknowledged)} acknowledged orders are lost{oldest}"
        )
        assert all(age < 1.0 + 10 * delay for age in ages), ages
        assert trades(pair.node)
    finally:
        pair.close()
