"""Instruments: exact conversions, refusals that help, and files of instruments."""

from __future__ import annotations

import time
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchange.model.instruments import (
    MAX_LOTS,
    MAX_TICKS,
    Instrument,
    Instruments,
    InstrumentsFileError,
    UnknownInstrument,
)
from exchange.model.peer_values import MAX_PRICE, MAX_QUANTITY

BTC = Instrument("BTC-USD", Decimal("0.1"), Decimal("0.00001"))

STEPS = st.builds(
    lambda digits, exponent: Decimal(digits).scaleb(exponent),
    st.integers(1, 99),
    st.integers(-10, 3),
)


@pytest.mark.parametrize(
    "symbol", ["BTCUSD", "btc-usd", "B-USD", "BTC-", "BTC-USD-X", "BTC-USD\n", "BTC-BTC", "A" * 13]
)
def test_a_symbol_of_another_form_is_refused(symbol: str) -> None:
    with pytest.raises(ValueError, match="symbol: expected BASE-QUOTE"):
        Instrument(symbol, Decimal(1), Decimal(1))


@pytest.mark.parametrize("step", ["0", "-1", "1000001", "1E-13", "NaN", "Infinity", "1E+999999"])
def test_a_step_that_no_market_has_is_refused(step: str) -> None:
    with pytest.raises(ValueError, match=r"^tick"):
        Instrument("BTC-USD", Decimal(step), Decimal(1))
    with pytest.raises(ValueError, match=r"^lot"):
        Instrument("BTC-USD", Decimal(1), Decimal(step))


def test_a_binary_float_is_refused_by_its_type() -> None:
    for call in (BTC.to_ticks, BTC.to_lots):
        with pytest.raises(TypeError, match="expected text or Decimal, which are exact, got float"):
            call(0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"tick: expected text or Decimal.* got float"):
        Instrument("BTC-USD", 0.1, Decimal(1))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("price", "ticks"),
    [
        ("30000", 300_000),
        ("30000.10", 300_001),
        ("3e4", 300_000),
        (".1", 1),
        (Decimal("1E+2"), 1_000),
        ("100000000", MAX_TICKS),
    ],
)
def test_a_price_becomes_its_exact_number_of_ticks(price: str | Decimal, ticks: int) -> None:
    assert BTC.to_ticks(price) == ticks


@pytest.mark.parametrize(
    ("price", "complaint"),
    [
        (
            "30000.05",
            "price 30000.05 is not a multiple of the tick 0.1; nearest are 30000 and 30000.1",
        ),
        ("0.05", "price 0.05 is not a multiple of the tick 0.1; the least is 0.1"),
        ("0", "price must be more than 0, got 0"),
        ("-0.1", "price must be more than 0, got -0.1"),
        ("100000000.1", "price 100000000.1 is too large, at most 100000000"),
        ("", "'' is not a decimal number"),
        ("1,000", "'1,000' is not a decimal number"),
        ("1_000", "not a decimal number"),
        (" 1", "not a decimal number"),
        ("٣", "not a decimal number"),
        ("0x10", "not a decimal number"),
        ("NaN", "not a decimal number"),
        ("Infinity", "not a decimal number"),
        (Decimal("NaN"), "NaN is not a finite number"),
        (Decimal("sNaN"), "sNaN is not a finite number"),
        (Decimal("-Infinity"), "-Infinity is not a finite number"),
        ("9" * 41, "is too long, at most 40 characters"),
        ("1e999", "too many digits, at most 40"),
        (Decimal("1." + "0" * 60 + "1"), "too many digits, at most 40"),
    ],
)
def test_an_invalid_price_is_rejected_with_the_reason(price: str | Decimal, complaint: str) -> None:
    with pytest.raises(ValueError) as caught:
        BTC.to_ticks(price)
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("price", "below", "above"),
    [("0.1", 1, 1), ("0.15", 1, 2), ("0.199", 1, 2), ("0.2", 2, 2), ("0.01", None, 1)],
)
def test_a_price_between_two_ticks_is_rounded_down_or_up(
    price: str, below: int | None, above: int
) -> None:
    assert BTC.ticks_near(price, up=True) == above
    if below is None:
        with pytest.raises(ValueError, match="below the tick"):
            BTC.ticks_near(price, up=False)
    else:
        assert BTC.ticks_near(price, up=False) == below
    assert BTC.lots_within("0.000019") == 1


def test_a_quantity_is_named_a_quantity() -> None:
    assert BTC.to_lots("0.5") == 50_000
    with pytest.raises(ValueError) as caught:
        BTC.to_lots("0.000015")
    assert str(caught.value) == (
        "quantity 0.000015 is not a multiple of the lot 0.00001; nearest are 0.00001 and 0.00002"
    )


