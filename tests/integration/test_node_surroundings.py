"""Nodes with closed and full descriptors, an unread standard error, as process 1, with few open files."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from processes import environment, eventually

from node.cli.client_session import BlockingTransport, run_blocking
from node.client.exchange_client import ExchangeClient
from node.views.views import OrderRequest

QUIET = (
    "--no-mdns",
    "--mode",
    "p2p",
    "--p2p-host",
    "127.0.0.1",
    "--p2p-port",
    "0",
    "--api-port",
    "0",
)

# Closes or replaces descriptors in the process itself, as a shell does with `>&-`.
CHILD = """
import os, resource, sys
for entry in sys.argv[1].split(","):
    if entry == "full":
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, 1), os.dup2(full, 2), os.close(full)
    elif entry.startswith("files="):
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(entry[6:]), int(entry[6:])))
    elif entry:
        os.close(int(entry))
os.execv(sys.executable, [sys.executable, "-m", "node.cli.main", *sys.argv[2:]])
"""


@contextmanager
def started(
    data_dir: Path, descriptors: str, *options: str, **more: Any
) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", CHILD, descriptors, "start", "--data-dir", str(data_dir)]
    process = subprocess.Popen([*command, *QUIET, *options], env=environment(), **more)
    try:
        eventually((data_dir / "node.json").exists, what=f"{data_dir}/node.json")
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def client_of(data_dir: Path) -> Iterator[ExchangeClient]:
    running = json.loads((data_dir / "node.json").read_text())
    yield ExchangeClient(
        running["api_url"],
        key="operator",
        secret=running["operator_token"],
        transport=BlockingTransport(5),
    )


def trade(data_dir: Path, orders: int = 1) -> None:
    request = OrderRequest(market="BTC-USD", side="buy", quantity="1", price="100")
    with client_of(data_dir) as client:
        for _ in range(orders):
            assert run_blocking(client.submit(request)).status == "open"


def stopped(process: subprocess.Popen[bytes], data_dir: Path) -> int:
    process.send_signal(signal.SIGTERM)
    code = process.wait(20)
    assert not (data_dir / "node.json").exists()
    return code


@pytest.mark.parametrize("closed", ["0", "1", "2", "0,1", "0,2", "1,2", "0,1,2", "full"])
def test_a_node_with_closed_or_full_descriptors_starts_trades_and_stops(
    tmp_path: Path, closed: str
) -> None:
    if closed == "full" and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with started(tmp_path / "a", closed) as process:
        trade(tmp_path / "a")
        assert stopped(process, tmp_path / "a") == 0


@pytest.mark.skipif(
    not hasattr(fcntl, "F_SETPIPE_SZ"), reason="the size of a pipe is set on Linux alone"
)
def test_a_node_trades_and_stops_while_its_log_is_not_read(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    data_dir = tmp_path / "a"
    try:
        with started(data_dir, "", "--log-level", "debug", stdout=writer, stderr=writer) as process:
            trade(data_dir, 100)  # some dozen lines each: many times what the pipe holds
            assert stopped(process, data_dir) == 0
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.skipif(
    shutil.which("unshare") is None or os.geteuid() != 0, reason="needs unshare and root"
)
def test_a_node_is_process_1_of_a_container(tmp_path: Path) -> None:
    data_dir = tmp_path / "a"
    command = [
        "unshare",
        "--pid",
        "--fork",
        "--mount-proc",
        "--kill-child",
        sys.executable,
        "-m",
        "node.cli.main",
    ]
    process = subprocess.Popen(
        [*command, "start", "--data-dir", str(data_dir), *QUIET],
        env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        eventually(lambda: (data_dir / "node.json").exists() or process.poll() is not None)
        if process.poll() is not None:
            pytest.skip(f"no process namespaces here: {process.stderr.read().decode()}")
        assert json.loads((data_dir / "node.json").read_text())["pid"] == 1
        trade(data_dir)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGTERM)
        assert process.wait(20) == 0
        assert not (data_dir / "node.json").exists()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.mark.parametrize("files", [12, 32, 63])
def test_too_few_open_files_are_named_with_the_cure(tmp_path: Path, files: int) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", CHILD, f"files={files}", "start", "--data-dir", str(tmp_path / "a"), *QUIET],
        env=environment(), capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (ended.returncode, f"may open {files} files" in ended.stderr) == (2, True), ended.stderr
    assert ended.stderr.count("\n") == 1


def test_few_open_files_are_enough_to_trade(tmp_path: Path) -> None:
    with started(tmp_path / "a", "files=64") as process:
        trade(tmp_path / "a", 20)
        assert stopped(process, tmp_path / "a") == 0
