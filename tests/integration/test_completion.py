"""Completion in the real shells, manual pages, and systems that cannot run a node."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import ROOT, NodeProcess, Nodes, environment, run_cli

needs_bash = pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
needs_zsh = pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not installed")
needs_fish = pytest.mark.skipif(not shutil.which("fish"), reason="fish is not installed")

# What is typed, and what the Tab key has to offer or to complete it to.
TYPED = [
    ("exchange-node can", {"cancel", "candles"}),
    ("exchange-node order buy BT", {"BTC-USD"}),
    ("exchange-node book ET", {"ETH-USD", "ETH-BTC"}),
    ("exchange-node cancel ", {"1"}),
    ("exchange-node balances --account ali", {"alice"}),
    ("exchange-node account show ali", {"alice"}),
]


@pytest.fixture
def node(nodes: Nodes) -> NodeProcess:
    """A node with an order and an account, and `exchange-node` in a directory `bin`."""
    node = nodes.start("a")
    node.sell("0.5", 30000, market="BTC-USD")
    node.cli("account", "create", "alice")
    script = nodes.directory / "bin" / "exchange-node"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m node.cli.main "$@"\n')
    script.chmod(0o755)
    return node


def surroundings(node: NodeProcess) -> dict[str, str]:
    path = f"{node.data_dir.parent / 'bin'}:{os.environ['PATH']}"
    home = str(node.data_dir.parent)
    return environment(DATA_DIR=str(node.data_dir), PATH=path, HOME=home, TERM="dumb")


def shell(node: NodeProcess, *command: str) -> str:
    done = subprocess.run(
        command, env=surroundings(node), capture_output=True, text=True, timeout=60, check=False
    )
    assert not done.stderr, done.stderr
    return done.stdout


@needs_bash
def test_bash_completes_words_of_the_program_and_of_the_node(node: NodeProcess) -> None:
    lines = ["source <(exchange-node completion bash)"]
    for typed, _ in TYPED:
        words = typed.split(" ")
        listed = " ".join(f"'{word}'" for word in words)
        lines += [
            f"COMPREPLY=(); COMP_WORDS=({listed}); COMP_CWORD={len(words) - 1}",
            '_exchange_node_completion exchange-node; echo "${COMPREPLY[@]}"',
        ]
    said = shell(node, "bash", "--norc", "-c", "\n".join(lines)).splitlines()
    assert [set(line.split()) for line in said] == [wanted for _, wanted in TYPED]


@needs_fish
def test_fish_completes_words_of_the_program_and_of_the_node(node: NodeProcess) -> None:
    lines = ["exchange-node completion fish | source"]
    lines += [f"echo =; complete -C '{typed}'" for typed, _ in TYPED]
    said = shell(node, "fish", "--no-config", "-c", "\n".join(lines)).split("=\n")[1:]
    offered = [{line.split("\t")[0] for line in part.splitlines()} for part in said]
    assert offered == [wanted for _, wanted in TYPED]


@needs_zsh
def test_zsh_completes_words_of_the_program_and_of_the_node(node: NodeProcess) -> None:
    functions = node.data_dir.parent / "zfunc"
    functions.mkdir()
    (functions / "_exchange-node").write_text(shell(node, "exchange-node", "completion", "zsh"))
    setup = f"PS1='> '; unsetopt zle_bracketed_paste; fpath+={functions}; autoload -Uz compinit; "
    setup += "compinit -u; echo RE''ADY\n"
    pid, terminal = pty.fork()
    if pid == 0:  # pragma: no cover - another process
        os.chdir(ROOT)
        os.execvpe("zsh", ["zsh", "-f", "-i"], surroundings(node))
    try:
        os.write(terminal, setup.encode())
        until(terminal, lambda seen: "READY\n" in seen and seen.endswith("> "))
        for typed, wanted in TYPED:
            begun = typed.rpartition(" ")[2]
            os.write(terminal, typed.encode())
            until(terminal, lambda text, typed=typed: typed.strip() in text)
            seen = begun
            for _ in range(9):  # the first Tab completes, the next ones list
                os.write(terminal, b"\t")
                seen += until(terminal, lambda text, s=seen, w=wanted: offered(s + text, w), 1.0)
                if offered(seen, wanted):
                    break
            assert offered(seen, wanted), (typed, seen)
            os.write(terminal, b"\x15")  # the line is given up
            until(terminal, lambda text: False, 0.3)
    finally:
        os.close(terminal)
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def offered(text: str, words: set[str]) -> bool:
    return all(word in text.replace("\x07", "") for word in words)


def until(terminal: int, enough: Callable[[str], bool], seconds: float = 30.0) -> str:
    """Read until `enough` of what has come, for `seconds` at most."""
    seen = b""
    text = ""
    deadline = time.monotonic() + seconds
    while not enough(text) and (left := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select([terminal], [], [], left)
        if ready:
            seen += os.read(terminal, 65536)
            text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.decode("utf-8", "replace"))
            text = text.replace("\r", "")
    return text


def test_completion_without_a_node_is_silent(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "node.cli.main"],
        env=environment(
            DATA_DIR=str(tmp_path), _EXCHANGE_NODE_COMPLETE="bash_complete",
            COMP_WORDS="exchange-node book ", COMP_CWORD="2",
        ),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


@pytest.mark.skipif(not shutil.which("man"), reason="man is not installed")
def test_manual_pages_are_read_by_man_without_a_warning(tmp_path: Path) -> None:
    written = run_cli("manual", "--write", str(tmp_path / "man1"))
    assert written.returncode == 0, written.stderr
    pages = sorted((tmp_path / "man1").iterdir())
    assert {"exchange-node.1", "exchange-node-order.1"} <= {page.name for page in pages}
    for page in pages:
        shown = subprocess.run(
            ["man", "--warnings", "-l", str(page)],
            env={**os.environ, "MANWIDTH": "100", "LC_ALL": "C.UTF-8", "PAGER": "cat"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (shown.returncode, shown.stderr) == (0, "")
    assert "exchange-node order buy BTC-USD 0.5 @ 30000" in (
        (tmp_path / "man1" / "exchange-node-order.1").read_text().replace("\\-", "-")
    )


def test_a_system_without_posix_locks_is_named_in_one_line() -> None:
    # Where `fcntl` is built into Python, no file of that name would be found before it.
    program = "import sys; sys.modules['fcntl'] = None; from node.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, "status"],
        env=environment() | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "needs a POSIX system" in done.stderr
