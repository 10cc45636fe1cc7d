"""Run freqtrade, unmodified and in an environment of its own, on real nodes, and compare it with the ledger.

    python -m tests.bots [--minutes 5] [--nodes 1|2|3] [--dry] [--kill SECONDS]

On one node or two, freqtrade buys and sells while a maker quotes sizes that fill its entries in part. On
three, it trades with market makers written with ccxt.pro, and a node is killed (kill -9) and restarted
every so many seconds. At the end every order that a bot knows has the fills of its account, and every
position that a bot knows is the account's balance: fees are taken in the base asset, so freqtrade's exits
are of the exact remainder. With `--dry` freqtrade trades on paper, against the node's book.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "integration")]

import three_nodes  # noqa: E402 - their folders come before
from freqtrade_bot import Freqtrade, lines  # noqa: E402
from processes import NodeProcess, Nodes  # noqa: E402

from tests.environments import environment  # noqa: E402

MARKET = "BTC-USD"
PRICE, SPREAD = 30_000, 5
LIFTS = 4.0  # seconds between trades of others, which make candles


def quote(maker: NodeProcess, around: int) -> None:
    """Offer sizes below and above that of an entry, on both sides."""
    for step, size in enumerate(("0.0123", "0.0061", "0.05"), start=1):
        maker.sell(size, around + step * SPREAD, market=MARKET)
        maker.buy(size, around - step * SPREAD, market=MARKET)


def trade(
    program: Path, directory: Path, minutes: float, count: int, *, dry: bool
) -> dict[str, int]:
    """Run freqtrade for so long on one node or two. Returns what it did, counted."""
    nodes = Nodes(directory)
    try:
        maker = nodes.start("maker")
        taker = maker if count == 1 else nodes.start("taker", bootstrap=maker.p2p_address)
        bot = Freqtrade(program, directory, taker, dry=dry)
        bot.start()
        try:
            end = time.monotonic() + minutes * 60
            around = PRICE
            while time.monotonic() < end:
                bot.check()
                around += 1 if around < PRICE + 50 else -50
                maker.ask(lambda client: client.cancel_many(market=MARKET))
                quote(maker, around)
                maker.buy("0.0001", around + SPREAD, market=MARKET)
                time.sleep(LIFTS)
        finally:
            bot.stop()
        done = bot.compare()
        partly = ("orders filled in parts", "orders cancelled with a part filled")
        assert dry or any(done[name] for name in partly), "no order was filled in part"
        return done
    finally:
        nodes.cleanup()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bots",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="of trading (default 5)")
    parser.add_argument("--nodes", type=int, choices=(1, 2, 3), default=2, help="default 2")
    parser.add_argument("--dry", action="store_true", help="on paper (one node or two)")
    parser.add_argument(
        "--kill", type=float, default=0.0, metavar="SECONDS", help="between kills (three nodes)"
    )
    parser.add_argument("--environment", type=Path, help="directory of freqtrade's environment")
    parser.add_argument("--directory", type=Path, help="keep data and logs here")
    given = parser.parse_args()
    if (given.nodes == 3 and given.dry) or (given.nodes < 3 and given.kill):
        parser.error("--kill goes with --nodes 3, --dry with one node or two")
    program = environment(HERE / "freqtrade-requirements.lock", given.environment) / "freqtrade"
    with tempfile.TemporaryDirectory() as scratch:
        directory = given.directory or Path(scratch)
        directory.mkdir(parents=True, exist_ok=True)
        if given.nodes == 3:
            done = three_nodes.run(three_nodes.Plan(program, directory, given.minutes, given.kill))
        else:
            done = trade(program, directory, given.minutes, given.nodes, dry=given.dry)
    for line in lines(done):
        print(line)
    print("agree with the ledger")
    return 0 if done["closed positions"] else 1


if __name__ == "__main__":
    sys.exit(main())
