"""Pins, bans that end and closed networks, by the commands of an operator against real nodes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from json_peer import JsonPeer, Refused
from processes import NodeProcess, Nodes, eventually, run_cli

SECONDS = 4  # of a short ban


def row(node: NodeProcess, other: NodeProcess) -> dict[str, Any]:
    """The command's output about a peer, from JSON; empty for a peer that is not known."""
    rows = node.cli("peers")
    return next((each for each in rows if each["node_id"] == other.node_id), {})


def connected(node: NodeProcess, other: NodeProcess) -> bool:
    return other.node_id in node.linked()


def refused(node: NodeProcess, *arguments: str) -> str:
    done = run_cli(*arguments, "--data-dir", str(node.data_dir))
    assert done.returncode != 0, done.stdout
    return done.stderr


def test_a_ban_ends_the_link_with_its_reason_and_expires(nodes: Nodes) -> None:
    a, b = nodes.pair()
    begun = time.monotonic()
    told = a.cli("peers", "--ban", b.node_id[:8], "--for", f"{SECONDS}s", "--reason", "floods")
    assert [(ban["subject"], ban["reason"]) for ban in told["bans"]] == [(b.node_id, "floods")]
    assert told == a.cli("peers", "--policy")
    assert [ban.subject for ban in a.ask(lambda client: client.peer_policy()).bans] == [b.node_id]
    eventually(lambda: not connected(a, b) and not connected(b, a))
    assert row(a, b)["banned_until"] == told["bans"][0]["until"]
    if time.monotonic() - begun < SECONDS - 1.5:
        text = refused(b, "connect", a.p2p_address)
        assert "this node refuses you for" in text
        assert "floods" in text
    eventually(lambda: a.cli("peers", "--policy")["bans"] == [])
    assert time.monotonic() - begun >= SECONDS - 0.1
    assert row(a, b)["banned_until"] is None
    assert b.cli("connect", a.p2p_address)["status"] == "connected"
    assert connected(a, b)


def test_a_ban_of_a_node_holds_over_a_restart_until_it_is_removed(nodes: Nodes) -> None:
    a, b = nodes.pair()
    # Before a has dialled back, it would not know over the restart where b listens.
    eventually(lambda: a.remembers(b))
    a.cli("peers", "--ban", b.node_id, "--for", "1h", "--reason", "takes and never pays")
    a.stop()
    a.restart()
    line = next(
        line
        for line in a.cli("peers", "--policy", json_output=False).splitlines()
        if b.node_id in line
    )
    assert line.startswith("banned ")
    assert line.endswith("takes and never pays")
    time.sleep(1.0)
    assert not connected(a, b)
    assert "takes and never pays" in refused(b, "connect", a.p2p_address)
    eventually(lambda: "takes and never pays" in (row(b, a)["last_error"] or ""), 60.0)
    a.cli("peers", "--unban", b.node_id[:6])
    eventually(lambda: connected(a, b))  # by itself: b waits ten minutes before it dials again
    assert "is not banned" in refused(a, "peers", "--unban", b.node_id)


def test_networks_and_addresses_are_banned_and_others_stay(nodes: Nodes) -> None:
    a, b = nodes.pair(P2P_SECURITY="off")
    told = a.cli("peers", "--ban", "127.0.0.8/30", "--for", "2h")
    a.cli("peers", "--ban", "2001:db8::/32", "--for", "1h")
    assert [ban["subject"] for ban in told["bans"]] == ["127.0.0.8/30"]
    with pytest.raises((Refused, ConnectionError)):
        stranger(a, "127.0.0.9")
    stranger(a, "127.0.0.12").close()
    assert connected(a, b)
    assert "2001:db8::/32" in a.cli("peers", "--policy", json_output=False)
    for subject in ("127.0.0.9/30", "example.org", "xyz"):
        assert subject in refused(a, "peers", "--ban", subject)


def stranger(node: NodeProcess, source: str) -> JsonPeer:
    """A link from another loopback address."""
    peer = JsonPeer(node.p2p_address, source=source)
    try:
        peer.shake_hands()
    except BaseException:
        peer.close()
        raise
    return peer


def test_a_pinned_peer_is_shown_as_such_over_restarts(nodes: Nodes) -> None:
    a, b = nodes.pair()
    assert row(a, b)["privilege"] is None
    assert a.cli("peers", "--pin", b.node_id[:5])["pins"] == [b.node_id]
    assert row(a, b)["privilege"] == "pinned"
    a.stop()
    a.restart()
    eventually(lambda: connected(a, b), 60.0)
    assert row(a, b)["privilege"] == "pinned"
    assert a.cli("peers", "--unpin", b.node_id)["pins"] == []
    assert row(a, b)["privilege"] != "pinned"


def test_a_closed_network_links_to_the_nodes_of_its_list_only(nodes: Nodes, tmp_path: Path) -> None:
    friend, stranger = nodes.start("friend"), nodes.start("stranger")
    closed = nodes.start("closed", PEER_ALLOW=friend.node_id)
    assert closed.cli("peers", "--policy")["allow"] == [friend.node_id]
    text = refused(stranger, "connect", closed.p2p_address)
    assert "PEER_ALLOW, and yours is not among them" in text
    assert refused(closed, "connect", stranger.p2p_address)
    assert closed.linked() == stranger.linked() == set()
    assert friend.cli("connect", closed.p2p_address)["status"] == "connected"
    eventually(lambda: connected(closed, friend))
    closed.sell(2, 10)
    eventually(lambda: friend.asks() == {"10": "2"})
    assert stranger.asks() == {}
