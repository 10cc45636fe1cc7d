"""ccxt's own live test runner, from its package, unmodified, against a node: requests and streams, public and private.

The runner refuses an installed package and reads its configuration (`keys.json`, `skip-tests.json`) from the root of ccxt's
repository. So the tests lay out such a root: its package is links to the installed one. No method is skipped, and of
properties those that ccxt itself leaves empty for Bitfinex, or that a node does not have.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest
from bitfinex_world import IGNORED, SYMBOL, Owner, World, linked_pair, world_of
from processes import NodeProcess

from tests.environments import environment

pytestmark = [*IGNORED, pytest.mark.long]
LOCK = Path(__file__).parent / "ccxt-live-requirements.lock"
PAUSE = 0.3  # seconds between trades while the streams are tested
LIMIT = 200.0  # seconds
SKIPPED: dict[str, dict[str, str]] = {
    "fetchCurrencies": {
        "amountOfCurrencies": "the default markets have four assets",
        "activeMajorCurrencies": "no deposits and withdrawals over blockchains",
        "skipCurrenciesWithoutNetworks": "the same",
    },
    "fetchLedger": {
        "account": "ccxt leaves it empty",
        "status": "the same",
        "fee": "the same",
        "amount": "ccxt leaves it signed",
    },
    "watchOrderBook": {"timestamp": "ccxt leaves it empty"},
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NodeProcess, NodeProcess]]:
    yield from linked_pair(tmp_path_factory.mktemp("live-tests"))


@pytest.fixture
def world(pair: tuple[NodeProcess, NodeProcess]) -> Iterator[World]:
    with world_of(pair, 2) as world:
        yield world


@pytest.fixture(scope="session")
def programs() -> Path:
    return environment(LOCK)


def repository(programs: Path, directory: Path, owner: Owner) -> Path:
    """Lay out what the runner expects around itself; return its program."""
    installed = next(programs.parent.glob("lib/python3*/site-packages/ccxt"))
    package = directory / "python" / "ccxt"
    package.mkdir(parents=True)
    for entry in installed.iterdir():
        if entry.name not in ("test", "__pycache__"):
            (package / entry.name).symlink_to(entry)
    shutil.copytree(installed / "test", package / "test", ignore=shutil.ignore_patterns("*.pyc"))
    base = owner.node.api_url
    ws = base.replace("http", "ws", 1) + "/ws/2"
    key, secret = owner.key()
    settings = {
        "apiKey": key,
        "secret": secret,
        "has": {"swap": False},  # a node has spot markets
        "urls": {
            "api": {
                "v1": base,
                "public": base,
                "private": base,
                "ws": {"public": ws, "private": ws},
            }
        },
    }
    (directory / "keys.json").write_text(json.dumps({"bitfinex": settings}), "utf-8")
    (directory / "skip-tests.json").write_text(
        json.dumps({"bitfinex": {"skipMethods": SKIPPED}}), "utf-8"
    )
    return package / "test" / "tests_init.py"


@contextmanager
def quoted(world: World, owner: Owner) -> Iterator[None]:
    """Quotes of two nodes on both sides, one order at a price, from which the owner takes again and again."""
    makers = [world.client(world.maker()), world.client(world.taker())]
    taker = world.client(owner)
    done = Event()
    for level in range(6):
        for side, sign in (("buy", -1), ("sell", 1)):
            makers[level % 2].create_order(SYMBOL, "limit", side, 5, 30_000 + sign * (5 + level))
    world.seen(taker, "asks", 30_009, 5)

    def trade() -> None:
        sides = ("buy", "sell")
        number = 0
        while not done.wait(PAUSE):
            number += 1
            taker.create_order(SYMBOL, "market", sides[number % 2], 0.001)

    trading = Thread(target=trade)
    trading.start()
    try:
        yield
    finally:
        done.set()
        trading.join()


REQUESTS = {
    *(
        "afterConstruct",
        "features",
        "loadMarkets",
        "fetchBalance",
        "fetchClosedOrders",
        "fetchCurrencies",
    ),
    *(
        "fetchLedger",
        "fetchMyTrades",
        "fetchOHLCV",
        "fetchOpenOrders",
        "fetchOrderBook",
        "fetchStatus",
    ),
    *("fetchTicker", "fetchTickers", "fetchTrades", "fetchTradingFees"),
}
STREAMS = {
    *(
        "loadMarkets",
        "watchBalance",
        "watchMyTrades",
        "watchOHLCV",
        "watchOrderBook",
        "watchOrders",
    ),
    *("watchTicker", "watchTrades"),
}


@pytest.mark.parametrize(
    ("options", "tested"),
    [
        (["--sync"], REQUESTS),
        ([], REQUESTS),
        (["--ws"], STREAMS),
    ],
    ids=["requests", "requests, asyncio", "streams"],
)
def test_the_live_tests_of_ccxt_pass_on_a_node(
    programs: Path, world: World, tmp_path: Path, options: list[str], tested: set[str]
) -> None:
    owner = world.taker()
    program = repository(programs, tmp_path, owner)
    with quoted(world, owner):
        done = subprocess.run(
            [programs / "python", program, "bitfinex", "--private", "--info", *options],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path / "python")},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    for finding in ("TEST_FAILURE", "TEST_WARNING", "TESTING FAILED", "SKIPPED_TEST"):
        assert finding not in output, output
    assert set(re.findall(r"TESTING DONE +bitfinex (\w+)", output)) == tested
