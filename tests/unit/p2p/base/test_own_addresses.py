"""Addresses of this machine: how often its interfaces are looked at."""

from __future__ import annotations

from p2p.base.own_addresses import LOOKED, OwnHosts


def test_interfaces_are_looked_at_once_a_minute_and_spellings_are_one() -> None:
    times = [0.0]
    looks: list[list[str]] = [["11.0.0.1", "2a0b::1"], ["11.0.0.2"]]
    hosts = OwnHosts(lambda: times[0], lambda: looks.pop(0))
    assert "11.0.0.1" in hosts
    assert "2A0B:0::1" in hosts
    assert "::ffff:11.0.0.1" in hosts
    times[0] = LOOKED - 1
    assert "11.0.0.2" not in hosts
    times[0] = LOOKED
    assert "11.0.0.2" in hosts
    assert "11.0.0.1" not in hosts