@pytest.mark.parametrize(
    "bomb",
    [Decimal("1E+999999"), Decimal("1E-999999"), Decimal("0E+999999"), "1e-999", "9" * 10_000_000],
)
def test_an_exponent_bomb_is_refused_at_once_with_a_short_message(bomb: Any) -> None:
    start = time.thread_time()  # computing; what else the machine does is not counted
    with pytest.raises(ValueError) as caught:
        BTC.to_ticks(bomb)
    assert time.thread_time() - start < 0.05
    assert len(str(caught.value)) < 200


def test_a_million_units_at_eight_decimals_fit_an_order_and_the_wire() -> None:
    assert Instrument("AA-BB", Decimal("0.01"), Decimal("0.00000001")).to_lots("1000000") == 10**14
    assert MAX_LOTS < MAX_QUANTITY
    assert MAX_TICKS < MAX_PRICE


def test_notional_and_average_are_of_the_whole_value() -> None:
    assert BTC.notional(300_001, 12_345) == Decimal("3703.512345")
    assert BTC.notional(MAX_TICKS, MAX_LOTS) == Decimal(10) ** 17
    assert BTC.average_price_text(300_000 * 3 + 300_001 * 1, 4) == "30000.025"
    assert BTC.average_price_text(10 * 1 + 11 * 2, 3) == "1.066666667"
    assert BTC.average_price_text(10 * 2 + 11 * 1, 3) == "1.033333333"
    assert BTC.average_price_text(300_000 * 5, 5) == "30000"


def test_rules_for_orders_are_no_part_of_the_key_and_absent_they_allow_everything() -> None:
    ruled = replace(
        BTC,
        min_quantity=Decimal("0.0010"),
        price_band=Decimal("0.2"),
        maker_fee=Decimal("-0.0001"),
        taker_fee=Decimal("0.002"),
        max_notional=Decimal("1E+6"),
    )
    assert ruled.key == BTC.key
    assert str(ruled.min_quantity) == "0.001"
    assert str(ruled.max_notional) == "1000000"
    assert (ruled.maker_ppm, ruled.taker_ppm, ruled.price_band_ppm) == (-100, 2000, 200_000)
    assert (BTC.maker_ppm, BTC.taker_ppm, BTC.price_band_ppm) == (0, 0, None)
    assert BTC.protection_ppm == 50_000
    assert (BTC.min_quantity, BTC.max_quantity, BTC.min_notional, BTC.max_notional) == (None,) * 4


@given(STEPS, st.integers(1, MAX_TICKS))
def test_text_and_integers_are_each_others_inverse(step: Decimal, count: int) -> None:
    market = Instrument("AA-BB", step, step)
    assert market.to_ticks(market.price_text(count)) == count
    assert market.to_lots(market.quantity_text(count)) == count
    assert market.to_ticks(count * step) == count
    assert market.notional(count, 1) == count * step * step


@given(STEPS, st.integers(1, MAX_TICKS - 1), st.integers(1, 999))
def test_a_number_between_two_steps_is_rejected_with_both(
    step: Decimal, count: int, thousandths: int
) -> None:
    market = Instrument("AA-BB", step, step)
    between = count * step + step * thousandths / 1000
    nearest = f"nearest are {market.price_text(count)} and {market.price_text(count + 1)}"
    with pytest.raises(ValueError, match=nearest.replace(".", r"\.") + "$"):
        market.to_ticks(between)


# Looking markets up


@pytest.mark.parametrize(
    "name",
    ["BTC-USD", "btc-usd", "BTC/USD", "btc_usd", "Btc:Usd", "btc usd", "btcusd", " BTC-USD "],
)
def test_a_market_is_found_by_any_usual_spelling(name: str) -> None:
    markets = Instruments.default()
    assert markets[name].symbol == "BTC-USD"
    assert name in markets


def test_an_unknown_market_is_answered_with_the_known_ones_and_the_closest() -> None:
    markets = Instruments.default()
    with pytest.raises(UnknownInstrument) as caught:
        markets["BTC/USDT"]
    assert str(caught.value) == (
        "no market 'BTC/USDT'; did you mean BTC-USD? (known: BTC-USD, ETH-BTC, ETH-USD, TEST-USD)"
    )
    with pytest.raises(KeyError) as caught_far:
        markets["x" * 10_000]
    assert "did you mean" not in str(caught_far.value)
    assert len(str(caught_far.value)) < 200
    assert 7 not in markets


def test_a_name_that_could_be_two_markets_is_not_guessed() -> None:
    one = Decimal(1)
    markets = Instruments([Instrument("AAA-BBCC", one, one), Instrument("AAAB-BCC", one, one)])
    with pytest.raises(UnknownInstrument, match="it could be AAA-BBCC or AAAB-BCC"):
        markets["aaabbcc"]
    assert markets["aaa-bbcc"].quote == "BBCC"


def test_the_default_set_has_the_documented_markets() -> None:
    keys = [market.key for market in Instruments.default()]
    assert keys == [
        "BTC-USD@0.1/0.00000001",
        "ETH-USD@0.01/0.00000001",
        "ETH-BTC@0.000001/0.00000001",
        "TEST-USD@0.01/0.00000001",
    ]
    assert len(Instruments.default()) == 4


