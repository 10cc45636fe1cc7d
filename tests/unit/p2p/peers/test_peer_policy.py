"""Pins, bans and closed networks, kept over restarts."""

from __future__ import annotations

import pytest

from node.virtual.server_model import VirtualTime
from p2p.base.errors import Code
from p2p.peers.peer_policy import PeerPolicy

A, B = "a" * 32, "b" * 32


class Wall(VirtualTime):
    def __call__(self) -> float:
        return self.now


@pytest.fixture
def wall() -> Wall:
    return Wall(1_700_000_000.0)


def test_pins_and_bans_survive_a_restart(tmp_path, wall):
    path = tmp_path / "peer-policy.json"
    first = PeerPolicy(path, wall=wall)
    first.pin(A)
    first.ban(B, 3600, "floods")
    first.ban("203.0.113.0/24", 60)
    assert path.stat().st_mode & 0o777 == 0o600
    again = PeerPolicy(path, wall=wall)
    assert again.pins == {A}
    assert [ban.subject for ban in again.bans()] == ["203.0.113.0/24", B]
    assert again.refusal(B, "11.0.0.1").code is Code.ABUSE
    assert "floods" in again.refusal(B, "11.0.0.1").reason
    assert again.refusal(A, "203.0.113.77") is not None
    assert again.refusal(A, "203.0.114.77") is None
    assert again.unpin(A)
    assert not again.unpin(A)
    assert again.unban(B)
    assert not again.unban(B)
    assert PeerPolicy(path, wall=wall).refusal(B, "11.0.0.1") is None


def test_bans_end_by_themselves(wall):
    policy = PeerPolicy(None, wall=wall)
    policy.ban("2001:db8::1", 60)
    assert policy.banned("", "2001:db8:0::1") is not None
    wall.now += 60
    assert policy.banned("", "2001:db8::1") is None
    assert policy.bans() == []


@pytest.mark.parametrize("subject", ["", "k3v7", "203.0.113.0/33", "203.0.113.5/24", "example.org"])
def test_subjects_that_are_neither_nodes_nor_networks_cannot_be_banned(wall, subject):
    with pytest.raises(ValueError, match="expected a node id, an IP address or a network"):
        PeerPolicy(None, wall=wall).ban(subject, 60)


def test_a_closed_network_refuses_all_other_ids(wall):
    policy = PeerPolicy(None, allow=[A], wall=wall)
    assert policy.refusal(A, "11.0.0.1") is None
    refusal = policy.refusal(B, "11.0.0.1")
    assert refusal.code is Code.WRONG_NETWORK
    assert "PEER_ALLOW" in refusal.reason


def test_a_damaged_file_is_refused_and_not_taken_for_an_empty_one(tmp_path, wall):
    path = tmp_path / "peer-policy.json"
    path.write_text('{"version": 1, "bans": [{"subject": "nonsense", "until": 1}]}')
    with pytest.raises(ValueError, match="correct or remove it"):
        PeerPolicy(path, wall=wall)
