"""Commands in odd surroundings: variables, arguments, closed and full descriptors, no home directory."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from cli_kit import RunningNode
from click.testing import CliRunner, Result

from node.cli.client_session import VARIABLES
from node.cli.main import COMMANDS, EMPTY_OK, GROUPS, cli
from node.cli.service_unit import hidden_parts, unit

KEY = "f383c83c61392bea"
SECRET = "s3cr3tS3CR3Ts3cr3t"


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningNode]:
    monkeypatch.chdir(tmp_path)
    for name in ("DATA_DIR", *VARIABLES):
        monkeypatch.delenv(name, raising=False)
    directory = tmp_path / "a node's data"
    directory.mkdir()
    running = RunningNode(directory)
    running.start()
    yield running
    running.stop()


def run(*words: str, **options: Any) -> Result:
    return CliRunner().invoke(cli, list(words), prog_name="exchange-node", **options)


def here(node: RunningNode) -> tuple[str, str]:
    return "--data-dir", str(node.directory)


# Keys


@pytest.mark.parametrize("words", [("orders",), ("order", "buy", "BTC-USD", "1", "@", "1")])
@pytest.mark.parametrize("as_json", [(), ("--json",)])
@pytest.mark.parametrize(
    "text",
    [
        f"{KEY}\n:{SECRET}",
        f"{KEY}:{SECRET}\r\nX: 1",
        f"\ufeff{KEY}:{SECRET}",
        f'"{KEY}:{SECRET}"',
        f"{KEY}:{SECRET}€",
        f"{KEY}:{SECRET}\udcff",
        f"{KEY}{SECRET}",
    ],
)
def test_a_malformed_key_is_code_2_and_is_not_shown(
    node: RunningNode, text: str, as_json: tuple[str, ...], words: tuple[str, ...]
) -> None:
    result = run(*words, *as_json, *here(node), env={"EXCHANGE_NODE_KEY": text})
    assert (result.exit_code, "must be KEY:SECRET" in result.stderr) == (2, True)
    assert SECRET not in result.output
    assert node.orders() == []


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n", "  \t"])
def test_white_space_around_a_key_does_no_harm(node: RunningNode, end: str) -> None:
    made = node.do(lambda: node.node.accounts.create(1, "alice").number)
    node.do(lambda: node.node.accounts.create_key(1, made, ("read",), "", KEY, SECRET))
    shown = run("whoami", *here(node), env={"EXCHANGE_NODE_KEY": f" {KEY}:{SECRET}{end}"})
    assert shown.stdout.splitlines()[:2] == [f"account {made}: alice", f"  by    the key {KEY}"]


def test_answers_to_requests_without_a_key_name_the_operator(node: RunningNode) -> None:
    assert run("whoami", *here(node)).stdout.startswith("operator: acts for the house")
    assert json.loads(run("whoami", "--json", *here(node)).stdout)["access"] == "operator"


@pytest.mark.parametrize(
    "name", ["EXCHANGE_NODE_KEYS", "exchange_node_key", "EXCHANGE_NODE_APIKEY"]
)
def test_a_misspelt_variable_of_the_key_is_named(node: RunningNode, name: str) -> None:
    result = run("orders", *here(node), env={name: f"{KEY}:{SECRET}"})
    assert f"{name} is not used; did you mean EXCHANGE_NODE_KEY?" in result.stderr
    assert SECRET not in result.output


@pytest.mark.parametrize(
    "words",
    [
        ("account", "keys", "revoke", "{}"),
        ("orders", "--account", "{}"),
        ("orders", "--api", "http://{}@127.0.0.1:1"),
        ("orders", "--api=https://{}@x"),
        ("cancel", "{}"),
        ("{}",),
    ],
)
def test_a_secret_among_the_arguments_is_refused_and_not_repeated(
    node: RunningNode, words: tuple[str, ...]
) -> None:
    secret = "Ab-_" * 11
    result = run(*(word.format(f"{'0f' * 16}:{secret}") for word in words), *here(node))
    assert (result.exit_code, "EXCHANGE_NODE_KEY" in result.stderr) == (2, True)
    assert secret not in result.output


# Set but empty


@pytest.mark.parametrize("value", ["", " ", "\r\n"])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("EXCHANGE_NODE_KEY", ("orders",)),
        ("EXCHANGE_NODE_KEY", ("desk", "balances", "--nodes", "x")),
        ("EXCHANGE_NODE_DESK", ("desk", "balances")),
        ("DATA_DIR", ("orders",)),
        ("DATA_DIR", ("config",)),
        ("P2P_PORT", ("config",)),
    ],
)
def test_a_variable_that_is_set_but_empty_is_code_2(
    node: RunningNode, name: str, words: tuple[str, ...], value: str
) -> None:
    more = here(node) if words == ("orders",) and name != "DATA_DIR" else ()
    result = run(*words, *more, env={name: value})
    assert (result.exit_code, name in result.stderr, "empty" in result.stderr) == (2, True, True)


@pytest.mark.parametrize(
    "words",
    [
        ("orders", "--api", ""),
        ("orders", "--api="),
        ("orders", "--data-dir", " "),
        ("--data-dir", "", "orders"),
        ("orders", "--account", ""),
        ("account", "show", ""),
        ("order", "buy", "", "1"),
        ("order", "buy", "BTC-USD", "1", "@", ""),
        ("cancel", "--market", ""),
        ("start", "--bootstrap", ""),
        ("start", "--data-dir="),
        ("book", "BTC-USD", "--depth", ""),
    ],
)
def test_an_empty_argument_is_code_2(node: RunningNode, words: tuple[str, ...]) -> None:
    result = run(*words)
    assert (result.exit_code, "is empty" in result.stderr) == (2, True), result.output


def test_only_texts_for_people_and_a_list_of_the_grape_may_be_empty() -> None:
    empty = {
        option
        for command in _commands()
        for param in command.params
        if isinstance(param, click.Option) and param.default == ""
        for option in param.opts
    }
    assert empty - EMPTY_OK == {"--id"}  # of a call: an empty one would not be unique
    assert EMPTY_OK - empty == {"--bn"}


@pytest.mark.parametrize(
    "words",
    [
        ("orders", "--account", "a\udcff"),
        ("order", "buy", "BTC-USD", "1\udcff"),
        ("orders", "--data-dir", "/tmp/\udcff"),
        ("account", "create", "\udce9"),
        ("start", "--network", "\udcff"),
    ],
)
def test_arguments_that_are_not_utf8_are_code_2(node: RunningNode, words: tuple[str, ...]) -> None:
    result = run(*words)
    assert (result.exit_code, "is not UTF-8 text" in result.stderr) == (2, True)


# Hints


def hinted(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if not line.startswith(("Usage:", "Try "))]
    return [shlex.split(line) for line in re.findall(r"exchange-node [^\n]*", "\n".join(lines))]


@pytest.mark.parametrize(
    "words",
    [
        ("order", "BTC-USD", "1"),
        ("order", "buy", "BTC-USD", "1", "30000"),
        ("order", "buy", "0.5", "BTC-USD"),
        ("sell", "BTC-USD", "1"),
        ("account", "deposit", "bob"),
        ("ledger", "credit", "USD"),
    ],
)
@pytest.mark.parametrize("by_api", [False, True])
def test_hinted_commands_are_for_the_same_node_and_can_be_copied(
    node: RunningNode, words: tuple[str, ...], by_api: bool
) -> None:
    options = ("--api", node.url) if by_api else here(node)
    for line in (run(*words, *options), run(*options, *words)):
        commands = hinted(line.output)
        assert commands, line.output
        assert all(tuple(words[-2:]) == options for words in commands), line.output


@pytest.mark.parametrize(
    ("address", "hint"),
    [
        ("[::1]", "has no port; peers listen on 3000 by default: [::1]:3000"),
        ("[fe80::1%eth0]", "[fe80::1%eth0]:3000"),
        ("::1", "in brackets: [::1]:3000"),
        ("2001:db8::7", "in brackets: [2001:db8::7]:3000"),
        ("example.org", "example.org:3000"),
        ("example.org:", "default: example.org:3000"),
        ("[::1", "no closing bracket"),
        ("[example.org]:3000", "not an IPv6 address"),
        ("https://example.org", "is a URL"),
        ("a b:3000", "is not a host name"),
    ],
)
def test_a_wrong_address_is_answered_with_one_that_can_be_typed(
    node: RunningNode, address: str, hint: str
) -> None:
    result = run("connect", address, *here(node))
    assert (result.exit_code, hint in result.stderr) == (2, True), result.stderr


# Help


def _commands(root: click.Command = cli) -> Iterator[click.Command]:
    context = click.Context(root)
    if isinstance(root, click.Group):
        for name in root.list_commands(context):
            inner = root.get_command(context, name)
            assert inner is not None
            yield from _commands(inner)
    else:
        yield root


def test_every_command_stands_in_one_group_of_the_help() -> None:
    text = run("--help").stdout
    assert run("help").stdout.splitlines()[1:] == text.splitlines()[1:]
    assert sum(map(len, GROUPS.values())) == len(COMMANDS)
    for title, commands in GROUPS.items():
        section = text.partition(f"\n{title}:\n")[2].partition("\n\n")[0]
        assert [line.split()[0] for line in section.splitlines()] == list(commands)


def test_every_command_has_examples_of_itself() -> None:
    for command in _commands():
        assert command.help is not None
        after = re.split(r"Examples?:|Install it for the system:", command.help)[1:]
        assert after, command.name
        assert any(f" {command.name}" in part for part in after), command.name


@pytest.mark.parametrize(
    "words",
    ["account help", "account help keys create", "account keys help create", "order help buy",
     "demo help storm", "service help print", "journal help"],
)  # fmt: skip
def test_help_is_a_command_of_every_group(words: str) -> None:
    plain = [word for word in words.split() if word != "help"]
    assert run(*words.split()).stdout == run(*plain, "--help").stdout


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("account", "help", "nix"), "It has create, list"),
        (("ordr",), "Did you mean order"),
        (("xyzzy",), "--help"),
        (("account", "nix"), "It has create, list"),
        (("cancel", "1"), "no commands of its own"),
    ],
)
def test_help_for_an_unknown_command_is_code_2(words: tuple[str, ...], hint: str) -> None:
    result = run("help", *words)
    assert (result.exit_code, hint in result.stderr) == (2, True)


# As a process

CHILD = """
import os, sys
for entry in sys.argv[1].split(","):
    if entry == "full":
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    elif entry == "errors-full":
        os.dup2(os.open("/dev/full", os.O_WRONLY), 2)
    elif entry == "unread":
        reader, writer = os.pipe(); os.close(reader); os.dup2(writer, 1)
    elif entry:
        os.close(int(entry))
