"""Two tests of the same branch, for the tests of the choice."""

from __future__ import annotations

from exchange.model.decimals import plain


def test_short() -> None:
    assert plain(1205, 2) == "12.05"


def test_long() -> None:
    text = plain(1205, 2)
    assert text
    assert text == "12.05"
