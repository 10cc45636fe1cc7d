"""Starting where one runs already or a port is taken, stopping in order, being away for a while."""

from __future__ import annotations

import signal
import socket
import time

import pytest
from processes import Nodes, eventually, in_both_modes, run_cli, trade_ids

FAILED = 2  # exit code of a start that cannot be


@in_both_modes
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_stop_is_orderly_and_the_others_know_at_once(nodes: Nodes, how: signal.Signals) -> None:
    a, b = nodes.pair(PRESENCE_LEASE_MS="60000")  # no lease runs out during this test
    a.sell(5, 10)
    eventually(b.asks)
    begin = time.monotonic()
    assert a.stop(how) == 0
    assert time.monotonic() - begin < 5
    assert not a.runtime_path.exists()
    eventually(lambda: b.asks() == {}, 2)
    assert b.linked() == set()
    (peer,) = [p for p in b.peers() if p.node_id == a.node_id]
    assert "shutdown" in (peer.last_error or "")
    assert b.status().nodes_present == 1
    assert "stopped" in a.log
    assert "Traceback" not in a.log + b.log
    lost = run_cli("status", "--data-dir", str(a.data_dir))
    assert lost.returncode == 3
    assert "start one with" in lost.stderr


def test_a_second_start_on_the_same_data_directory_is_refused(nodes: Nodes) -> None:
    a = nodes.start("a")
    second = run_cli("start", "--data-dir", str(a.data_dir), "--p2p-port", "0", "--api-port", "0")
    assert second.returncode == FAILED
    (line,) = second.stderr.splitlines()
    assert "already running" in line
    assert str(a.process.pid if a.process else None) in line
    assert a.runtime_path.exists()  # and the first one is not disturbed
    assert a.sell(1, 10).status == "open"


def test_a_default_port_that_is_taken_gives_way_to_a_free_one(nodes: Nodes) -> None:
    taken = []
    for port in (3000, 8300):
        blocker = socket.socket()
        try:
            blocker.bind(("127.0.0.1", port))
            blocker.listen()
        except OSError:
            blocker.close()  # somebody else has it: as good
        else:
            taken.append(blocker)
    try:
        node = nodes.make("a")
        node.p2p_port = node.api_port = None
        node.start()
        assert not node.p2p_address.endswith(":3000")
        assert not node.api_url.endswith(":8300")
        assert node.status().p2p_address == node.p2p_address
        assert node.stop() == 0
    finally:
        for blocker in taken:
            blocker.close()


@pytest.mark.parametrize("which", ["p2p", "api"])
def test_a_configured_port_that_is_taken_is_an_error(nodes: Nodes, which: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as blocker:
        port = blocker.getsockname()[1]
        ports = {"p2p": "0", "api": "0", which: str(port)}
        directory = nodes.directory / "a"
        done = run_cli(
            *("start", "--data-dir", str(directory)),
            *("--p2p-port", ports["p2p"], "--api-port", ports["api"]),
        )
    assert done.returncode == FAILED
    (line,) = done.stderr.splitlines()
    assert f"127.0.0.1:{port}" in line
    assert f"--{which}-port" in line
    assert not (directory / "node.json").exists()


def test_a_wrong_setting_stops_the_start_with_one_line_that_names_it(nodes: Nodes) -> None:
    done = run_cli("start", "--data-dir", str(nodes.directory / "a"), MAX_PEERS="many")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "MAX_PEERS" in line
    assert "many" in line


@in_both_modes
def test_a_node_that_freezes_is_not_shown_and_is_back_when_it_thaws(nodes: Nodes) -> None:
    a, b = nodes.pair(PRESENCE_LEASE_MS="1500")
    sold = a.sell(5, 10)
    eventually(b.asks)
    a.send_signal(signal.SIGSTOP)
    eventually(lambda: b.asks() == {})
    assert b.status().nodes_present == 1
    # Nothing to trade with: the order rests, it does not hang.
    bid = b.buy(1, 9)
    assert bid.status == "open"
    a.send_signal(signal.SIGCONT)
    eventually(lambda: b.asks() == {"10": "5"})
    eventually(lambda: a.bids() == {"9": "1"})
    bought = b.buy(2, 10)
    eventually(lambda: b.get_order(bought.id).status == "filled")
    eventually(lambda: a.get_order(sold.id).filled == "2")
    eventually(lambda: trade_ids(a.fills()) == trade_ids(b.fills()))


@in_both_modes
def test_a_take_of_a_frozen_owner_is_pending_and_settles_when_it_thaws(nodes: Nodes) -> None:
    a, b = nodes.pair()  # the lease is long: the order is still shown
    sold = a.sell(5, 10)
    eventually(b.asks)
    a.send_signal(signal.SIGSTOP)
    bought = b.buy(2, 10)
    assert (bought.status, bought.pending, bought.filled) == ("pending", "2", "0")
    assert b.status().pending_takes == 1
    assert b.asks() == {"10": "3"}  # what is asked for is not offered to anybody twice
    a.send_signal(signal.SIGCONT)
    eventually(lambda: b.get_order(bought.id).status == "filled")
    assert b.status().pending_takes == 0
    eventually(lambda: a.get_order(sold.id).filled == "2")
    eventually(lambda: trade_ids(a.fills()) == trade_ids(b.fills()) != [])
