"""Take-over of a node by its standby: real processes, a real PostgreSQL for the lease."""

from __future__ import annotations

import json
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
from postgres_server import PostgresServer
from processes import SETTINGS, NodeProcess, Nodes, bootstrap_options, eventually, run_cli

from node.client.exchange_client import ClientError
from node.daemon.process import EXIT_FAILED
from node.standby.role_file import machine_identity
from tests.ports import free_port

WITHIN = 10.0  # s from the loss of a machine until the other one trades


@pytest.fixture
def database(postgres: PostgresServer) -> PostgresServer:
    postgres.execute("DROP TABLE IF EXISTS exchange_node_lease")
    return postgres


class Pair:
    """A node with its standby."""

    def __init__(self, nodes: Nodes, url: str) -> None:
        self.port = free_port()
        settings = {"JOURNAL_SYNC": "full", "LEASE_POSTGRES": url}
        self.standby = nodes.make("standby", **settings)
        self.standby.data_dir.mkdir(mode=0o700)
        machine = machine_identity(self.standby.data_dir).node_id
        self.primary = nodes.make(
            "primary",
            STANDBY_LISTEN=f"127.0.0.1:{self.port}",
            STANDBY_ALLOW=machine,
            **settings,
        )
        self.standby.command = ("standby", "--of", f"127.0.0.1:{self.port}")

    def start(self) -> None:
        self.primary.start()
        self.standby.launch()
        eventually(self.in_sync, what=lambda: self.primary.log + self.standby.log)

    def in_sync(self) -> bool:
        return "the standby is in sync" in self.primary.log.rpartition("not in sync")[2]


@pytest.fixture
def pair(nodes: Nodes, database: PostgresServer) -> Pair:
    return Pair(nodes, database.url)


def trades(node: NodeProcess) -> bool:
    """Place an order; False while the node refuses."""
    try:
        node.sell(1, 500)
    except ClientError:
        return False
    return True


def takes_over(pair: Pair, began: float) -> float:
    """Wait until the standby trades; the seconds since `began`."""
    pair.standby.ready()
    eventually(lambda: trades(pair.standby), what=lambda: pair.standby.log)
    return time.monotonic() - began


def test_a_killed_node_trades_on_another_machine_with_all_its_orders(
    nodes: Nodes, pair: Pair
) -> None:
    peer = nodes.make("peer").start()
    pair.primary.options = pair.standby.options = bootstrap_options(peer.p2p_address)
    pair.start()
    orders = [pair.primary.sell(1, 100 + number) for number in range(20)]
    eventually(lambda: len(peer.asks()) == 20)
    peer.buy(1, 100)
    eventually(lambda: pair.primary.get_order(orders[0].id).status == "filled")
    began = time.monotonic()
    pair.primary.kill9()
    took = takes_over(pair, began)
    assert took < WITHIN, f"{took:.1f} s"
    assert pair.standby.node_id == pair.primary.node_id
    assert pair.standby.get_order(orders[0].id).status == "filled"
    for order in orders[1:]:
        assert pair.standby.get_order(order.id).status == "open"
    eventually(lambda: len(peer.asks()) == 20)
    peer.buy(1, 101)
    eventually(lambda: pair.standby.get_order(orders[1].id).status == "filled")
    assert "stops writing" not in pair.standby.log
    pair.primary.launch()
    assert pair.primary.exit_code(20) == EXIT_FAILED
    last = pair.primary.log.rpartition("\n--- ")[2]
    assert "this machine is not the node any more" in last
    assert "has taken over with epoch 2" in last
    assert "Ctrl-C stops the node" not in last  # the banner of a node that runs


def test_a_frozen_node_stops_when_it_goes_on(pair: Pair) -> None:
    pair.start()
    order = pair.primary.sell(1, 100)
    pair.primary.send_signal(signal.SIGSTOP)
    took = takes_over(pair, time.monotonic())
    assert took < WITHIN, f"{took:.1f} s"
    pair.primary.send_signal(signal.SIGCONT)
    with pytest.raises(ClientError):
        pair.primary.get_order(order.id)
    assert pair.primary.exit_code(10) != 0
    assert pair.standby.get_order(order.id).status == "open"