# Files


def written(directory: Path, text: str) -> Path:
    path = directory / "markets.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (
            "maker_fee = 0.0000001",
            "maker_fee: expected whole parts per million, which are 6 decimals",
        ),
        ("maker_fee = -0.02", "maker_fee: expected from -0.01 to 0.1, got -0.02"),
        (
            "maker_fee = -0.002\ntaker_fee = 0.001",
            "maker_fee: a rebate is paid out of the taker's fee: expected -0.001 or more, got -0.002",
        ),
        ("taker_fee = -0.001", "taker_fee: expected from 0 to 0.1, got -0.001"),
        ("taker_fee = true", "taker_fee: expected text or Decimal, which are exact, got bool"),
        ("taker_fee = [1]", "taker_fee: expected text or Decimal, which are exact, got list"),
        ("protection = 0", "protection: expected from 0.000001 to 1, got 0"),
        ('price_band = "5 %"', "price_band: '5 %' is not a decimal number"),
        ("price_band = 20", "price_band: expected from 0.000001 to 10, got 20"),
        ("min_quantity = 3", "min_quantity 3 is not a multiple of the lot 2; nearest are 2 and 4"),
        ("min_quantity = 0", "min_quantity: expected from 2 to 200000000000000, got 0"),
        (
            "min_quantity = 8\nmax_quantity = 6",
            "max_quantity: expected from 8 to 200000000000000, got 6",
        ),
        (
            "max_notional = 0.1",
            "max_notional: expected from 0.2 to 20000000000000000000000, got 0.1",
        ),
        ("min_notional = inf", "min_notional: 'inf' is not a decimal number"),
    ],
)
def test_a_wrong_rule_in_a_file_is_refused_naming_the_field(
    tmp_path: Path, line: str, complaint: str
) -> None:
    path = written(tmp_path, f"[AA-BB]\ntick = 0.1\nlot = 2\n{line}\n")
    with pytest.raises(InstrumentsFileError) as caught:
        Instruments.load(path)
    assert str(caught.value).startswith(f"{path}: [AA-BB] {complaint}")


def test_a_file_replaces_the_default_set_and_bare_numbers_are_exact(tmp_path: Path) -> None:
    path = written(tmp_path, '[aa-bb]\ntick = 0.1\nlot = 2\n[CC-DD]\ntick = "0.25"\nlot = "1"\n')
    assert [market.key for market in Instruments.load(path)] == ["AA-BB@0.1/2", "CC-DD@0.25/1"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[AA-BB\n", "markets.toml: not valid TOML: "),
        ("x = 1" + "0" * 5000, "markets.toml: not valid TOML: "),
        ("", "markets.toml: at least one instrument is needed"),
        ("tick = 1", "markets.toml: tick: expected tables such as [BTC-USD], got 1"),
        (
            "[AA-BB]\nlot = 1",
            "markets.toml: [AA-BB] tick: missing; expected the step of prices, such",
        ),
        (
            "[AA-BB]\ntick = 1",
            "markets.toml: [AA-BB] lot: missing; expected the step of quantities",
        ),
        ("[AA-BB]\ntick = 1\nlot = 1\ntock = 1", "markets.toml: [AA-BB] tock: unknown field"),
        ("[AA-BB]\ntick = 0\nlot = 1", "markets.toml: [AA-BB] tick: expected a step above 0"),
        ("[AA-BB]\ntick = 1\nlot = true", "markets.toml: [AA-BB] lot: expected text or Decimal"),
        ("[AA-BB]\ntick = nan\nlot = 1", "markets.toml: [AA-BB] tick: 'nan' is not a decimal"),
        ("[AA-BB]\ntick = 1e99999999999999999999\nlot = 1", "markets.toml: [AA-BB] tick: "),
        ("[AAA]\ntick = 1\nlot = 1", "markets.toml: [AAA] symbol: expected BASE-QUOTE"),
        (
            "[AA-BB]\ntick = 1\nlot = 1\n[aa-bb]\ntick = 1\nlot = 1",
            "markets.toml: AA-BB is defined twice",
        ),
    ],
)
def test_a_wrong_file_is_rejected_with_file_entry_field_and_expectation(
    tmp_path: Path, text: str, complaint: str
) -> None:
    with pytest.raises(InstrumentsFileError) as caught:
        Instruments.load(written(tmp_path, text))
    assert complaint in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path))


def test_a_file_that_cannot_be_read_is_named_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(InstrumentsFileError, match=r"none\.toml: cannot be read: No such file"):
        Instruments.load(tmp_path / "none.toml")
    path = tmp_path / "latin.toml"
    for data, why in (
        (b"\n\xe9", r"it is not UTF-8 text \(line 2\)"),
        (b"\xff\xfe", "it is UTF-16 text"),
    ):
        path.write_bytes(data)
        with pytest.raises(InstrumentsFileError, match=f"cannot be read: {why}"):
            Instruments.load(path)
