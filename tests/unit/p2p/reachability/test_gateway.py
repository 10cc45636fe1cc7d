"""The default route of Linux's table of routes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from p2p.reachability.gateway import address_towards, default_gateway

pytestmark = pytest.mark.skipif(
    sys.byteorder != "little", reason="the table is of a little-endian machine"
)

HEAD = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
LAN = "eth0\t0001A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n"
DEFAULT = "eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"
BETTER = "wlan0\t00000000\tFE02A8C0\t0003\t0\t0\t50\t00000000\t0\t0\t0\n"
POINT_TO_POINT = "ppp0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n"


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (HEAD + LAN + DEFAULT, "192.168.1.1"),
        (HEAD + DEFAULT + BETTER, "192.168.2.254"),
        (HEAD + LAN, None),
        (HEAD + POINT_TO_POINT, None),
        (HEAD + "nonsense\n" + DEFAULT[:20] + "\n", None),
        (HEAD, None),
        ("", None),
    ],
)
def test_default_gateway(tmp_path: Path, table: str, expected: str | None) -> None:
    path = tmp_path / "route"
    path.write_text(table, "ascii")
    assert default_gateway(path) == expected


def test_a_system_without_the_table_has_no_gateway(tmp_path: Path) -> None:
    assert default_gateway(tmp_path / "none") is None


def test_the_local_address_towards_a_host() -> None:
    assert address_towards("127.0.0.1", 5351) == "127.0.0.1"
