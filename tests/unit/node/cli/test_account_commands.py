"""The commands about accounts, money, orders of every kind, and halts, against a real engine."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from trading_kit import TOKEN, running_api

from exchange.model.commands import TimeInForce
from node.api.access import AccessRules
from node.cli.main import cli
from node.cli.order_text import parse_amount
from node.cli.tables import describe_order, fill_table, to_ansi
from node.cli.times import TimeTextError, parse_expiry
from node.http.api_tls import Tls, self_signed
from node.views.views import FillView, OrderView


class RunningApi:
    """A server in a thread of its own, with the node.json that a node writes."""

    def __init__(self, directory: Path, tls: Tls | None = None) -> None:
        self.directory = directory
        self._tls = tls
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self.url = ""

    def __enter__(self) -> RunningApi:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        rules = AccessRules(keys_required=True, operator_token=TOKEN)
        journal = self.directory / "journal"
        async with running_api(journal, rules=rules, tls=self._tls) as api:
            self.url = api.url
            self.write(api.node.node_id)
            self._started.set()
            await self._stop.wait()

    def write(self, node_id: str) -> None:
        content = {
            "api_url": self.url,
            "api_fingerprint": None if self._tls is None else self._tls.fingerprint,
            "operator_token": TOKEN,
            "node_id": node_id,
            "pid": 1,
        }
        (self.directory / "node.json").write_text(json.dumps(content))


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningApi]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    with RunningApi(tmp_path) as running:
        yield running


def run(*words: str, **options: Any) -> Result:
    if words[:1] in (("order",), ("amend",)) and len(words) > 2:
        words = (
            *words[:1],
            *words[1:2],
            "--yes",
            *words[2:],
        )  # the questions have tests of their own: test_order_check.py
    return CliRunner().invoke(cli, list(words), prog_name="exchange-node", **options)


def done(*words: str) -> str:
    result = run(*words)
    assert result.exit_code == 0, result.output
    return result.stdout


def document(*words: str) -> Any:
    return json.loads(done(*words, "--json"))


def make_account(name: str, *money: str) -> str:
    """An account with AMOUNT ASSET, ...; its KEY:SECRET."""
    done("account", "create", name)
    for amount in money:
        done("account", "deposit", name, *amount.split())
    key = document("account", "keys", "create", name)
    return f"{key['key']}:{key['secret']}"


# Accounts


@pytest.mark.parametrize("before", [True, False])
def test_suggested_commands_can_be_copied_into_a_shell(api: RunningApi, before: bool) -> None:
    directory = api.directory.parent / "it's a link"
    directory.symlink_to(api.directory)
    where = ("--data-dir", str(directory))
    hints = []
    for words in ("create", "keys list", "show"):
        command = ("account", *words.split(), "alice")
        result = run(*where, *command) if before else run(*command, *where)
        found = re.findall(r"exchange-node (account .*)", result.output)
        assert found, result.output
        hints += [shlex.split(hint) for hint in found]
    for hint in hints:
        assert hint[-2:] == list(where)
        assert run(*hint).exit_code == 0
    directory.unlink()


@pytest.mark.parametrize(
    "words",
    [("orders", "--account", "bob"), ("account", "show", "bob"), ("balances", "--account", "bob")],
)
def test_a_command_in_a_refusal_is_for_the_same_node(
    api: RunningApi, words: tuple[str, ...]
) -> None:
    where = ["--data-dir", str(api.directory)]
    commands = re.findall(r"`(exchange-node [^`]*)`", run(*words, *where).stderr)
    assert len(commands) == 2
    assert all(shlex.split(command)[-2:] == where for command in commands)


@pytest.mark.parametrize(
    "name",
    [
        *("suspense", "Suspense", "suspense-2", "fees", "FEES", "outside", "house", "House"),
        *("operator", "account", "peer", "public", "ourselves", "0", "17"),
    ],
)
def test_names_with_a_meaning_of_their_own_are_refused(api: RunningApi, name: str) -> None:
    refused = run("account", "create", name)
    assert (refused.exit_code, f"{name!r}" in refused.stderr) == (1, True)
    assert [account["name"] for account in document("account", "list")] == ["house"]


def test_an_account_is_made_funded_and_shown(api: RunningApi) -> None:
    assert done("account", "create", "alice").startswith("account 1: alice\n")
    assert done("account", "deposit", "alice", "1000.5", "usd") == (
        "deposited 1000.5 USD (transaction 1): alice has 1000.5 USD\n"
    )
    assert "has 900.5 USD" in done("account", "withdraw", "1", "100", "USD", "--note", "wire")
    assert "wire" in done("account", "ledger", "alice")
    assert "alice" in done("account", "list")
    shown = done("account", "show", "alice")
    assert "USD    900.5     0" in shown
    assert "no keys" in shown
    assert document("account", "show", "alice")["balances"][0]["available"] == "900.5"
    done("order", "buy", "BTC-USD", "0.1", "@", "100", "--account", "alice")
    assert done("account", "freeze", "alice") == (
        "account 1: alice is frozen; 1 open order was cancelled\n"
    )
    assert "FROZEN" in done("account", "show", "alice")
    assert done("account", "thaw", "alice") == "account 1: alice is active\n"
    assert "7 open orders and place 6000 a minute" in done(
        "account", "limits", "alice", "--max-open-orders", "7"
    )


def test_the_secret_of_a_key_is_printed_once(api: RunningApi) -> None:
    done("account", "create", "alice")
    made = run("account", "keys", "create", "alice", "--read-only", "--label", "dashboard")
    key, secret = (line.split()[1] for line in made.stdout.splitlines()[:2])
    assert "not shown again" in made.stderr
    assert "It may read for account alice" in made.stdout
    listed = done("account", "keys", "list", "alice")
    assert key in listed
    assert "dashboard" in listed
    assert secret not in listed + done("account", "show", "alice")
    assert "is revoked" in done("account", "keys", "revoke", key)
    assert "revoked" in done("account", "keys", "list", "alice")


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("account", "show", "nobody"), 1, "unknown account 'nobody'"),
        (("account", "create", "12"), 1, "put a letter into it"),
        (("account", "creat", "alice"), 2, "Did you mean create?"),
        (("account", "deposit", "alice"), 2, "the amount and the asset are missing"),
        (("account", "deposit", "alice", "5"), 2, "the amount or the asset is missing"),
        (("account", "deposit", "alice", "USD", "5"), 2, "the amount comes first: 5 USD"),
        (("account", "deposit", "alice", "-5", "USD"), 2, "'deposit' and 'withdraw' say"),
        (("account", "deposit", "alice", "1,000", "USD"), 2, "did you mean 1000?"),
        (("account", "deposit", "alice", "0", "USD"), 2, "more than 0"),
        (("account", "deposit", "alice", "5", "USD", "now"), 2, "'now' is one word too many"),
        (("account", "deposit", "alice", "5", "USD", "--nte", "x"), 2, "Did you mean '--note'?"),
        (("account", "deposit", "alice", "5", "EUR"), 1, "no asset 'EUR'"),
        (("account", "withdraw", "alice", "5", "USD"), 1, "has 0 USD available"),
        (("account", "limits", "alice"), 2, "Which limit?"),
        (("account", "keys", "revoke", "0123456789abcdef"), 1, "unknown API key"),
        (("ledger", "credit", "USD"), 2, "how much?"),
        (("ledger", "credit", "USD", "-1"), 2, "the limit -1 is negative; the limit is above 0"),
        (("ledger", "settle", "abc", "paid", "5", "USD"), 1, "has an id that begins with 'abc'"),
        (("ledger", "settle", "abc", "got", "5", "USD"), 2, "'got' is not one of"),
        (("ledger", "settle", "abc", "paid", "-5", "USD"), 2, "'paid' and 'received' say"),
        (("stream",), 2, "which market? For example: exchange-node stream BTC-USD"),
        (("stream", "--channel", "trades"), 2, "stream BTC-USD --channel trades"),
        (("cancel", "--", "-5"), 1, "'-5' is not an order id"),
        (("ledger", "entries", "alice"), 1, "'alice' is not a holder"),
        (("market", "halt", "BTC-USD"), 2, "Missing option '--reason'"),
        (("market", "halt", "BTC-EUR", "--reason", "x"), 1, "BTC-EUR"),
        (("amend", "1"), 2, "Nothing to change"),
        (("amend", "1", "--price", "1k"), 2, "did you mean 1000?"),
        (("order", "buy", "BTC-USD", "1", "--stop", "x"), 2, "the stop 'x' is not"),
        (("order", "buy", "BTC-USD", "1", "--expires", "soon"), 2, "write 30s, 10m, 2h, 1d"),
        (("order", "buy", "BTC-USD", "1", "--tif", "day"), 2, "'day' is not one of"),
        (("cancel", "--group", "x"), 2, "'x' is not a valid integer"),
        (("balances", "--account", "nobody"), 1, "unknown account 'nobody'"),
    ],
)
def test_wrong_input_is_answered_with_the_expected_form(
    api: RunningApi, words: tuple[str, ...], code: int, text: str
) -> None:
    done("account", "create", "alice")
    result = run(*words)
    assert result.exit_code == code
    assert text in " ".join(result.stderr.split())


# Orders


def test_orders_of_an_account_by_the_operator_and_by_its_key(
    api: RunningApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = make_account("alice", "10000 USD")
    make_account("bob", "1 BTC")
    done("order", "sell", "BTC-USD", "0.1", "@", "30000", "--account", "bob")
    bought = done("order", "buy", "BTC-USD", "0.05", "--worst-price", "30000", "--account", "alice")
    assert "filled 0.05 at 30000 on average" in bought
    monkeypatch.setenv("EXCHANGE_NODE_KEY", key)
    done("order", "buy", "BTC-USD", "0.01", "@", "29000", "--client-id", "a")
    balances = {view["asset"]: view["held"] for view in document("balances")}
    assert balances == {"BTC": "0", "USD": "290"}
    assert [order["client_id"] for order in document("orders")] == ["a"]
    (fill,) = document("trades")
    assert (fill["fee"], fill["fee_asset"]) == ("0.0001", "BTC")
    title, row = done("trades").splitlines()
    assert title.endswith("  fee")
    assert row.endswith("  0.0001 BTC")
    assert "29500: open" in done("amend", "3", "--price", "29500")
    assert "29500: cancelled" in done("cancel", "--client-id", "a")
    assert run("cancel", "--all").stderr == "no open order fits\n"
    refused = run("account", "list")
    assert refused.exit_code == 1
    assert "operator_only" in refused.stderr


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        (("@", "30000", "--tif", "ioc"), ["cancelled", "not filled at once"]),
        (("@", "31000", "--tif", "FOK"), ["cancelled", "not all of it"]),
        (("@", "31000", "--post-only"), ["cancelled", "post-only"]),
        (("@", "29000", "--hidden"), ["open", "rests in the book, hidden"]),
        (("@", "29000", "--display-quantity", "0.01"), ["open"]),
        (("@", "29000", "--expires", "2h"), ["open"]),
        (
            ("--stop", "32000"),
            ["untriggered", "at market, stop 32000", "until the market rises to"],
        ),
        (("@", "33000", "--stop", "32000"), ["@ 33000, stop 32000: untriggered"]),
        (("--trailing-offset", "500"), ["untriggered", "trailing by 500", "rises to 31500"]),
        (("@", "29000", "--oco-stop", "32000"), ["open", "one cancels the other"]),
    ],
)
def test_every_kind_of_order_prints_its_outcome(
    api: RunningApi, options: tuple[str, ...], texts: list[str]
) -> None:
    make_account("alice", "1000000 USD")
    make_account("bob", "1 BTC")
    done("order", "sell", "BTC-USD", "0.1", "@", "31000", "--account", "bob")
    done("order", "buy", "BTC-USD", "0.00001", "@", "31000", "--account", "alice")
    said = done("order", "buy", "BTC-USD", "0.5", *options, "--account", "alice")
    for text in texts:
        assert text in said


def test_a_pair_is_shown_while_it_exists_and_an_empty_book_is_named(api: RunningApi) -> None:
    make_account("alice", "1 BTC")
    pair = ("sell", "BTC-USD", "0.1", "@", "31000", "--oco-stop", "29000", "--account", "alice")
    assert "one cancels the other" in done("order", *pair)
    amend = ("amend", "2", "--stop", "28000", "--account", "alice")
    assert "paired with order" in done(*amend)
    assert "one cancels the other" not in done("cancel", "1", "--account", "alice")
    alone = done(*amend[:3], "27000", *amend[4:])
    assert "stop 27000: untriggered" in alone
    assert "paired" not in alone
    assert "nothing more for it" in done("order", "buy", "BTC-USD", "0.1")


def test_a_trailing_stop_without_a_trade_waits_for_the_first_one(api: RunningApi) -> None:
    said = done("order", "sell", "ETH-USD", "1", "--trailing-offset", "10")
    assert "waits for the market's first trade" in said
    assert "None" not in said + done("orders")


def test_a_market_is_halted_and_resumed(api: RunningApi) -> None:
    assert done("market", "halt", "btc-usd", "--reason", "doubt") == "BTC-USD is halted: doubt\n"
    refused = run("order", "buy", "BTC-USD", "1", "@", "1")
    assert (refused.exit_code, "doubt" in refused.stderr) == (1, True)
    assert "halted  doubt" in done("market", "list")
    assert done("market", "resume", "BTC-USD") == "BTC-USD is open\n"
    again = run("market", "resume", "BTC-USD")
    assert (again.exit_code, "BTC-USD is not halted" in again.stderr) == (1, True)


def test_the_books_are_shown(api: RunningApi) -> None:
    assert "nothing is open" in run("ledger", "positions").stderr
    assert "nothing is open" in run("ledger", "obligations").stderr
    assert "no limits" in run("ledger", "credit").stderr
    assert "500" in done("ledger", "credit", "usd", "500")
    assert "none" in done("ledger", "credit", "USD", "none")
    make_account("alice", "5 USD")
    assert document("ledger", "entries")[0]["amount"] == "-5"


# Keys and certificates


def test_without_the_operators_token_a_key_is_requested(api: RunningApi, tmp_path: Path) -> None:
    result = run("account", "list", "--api", api.url)
    assert result.exit_code == 1
    assert "EXCHANGE_NODE_KEY=KEY:SECRET" in result.stderr
    wrong = run("balances", env={"EXCHANGE_NODE_KEY": "nonsense"})
    assert (wrong.exit_code, "must be KEY:SECRET" in wrong.stderr) == (2, True)


def test_a_node_with_a_certificate_of_its_own_is_known_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    tls = self_signed(tmp_path, ["127.0.0.1"])
    with RunningApi(tmp_path, tls) as api:
        assert api.url.startswith("https://")
        assert "house" in done("account", "list")  # by the fingerprint in node.json
        there = ("markets", "--api", api.url)
        assert "BTC-USD" in done(*there, "--api-cafile", str(tls.certificate))
        untrusted = run(*there)
        assert (untrusted.exit_code, "--api-cafile FILE" in untrusted.stderr) == (3, True)
        plain = run("markets", "--api", api.url.replace("https", "http"))
        assert (plain.exit_code, "write https://" in plain.stderr) == (3, True)
        no_certificate = run(*there, "--api-cafile", str(tmp_path / "node.json"))
        assert (no_certificate.exit_code, "PEM" in no_certificate.stderr) == (2, True)
        (tmp_path / "other").mkdir()
        other = self_signed(tmp_path / "other", [])
        runtime = json.loads((tmp_path / "node.json").read_text())
        changed = runtime | {"api_fingerprint": other.fingerprint}
        (tmp_path / "node.json").write_text(json.dumps(changed))
        stranger = run("account", "list")
        assert (stranger.exit_code, "is not trusted" in stranger.stderr) == (3, True)


# What is typed


def test_amounts_and_times_are_read() -> None:
    assert parse_amount(["1000.50", "usd"], "", "") == ("1000.50", "USD")
    assert parse_amount([".5", "BTC"], "", "") == ("0.5", "BTC")
    assert parse_expiry("30s", 1000) == "31000"
    assert parse_expiry("1D", 0) == "86400000"
    assert parse_expiry("2026-01-02T03:04:05Z", 0) == "2026-01-02T03:04:05Z"
    assert parse_expiry("1767323045000", 0) == "1767323045000"
    for wrong in ("", "5", "1x", "-1h", "tomorrow", "1.5h"):
        with pytest.raises(TimeTextError, match="30s, 10m"):
            parse_expiry(wrong, 0)


def test_a_list_of_fills_has_fees_where_there_are_any() -> None:
    fill = FillView(
        id="n:1",
        market="BTC-USD",
        order_id="n-1",
        role="taker",
        side="buy",
        price="100",
        quantity="3",
        time="2026-01-02T03:04:05.678Z",
        counterparty="m",
        counterparty_order_id="m-1",
        fee="0",
        fee_asset="BTC",
    )
    paid = msgspec.structs.replace(fill, fee="12.5", fee_asset="USD")
    lines = [to_ansi(line) for line in fill_table([fill, paid], {}, full=True)]
    assert "fee" in lines[0]
    assert lines[1].endswith("   0   BTC")
    assert lines[2].endswith("  12.5 USD")
    assert "fee" not in to_ansi(fill_table([fill], {}, full=True)[0])


@pytest.mark.parametrize(("tif", "rests"), [("gtc", True), ("ioc", False), ("fok", False)])
def test_only_orders_that_may_rest_are_described_as_resting(tif: TimeInForce, rests: bool) -> None:
    view = OrderView(
        id="n-1",
        number=1,
        market="BTC-USD",
        side="buy",
        type="limit",
        price="100",
        quantity="3",
        filled="0",
        remaining="2",
        pending="1",
        status="pending",
        average_price=None,
        created="",
        tif=tif,
    )
    said = "".join(text for line in describe_order(view) for text, _ in line)
    assert "1 asked of other nodes" in said
    assert ("rests in the book" in said) is rests
