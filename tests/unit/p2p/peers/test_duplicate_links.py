import itertools
import random
from dataclasses import dataclass
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peer_network import MemoryLink, info, node_id

from node.virtual.server_model import VirtualTime
from p2p.peers.duplicate_links import (
    LEAVE_AFTER,
    MAX_HELD,
    SUSPECT_AFTER,
    UNCHANGED,
    LinkTable,
    SecondLinkVerdict,
    decides,
    second_link,
)

LOW, HIGH = node_id("a"), node_id("b")
ALIVE, SILENT = 1.0, SUSPECT_AFTER


@pytest.mark.parametrize(
    ("own", "peer", "silent", "held", "crossed", "verdict"),
    [
        (LOW, HIGH, ALIVE, 0, False, SecondLinkVerdict.REFUSE),
        (LOW, HIGH, ALIVE, 0, True, SecondLinkVerdict.REPLACE),
        (LOW, HIGH, SILENT, 0, False, SecondLinkVerdict.REPLACE),
        (LOW, HIGH, float("inf"), 0, False, SecondLinkVerdict.REPLACE),
        (HIGH, LOW, ALIVE, 0, False, SecondLinkVerdict.HOLD),
        (HIGH, LOW, ALIVE, 0, True, SecondLinkVerdict.HOLD),
        (HIGH, LOW, SILENT, 0, False, SecondLinkVerdict.SWITCH),
        (HIGH, LOW, ALIVE, MAX_HELD - 1, False, SecondLinkVerdict.HOLD),
        (HIGH, LOW, ALIVE, MAX_HELD, False, SecondLinkVerdict.REFUSE),
    ],
)
def test_second_links_get_the_verdict_of_the_table(own, peer, silent, held, crossed, verdict):
    assert second_link(own, peer, silent_for=silent, held=held, crossed=crossed) is verdict


def test_exactly_one_side_decides():
    assert decides(LOW, HIGH) != decides(HIGH, LOW)


@pytest.mark.parametrize(
    ("low_sees", "high_sees"), list(itertools.product([0.0, ALIVE, SILENT, 1e9], repeat=2))
)
@pytest.mark.parametrize("crossed", [False, True])
def test_whatever_each_side_has_seen_only_one_of_them_closes_a_link(low_sees, high_sees, crossed):
    closing = {SecondLinkVerdict.REFUSE, SecondLinkVerdict.REPLACE}
    low = second_link(LOW, HIGH, silent_for=low_sees, crossed=crossed)
    high = second_link(HIGH, LOW, silent_for=high_sees, crossed=crossed)
    assert low in closing
    assert high not in closing


@pytest.mark.parametrize("own", [LOW, HIGH])
@pytest.mark.parametrize("silent", [ALIVE, SILENT])
def test_a_direct_link_replaces_one_over_grenache_on_either_deciding_side(own, silent):
    peer = LOW if own is HIGH else HIGH
    upgrade = {"silent_for": silent, "carriers": ("grenache", "tcp")}
    for dialled in (True, False):
        for crossed in (True, False):
            how = {"dialled": dialled, "crossed": crossed}
            assert second_link(own, peer, **how, **upgrade) is SecondLinkVerdict.SWITCH
            assert (
                second_link(own, peer, held=MAX_HELD, **how, **upgrade) is SecondLinkVerdict.SWITCH
            )


@pytest.mark.parametrize("dialled", [True, False])
@pytest.mark.parametrize("crossed", [True, False])
def test_a_link_over_grenache_does_not_replace_a_live_direct_one(dialled, crossed):
    offered = {"carriers": ("tcp", "grenache"), "dialled": dialled, "crossed": crossed}
    verdict = SecondLinkVerdict.HOLD if dialled else SecondLinkVerdict.REFUSE
    assert second_link(LOW, HIGH, silent_for=ALIVE, **offered) is verdict
    assert second_link(HIGH, LOW, silent_for=ALIVE, **offered) is SecondLinkVerdict.HOLD
    assert second_link(LOW, HIGH, silent_for=SILENT, **offered) is SecondLinkVerdict.REPLACE
    assert second_link(HIGH, LOW, silent_for=SILENT, **offered) is SecondLinkVerdict.SWITCH