os.execv(sys.executable, [sys.executable, "-m", "node.cli.main", *sys.argv[2:]])
"""


def needs_full(descriptors: str) -> None:
    if "full" in descriptors and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")


def process(
    descriptors: str, *words: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    needs_full(descriptors)
    return subprocess.run(
        [sys.executable, "-c", CHILD, descriptors, *words],
        capture_output=True,
        text=True,
        timeout=30,
        env=environment,
        check=False,
    )


ORDER = ("order", "buy", "BTC-USD", "1", "@", "1", "--yes")


def test_an_order_whose_later_state_is_not_known_is_shown_as_it_was_placed(
    node: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.do(lambda: node.node.place_remote("BTC-USD", "sell", "1", "1"))
    real = node.node.orders.submit

    async def submit(*args: Any, **options: Any) -> Any:
        view = await real(*args, **options)
        view.pending = "1"

        def fail(*_: Any, **__: Any) -> Any:
            raise RuntimeError("gone")

        monkeypatch.setattr(node.node.orders, "get", fail)
        return view

    monkeypatch.setattr(node.node.orders, "submit", submit)
    done = run(*ORDER, *here(node))
    assert (done.exit_code, "order " in done.stdout) == (0, True), done.output


@pytest.mark.parametrize(
    ("words", "code", "hint"),
    [
        ((), 2, "--data-dir DIR or --api URL"),
        (("--data-dir", "~/x"), 2, "--data-dir DIR or --api URL"),
        (("--data-dir", "/none"), 3, "exchange-node start --data-dir /none, or"),
        (("--api", "127.0.0.1:1"), 3, "no answer"),
    ],
)
def test_a_user_without_account_and_home_has_to_name_the_node(
    monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], code: int, hint: str
) -> None:
    def unknown(uid: int) -> Any:
        raise KeyError(uid)

    for name in ("HOME", "DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    result = run("orders", *words)
    assert (result.exit_code, hint in result.stderr) == (code, True), result.output


# The unit


@pytest.mark.parametrize(
    ("paths", "shown"),
    [
        (["/usr", "/usr/local/bin"], []),
        (["/opt/venv", "/usr"], []),
        (["/home/al/.local/share/pipx/venvs/x", "/usr"], ["/home/al/.local/share/pipx/venvs/x"]),
        (["/root/v", "/root/v/bin", "/root/src"], ["/root/src", "/root/v"]),
        (["/tmp/v", "/home/al/py"], ["/home/al/py", "/tmp/v"]),
        (["/homes/v", "/rooted"], []),
    ],
)
def test_the_unit_shows_the_parts_of_the_program_that_it_would_hide(
    paths: list[str], shown: list[str]
) -> None:
    parts = hidden_parts(map(Path, paths))
    assert [str(part) for part in parts] == shown
    text = unit("/x/exchange-node", user=False, parts=parts)
    if not shown:
        assert text == unit("/x/exchange-node", user=False)
        return
    assert f"\nBindReadOnlyPaths={' '.join(shown)}\n" in text
    home = any(part.startswith(("/home/", "/root/")) for part in shown)
    assert f"\nProtectHome={'tmpfs' if home else 'yes'}\n" in text


def test_paths_with_blanks_and_percent_signs_are_quoted_for_systemd() -> None:
    text = unit("/home/a b/50%/exchange-node", user=False, parts=[Path("/home/a b/50%")])
    assert 'ExecStart="/home/a b/50%%/exchange-node" start\n' in text
    assert 'BindReadOnlyPaths="/home/a b/50%%"\n' in text
