"""The own nodes of a desk: how they are named, and sums over them."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.annexes.desk.desk_profile import MAX_NODES, nodes_of, read_profile
from node.annexes.desk.desk_reader import join_fills, net_obligations, sum_balances
from node.views.account_views import ObligationView
from node.views.views import BalanceView, FillView

A, B, OUTSIDE = "a" * 32, "b" * 32, "c" * 32


def fill(
    number: int, role: str, counterparty: str, *, time: str = "2026-01-01T00:00:00Z", taker: str = A
) -> FillView:
    return FillView(
        id=f"{taker}:{number}",
        market="BTC-USD",
        order_id=f"{role}-{number}",
        role=role,  # type: ignore[arg-type]
        side="buy",
        price="10",
        quantity="1",
        time=time,
        counterparty=counterparty,
        counterparty_order_id="x-1",
    )


def owed(peer: str, asset: str, amount: str, direction: str) -> ObligationView:
    return ObligationView(
        peer=peer,
        asset=asset,
        amount=amount,
        direction=direction,
        limit=None,
        room=None,  # type: ignore[arg-type]
    )


def test_nodes_are_directories_and_addresses() -> None:
    nodes = nodes_of("/srv/alice, 10.0.0.2:8300,https://bob.example:8300 ,")
    assert [(n.name, n.data_dir, n.api) for n in nodes] == [
        ("alice", "/srv/alice", None),
        ("10.0.0.2:8300", None, "10.0.0.2:8300"),
        ("https://bob.example:8300", None, "https://bob.example:8300"),
    ]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (" , ", "names no node"),
        ("/a/x,/b/x", "two nodes named 'x'"),
        (",".join(f"/n/{n}" for n in range(MAX_NODES + 1)), "at most 64"),
    ],
)
def test_lists_that_name_no_desk(text: str, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        nodes_of(text)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", r"has no \[\[node\]\]"),
        ("node = 3", r"has no \[\[node\]\]"),
        ("[[", "no TOML file"),
        ("node = []", "names no node"),
        ("node = [3]", "node 1 is no table"),
        ('[[node]]\nname = "a"', "node 1 needs one of data_dir and api"),
        ('[[node]]\ndata_dir = "a"\napi = "b"', "needs one of data_dir and api"),
        ("[[node]]\ndata_dir = 3", "data_dir is 3; expected a text"),
        ('[[node]]\nurl = "b"', "'url'; expected one of name, data_dir"),
        ('[[nodes]]\napi = "b"', "has 'nodes'"),
        ("x" * 70_000, "longer than 65536 bytes"),
    ],
)
def test_profiles_that_cannot_be_used_say_why(tmp_path: Path, text: str, error: str) -> None:
    profile = tmp_path / "desk.toml"
    profile.write_text(text)
    with pytest.raises(ValueError, match=error):
        read_profile(profile)


def test_a_missing_profile_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot read .*none\.toml: no such file"):
        read_profile(tmp_path / "none.toml")


def test_balances_are_summed_exactly() -> None:
    tenth = BalanceView(asset="BTC", total="0.1", held="0.00000001", available="0.09999999")
    minus = BalanceView(asset="BTC", total="-0.3", held="0", available="-0.3")
    usd = BalanceView(asset="ABC", total="5", held="0", available="5")
    abc, btc = sum_balances([tenth, tenth, minus, usd])
    assert (abc.asset, abc.total) == ("ABC", "5")
    assert (btc.total, btc.held, btc.available) == ("-0.1", "0.00000002", "-0.10000002")


def test_obligations_of_all_nodes_to_one_outside_are_netted_and_own_ones_cancel_out() -> None:
    views = [
        owed(OUTSIDE, "USD", "100", "pay"),
        owed(OUTSIDE, "USD", "30.5", "collect"),
        owed(OUTSIDE, "BTC", "1", "pay"),
        owed(OUTSIDE, "BTC", "1", "collect"),
        owed(B, "USD", "7", "pay"),
        owed(A, "USD", "7", "collect"),
        owed(B, "BTC", "2", "collect"),
    ]
    outside, inside = net_obligations(views, {A, B})
    assert [(o.peer, o.asset, o.net) for o in outside] == [(OUTSIDE, "USD", "-69.5")]
    assert [(o.asset, o.net) for o in inside] == [("BTC", "2"), ("USD", "0")]


def test_a_trade_between_own_nodes_is_counted_once_as_its_taker_sees_it() -> None:
    joined = join_fills(
        [
            ("b", fill(1, "maker", A)),
            ("a", fill(1, "taker", B)),
            ("a", fill(2, "taker", OUTSIDE, time="2026-01-02T00:00:00Z")),
            ("b", fill(3, "maker", OUTSIDE, taker=OUTSIDE)),
        ],
        {A, B},
    )
    assert [(j.node, j.internal, j.fill.role) for j in joined] == [
        ("a", False, "taker"),
        ("a", True, "taker"),
        ("b", False, "maker"),
    ]
