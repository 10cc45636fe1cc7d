import itertools

import pytest
from peer_network import MemoryLink, info, node_id

from p2p.duplicates import MAX_HELD, SUSPECT_AFTER, LinkTable, Verdict, decides, second_link

LOW, HIGH = node_id("a"), node_id("b")
ALIVE, SILENT = 1.0, SUSPECT_AFTER


@pytest.mark.parametrize(
    ("own", "peer", "silent", "held", "crossed", "verdict"),
    [
        (LOW, HIGH, ALIVE, 0, False, Verdict.REFUSE),
        (LOW, HIGH, ALIVE, 0, True, Verdict.REPLACE),
        (LOW, HIGH, SILENT, 0, False, Verdict.REPLACE),
        (LOW, HIGH, float("inf"), 0, False, Verdict.REPLACE),
        (HIGH, LOW, ALIVE, 0, False, Verdict.HOLD),
        (HIGH, LOW, ALIVE, 0, True, Verdict.HOLD),
        (HIGH, LOW, SILENT, 0, False, Verdict.SWITCH),
        (HIGH, LOW, ALIVE, MAX_HELD - 1, False, Verdict.HOLD),
        (HIGH, LOW, ALIVE, MAX_HELD, False, Verdict.REFUSE),
    ],
)
def test_verdicts(own, peer, silent, held, crossed, verdict):
    assert second_link(own, peer, silent_for=silent, held=held, crossed=crossed) is verdict


def test_exactly_one_side_decides():
    assert decides(LOW, HIGH) != decides(HIGH, LOW)


@pytest.mark.parametrize(
    ("low_sees", "high_sees"), list(itertools.product([0.0, ALIVE, SILENT, 1e9], repeat=2))
)
@pytest.mark.parametrize("crossed", [False, True])
def test_whatever_each_side_has_seen_only_one_of_them_closes_a_link(low_sees, high_sees, crossed):
    closing = {Verdict.REFUSE, Verdict.REPLACE}
    low = second_link(LOW, HIGH, silent_for=low_sees, crossed=crossed)
    high = second_link(HIGH, LOW, silent_for=high_sees, crossed=crossed)
    assert low in closing
    assert high not in closing


def link(peer, now=0.0):
    return MemoryLink(info(peer), now=now)


def test_the_first_link_is_used():
    table = LinkTable(LOW)
    first = link(HIGH)
    change = table.up(first, 0.0)
    assert (change.before, change.after, change.close) == (None, first, [])
    assert table.used == {HIGH: first}


def test_the_deciding_side_closes_the_second_link_while_the_first_is_alive():
    table = LinkTable(LOW)
    first, second = link(HIGH), link(HIGH)
    table.up(first, 0.0)
    change = table.up(second, ALIVE)
    assert change.close == [second]
    assert table.used[HIGH] is first
    assert table.heard(second) is None
    table.down(second)
    assert table.used[HIGH] is first


def test_the_deciding_side_takes_the_second_link_when_the_first_is_silent():
    table = LinkTable(LOW)
    first, second = link(HIGH), link(HIGH, now=SILENT)
    table.up(first, 0.0)
    change = table.up(second, SILENT)
    assert (change.before, change.after, change.close) == (first, second, [first])
    table.down(first)
    assert table.used[HIGH] is second


def test_of_two_links_that_crossed_the_deciding_side_takes_its_own():
    table = LinkTable(LOW)
    theirs, ours = link(HIGH, now=1.0), link(HIGH, now=1.1)
    table.up(theirs, 1.0)
    assert table.verdict(HIGH, 1.1, dialled_at=0.9) is Verdict.REPLACE
    assert table.up(ours, 1.1, dialled_at=0.9).close == [theirs]
    feeler = link(HIGH, now=1.2)
    assert table.up(feeler, 1.2, dialled_at=1.15).close == [feeler]


def test_the_other_side_holds_the_second_link_until_the_first_is_gone():
    table = LinkTable(HIGH)
    first, second = link(LOW), link(LOW)
    table.up(first, 0.0)
    change = table.up(second, ALIVE)
    assert change.before is change.after is first
    assert change.close == []
    change = table.down(first)
    assert (change.before, change.after) == (first, second)
    change = table.down(second)
    assert (change.before, change.after) == (second, None)
    assert table.used == {}


def test_a_message_on_the_held_link_is_the_decision_and_a_late_one_on_the_old_link_is_not():
    table = LinkTable(HIGH)
    first, second = link(LOW), link(LOW)
    table.up(first, 0.0)
    table.up(second, ALIVE)
    assert table.heard(second).after is second
    late = table.heard(first)
    assert late.before is late.after is second
    table.down(first)
    assert table.used[LOW] is second


def test_when_the_decision_falls_on_the_old_link_the_held_one_goes_unnoticed():
    table = LinkTable(HIGH)
    first, second = link(LOW), link(LOW)
    table.up(first, 0.0)
    table.up(second, ALIVE)
    change = table.down(second)
    assert change.before is change.after is first


def test_a_silent_link_is_left_for_the_new_one_and_taken_back_if_that_is_refused():
    table = LinkTable(HIGH)
    first, second = link(LOW), link(LOW, now=SILENT)
    table.up(first, 0.0)
    change = table.up(second, SILENT)
    assert (change.before, change.after, change.close) == (first, second, [])
    assert table.down(second).after is first


def test_a_closed_link_is_never_taken_back():
    table = LinkTable(HIGH)
    first, second = link(LOW), link(LOW)
    table.up(first, 0.0)
    table.up(second, ALIVE)
    second.closed = True
    assert table.down(first).after is None
    assert table.used == {}


def test_links_beyond_the_bound_are_refused():
    table = LinkTable(HIGH)
    links = [link(LOW) for _ in range(MAX_HELD + 2)]
    closed = [close for each in links for close in table.up(each, 0.0).close]
    assert closed == links[-1:]
