"""kill -9 of maker, taker or both at each step of a take: nothing is lost, nothing happens twice.

The cases use the same two nodes one after the other, so that each has a longer past to recover.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
from processes import (
    NodeProcess,
    Nodes,
    bootstrap_options,
    eventually,
    same_books,
    see_each_other,
    show_logs,
    trade_ids,
)

from node.client.exchange_client import ClientError
from node.views.views import OrderView

LAUNCHER = (str(Path(__file__).with_name("crashing_node.py")),)

# The steps of a take in order, and who is killed there.
STEPS = [
    ("taker", "before-commit:PendingTake"),  # the taker's order and its intent: never acknowledged
    ("taker", "after-commit:PendingTake"),  # the intent is durable, the maker was not asked
    ("taker", "after-send:take"),  # asked; the answer finds nobody
    ("maker", "before-receive:take"),
    ("maker", "before-commit:Decision"),  # decided in memory only
    ("maker", "after-commit:Decision"),  # decided for good, not answered
    ("maker", "after-send:take_result"),  # answered, and gone
    ("taker", "before-receive:take_result"),
    ("taker", "before-commit:DropTake"),  # knows, and forgets that it knew
    ("taker", "after-commit:DropTake"),
    ("maker", "before-commit:DropDecisions"),  # the next take says what the taker knows
]
RESTING, TAKEN, AGAIN = 10, 4, 3


@dataclass
class Pair:
    """Maker and taker, and how often they were used."""

    nodes: Nodes
    maker: NodeProcess
    taker: NodeProcess
    rounds: count[int]
    sound: bool = True  # the last case ended well

    @classmethod
    def start(cls, directory: Path, mode: str) -> Pair:
        directory.mkdir()
        nodes = Nodes(directory, mode)
        maker, taker = (
            nodes.make(name, CRASH_FILE=str(directory / f"{name}.crash"))
            for name in ("maker", "taker")
        )
        maker.program = taker.program = LAUNCHER
        maker.start()
        taker.options = bootstrap_options(maker.p2p_address)
        taker.start()
        maker.options = bootstrap_options(
            taker.p2p_address
        )  # for restarts: no waiting for a redial
        see_each_other(maker, taker)
        return cls(nodes, maker, taker, count(1))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Both sides killed at once says nothing of how links are carried: once is enough for that."""
    if "both" in metafunc.fixturenames:
        cases = [("p2p", False), ("p2p", True), ("grenache", False)]
        metafunc.parametrize(
            ("pairs", "both"),
            cases,
            indirect=["pairs"],
            ids=["one", "both", "one over Grenache"],
            scope="module",  # or each case would get a new pair, because `both` is no fixture
        )
    elif "pair" in metafunc.fixturenames:
        metafunc.parametrize("pairs", ["p2p", "grenache"], indirect=True)


