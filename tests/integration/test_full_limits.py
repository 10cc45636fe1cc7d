"""Strangers hold all that they can of a node; its operator gets in all the same.

The node is a machine of its own that may open few files. Strangers at 40 addresses of another one open connections to every port of it
without end: API, peers, Grape, worker, standby.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from netns import Namespace
from processes import SETTINGS, NodeProcess, environment

pytestmark = pytest.mark.namespaces

FILES = 256
STRANGERS = 40
PORTS = {"api": 7701, "peers": 7702, "grape": 7703, "standby": 7704, "worker": 7705}

# Opens connections, each with a beginning of a request, keeps them, and opens others for those that end. Prints how many are open.
PROGRAM = textwrap.dedent(
    """
    import asyncio, json, sys

    host, ports, sources, each = json.loads(sys.argv[1])
    open_now = dict.fromkeys(ports, 0)

    async def hold(name, port, source):
        while True:
            try:
                reader, writer = await asyncio.open_connection(host, port, local_addr=(source, 0))
            except OSError:
                await asyncio.sleep(0.2)
                continue
            open_now[name] += 1
            try:
                writer.write(b"GET /v1/ver" if name in ("api", "grape", "worker") else b"\\x16\\x03\\x01")
                while await reader.read(4096):
                    pass
            except OSError:
                pass
            open_now[name] -= 1
            writer.close()
            await asyncio.sleep(0.1)

    async def main():
        tasks = [
            asyncio.create_task(hold(name, port, source))
            for name, port in ports.items() for source in sources for _ in range(each)
        ]
        while True:
            await asyncio.sleep(0.5)
            print(json.dumps(open_now), flush=True)

    asyncio.run(main())
    """
)


def addresses(machine: Namespace) -> list[str]:
    """Give a machine as many addresses."""
    prefix = machine.address.rpartition(".")[0]
    made = [f"{prefix}.{10 + n}" for n in range(STRANGERS)]
    for address in made:
        command = ["ip", "addr", "add", f"{address}/24", "dev", machine.interface]
        subprocess.run(machine.command(command), check=True, timeout=30)
    return made


@pytest.mark.timeout(120)
def test_status_orders_backup_and_stop_work_while_strangers_fill_every_port(
    machines: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    home, away = machines
    standby_port = f"{home.address}:{PORTS['standby']}"
    command = [sys.executable, "-m", "node.cli.main", "standby", "--of", standby_port]
    standby = home.popen(
        [
            *command,
            "--data-dir",
            str(tmp_path / "standby"),
            "--api-port",
            "7711",
            "--p2p-port",
            "7712",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(**{**SETTINGS, "JOURNAL_SYNC": "full"}),
    )
    assert standby.stdout is not None
    machine = standby.stdout.readline().rpartition("=")[2].strip()
    node = NodeProcess(
        tmp_path / "node",
        settings={
            "API_HOST": "0.0.0.0",
            "API_ALLOW_REMOTE": "true",
            "P2P_HOST": "0.0.0.0",
            "DISCOVERY_GRENACHE": "true",
            "GRENACHE_HOST": home.address,
            "GRENACHE_PORT": str(PORTS["worker"]),
            "GRAPE_EMBEDDED": "true",
            "GRAPE_HOST": home.address,
            "GRAPE_API_HOST": home.address,
            "GRAPE_API_PORT": str(PORTS["grape"]),
            "STANDBY_LISTEN": standby_port,
            "STANDBY_ALLOW": machine,
            "JOURNAL_SYNC": "full",
            "API_TLS_SELF_SIGNED": "true",
        },
        prefix=[*home.command(["prlimit", f"--nofile={FILES}:{FILES}"])],
        p2p_port=PORTS["peers"],
        api_port=PORTS["api"],
    )
    try:
        node.start()
        what = json.dumps([home.address, PORTS, addresses(away), 8])
        crowd = away.popen([sys.executable, "-c", PROGRAM, what], stdout=subprocess.PIPE, text=True)
        assert crowd.stdout is not None
        seen = [json.loads(crowd.stdout.readline()) for _ in range(10)]
        held = {name: max(counts[name] for counts in seen) for name in PORTS}
        assert min(held.values()) >= 4, held

        took: dict[str, float] = {}

        def operator(*words: str) -> str:
            command = [sys.executable, "-m", "node.cli.main", *words, "--data-dir"]
            began = time.monotonic()
            done = subprocess.run(
                home.command([*command, str(node.data_dir)]),
                env=node.environment,
                capture_output=True,
                text=True,
                timeout=30,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            took[words[0]] = round(time.monotonic() - began, 2)
            return done.stdout

        for number in range(3):
            assert node.node_id in operator("status", "--json")
            placed = json.loads(
                operator("order", "sell", "BTC-USD", "0.1", "@", str(30_000 + number), "--json")
            )
            order = placed["id"] if "id" in placed else placed["order"]["id"]
            operator("cancel", order)
        operator("backup", str(tmp_path / "backup.bin"))
        assert node.stop() == 0
        assert "Traceback" not in node.log
        print(
            f"connections that strangers held: {held}; seconds of the operator's commands: {took}"
        )
    finally:
        node.cleanup()
