"""Amounts and times between texts and integers."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchange.model.decimals import plain
from node.service.amounts import note, units_of
from node.views.timestamps import time_of
from node.views.views import ServiceError

UNITS = st.integers(-(10**25), 10**25)


@given(UNITS, st.integers(0, 18))
def test_an_amount_is_written_exactly_and_plainly(units: int, decimals: int) -> None:
    text = plain(units, decimals)
    assert Decimal(text) == Decimal(units).scaleb(-decimals)
    assert "e" not in text.lower()
    assert not ("." in text and text.endswith(("0", ".")))


@given(st.integers(1, 10**25), st.integers(0, 18))
def test_written_amounts_are_read_again(units: int, decimals: int) -> None:
    assert units_of(plain(units, decimals), "USD", decimals) == units


def read(text: str) -> int | ServiceError:
    try:
        return units_of(text, "USD", 8, name="limit", zero=True)
    except ServiceError as error:
        return error


@given(st.text(max_size=40))
def test_any_text_is_an_amount_or_refused_by_its_name(text: str) -> None:
    found = read(text)
    if isinstance(found, int):
        assert Decimal(text) == Decimal(found).scaleb(-8)
    else:
        assert (found.status, found.code) == (400, "bad_amount")
        assert found.detail.startswith("limit ")
        assert found.extra == {"pointer": "/limit"}


@pytest.mark.parametrize("text", ["0", "0.0", "0.00000000000"])
def test_zero_is_an_amount_only_where_it_is_allowed(text: str) -> None:
    assert units_of(text, "USD", 8, zero=True) == 0
    with pytest.raises(ServiceError, match="more than 0"):
        units_of(text, "USD", 8)


def test_zeros_beyond_the_last_decimal_change_nothing() -> None:
    assert units_of("1.5000000000000", "USD", 2) == 150
    with pytest.raises(ServiceError, match=r"USD has 2 decimals; the nearest below is 1.5"):
        units_of("1.509", "USD", 2)


def test_notes_can_be_shown() -> None:
    assert note("wire 7") == "wire 7"
    for wrong in ("a\nb", "\x1b[31m", "x" * 201):
        with pytest.raises(ServiceError, match="printable"):
            note(wrong)


@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("0", 0),
        ("1767323045678", 1_767_323_045_678_000),
        ("2026-01-02T03:04:05.678Z", 1_767_323_045_678_000),
        ("2026-01-02T03:04:05.678", 1_767_323_045_678_000),
        ("2026-01-02T04:04:05.678+01:00", 1_767_323_045_678_000),
    ],
)
def test_times_are_iso_or_milliseconds(text: str, us: int) -> None:
    assert time_of(text) == us


@pytest.mark.parametrize("text", ["", "now", "-1", "٣", "1.5"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a time such as"):
        time_of(text)


@pytest.mark.parametrize(
    "text", ["00", "1", "20260102", "1700000000", "1" * 16, "1" * 20, "1" * 99]
)
def test_other_numbers_are_no_milliseconds(text: str) -> None:
    with pytest.raises(ValueError, match=r"is in milliseconds; .* write"):
        time_of(text)
