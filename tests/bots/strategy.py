# mypy: ignore-errors
"""A strategy of freqtrade that always enters, and leaves after some seconds. Loaded by freqtrade."""

from freqtrade.strategy import IStrategy

HELD = 15  # seconds


class EnterAndLeave(IStrategy):
    """Buys whenever it has nothing."""

    INTERFACE_VERSION = 3
    timeframe = "1m"
    minimal_roi = {"0": 10}  # noqa: RUF012 - as freqtrade has it
    stoploss = -0.9
    process_only_new_candles = False
    use_exit_signal = True

    def populate_indicators(self, dataframe, metadata):
        return dataframe

    def populate_entry_trend(self, dataframe, metadata):
        dataframe["enter_long"] = 1
        return dataframe

    def populate_exit_trend(self, dataframe, metadata):
        return dataframe

    def custom_exit(self, pair, trade, current_time, current_rate, current_profit, **kwargs):
        held = (current_time - trade.open_date_utc).total_seconds()
        return "time" if held > HELD else None
