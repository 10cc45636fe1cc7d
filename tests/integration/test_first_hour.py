"""First steps of a new user: attached workers, watching a book, wrong ports and files, scripts."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import ROOT, NodeProcess, Nodes, environment, eventually, run_cli

JOBS = """
from p2p.base.errors import HandlerError
from p2p.services.service_server import current_request

async def execute(payload):
    if payload.get("refuse"):
        raise HandlerError("no_job", payload["refuse"])
    return {"done": payload, "id": current_request().id}
"""


class Worker:
    """`exchange-node worker` on the data directory of a running node."""

    def __init__(self, node: NodeProcess, handler: str, *options: str) -> None:
        self.log = node.data_dir.with_name("worker.log")
        directory = node.data_dir.with_name("work")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "node.cli.main", "worker", "--handler", handler,
                 "--data-dir", str(node.data_dir), *options],
                stdout=log, stderr=log, cwd=directory, env=environment(),
            )  # fmt: skip

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(10)


def offers(node: NodeProcess, service: str) -> bool:
    return service in node.status().services


def test_a_worker_beside_a_running_node_serves_in_its_name(nodes: Nodes) -> None:
    node = nodes.start("a")
    (nodes.directory / "work").mkdir()
    (nodes.directory / "work" / "node.py").write_text(JOBS)  # named like a package of the program
    worker = Worker(node, "node:execute")
    try:
        eventually(lambda: offers(node, "job_service"), what=worker.log.read_text)
        done = node.cli("call", "job_service", '{"n":1}', "--id", "once")
        assert (done["node"], done["result"]) == (node.node_id, {"done": {"n": 1}, "id": "once"})
        refused = run_cli(
            "call", "job_service", '{"refuse":"no"}', "--data-dir", str(node.data_dir)
        )
        assert (refused.returncode, "no_job" in refused.stderr or "no" in refused.stderr) == (
            1,
            True,
        )
        node.stop()
        node.restart()
        eventually(lambda: offers(node, "job_service"), what=worker.log.read_text)
        assert node.cli("call", "job_service", '{"n":2}')["result"]["done"] == {"n": 2}
        assert worker.stop() == 0
        eventually(lambda: not offers(node, "job_service"))
    finally:
        worker.process.kill()
        worker.process.wait()


def test_a_file_is_a_handler_and_a_taken_name_is_refused(nodes: Nodes) -> None:
    node = nodes.start("a")
    (nodes.directory / "work" / "sub").mkdir(parents=True)
    (nodes.directory / "work" / "sub" / "jobs.py").write_text(JOBS)
    worker = Worker(node, "sub/jobs.py:execute")
    try:
        eventually(lambda: offers(node, "job_service"), what=worker.log.read_text)
        second = Worker(node, "sub/jobs.py:execute")
        assert second.process.wait(20) == 1
        assert "cannot serve 'job_service'" in second.log.read_text()
    finally:
        worker.process.kill()
        worker.process.wait()
    eventually(lambda: not offers(node, "job_service"), what="the killed worker to be gone")
    missing = run_cli("worker", "--handler", "nix.py:f", "--data-dir", str(node.data_dir))
    assert (missing.returncode, "there is no file" in missing.stderr) == (2, True)


def test_ports_directories_and_files_that_cannot_be_used_are_code_2(nodes: Nodes) -> None:
    node = nodes.start("a")
    other = str(nodes.directory / "other")
    quiet = ("--no-mdns", "--p2p-host", "127.0.0.1")
    assert node.api_port is not None
    for options in (
        ("--data-dir", str(node.data_dir)),
        ("--data-dir", other, "--api-port", str(node.api_port)),
        ("--data-dir", other, "--p2p-port", str(node.p2p_port)),
        ("--data-dir", "/proc/none"),
        ("--data-dir", other, "--instruments", "/nowhere.toml"),
        ("--data-dir", other, "--config", "/nowhere.toml"),
        ("--data-dir", other, "--log-file", "/proc/none/log"),
    ):
        ended = run_cli("start", *quiet, *options)
        assert ended.returncode == 2, (options, ended.stderr)
        assert ended.stderr.startswith("exchange-node: ")
        assert ended.stderr.count("\n") == 1


def test_watching_ends_quietly_when_its_pipe_closes(nodes: Nodes) -> None:
    node = nodes.start("a")
    node.sell(5, 100)
    command = [sys.executable, "-m", "node.cli.main", "book", "TEST-USD", "--watch"]
    watch = subprocess.Popen(
        [*command, "--data-dir", str(node.data_dir)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(),
    )  # fmt: skip
    assert watch.stdout is not None
    assert watch.stderr is not None
    assert b"TEST-USD" in watch.stdout.readline()
    watch.stdout.close()
    assert watch.wait(10) == 0
    assert watch.stderr.read() == b""
    watch.stderr.close()


@pytest.mark.parametrize("lines", [5, 24])
def test_a_window_of_any_height_shows_the_best_prices_and_own_orders(
    nodes: Nodes, lines: int
) -> None:
    node = nodes.start("a")
    for price in range(101, 113):
        node.sell(1, price)
        node.buy(1, 201 - price)
    screen = watched(node, lines)
    for price in ("101", "100"):
        assert re.search(rf"^\* +{price} ", screen, re.MULTILINE), screen


def watched(node: NodeProcess, lines: int) -> str:
    """The first frame of `book --watch` in a window of so many lines."""
    pid, terminal = pty.fork()
    if pid == 0:  # pragma: no cover - another process
        size = {"LINES": str(lines), "COLUMNS": "80", "TERM": "xterm", "NO_COLOR": "1"}
        command = [sys.executable, "-m", "node.cli.main", "book", "TEST-USD", "--watch"]
        os.chdir(ROOT)
        os.execve(sys.executable, [*command, "--data-dir", str(node.data_dir)], environment(**size))
    seen = b""
    deadline = time.monotonic() + 20
    try:
        while seen.count(b"own 1") < 2 and time.monotonic() < deadline:
            seen += os.read(terminal, 65536)
        while select.select([terminal], [], [], 0.3)[0]:  # the rest of the frame
            seen += os.read(terminal, 65536)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.decode()).replace("\r", "")


def test_the_demo_prints_before_it_imports(tmp_path: Path) -> None:
    demo = subprocess.Popen(
        [sys.executable, "-m", "node.cli.main", "demo", "--seconds", "1", "--nodes", "2"],
        stdout=subprocess.PIPE, env=environment(), cwd=tmp_path,
    )  # fmt: skip
    assert demo.stdout is not None
    try:
        assert demo.stdout.readline().startswith(b"starting 2 nodes")
        assert b"books are the same" in demo.stdout.read()
        assert demo.wait(60) == 0
    finally:
        demo.kill()
        demo.stdout.close()
        demo.wait()


def test_a_far_or_large_order_needs_yes_in_a_script(nodes: Nodes) -> None:
    node = nodes.start("a")
    node.sell(5, 100)
    node.buy(1, 99)
    where = ("--data-dir", str(node.data_dir))
    for words in (("buy", "TEST-USD", "1", "@", "120"), ("buy", "TEST-USD", "50")):
        refused = run_cli("order", *words, *where)
        assert (refused.returncode, "add --yes" in refused.stderr) == (1, True), refused.stderr
    assert node.orders(open_only=True)[0].filled == "0"
    assert run_cli("order", "buy", "TEST-USD", "50", "--yes", *where).returncode == 0
    beyond = run_cli("order", "buy", "TEST-USD", "1", "@", "1000", "--yes", *where)
    assert (beyond.returncode, "price_band" in beyond.stderr) == (1, True)
