"""The exposition of real nodes satisfies promtool, and has every figure of the documentation."""

from __future__ import annotations

import re
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest
from processes import Nodes, eventually

pytestmark = pytest.mark.process

FAMILIES = [
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_open_fds",
    "exchange_node_loop_lag_seconds_bucket",
    "exchange_node_http_requests_total",
    "exchange_node_request_seconds_bucket",
    "exchange_node_refusals_total",
    "exchange_node_commit_seconds_bucket",
    "exchange_node_commit_records_bucket",
    "exchange_node_journal_written_bytes_total",
    "exchange_node_journal_size_bytes",
    "exchange_node_journal_snapshot_age_seconds",
    "exchange_node_archive_behind_records",
    "exchange_node_disk_free_bytes",
    "exchange_node_link_round_trip_seconds",
    "exchange_node_link_bytes_total",
    "exchange_node_traded_quantity_total",
    "exchange_node_ready",
    "exchange_node_ready_check",
    "exchange_node_clock_offset_seconds",
    "exchange_node_clock_drift_seconds",
]


def exposition(url: str) -> str:
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        text: str = answer.read().decode()
    return text


def test_work_of_the_node_that_blocks_its_loop_is_measured_as_lag(
    nodes: Nodes, tmp_path: Path
) -> None:
    blocked = tmp_path / "lag"
    node = nodes.make("late", LAG_FILE=str(blocked))
    node.program = ("-m", "tests.prometheus.sick_node")
    node.start()

    def long_lags() -> float:
        """Number of measured lags above 0.25 s."""
        counts = {
            bound: float(count)
            for bound, count in re.findall(
                r'loop_lag_seconds_bucket{le="([^"]+)"} (\S+)', exposition(node.api_url)
            )
        }
        return counts["+Inf"] - counts["0.25"]

    before = long_lags()
    blocked.touch()
    eventually(lambda: long_lags() >= before + 2, what="two blocks of half a second")


def test_promtool_has_no_complaint_about_a_trading_node(nodes: Nodes) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian's prometheus)")
    first, second = nodes.pair()
    first.sell(5, 100)
    eventually(second.asks, what="the order")
    second.buy(2, 100)
    eventually(first.fills, what="the fill")
    with pytest.raises(Exception, match="no market"):
        first.buy(1, 1, market="NONE")
    eventually(lambda: "link_round_trip_seconds{" in exposition(first.api_url), what="a round trip")
    text = exposition(first.api_url)
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for family in FAMILIES:
        assert f"\n{family}" in text, family
    assert 'exchange_node_traded_quantity_total{market="TEST-USD"} 2.0' in text
    assert 'exchange_node_refusals_total{code="unknown_market"} 1.0' in text