def link(peer, now=0.0, **more):
    return MemoryLink(info(peer, **more), now=now)


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
    assert table.message_arrived(second, ALIVE) is None
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
    assert table.verdict(ours.peer, 1.1, dialled_at=0.9) is SecondLinkVerdict.REPLACE
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
    assert table.message_arrived(second, 2.0).after is second
    assert table.message_arrived(first, 2.0) is UNCHANGED
    assert table.used[LOW] is second
    table.down(first)
    assert table.used[LOW] is second


def test_held_links_go_unnoticed_when_the_old_link_is_chosen():
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


# Direct links and links over Grenache


@pytest.mark.parametrize(("own", "peer"), [(LOW, HIGH), (HIGH, LOW)])
@pytest.mark.parametrize("dialled", [True, False])
def test_a_direct_link_is_used_at_once_and_the_other_held_until_the_peer_speaks(own, peer, dialled):
    table = LinkTable(own)
    indirect, direct = link(peer, carrier="grenache"), link(peer, outbound=dialled)
    table.up(indirect, 0.0)
    change = table.up(direct, 1.0)
    assert (change.before, change.after, change.close) == (indirect, direct, [])
    assert table.message_arrived(indirect, 1.0) is UNCHANGED  # under way when the links changed
    assert table.message_arrived(direct, 1.0 + LEAVE_AFTER - 0.1).close == []
    late = 1.0 + LEAVE_AFTER
    assert table.message_arrived(direct, late).close == ([indirect] if own is LOW else [])
    assert table.message_arrived(direct, late).close == []
    assert table.down(indirect).after is direct
    assert table.down(direct).after is None


def test_a_direct_link_that_dies_before_that_leaves_the_one_over_grenache():
    table = LinkTable(LOW)
    indirect, direct = link(HIGH, carrier="grenache"), link(HIGH)
    table.up(indirect, 0.0)
    table.up(direct, 1.0)
    change = table.down(direct)
    assert (change.before, change.after) == (direct, indirect)


def test_a_message_over_grenache_never_takes_over_from_a_direct_link():
    table = LinkTable(HIGH)
    direct, indirect = link(LOW), link(LOW, carrier="grenache")
    table.up(direct, 0.0)
    table.up(indirect, ALIVE)
    assert table.message_arrived(indirect, 5.0) is UNCHANGED


def test_the_heir_of_a_direct_link_is_a_direct_one_if_there_is_one():
    table = LinkTable(HIGH)
    first, second = link(LOW), link(LOW)
    indirect = link(LOW, carrier="grenache")
    for each in (first, second, indirect):
        table.up(each, 0.0)
    assert table.down(first).after is second
    assert table.down(second).after is indirect


@dataclass
class Wire:
    """A link between LOW and HIGH: an end for each, None while it is not up there or gone."""

    carrier: str
    dialler: str
    ends: dict