def test_files_of_the_standby_are_private_and_it_does_not_start_as_a_node(pair: Pair) -> None:
    pair.start()
    directory: Path = pair.standby.data_dir
    assert (directory / "node.key").read_bytes() == (
        pair.primary.data_dir / "node.key"
    ).read_bytes()
    for path in directory.rglob("*"):
        if path.is_file() and path.name != "node.lock":
            assert path.stat().st_mode & 0o077 == 0, path
    pair.standby.stop()
    done = run_cli("start", "--data-dir", str(directory))
    assert done.returncode == 2
    assert "exchange-node standby promote" in done.stderr


def test_a_machine_that_is_not_allowed_gets_nothing(nodes: Nodes, pair: Pair) -> None:
    pair.primary.start()
    stranger = nodes.make("stranger", JOURNAL_SYNC="full")
    stranger.command = pair.standby.command
    stranger.launch()
    eventually(lambda: "STANDBY_ALLOW of the primary does not name" in stranger.log)
    assert not (stranger.data_dir / "node.key").exists()
    assert not (stranger.data_dir / "journal").exists()


@pytest.mark.long
def test_without_its_standby_the_node_goes_on_and_a_person_is_warned(pair: Pair) -> None:
    pair.start()
    assert pair.primary.status().warnings == []
    pair.standby.kill9()
    began = time.monotonic()
    eventually(
        lambda: [line for line in pair.primary.status().warnings if "is not connected" in line]
    )
    pair.primary.sell(1, 100)
    assert time.monotonic() - began < WITHIN
    pair.primary.kill9()
    pair.standby.launch()
    done = eventually(
        lambda: run_cli("standby", "promote", "--data-dir", str(pair.standby.data_dir)).stderr
    )
    assert "not in sync" in done
    assert not pair.standby.runtime_path.exists()


@pytest.mark.long
def test_a_person_switches_while_both_live(pair: Pair) -> None:
    pair.start()
    order = pair.primary.sell(1, 100)
    done = run_cli("standby", "promote", "--data-dir", str(pair.standby.data_dir))
    assert done.returncode == 0, done.stderr
    assert pair.primary.exit_code(10) != 0
    pair.standby.ready()
    eventually(lambda: trades(pair.standby))
    assert pair.standby.get_order(order.id).status == "open"


@pytest.mark.long
def test_a_database_that_is_away_does_not_stop_a_node_with_its_standby(
    pair: Pair, postgres: PostgresServer
) -> None:
    pair.start()
    postgres.kill()
    try:
        time.sleep(6)  # more than a lease
        assert trades(pair.primary)
        assert pair.standby.running
    finally:
        postgres.start()


@pytest.mark.long
def test_a_standby_that_may_lack_events_recovers_before_it_trades(nodes: Nodes) -> None:
    peer = nodes.make("peer").start()
    port = free_port()
    standby = nodes.make("standby")
    standby.data_dir.mkdir(mode=0o700)
    primary = nodes.make(
        "primary",
        STANDBY_ACK="first",
        STANDBY_LISTEN=f"127.0.0.1:{port}",
        STANDBY_ALLOW=machine_identity(standby.data_dir).node_id,
    ).start(*bootstrap_options(peer.p2p_address))
    standby.command = ("standby", "--of", f"127.0.0.1:{port}")
    standby.launch()
    order = primary.sell(1, 100)
    eventually(lambda: len(peer.asks()) == 1)
    data_dir = ("--data-dir", str(standby.data_dir))

    def has_all() -> bool:
        done = run_cli("standby", "status", "--json", *data_dir)
        return done.returncode == 0 and json.loads(done.stdout)["position"] > 1

    eventually(has_all)
    primary.kill9()
    refused = run_cli("standby", "promote", *data_dir)
    assert refused.returncode == 1
    assert "--lossy" in refused.stderr
    done = run_cli("standby", "promote", "--lossy", *data_dir)
    assert done.returncode == 0, done.stderr
    assert standby.exit_code() == 0
    standby.launch()
    assert standby.exit_code() == 2
    done = run_cli(
        *("recover", "--from-peers", "--p2p-port", "0", *data_dir),
        *bootstrap_options(peer.p2p_address),
        **SETTINGS,
    )
    assert done.returncode == 0, done.stderr
    standby.start(*bootstrap_options(peer.p2p_address))
    assert standby.get_order(order.id).status == "open"


