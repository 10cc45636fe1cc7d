"""The command line, against a real node without a network: in this process and as a process."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cli_kit import RunningNode
from click.testing import CliRunner, Result
from trading_kit import ME, PEER

from node.cli.client_session import CommandFailure, Exit, run_blocking
from node.cli.commands.start_command import load_settings
from node.cli.main import COMMANDS, cli

EXCHANGE_NODE = [sys.executable, "-m", "node.cli.main"]


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningNode]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    running = RunningNode(tmp_path)
    running.start()
    yield running
    running.stop()


def run(*words: str, **options: Any) -> Result:
    if words[:1] in (("order",), ("amend",)) and words[1] in ("buy", "sell", "1"):
        words = (*words[:2], "--yes", *words[2:])  # the questions have tests: test_order_check.py
    return CliRunner().invoke(cli, list(words), prog_name="exchange-node", **options)


def run_json(*words: str) -> Any:
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


# Trading


def test_an_order_is_placed_listed_and_cancelled(node: RunningNode) -> None:
    placed = run("order", "buy", "btc-usd", "0.5", "@", "30000")
    assert placed.exit_code == 0
    assert placed.stdout == (
        f"order {ME}-1: buy 0.5 BTC-USD @ 30000: open\n  0.5 rests in the book\n"
    )
    listed = run("orders").stdout.splitlines()
    assert len(listed) == 2
    assert listed[1].startswith(f"{ME}-1  BTC-USD  buy ")
    assert run("cancel", "1").stdout.startswith(f"order {ME}-1: buy 0.5 BTC-USD @ 30000: cancelled")
    assert run("orders").stdout == ""
    assert "no open orders" in run("orders").stderr
    assert "cancelled" in run("orders", "--all").stdout


@pytest.mark.parametrize(
    "words",
    [
        ("sell", "BTC-USD", "0.5@30000"),
        ("sell", "BTC-USD", "0.5", "--price", "30000"),
        ("SELL", "BTC-USD", "0.5", "@30000"),
        ("sell", "--price", "30000", "BTC-USD", "0.5"),
    ],
)
def test_an_order_can_be_written_in_several_ways(node: RunningNode, words: tuple[str]) -> None:
    order = run_json("order", *words)
    assert (order["side"], order["price"], order["quantity"]) == ("sell", "30000", "0.5")


def test_fills_and_public_trades_are_listed(node: RunningNode) -> None:
    run("order", "buy", "BTC-USD", "0.5", "@", "30000")
    node.do(lambda: node.node.place_remote("BTC-USD", "sell", "0.2", "30000"))
    assert PEER in run("trades").stdout
    assert " fee" not in run("trades").stdout  # the house pays none
    assert "maker" in run("trades", "btc-usd").stdout
    assert run_json("trades")[0]["role"] == "maker"
    assert run_json("trades", "--public")[0]["taker"] == PEER
    assert "no fills" in run("trades", "ETH-USD").stderr
    assert "no trades" in run("trades", "ETH-USD", "--public").stderr
    assert run_json("trades", "ETH-USD") == []


def test_candles_are_listed_the_newest_last(node: RunningNode) -> None:
    times = itertools.count(1_767_268_800_000_000, 300_000_000)
    for price in ("30000", "30001"):
        node.do(
            lambda price=price: node.node.shown.trade("BTC-USD", 1, price, "1", time=next(times))
        )
    title, *rows = run("candles", "btc-usd", "--tf", "5m").stdout.splitlines()
    assert title.split() == ["begins", "(UTC)", "open", "high", "low", "close", "volume", "trades"]
    assert [row.split()[2] for row in rows] == ["30000", "30001"]
    assert [c["close"] for c in run_json("candles", "BTC-USD", "--tf", "5m")] == ["30000", "30001"]
    assert [c["close"] for c in run_json("candles", "BTC-USD", "--tf", "5m", "--limit", "1")] == [
        "30001"
    ]
    assert "no trades" in run("candles", "ETH-USD").stderr
    assert run_json("candles", "BTC-USD", "--end", "2020-01-01T00:00:00Z") == []
    assert run("candles", "BTC-USD", "--tf", "2m").exit_code == 2


def test_the_book_marks_own_orders_and_depth_limits_it(node: RunningNode) -> None:
    run("order", "buy", "BTC-USD", "0.5", "@", "30000")
    node.do(lambda: node.node.place_remote("BTC-USD", "sell", "1", "30010"))
    node.do(lambda: node.node.place_remote("BTC-USD", "sell", "1", "30020"))
    text = run("book", "btc-usd").stdout
    assert "spread 10 (0.033 %)" in text
    assert [line for line in text.splitlines() if line.startswith("* 30000 ")]
    assert "30020" not in run("book", "BTC-USD", "--depth", "1").stdout
    assert len(run_json("book", "BTC-USD", "--depth", "1")["asks"]) == 1


def test_markets_peers_status_connect_and_ping(node: RunningNode) -> None:
    assert [line.split()[0] for line in run("markets").stdout.splitlines()] == [
        "market",
        "BTC-USD",
        "ETH-USD",
        "ETH-BTC",
        "TEST-USD",
    ]
    assert PEER in run("peers").stdout
    assert ME in run("status").stdout
    assert "connected to " + "b" * 32 + " at 10.0.0.1:3000, encrypted" in (
        run("connect", "10.0.0.1:3000").stdout
    )
    assert run("ping", PEER[:5]).stdout == f"{PEER} answered in 0.8 ms, direct, version 1.0.0\n"


@pytest.mark.parametrize(
    "words",
    [
        ("orders",),
        ("trades",),
        ("trades", "--public"),
        ("book", "BTC-USD"),
        ("candles", "BTC-USD"),
        ("markets",),
        ("peers",),
        ("status",),
        ("version",),
        ("config",),
        ("order", "buy", "BTC-USD", "1", "@", "1"),
        ("connect", "10.0.0.1:3000"),
        ("ping", PEER),
    ],
)
def test_json_is_one_document_and_nothing_else(node: RunningNode, words: tuple[str, ...]) -> None:
    result = run(*words, "--json")
    json.loads(result.stdout)
    assert result.stderr == ""


# Refusals and wrong usage


@pytest.mark.parametrize(
    ("words", "code", "hint"),
    [
        (("order", "buy", "XX-USD", "1", "@", "1"), 1, "known: BTC-USD, ETH-BTC, ETH-USD"),
        (("order", "buy", "BTC-USD", "0.00001", "@", "1"), 1, "multiple of the lot 0.0001"),
        (("cancel", "99"), 1, "no order 99"),
        (("book", "nope"), 1, "no market 'NOPE'"),
        (("connect", "10.0.0.1:1"), 1, "nobody answers at 10.0.0.1:1"),
        (("ping", "q"), 1, "0 nodes begin with 'q'"),
    ],
)
def test_a_refusal_of_the_node_is_one_line_and_code_1(
    node: RunningNode, words: tuple[str, ...], code: int, hint: str
) -> None:
    result = run(*words)
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert hint in result.stderr
    with_json = run(*words, "--json")
    problem = json.loads(with_json.stdout)
    assert (with_json.exit_code, hint in problem["detail"]) == (code, True)
    assert problem["status"] >= 400


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("order", "buy", "BTC-USD", "0.5", "30000"), "order buy BTC-USD 0.5 @ 30000"),
        (("order", "buy", "BTC-USD", "-0.5"), "is negative"),
        (("order", "buy", "BTC-USD", "0.5", "@", "-1"), "is negative"),
        (("order", "buy", "BTC-USD", "0.5", "--pirce", "1"), "--price"),
        (("order", "buy", "BTC-USD", "0.5", "@", "1", "--price", "2"), "given twice"),
        (("order", "buy"), "which market"),
        (("order", "BTC-USD", "buy", "1"), "exchange-node order buy BTC-USD 1"),
        (("order", "BTC-USD", "1"), "order buy|sell BTC-USD 1"),
        (("order", "buy", "BTC-USD", "1", "--client-id"), "requires an argument"),
        (("buy", "BTC-USD", "1"), "exchange-node order buy BTC-USD 1"),
        (("ordres",), "Did you mean orders"),
        (("xyzzy",), "--help"),
        (("cancel",), "Which order? Give its number, or one of --all"),
        (("cancel", "1", "--all"), "One order, or several?"),
        (("cancel", "1", "2"), "unexpected extra argument"),
        (("book",), "Missing argument 'MARKET'"),
        (("book", "BTC-USD", "--depth", "0"), "1<=x<=1000"),
        (("orders", "--limit", "x"), "not a valid integer"),
        (("orders", "--limit", "1001"), "1<=x<=1000"),
        (("connect",), "Missing argument 'HOST:PORT'"),
        (("connect", "10.0.0.1"), "10.0.0.1:3000"),
        (("connect", ":3000"), "has no host"),
        (("connect", "10.0.0.1:x"), "port 'x' is not a number"),
        (("connect", "10.0.0.1:0"), "port '0' is not a number"),
        (("connect", "10.0.0.1:70000"), "not a number from 1 to 65535"),
        (("connect", "fe80::1:3000"), "brackets"),
        (("connect", "http://10.0.0.1:3000"), "is a URL"),
        (("ping",), "Missing argument 'NODE'"),
        (("orders", "--data-dir", "x", "--api", "y"), "give one of them"),
        (("orders", "--api", "ftp://x"), "http://127.0.0.1:8300"),
        (("orders", "--api", "http://x:port"), "http://127.0.0.1:8300"),
        (("orders", "--api", "http://x/path"), "http://127.0.0.1:8300"),
        (("demo", "--nodes", "1"), "2<=x<=20"),
        (("demo", "--seconds", "0"), "1<=x<=3600"),
        (("version", "extra"), "unexpected extra argument"),
    ],
)
def test_wrong_usage_is_code_2_with_an_example(
    node: RunningNode, words: tuple[str, ...], hint: str
) -> None:
    result = run(*words)
    assert result.exit_code == 2, result.output
    assert hint in result.stderr
    assert result.stdout == ""
    assert node.orders() == []


def test_a_fault_of_the_node_is_code_4(node: RunningNode, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(node.node.orders, "find", fail)
    result = run("orders")
    assert (result.exit_code, "incident" in result.stderr) == (4, True)
    assert "secret" not in result.stderr


def test_an_unexpected_failure_is_code_4_in_one_line(
    node: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr("node.cli.client_session.find", fail)
    result = run("orders")
    assert result.exit_code == 4
    assert result.stderr.count("\n") == 1
    assert "ZeroDivisionError: two lines" in result.stderr
    monkeypatch.setenv("EXCHANGE_NODE_DEBUG", "1")
    assert isinstance(run("orders").exception, ZeroDivisionError)


def test_an_interrupt_is_quiet_and_code_130(
    node: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("node.cli.client_session.find", interrupt)
    result = run("orders")
    assert (result.exit_code, result.output.strip()) == (130, "")


# Finding the node


def test_the_node_is_found_by_option_variable_env_file_and_url(
    node: RunningNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert run("status").exit_code == 0  # DATA_DIR
    monkeypatch.setenv("DATA_DIR", str(elsewhere))
    assert run("status").exit_code == 3
    assert run("status", "--data-dir", str(tmp_path)).exit_code == 0
    assert run("status", "--api", node.url).exit_code == 0
    assert run("status", "--api", node.url.removeprefix("http://") + "/").exit_code == 0
    monkeypatch.delenv("DATA_DIR")
    (elsewhere / ".env").write_text(f"DATA_DIR={tmp_path}\n")
    assert run("status").exit_code == 0
    (elsewhere / ".env").write_bytes(b"\xffDATA_DIR=x")
    unreadable = run("status")
    assert (unreadable.exit_code, "not UTF-8 text" in unreadable.stderr) == (2, True)
    (elsewhere / ".env").unlink()
    monkeypatch.setenv("HOME", str(elsewhere))
    assert run("status").exit_code == 3


def assert_no_node(result: Result, *words: str) -> None:
    assert result.exit_code == 3, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr


def test_without_a_node_the_command_names_the_searched_place_and_the_start_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATA_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert_no_node(run("orders"), f"{tmp_path}/.exchange-node", "exchange-node start,", "--api URL")
    other = tmp_path / "other"
    assert_no_node(
        run("orders", "--data-dir", str(other)), f"exchange-node start --data-dir {other}"
    )
    result = run("orders", "--json")
    assert json.loads(result.stdout)["code"] == "no_node"


def test_a_file_left_behind_is_explained(node: RunningNode, tmp_path: Path) -> None:
    node.stop_server()
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], stdout=-1)
    node.write(pid=int(gone.stdout))
    assert_no_node(
        run("orders"), node.url, "connection refused", "left behind", "is gone", "start --data-dir"
    )
    node.write()
    assert_no_node(run("orders"), f"stop process {os.getpid()}")
    assert_no_node(run("book", "BTC-USD", "--watch"), "no answer from", "connection refused")
    assert_no_node(run("orders", "--api", node.url), node.url, "is the URL given by --api right")


@pytest.mark.parametrize(
    "content",
    ["", "nonsense", "[]", '{"api_url": 5}', '{"api_url": "gopher://x", "node_id": "a", "pid": 1}'],
)
def test_a_damaged_file_is_explained(node: RunningNode, tmp_path: Path, content: str) -> None:
    (tmp_path / "node.json").write_text(content)
    assert_no_node(run("orders"), "node.json is damaged")


def test_another_node_at_the_address_is_not_traded_with(node: RunningNode) -> None:
    """A second node may have taken the port that a node which crashed had."""
    node.write(node_id=PEER)
    result = run("order", "buy", "BTC-USD", "1", "@", "1")
    assert_no_node(result, "another node answers at", ME, PEER)
    assert node.orders() == []


def test_a_coroutine_that_waits_cannot_be_run_without_a_loop() -> None:
    with pytest.raises(RuntimeError, match="must not wait"):
        run_blocking(asyncio.sleep(0))


# start, demo, config, version


def test_start_hands_the_settings_to_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    daemon = ModuleType("node.daemon.run_node")
    daemon.run = lambda loaded, **_: seen.append(loaded) or 0  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "node.daemon.run_node", daemon)
    monkeypatch.chdir(tmp_path)
    result = run(
        *("start", "--data-dir", str(tmp_path), "--p2p-host", "127.0.0.1", "--p2p-port", "4000"),
        *("--api-port", "0", "--bootstrap", "10.0.0.1:1,10.0.0.2:2", "--bootstrap", "10.0.0.3:3"),
        *("--network", "test", "--security", "off", "--no-mdns", "--max-peers", "7"),
        *("--log-level", "debug", "--instruments", "markets.toml"),
    )
    assert result.exit_code == 0, result.output
    settings = seen[0].settings
    assert settings.data_dir == tmp_path
    assert (settings.p2p_host, settings.p2p_port, settings.api_port) == ("127.0.0.1", 4000, 0)
    assert [str(peer) for peer in settings.bootstrap_peers] == [
        "10.0.0.1:1",
        "10.0.0.2:2",
        "10.0.0.3:3",
    ]
    assert (settings.p2p_network, settings.p2p_security, settings.discovery_mdns) == (
        "test",
        "off",
        False,
    )
    assert (settings.max_peers, settings.log_level) == (7, "debug")
    assert settings.instruments_file.name == "markets.toml"
    assert not seen[0].is_default("p2p_port")
    assert run("start").exit_code == 0
    assert seen[1].is_default("p2p_port")
    assert seen[1].is_default("discovery_mdns")


def test_the_daemon_s_exit_code_is_the_command_s(monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = ModuleType("node.daemon.run_node")
    daemon.run = lambda loaded, **_: 1  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "node.daemon.run_node", daemon)
    assert run("start").exit_code == 1


def test_wrong_settings_are_named_one_in_a_line_and_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("start", "--p2p-port", "99999", "--network", "NO WAY", "--security", "rot13")
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert len(lines) == 3
    assert [line for line in lines if "P2P_PORT=99999 (command line --p2p-port)" in line]
    assert run("start", "--config", str(tmp_path / "missing.toml")).exit_code == 2
    assert run("start", env={"API_PORT": "x"}).exit_code == 2


def test_the_demo_gets_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    demo = ModuleType("node.annexes.demos.trading_demo")
    demo.run = lambda **options: seen.append(options) or 0  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "node.annexes.demos.trading_demo", demo)
    assert run("demo").exit_code == 0
    assert run("demo", "--nodes", "5", "--seconds", "2.5", "--seed", "7", "--json").exit_code == 0
    assert seen == [
        {"nodes": 3, "seconds": 10.0, "seed": None, "json": False, "open_page": None},
        {"nodes": 5, "seconds": 2.5, "seed": 7, "json": True, "open_page": None},
    ]


def test_config_shows_every_setting_its_value_and_where_it_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("MAX_PEERS=9\n")
    monkeypatch.setenv("P2P_PORT", "4000")
    monkeypatch.delenv("DATA_DIR", raising=False)
    lines = run("config", "--data-dir", str(tmp_path)).stdout.splitlines()
    found = {line.split()[0]: line.split(maxsplit=2)[1:] for line in lines if len(line.split()) > 2}
    assert found["P2P_PORT"] == ["4000", "environment"]
    assert found["MAX_PEERS"] == ["9", f".env {tmp_path}/.env"]
    assert found["DATA_DIR"] == [str(tmp_path), "command line --data-dir"]
    assert found["API_PORT"] == ["8300", "default"]
    assert found["GRAPE_DHT_PORT"] == ["20001", "default"]
    everything = json.loads(run("config", "--json").stdout)["settings"]
    assert {view["name"] for view in everything} >= found.keys() - {"setting"}
    assert next(view for view in everything if view["key"] == "p2p_port")["value"] == "4000"
    changed = run("config", "--changed").stdout
    assert "P2P_PORT" in changed
    assert "API_PORT" not in changed
    assert run("config", "--config", "missing").exit_code == 2


def test_the_version_is_shown_by_command_and_option() -> None:
    assert run("--version").stdout.startswith("exchange-node ")
    assert run("version").stdout.startswith("exchange-node ")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_teaches_with_examples(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    assert "Examples:" in result.stdout
    assert f"exchange-node {name}" in result.stdout


def test_the_help_lists_exit_codes_and_every_command() -> None:
    text = run("--help").stdout
    for line in ("0    done", "1    the node refused", "3    no running node", "130  interrupted"):
        assert line in text
    for name in COMMANDS:
        assert f"\n  {name} " in text
    assert "..." not in text.partition("Options:")[2]  # no summary is cut off


# As a process


def process(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*EXCHANGE_NODE, *words], capture_output=True, text=True, timeout=20, **options
    )


def test_a_closed_output_causes_no_traceback(node: RunningNode) -> None:
    result = subprocess.run(
        f"{sys.executable} -m node.cli.main --help | true",
        shell=True,
        capture_output=True,
        timeout=20,
    )
    assert result.stderr == b""


# Services


def test_a_service_is_called_with_json_and_answers_json(node: RunningNode) -> None:
    result = run("call", "job_service", '{"action":"execute"}', "--timeout", "2000", "--idempotent")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"echo": {"action": "execute"}}
    assert result.stderr == f"node {PEER} answered in 12.5 ms, after 2 requests\n"
    sent = node.node.network.last_call
    assert sent is not None
    assert (sent.timeout_ms, sent.idempotent, sent.idempotency_id) == (2000, True, "")
    whole = run_json("call", "job_service", "[1]", "--id", "x", "--node", "abcd")
    assert (whole["node"], whole["attempts"], whole["result"]) == (PEER, 2, {"echo": [1]})
    sent = node.node.network.last_call
    assert (sent.idempotent, sent.idempotency_id, sent.node) == (None, "x", "abcd")
    assert json.loads(run("call", "book").stdout) == {"echo": None}
    assert json.loads(run("call", "book", "-", input='{"a":1}').stdout) == {"echo": {"a": 1}}


def test_a_failed_call_prints_the_reason_and_exits_with_1(node: RunningNode) -> None:
    refused = run("call", "job_service", '{"refuse":"no work today"}', "--json")
    assert refused.exit_code == 1
    assert json.loads(refused.stdout)["service_code"] == "no_job"
    assert "job_service: no work today (service_refused)" in refused.stderr
    assert "nobody offers 'nix'" in run("call", "nix").stderr


@pytest.mark.parametrize("text", ["{a:1}", "execute", "[1,"])
def test_a_payload_that_is_no_json_is_wrong_usage(node: RunningNode, text: str) -> None:
    result = run("call", "job_service", text)
    assert result.exit_code == 2
    assert "no valid JSON" in result.stderr
    assert ("with quotes" in result.stderr) == (text == "execute")


def test_services_and_the_router_are_shown(node: RunningNode) -> None:
    lines = run("services").stdout.splitlines()
    assert lines[1].split() == [
        "book",
        *["5", "served,", "2", "refused", "as", "busy", "0"],
        f"{ME},",
        PEER,
    ]
    assert lines[2].split() == ["job_service", "-", "3", PEER]
    assert run_json("services")[1]["calls"]["outcomes"] == {"ok": 2, "busy": 1}
    text = run("router").stdout
    assert "policy adaptive" in text
    assert "OPEN" in text
    assert "breaker OPEN, latency_s 0.01" in text
    assert f"{PEER} is DEGRADED  says {ME}, weight 0.50" in text
    assert f"breaker job_service {PEER}: CLOSED to OPEN: 5 failures in a row" in text
    only = run_json("router", "--kind", "breaker", "--events", "1")
    assert [event["kind"] for event in only["events"]] == ["breaker"]


@pytest.mark.parametrize(
    ("handler", "told"),
    [
        ("jobs", "it is written MODULE:FUNCTION"),
        ("nix_here:f", "module 'nix_here' is neither in"),
        ("jobs_here:nix", "jobs_here has no 'nix'; it has execute"),
        ("jobs_here:NUMBER", "NUMBER of jobs_here is a int, no function"),
        ("broken_here:f", "ZeroDivisionError: division by zero ("),
        ("wrong_here:f", "SyntaxError"),
        ("needs_here:f", "No module named 'nix_at_all'"),
    ],
)
def test_a_handler_that_cannot_be_used_is_explained(
    node: RunningNode, tmp_path: Path, handler: str, told: str
) -> None:
    (tmp_path / "jobs_here.py").write_text("NUMBER = 1\ndef execute(payload): return payload\n")
    (tmp_path / "broken_here.py").write_text("1 / 0\n")
    (tmp_path / "wrong_here.py").write_text("def f(:\n")
    (tmp_path / "needs_here.py").write_text("import nix_at_all\n")
    result = run("worker", "--handler", handler)
    assert result.exit_code == 2
    assert told in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_worker_has_the_options_of_start_and_more(node: RunningNode) -> None:
    text = run("worker", "--help").stdout
    for option in (
        "--data-dir",
        "--bootstrap",
        "--no-mdns",
        "--service",
        "--handler",
        "--error-rate",
    ):
        assert option in text
    assert "e.g. 50ms" in run("worker", "--handler", "a:b", "--latency", "5 min").stderr


def test_options_that_name_the_node_are_taken_before_the_subcommand_too(tmp_path: Path) -> None:
    """The option beside the command wins over one before it."""
    for words in (
        ("--data-dir", str(tmp_path), "orders"),
        ("account", "--data-dir", str(tmp_path), "list"),
        ("--data-dir", "/nowhere", "orders", "--data-dir", str(tmp_path)),
        ("--api", "http://127.0.0.1:1", "orders", "--data-dir", str(tmp_path)),
    ):
        result = run(*words)
        assert result.exit_code == 3
        assert f"no node runs on {tmp_path}" in result.output
    result = run("--json", "--api", "http://127.0.0.1:1", "status")
    assert json.loads(result.output.split("exchange-node:")[0])["code"] == "no_node"
    shown = run("--data-dir", str(tmp_path), "config", "--json")
    assert str(tmp_path) in shown.output


def test_an_option_of_a_part_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(CommandFailure, match="--no-such-part: this program has no part") as refusal:
        load_settings(None, data_dir="here", no_such_part=1)
    assert refusal.value.code is Exit.USAGE
