"""The choice of the links that push broadcasts."""

from __future__ import annotations

from p2p.mesh.push_choice import BroadcastArrivals, PushChoice


def run(seconds: float, *, far_by: str) -> PushChoice:
    """Let a node with two links into the network, and four that bring nothing, choose. Two busy origins are behind
    "left", the others behind "right". `far_by` brings what the busy ones broadcast after a second.
    """
    choice = PushChoice()
    for name in ("left", "right", "mute1", "mute2", "mute3", "mute4"):
        choice.link_up(0.0, name, able=True)
    now, step = 0.0, 0
    while now < seconds:
        step += 1
        far = "left" if now < 1.0 else far_by
        for origin, via in (("far1", far), ("far2", far), (f"near{step % 4}", "right")):
            row = BroadcastArrivals(now, origin, direct=False, arrivals={via: now})
            choice.arrived(row)
        now += 0.1
        if choice.review_at is not None and now >= choice.review_at:
            choice.review(now)
    return choice


def test_a_link_that_only_brings_busy_origins_is_not_dropped_as_mute() -> None:
    assert "left" in run(20.0, far_by="left").chosen


def test_a_link_that_brings_nothing_any_more_is_dropped() -> None:
    assert "left" not in run(20.0, far_by="right").chosen