class PairOfTables(VirtualTime):
    """Two nodes that make links of both kinds. Everything takes a random while, links keep order."""

    def __init__(self, seed):
        super().__init__()
        self.rng = random.Random(seed)
        self.tables = {LOW: LinkTable(LOW), HIGH: LinkTable(HIGH)}
        self.wires = []
        self.free = {}
        self.lost = []

    def later(self, wire, to, call):
        """Over `wire`, towards `to`."""
        key = (id(wire), to)
        delay = self.rng.choice([0.001, 0.01, 0.1, 0.5])
        self.free[key] = max(self.free.get(key, 0.0), self.now + delay)
        self.at(self.free[key], call)

    def settle(self):
        while self.next_due < inf:
            self.step()

    def dial(self, dialler, carrier):
        """Unless there is no need to: a link of any kind, or a direct one."""
        used = self.used(dialler)
        if used is not None and (used.carrier == "tcp" or carrier == "grenache"):
            return
        accepter = HIGH if dialler is LOW else LOW
        wire = Wire(carrier, dialler, {LOW: None, HIGH: None})
        self.wires.append(wire)
        since = self.now

        def accept():
            info_of_dialler = info(dialler, carrier=carrier, outbound=False)
            if self.tables[accepter].verdict(info_of_dialler, self.now) is SecondLinkVerdict.REFUSE:
                return
            self.up(wire, accepter, None)
            self.later(wire, dialler, answer)

        def answer():
            if wire.ends[accepter] == "closed":
                return
            peer = info(accepter, carrier=carrier)
            if self.tables[dialler].verdict(peer, self.now, since) is SecondLinkVerdict.REFUSE:
                wire.ends[dialler] = "closed"
                self.later(wire, accepter, lambda: self.down(wire, accepter))
                return
            self.up(wire, dialler, since)

        self.later(wire, accepter, accept)

    def up(self, wire, own, dialled_at):
        peer = HIGH if own is LOW else LOW
        end = link(peer, carrier=wire.carrier, outbound=wire.dialler is own, now=self.now)
        end.stats.last_seen = 1e9  # always alive
        wire.ends[own] = end
        self.change(self.tables[own].up(end, self.now, dialled_at), own)

    def change(self, change, own):
        if change.before is not None and change.after is None:
            self.lost.append((self.now, own))
        peer = HIGH if own is LOW else LOW
        for closing in change.close:
            (wire,) = [w for w in self.wires if w.ends[own] is closing]
            closing.closed = True
            wire.ends[own] = "closed"
            self.tables[own].down(closing)
            self.later(wire, peer, lambda wire=wire: self.down(wire, peer))

    def down(self, wire, own):
        end = wire.ends[own]
        wire.ends[own] = "closed"
        if end is not None and end != "closed":
            end.closed = True
            self.change(self.tables[own].down(end), own)

    def say(self, own):
        """A message on the link in use."""
        peer = HIGH if own is LOW else LOW
        used = self.tables[own].used.get(peer)
        for wire in self.wires:
            if used is not None and wire.ends[own] is used:
                self.later(wire, peer, lambda wire=wire: self.hear(wire, peer))

    def hear(self, wire, own):
        end = wire.ends[own]
        if end is not None and end != "closed":
            change = self.tables[own].message_arrived(end, self.now)
            if change is not None:
                self.change(change, own)

    def used(self, own):
        peer = HIGH if own is LOW else LOW
        end = self.tables[own].used.get(peer)
        return next((w for w in self.wires if end is not None and w.ends[own] is end), None)


@given(
    st.integers(0, 2**32),
    st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.0, 0.02, 0.3, 1.5]),
            st.sampled_from([LOW, HIGH]),
            st.sampled_from(["tcp", "grenache", "message"]),
        ),
        min_size=1,
        max_size=8,
    ),
)
@settings(max_examples=300)
def test_in_whatever_order_links_come_up_one_stays_on_both_sides_and_it_is_direct(seed, events):
    pair = PairOfTables(seed)
    at = 0.0
    for pause, who, what in events:
        at += pause
        if what == "message":
            pair.at(at, lambda who=who: pair.say(who))
        else:
            pair.at(at, lambda who=who, what=what: pair.dial(who, what))
    pair.settle()
    for who in (LOW, HIGH):  # nodes always have something to say
        pair.at(pair.now + LEAVE_AFTER, lambda who=who: pair.say(who))
    pair.settle()
    kinds = {what for _, _, what in events} - {"message"}
    low, high = pair.used(LOW), pair.used(HIGH)
    assert low is high
    assert pair.lost == []
    if kinds:
        assert low.carrier == ("tcp" if "tcp" in kinds else "grenache")
        assert [
            w for w in pair.wires if "closed" not in w.ends.values() and all(w.ends.values())
        ] == [low]
