"""Take-over of a node by its standby: real processes, a real PostgreSQL for the lease."""

from __future__ import annotations

import json
import signal
import time
import urllib.request
from pathlib import Path

import pytest
from machine_pair import WITHIN, trades
from postgres_server import PostgresServer
from processes import SETTINGS, Nodes, bootstrap_options, eventually, run_cli

from node.client.exchange_client import ClientError
from node.daemon.process import EXIT_FAILED
from node.daemon.role_file import machine_identity
from tests.ports import free_port


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
    view = pair.primary.status().standby
    assert view is not None
    assert (view.connected, view.in_sync, view.waits, view.epoch) == (True, True, True, 1)
    status = run_cli("status", "--data-dir", str(pair.primary.data_dir)).stdout
    assert "standby    connected, in sync, epoch 1" in status
    with urllib.request.urlopen(f"{pair.primary.api_url}/metrics") as response:
        assert b"exchange_node_standby_in_sync 1.0" in response.read()
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
