"""Readiness: each condition alone makes the node unready, with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from node.service import readiness
from node.service.readiness import Readiness
from p2p.mesh.clock_offsets import LIFETIME, ClockOffsets


@dataclass
class Parts:
    """Engine, journal and committer, as far as they are read; and the two clocks."""

    stale: str | None = None
    fenced: bool = False
    loading: int = 0
    trouble: str | None = None
    failed: str | None = None
    write_age: float = 0.0
    now: float = 100.0
    wall: float = 1e9

    @property
    def journal(self) -> Parts:
        return self

    def feeds_loading(self, now: float) -> int:
        return self.loading


@pytest.fixture
def parts() -> Parts:
    return Parts()


@pytest.fixture
def offsets() -> ClockOffsets:
    return ClockOffsets()


@pytest.fixture
def ready(parts: Parts, offsets: ClockOffsets, tmp_path: Path) -> Readiness:
    part = cast(Any, parts)
    return Readiness(
        part,
        part,
        tmp_path,
        offsets,
        lambda: parts.now,
        lambda: parts.wall,
    )


def faults(ready: Readiness, not_listening: str = "") -> dict[str, str]:
    view = ready.view(not_listening)
    found = {check.name: check.reason for check in view.checks if not check.ok}
    assert view.ready == (not found)
    return found


def test_a_healthy_node_is_ready_with_reasons(ready: Readiness) -> None:
    assert faults(ready) == {}
    names = [check.name for check in ready.view("").checks]
    assert names == ["listening", "current", "feeds", "disk", "clock"]
    assert all(check.reason for check in ready.view("").checks)


def test_each_condition_alone(
    ready: Readiness, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert faults(ready, "no port") == {"listening": "no port"}
    parts.stale = "an old copy"
    assert faults(ready) == {"current": "an old copy"}
    parts.stale, parts.fenced = None, True
    assert "just started" in faults(ready)["current"]
    parts.fenced = False
    parts.failed = "no space left"
    assert faults(ready) == {"disk": "no space left"}
    parts.failed, parts.write_age = None, 9.0
    assert "9 s" in faults(ready)["disk"]
    parts.write_age, parts.trouble = 0.0, "the archive is locked"
    assert faults(ready) == {"disk": "the archive is locked"}
    parts.trouble = None
    monkeypatch.setattr(readiness, "LEAST_DISK", 1 << 80)
    assert "MiB are free" in faults(ready)["disk"]


def test_feeds_may_be_behind_for_a_moment(ready: Readiness, parts: Parts) -> None:
    parts.loading = 2
    assert faults(ready) == {}
    parts.now += readiness.BEHIND_MAX + 1
    parts.wall += readiness.BEHIND_MAX + 1
    assert "2 feeds have been behind for 16 s" in faults(ready)["feeds"]
    parts.loading = 0
    assert faults(ready) == {}
    parts.loading = 1
    assert faults(ready) == {}


def test_strangers_who_go_on_to_show_new_feeds_do_not_keep_the_node_from_being_ready(
    ready: Readiness, parts: Parts
) -> None:
    def unready(seconds: int) -> int:
        found = 0
        for second in range(seconds):
            parts.now += 1
            parts.wall += 1
            parts.loading = 0 if pauses and second % 60 == 0 else 1
            found += "feeds" in faults(ready)
        return found

    pauses = False
    assert readiness.BEHIND_PATIENCE <= unready(3600) < 1.1 * readiness.BEHIND_PATIENCE
    pauses = True
    assert unready(3600) < 1.1 * 3600 * readiness.PATIENCE_RATE
    parts.loading = 0
    assert faults(ready) == {}
    parts.now += 3600
    parts.wall += 3600
    pauses = False
    assert unready(60) > 40  # and has its time again


def test_a_clock_that_was_set_is_noticed(ready: Readiness, parts: Parts) -> None:
    parts.now += 3600
    parts.wall += 3600
    assert faults(ready) == {}
    parts.wall -= 30
    assert "set back by 30.0 s" in faults(ready)["clock"]


def note(offsets: ClockOffsets, now: float, node: str, address: str, offset: float) -> None:
    offsets.link_up(node, address)
    offsets.note(now, node, offset)


def clock_text(ready: Readiness) -> tuple[bool, str]:
    (check,) = [check for check in ready.view("").checks if check.name == "clock"]
    return check.ok, check.reason


@pytest.mark.parametrize(
    ("measured", "ok", "words"),
    [
        ([], True, "no neighbour to compare"),
        ([0.1], True, "agrees with 1 network"),
        ([0.1, -2.0, 4.9], True, "agrees with 3 networks"),
        ([3600.0], True, "is 1 h ahead of that of 1 network; it is unknown which clock is wrong"),
        ([-3600.0], True, "is 1 h behind that of 1 network; it is unknown which clock is wrong"),
        ([0.0, 3600.0], True, "1 h ahead of that of 1 network and agrees with 1; it is unknown"),
        ([-40.0, 40.0], True, "it is unknown which clock is wrong"),
        ([0.0, 0.0, 3600.0], True, "1 h ahead of that of 1 network and agrees with 2"),
        ([3600.0, 3601.0], True, "1 h ahead of those of 2 networks; it is unknown"),
        ([3600.0] * 3, False, "is 1 h ahead of those of 3 networks: synchronise it"),
        ([-40.0] * 3 + [0.0], False, "is 40.0 s behind those of 3 of 4 networks: synchronise it"),
        ([200_000.0] * 3, False, "is 2.31 d ahead of those of 3 networks"),
        ([0.0, 0.0, 0.0, 40.0, 40.0, 40.0], True, "it is unknown which clock is wrong"),
    ],
)
def test_the_clock_check_says_what_the_comparison_shows(
    ready: Readiness,
    parts: Parts,
    offsets: ClockOffsets,
    measured: list[float],
    ok: bool,
    words: str,
) -> None:
    for number, offset in enumerate(measured):
        note(offsets, parts.now, f"n{number}", f"10.0.0.{number}", offset)
    found, reason = clock_text(ready)
    assert found == ok
    assert words in reason
    assert ("agrees with the" in reason) is False
    assert ready.view("").ready == ok
    differ = [abs(offset) > readiness.CLOCK_MAX for offset in measured]
    warned = any(differ) and 2 * sum(differ) >= len(differ)
    assert ready.clock_warnings() == ([reason] if warned else [])


def test_a_clock_is_blamed_by_the_median_of_several_networks(
    ready: Readiness, parts: Parts, offsets: ClockOffsets
) -> None:
    for number, offset in enumerate((40.0, 39.0, 0.1)):
        note(offsets, parts.now, f"n{number}", f"5.{number}.0.1", offset)
    assert faults(ready) == {}, "two against one"
    note(offsets, parts.now, "n3", "5.3.0.1", 38.0)
    assert ready.clock_offset == (38.5, 4)
    assert "39.0 s ahead of those of 3 of 4 networks" in faults(ready)["clock"]
    for number in range(3):
        offsets.link_down(f"n{number}")
    assert faults(ready) == {}
    parts.now += LIFETIME + 1
    parts.wall += LIFETIME + 1
    assert ready.clock_offset is None


@pytest.mark.parametrize("address", ["5.1.0.{}", "127.0.0.1", ""])
def test_neighbours_of_one_network_or_machine_have_one_voice(
    ready: Readiness, parts: Parts, offsets: ClockOffsets, address: str
) -> None:
    for number in range(50):
        note(offsets, parts.now, f"sybil {number}", address.format(number), 40.0)
    assert faults(ready) == {}
    assert "of 1 network; it is unknown which clock is wrong" in clock_text(ready)[1]
    for number in range(2):
        note(offsets, parts.now, f"honest {number}", f"6.{number}.0.1", 0.0)
    assert ready.clock_warnings() == []
    assert ready.clock_offset == (0.0, 3)
