from __future__ import annotations

from collections import Counter, deque

from hypothesis import given
from hypothesis import strategies as st

from p2p.wire.link_turns import LinkTurns

Work = dict[str, deque[float]]


def serve(turns: LinkTurns[str], work: Work, flows: dict[str, str]) -> str:
    """Serve messages of the next link until its seconds are over, as a connection does."""
    chosen = turns.next()
    assert chosen is not None
    link, seconds = chosen
    used = 0.0
    while work[link] and (not used or used < seconds):
        used += work[link].popleft()
    turns.charge(link, flows[link], used, more=bool(work[link]))
    return link


def begin(work: Work, flows: dict[str, str]) -> LinkTurns[str]:
    turns: LinkTurns[str] = LinkTurns(1.0)
    for link, messages in work.items():
        if messages:
            turns.arrived(link, flows[link])
    return turns


class TestOrder:
    def test_a_link_that_sends_little_goes_before_those_that_wait(self):
        work = {"heavy": deque([1.0] * 10), "other": deque([1.0] * 10), "light": deque([0.1])}
        flows = {link: link for link in work}
        turns = begin({"heavy": work["heavy"], "other": work["other"]}, flows)
        assert [serve(turns, work, flows) for _ in range(3)] == ["heavy", "other", "heavy"]
        turns.arrived("light", "light")
        assert serve(turns, work, flows) == "light"

    def test_links_of_one_flow_share_one_turn(self):
        flows = {f"crowd {n}": "crowd" for n in range(9)} | {"one": "one"}
        work = {link: deque([1.0] * 10) for link in flows}
        turns = begin(work, flows)
        served = Counter(flows[serve(turns, work, flows)] for _ in range(20))
        assert served == {"crowd": 10, "one": 10}

    def test_links_of_one_flow_take_turns(self):
        flows = dict.fromkeys(("a", "b", "c"), "crowd")
        work = {link: deque([1.0] * 4) for link in flows}
        turns = begin(work, flows)
        assert "".join(serve(turns, work, flows) for _ in range(6)) == "abcabc"

    def test_a_link_whose_message_took_long_waits_until_the_others_had_as_much(self):
        work = {"long": deque([5.0, 5.0]), "short": deque([1.0] * 20)}
        flows = {link: link for link in work}
        turns = begin(work, flows)
        order = [serve(turns, work, flows) for _ in range(7)]
        assert order == ["long", "short", "short", "short", "short", "short", "long"]

    def test_a_link_that_is_new_again_and_again_does_not_starve_one_that_waits(self):
        work = {"waits": deque([1.0] * 5), "returns": deque([1.0])}
        flows = {link: link for link in work}
        turns = begin(work, flows)
        served: Counter[str] = Counter()
        for _ in range(9):
            link = serve(turns, work, flows)
            served[link] += 1
            if link == "returns":
                work[link].append(1.0)
                turns.arrived(link, link)
        assert served["waits"] >= 4

    def test_a_link_that_has_used_its_quantum_goes_after_one_that_came_later(self):
        work = {"heavy": deque([0.6]), "light": deque([0.1])}
        flows = {link: link for link in work}
        turns = begin({"heavy": work["heavy"]}, flows)
        assert serve(turns, work, flows) == "heavy"
        assert turns.allowance("heavy") == 0.4
        work["heavy"] += [0.6, 0.6]
        turns.arrived("heavy", "heavy")
        assert serve(turns, work, flows) == "heavy"
        assert turns.allowance("heavy") == 0.0
        turns.arrived("light", "light")
        assert serve(turns, work, flows) == "light"
        assert turns.allowance("light") == 1.0
        assert serve(turns, work, flows) == "heavy"

    def test_a_link_that_is_gone_is_not_served(self):
        work = {"gone": deque([1.0]), "stays": deque([1.0])}
        flows = {link: link for link in work}
        turns = begin(work, flows)
        turns.gone("gone", "gone")
        assert serve(turns, work, flows) == "stays"
        assert turns.next() is None
        assert not turns.waiting


@given(
    st.dictionaries(
        st.sampled_from("abcdefgh"),
        st.lists(st.floats(0.01, 3.0), max_size=30),
        min_size=1,
    ),
    st.lists(st.sampled_from("xyz"), min_size=8, max_size=8),
)
def test_each_message_is_served_once_and_flows_that_wait_get_equal_time(messages, groups):
    flows = dict(zip("abcdefgh", groups, strict=True))
    work = {link: deque(costs) for link, costs in messages.items()}
    turns = begin(work, flows)
    used: Counter[str] = Counter()
    while turns.next() is not None:
        before = {flow for link, flow in flows.items() if work.get(link)}
        took = {link: sum(costs) for link, costs in work.items()}
        link = serve(turns, work, flows)
        used[flows[link]] += took[link] - sum(work[link])
        # A flow is ahead of another that still waits by one turn and one message at most.
        waiting = [used[flow] for flow in before & {flows[k] for k, v in work.items() if v}]
        assert not waiting or max(waiting) - min(waiting) <= 2 * (1.0 + 3.0)
    assert not any(work.values())
    assert not turns.waiting
