"""`python -m tests.prometheus`: a real Prometheus scrapes real nodes that are made sick, and its alerts fire.

Also runs each expression of the Grafana board against it. The rules are those of deploy/alerts.yml with
shorter times. Needs `prometheus` of Debian; takes about two minutes.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.integration.processes import NodeProcess, Nodes
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
WAIT = 60.0  # seconds for an alert; with the shortened times they fire within fifteen
SHORTER = {"[1h]": "[40s]", "[15m]": "[20s]", "[10m]": "[10s]", "[5m]": "[10s]"}
# Panels of what these nodes do not do: nobody calls services, subscribes, is refused or fails.
EMPTY = {
    "Checks that fail",
    "Refusals a second, by code",
    "Errors of the server",
    "Stream readers",
    "Conflated messages a second",
    "Calls a second, by outcome",
    "Calls, 95th percentile",
    "Breakers open",
}


class Prometheus:
    """A Prometheus on a port of its own."""

    def __init__(self, directory: Path, nodes: dict[str, NodeProcess]) -> None:
        self.port = free_port()
        self._names = {f"127.0.0.1:{node.api_port}": name for name, node in nodes.items()}
        rules = (ROOT / "deploy" / "alerts.yml").read_text("utf-8")
        for long, short in SHORTER.items():
            rules = rules.replace(long, short)
        (directory / "alerts.yml").write_text(re.sub(r"for: \d+m", "for: 2s", rules))
        targets = json.dumps(list(self._names))
        (directory / "prometheus.yml").write_text(
            "global: {scrape_interval: 1s, evaluation_interval: 1s, scrape_timeout: 1s}\n"
            "rule_files: [alerts.yml]\nscrape_configs:\n  - job_name: exchange-node\n"
            f"    static_configs: [{{targets: {targets}}}]\n"
        )
        self._log = (directory / "prometheus.log").open("wb")
        self.process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={directory}/prometheus.yml",
                f"--storage.tsdb.path={directory}/data",
                f"--web.listen-address=127.0.0.1:{self.port}",
            ],
            stdout=self._log,
            stderr=self._log,
        )

    def ask(self, path: str, **query: str) -> Any:
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def firing(self) -> set[tuple[str, str]]:
        """Alerts that fire, with the name of their node."""
        return {
            (alert["labels"]["alertname"], self._names.get(alert["labels"]["instance"], "?"))
            for alert in self.ask("alerts")["alerts"]
            if alert["state"] == "firing"
        }

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()
        self._log.close()


def until(what: str, condition: Callable[[], object]) -> None:
    """Wait for a condition.

    Raises:
        AssertionError: it did not come true.
    """
    began = time.monotonic()
    last: object = None
    while time.monotonic() - began < WAIT:
        with suppress(urllib.error.URLError, ConnectionError):
            last = condition()
            if last:
                print(f"{time.monotonic() - began:5.1f} s  {what}")
                return
        time.sleep(0.5)
    raise AssertionError(f"not within {WAIT:g} s: {what} (last: {last!r})")


class Traffic:
    """Small orders to a node all the time, so that it commits."""

    def __init__(self, nodes: list[NodeProcess]) -> None:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(node,)) for node in nodes]
        for thread in self._threads:
            thread.start()

    def _run(self, node: NodeProcess) -> None:
        while not self._stop.wait(0.2):
            with suppress(Exception):  # it is sick, or stopped
                node.cancel(node.sell(1, 100).id)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def check_board(prometheus: Prometheus) -> None:
    """Run each expression of the board.

    Raises:
        AssertionError: one fails, or shows nothing although there is something to show.
    """
    board = json.loads((ROOT / "deploy" / "grafana.json").read_text("utf-8"))
    count = 0
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            expr = target["expr"].replace("$__rate_interval", "10s").replace("$instance", ".*")
            found = prometheus.ask("query", query=expr)["result"]
            count += 1
            if not found and panel["title"] not in EMPTY and "websocket" not in expr:
                raise AssertionError(f"{panel['title']}: {expr} shows nothing")
    print(f"       the {count} expressions of the board were run")


def run(directory: Path) -> None:
    nodes = Nodes(directory)
    slow, lag = directory / "slow", directory / "lag"
    sick = ("-m", "tests.prometheus.sick_node")
    first = nodes.make("first")
    second = nodes.make("second", SLOW_FILE=str(slow))
    third = nodes.make("third", LAG_FILE=str(lag))
    fourth = nodes.make("fourth", CLOCK_OFFSET="30")
    for node in (second, third, fourth):
        node.program = sick
    everybody = {node.name: node for node in (first, second, third, fourth)}
    prometheus = Prometheus(directory, everybody)
    traffic = None
    try:
        first.start()
        for node in (second, third):
            node.start("--bootstrap", first.p2p_address)
        traffic = Traffic([first, second])
        quiet = {("ExchangeNodeDown", "fourth")}
        until("the healthy nodes are scraped, one is down", lambda: prometheus.firing() == quiet)
        time.sleep(15)
        assert prometheus.firing() == quiet, prometheus.firing()
        check_board(prometheus)

        slow.write_text("12")
        until(
            "disk: StorageFailing", lambda: fires(prometheus, "ExchangeNodeStorageFailing", second)
        )
        slow.write_text("0.6")
        until("disk: SlowCommits", lambda: fires(prometheus, "ExchangeNodeSlowCommits", second))
        slow.unlink()
        lag.touch()
        until("lag: LoopLag", lambda: fires(prometheus, "ExchangeNodeLoopLag", third))
        lag.unlink()
        fourth.start("--bootstrap", f"{first.p2p_address},{second.p2p_address}")
        until("clock: ClockOff", lambda: fires(prometheus, "ExchangeNodeClockOff", fourth))
        assert not fires(prometheus, "ExchangeNodeClockOff", first), "the majority is right"
        for node in (second, third, fourth):
            node.kill9()
        until("partition: Alone", lambda: fires(prometheus, "ExchangeNodeAlone", first))
        until("partition: Partitioned", lambda: fires(prometheus, "ExchangeNodePartitioned", first))
        until("death: Down", lambda: fires(prometheus, "ExchangeNodeDown", third))
    finally:
        if traffic is not None:
            traffic.stop()
        prometheus.stop()
        nodes.cleanup()


def fires(prometheus: Prometheus, alert: str, node: NodeProcess) -> bool:
    return (alert, node.name) in prometheus.firing()


def main() -> int:
    if shutil.which("prometheus") is None:
        print("prometheus is not installed", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as directory:
        run(Path(directory))
    return 0


if __name__ == "__main__":
    sys.exit(main())
