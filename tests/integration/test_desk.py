"""The desk of deploy/desk: one command, and trades of both nodes are in its database and on its bus."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nats
import psycopg
import pytest
from nats_server import program
from postgres_server import binaries
from processes import ROOT, environment, eventually, run_cli

from tests.ports import free_port

LONG = bool(os.environ.get("LONG_TESTS"))
TAKE_OVER = 1 if LONG else 0  # number of the start in which the first node is lost: its data stay
STARTS = 3 if LONG else 1


def free_ports() -> int:
    """The first of twelve ports that are free."""
    while True:
        first = free_port()
        if first < 60_000 and all(_free(first + number) for number in range(12)):
            return first


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@pytest.mark.timeout(180)
def test_one_command_starts_nodes_database_and_bus() -> None:
    if binaries() is None or program() is None:
        pytest.skip("PostgreSQL or nats-server is not installed")
    with TemporaryDirectory(prefix="exchange-node-desk-") as scratch:
        Path(scratch).chmod(0o755)  # the database runs as another user
        for number in range(STARTS):
            port = free_ports()
            desk = subprocess.Popen(
                [
                    sys.executable,
                    "deploy/desk/desk.py",
                    "--dir",
                    f"{scratch}/d",
                    "--port",
                    str(port),
                ],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=environment(JOURNAL_SYNC="normal"),
            )
            assert desk.stdout is not None
            try:
                lines = []
                for line in desk.stdout:
                    lines.append(line)
                    if line.startswith("Ctrl-C"):
                        break
                else:
                    pytest.fail(f"the desk did not start: {lines}")
                replaced = number > TAKE_OVER
                _trade(Path(scratch) / "d", "standby" if replaced else "node-a")
                _check(port)
                assert any(line.startswith("left out   node a") for line in lines) == replaced
                if number == TAKE_OVER:
                    _take_over(Path(scratch) / "d")
            finally:
                desk.send_signal(signal.SIGINT)
                output, _ = desk.communicate(timeout=60)
            assert desk.returncode == 0, output


def _trade(directory: Path, first: str) -> None:
    for node, side in ((first, "sell"), ("node-b", "buy")):
        done = run_cli(
            *("order", side, "BTC-USD", "0.5", "@", "30000", "--data-dir", str(directory / node))
        )
        assert done.returncode == 0, done.stdout + done.stderr


def _take_over(directory: Path) -> None:
    """Kill the first node; its standby goes on."""
    standby = ("standby", "status", "--json", "--data-dir", str(directory / "standby"))
    eventually(lambda: json.loads(run_cli(*standby).stdout)["in_sync"])
    status = run_cli("status", "--json", "--data-dir", str(directory / "node-a"))
    runtime = json.loads((directory / "node-a" / "node.json").read_text("utf-8"))
    os.kill(runtime["pid"], signal.SIGKILL)
    runtime_path = directory / "standby" / "node.json"
    eventually(runtime_path.exists)
    after = run_cli("status", "--json", "--data-dir", str(directory / "standby"))
    assert json.loads(after.stdout)["node_id"] == json.loads(status.stdout)["node_id"]


def _check(port: int) -> None:
    url = f"postgresql://desk@127.0.0.1:{port + 10}/postgres"

    def both_sides() -> bool:
        try:
            with psycopg.connect(url) as db:
                found = db.execute("SELECT internal FROM exchange.own_trades").fetchall()
        except psycopg.Error:  # no tables yet
            return False
        return bool(found) and all(internal for (internal,) in found)

    eventually(both_sides)
    eventually(lambda: len(asyncio.run(_streams(port + 11))) == 6)  # three of each node


async def _streams(port: int) -> list[str]:
    client = await nats.connect(f"nats://127.0.0.1:{port}")
    try:
        return [info.config.name or "" for info in await client.jetstream().streams_info()]
    finally:
        await client.close()
