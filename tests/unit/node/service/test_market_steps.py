"""Market steps: a data directory keeps those it has until they are changed."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from exchange.model.instruments import Instrument, Instruments, InstrumentsFileError
from node.service.market_steps import load_market_steps


def instruments(lot: str = "0.00001", **rules: str) -> Instruments:
    given = {name: Decimal(value) for name, value in rules.items()}
    return Instruments([Instrument("BTC-USD", Decimal("0.1"), Decimal(lot), **given)])


def keys(found: Instruments) -> list[str]:
    return [instrument.key for instrument in found]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "market-steps.toml"


def test_recorded_steps_win_over_configured_ones_with_a_warning(path: Path) -> None:
    load_market_steps(path, instruments("0.00001"), upgraded=False)
    steps = load_market_steps(path, instruments("0.00000001", maker_fee="0.001"), upgraded=False)
    assert keys(steps.instruments) == ["BTC-USD@0.1/0.00001"]
    assert steps.instruments["BTC-USD"].maker_fee == Decimal("0.001")
    (warning,) = steps.warnings
    assert "0.00001; configured are 0.1 and 0.00000001" in warning
    assert "exchange-node market change-steps BTC-USD" in warning


def test_a_data_directory_of_the_first_version_keeps_the_steps_of_that_version(path: Path) -> None:
    steps = load_market_steps(path, Instruments.default(), upgraded=True)
    assert keys(steps.instruments) == [
        "BTC-USD@0.1/0.00001",
        "ETH-USD@0.01/0.0001",
        "ETH-BTC@0.00001/0.0001",
        "TEST-USD@0.01/1",
    ]


def test_a_change_takes_effect_at_the_next_start(path: Path) -> None:
    load_market_steps(path, instruments("0.00001"), upgraded=False)
    steps = load_market_steps(path, instruments("0.00000001"), upgraded=False)
    assert not steps.view("BTC-USD").at_next_start
    steps.change("BTC-USD")
    assert keys(steps.instruments) == ["BTC-USD@0.1/0.00001"]
    assert steps.view("BTC-USD").at_next_start
    later = load_market_steps(path, instruments("0.00000001"), upgraded=False)
    assert keys(later.instruments) == ["BTC-USD@0.1/0.00000001"]
    assert later.warnings == []


def test_a_rule_that_does_not_fit_the_recorded_steps_is_refused(path: Path) -> None:
    load_market_steps(path, instruments("0.00001"), upgraded=False)
    with pytest.raises(
        InstrumentsFileError, match=r"\[BTC-USD\] is traded in steps of 0.1 and 0.00001"
    ):
        load_market_steps(
            path, instruments("0.00000001", min_quantity="0.00000005"), upgraded=False
        )


@pytest.mark.parametrize(
    "text",
    ["[BTC-USD]\ntick = 1\n", "BTC", '[X]\ntick = "1"\nlot = "1"\n', "BTC-USD = 3\n", "\xff"],
)
def test_a_damaged_record_is_refused(path: Path, text: str) -> None:
    path.write_text(text, "latin-1")
    with pytest.raises(InstrumentsFileError, match=r"is damaged .* put it back from a backup"):
        load_market_steps(path, instruments(), upgraded=False)