class Desk:
    """Two machines that take turns as node and standby, under load."""

    def __init__(self, nodes: Nodes, url: str, **more: str) -> None:
        ports = free_port(), free_port()
        common = {"JOURNAL_SYNC": "full", "LEASE_POSTGRES": url, **more}
        one, two = (nodes.make(name, **common) for name in ("one", "two"))
        for machine, other, port, of in ((one, two, *ports), (two, one, *reversed(ports))):
            machine.data_dir.mkdir(mode=0o700, exist_ok=True)
            other.data_dir.mkdir(mode=0o700, exist_ok=True)
            machine.settings = {
                **common,
                "STANDBY_LISTEN": f"127.0.0.1:{port}",
                "STANDBY_ALLOW": machine_identity(other.data_dir).node_id,
            }
            machine.command = ("standby", "--of", f"127.0.0.1:{of}")
        one.command = ("start",)
        self.node, self.other = one, two
        self.acknowledged: dict[str, str] = {}  # client id of each order that was acknowledged
        one.start()
        two.launch()
        two.command = ("standby", "--of", f"127.0.0.1:{ports[0]}")
        one.command = ("standby", "--of", f"127.0.0.1:{ports[1]}")

    def wait_until_in_sync(self) -> None:
        def in_sync() -> bool:
            done = run_cli("standby", "status", "--data-dir", str(self.other.data_dir))
            return "in sync    yes" in done.stdout and "connected  yes" in done.stdout

        eventually(in_sync, what=lambda: self.node.log + self.other.log)

    def load(self, seconds: float) -> None:
        """Place orders, and note which of them were acknowledged."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            name = f"order-{len(self.acknowledged)}-{time.monotonic_ns()}"
            try:
                order = self.node.order("sell", 1, 500, client_id=name)
            except ClientError:
                return
            self.acknowledged[name] = order.id

    def lose(self, how: str) -> float:
        """Lose the node under load. Returns the seconds until the other machine trades."""
        load = threading.Thread(target=self.load, args=(WITHIN,))
        load.start()
        time.sleep(0.5)
        began = time.monotonic()
        self.node.send_signal(signal.SIGKILL if how == "kill" else signal.SIGSTOP)
        self.other.ready()
        eventually(lambda: trades(self.other), what=lambda: self.other.log)
        took = time.monotonic() - began
        self.node.send_signal(signal.SIGCONT)
        assert self.node.exit_code(10) != 0
        load.join()
        self.node, self.other = self.other, self.node
        for name, number in self.acknowledged.items():
            assert self.node.get_order(number).client_id == name
        return took

    def make_standby(self) -> None:
        """Make a standby of the machine that was lost."""
        key = (self.other.data_dir / "standby.key").read_bytes()
        shutil.rmtree(self.other.data_dir)
        self.other.data_dir.mkdir(mode=0o700)
        path = self.other.data_dir / "standby.key"
        path.write_bytes(key)
        path.chmod(0o600)
        self.other.launch()


def exported(node: NodeProcess) -> bool:
    views = node.status().exports
    return bool(views) and all(view.state == "running" and view.behind == 0 for view in views)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("count", [1, pytest.param(20, marks=pytest.mark.long)])
def test_take_overs_lose_no_acknowledged_order_and_the_export_goes_on(
    nodes: Nodes, database: PostgresServer, count: int
) -> None:
    database.execute("DROP SCHEMA IF EXISTS exchange CASCADE")
    desk = Desk(nodes, database.url, EXPORT_POSTGRES=database.url)
    took = []
    for number in range(count):
        desk.wait_until_in_sync()
        took.append(desk.lose("freeze" if number % 2 else "kill"))
        if number + 1 < count:
            desk.make_standby()
    assert max(took) < WITHIN, took
    assert len(desk.acknowledged) > 5 * count
    eventually(lambda: exported(desk.node), what=lambda: desk.node.log)
    done = run_cli(
        *("export", "verify", "--data-dir", str(desk.node.data_dir)), EXPORT_POSTGRES=database.url
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ((orders,),) = database.ask("SELECT count(*) FROM exchange.orders")
    assert orders >= len(desk.acknowledged)
    print(f"{len(desk.acknowledged)} orders acknowledged; s until trading: {sorted(took)}")
