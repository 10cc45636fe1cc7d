"""Start of a node that uses direct links alone: what it does not need is not loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

# In another process, since this one has loaded nearly everything. Instead of its ready line the node prints
# which modules it has by then.
PROGRAM = """
import json, sys
from node.cli.heavy_imports import heavy_imports
from node.cli.main import cli
with heavy_imports():
    import node.daemon.run_node as run_node

def ready(node, settings):
    return json.dumps({"modules": sorted(sys.modules)})

run_node._ready_line = ready
cli(["start", "--json", "--mode", "p2p", "--no-mdns", "--data-dir", sys.argv[1],
     "--p2p-host", "127.0.0.1", "--p2p-port", "0", "--api-port", "0"], prog_name="x")
"""

UNUSED = {
    "aiohttp",  # UPnP, Grenache, lists of peers
    "ctypes",  # for the addresses of this machine
    "dns",  # DNS seeds
    "dotenv",  # no .env file here
    "ifaddr",
    "nats",
    "node.api.asyncapi",  # the documents are made when they are requested
    "node.api.openapi",
    "node.annexes.grenache.grapes",  # Grenache
    "node.daemon.metrics",  # until somebody scrapes them
    "node.annexes.demos.trading_demo",
    "node.annexes.export.export_part",  # annexes that the settings do not ask for
    "node.annexes.grenache.grenache_part",
    "node.annexes.learn.course",
    "node.annexes.standby.standby_part",
    "node.annexes.tracing.tracing_part",
    "opentelemetry",
    "p2p.discovery.dns_seeds",
    "p2p.discovery.grape_discovery",
    "p2p.discovery.mdns",
    "p2p.discovery.peer_list_fetch",
    "p2p.grenache",
    "p2p.grenache_links",
    "prometheus_client",
    "psycopg",
    "pydantic",
    "rich",
    "zeroconf",
}


def test_nothing_is_loaded_that_a_node_with_direct_links_alone_does_not_use(tmp_path: Path) -> None:
    environment = {key: os.environ[key] for key in ("PATH", "PYTHONPATH") if key in os.environ}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "data")],
        stdout=subprocess.PIPE,
        env=environment | {"HOME": str(tmp_path)},
        cwd=tmp_path,
    ) as process:
        assert process.stdout is not None
        found = json.loads(process.stdout.readline())
        process.terminate()
    assert process.returncode == 0
    assert set(found["modules"]) & UNUSED == set()