@pytest.fixture(scope="module")
def pairs(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[list[Pair]]:
    """The pair in use is the last one."""
    found = [Pair.start(tmp_path_factory.mktemp("kill9") / "1", request.param)]
    yield found
    for pair in found:
        pair.nodes.cleanup()


@pytest.fixture
def pair(pairs: list[Pair], request: pytest.FixtureRequest) -> Pair:
    if not pairs[-1].sound:
        pairs[-1].nodes.cleanup()
        directory = pairs[-1].nodes.directory.with_name(str(len(pairs) + 1))
        pairs.append(Pair.start(directory, pairs[-1].nodes.mode))
    show_logs(request, pairs[-1].nodes)
    return pairs[-1]


def submit(taker: NodeProcess, quantity: int, price: int, client_id: str) -> OrderView | None:
    """The answer, None when the node died over it. With the same id it is safe to repeat."""
    try:
        return taker.buy(quantity, price, client_id=client_id)
    except ClientError:
        return None


@pytest.mark.parametrize(("victim", "point"), STEPS, ids=[f"{v}-{p}" for v, p in STEPS])
def test_a_take_is_settled_once_after_a_kill_of_either_side_at_any_step(
    pair: Pair, victim: str, point: str, both: bool
) -> None:
    pair.sound = False
    maker, taker = pair.maker, pair.taker
    armed, other = (maker, taker) if victim == "maker" else (taker, maker)
    price = 100 + next(pair.rounds)
    before = len(maker.fills())
    resting = maker.sell(RESTING, price)
    eventually(taker.asks)

    pid = other.process.pid if both and other.process else 0
    crash_file = Path(armed.settings["CRASH_FILE"])
    draft = crash_file.with_suffix(".draft")
    draft.write_text(f"{point} {pid}", "ascii")
    draft.rename(crash_file)  # the node may look at any moment, and must find all of it or nothing
    answer = submit(taker, TAKEN, price, f"{price} first")
    assert armed.exit_code(20) == -signal.SIGKILL, "the point was not reached"
    if both:
        assert other.exit_code() == -signal.SIGKILL
    elif point == "after-send:take":
        eventually(lambda: len(maker.fills()) > before)  # it did leave
    elif point == "after-send:take_result":
        eventually(lambda: len(taker.fills()) > before)

    dead = [node for node in (maker, taker) if not node.running]
    for node in dead:
        node.launch()
    for node in dead:
        node.ready()
    # The client repeats what it may have no answer to, and goes on.
    first = submit(taker, TAKEN, price, f"{price} first")
    second = submit(taker, AGAIN, price, f"{price} second")
    assert first is not None
    assert second is not None
    assert answer is None or answer.id == first.id

    for order in (first, second):
        eventually(
            lambda number=order.id: taker.get_order(number).status == "filled",
            what=lambda: (taker.orders(open_only=False), taker.status(), maker.orders()),
        )
    eventually(lambda: trade_ids(maker.fills()) == trade_ids(taker.fills()))
    left = maker.get_order(resting.id)
    assert (left.filled, left.status) == (str(TAKEN + AGAIN), "open")
    assert (left.remaining, left.pending) == (str(RESTING - TAKEN - AGAIN), "0")
    same_books(maker, taker)
    assert maker.asks() == taker.asks() == {str(price): left.remaining}
    assert maker.status().pending_takes == taker.status().pending_takes == 0
    check_journals(maker, taker)

    maker.cancel(resting.id)
    eventually(lambda: taker.asks() == {})
    pair.sound = True


def test_after_all_that_both_stop_in_order_and_their_journals_add_up(pair: Pair) -> None:
    pair.sound = False
    for node in (pair.maker, pair.taker):
        node.send_signal(signal.SIGTERM)
    assert [node.exit_code() for node in (pair.maker, pair.taker)] == [0, 0]
    check_journals(pair.maker, pair.taker)


def check_journals(*nodes: NodeProcess) -> None:
    """Check that the journals on the disks add up."""
    position: Counter[str] = Counter()
    sides: dict[tuple[str, int], list[tuple[str, int, int]]] = {}
    for node in nodes:
        recovered, fills = node.journal()
        assert recovered.takes == []
        filled: Counter[int] = Counter()
        for fill in fills:
            filled[fill.order] += fill.quantity
            position["base"] += fill.side * fill.quantity
            position["quote"] -= fill.side * fill.quantity * fill.price
            side = (fill.role, fill.quantity, fill.price)
            sides.setdefault((fill.taker, fill.take), []).append(side)
        for order in recovered.orders:
            assert order.filled == filled.pop(order.number, 0)
            assert order.filled <= order.quantity
            assert order.pending == 0
        assert not filled, f"fills of orders that {node.name} does not know"
    assert set(position.values()) <= {0}, position
    for roles in sides.values():
        (maker, *made), (taker, *taken) = sorted(roles)
        assert (maker, taker, made) == ("maker", "taker", taken)
