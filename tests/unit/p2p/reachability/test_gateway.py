"""The default route of Linux's table of routes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from p2p.reachability.gateway import address_towards, default_gateway, default_ipv6_gateway

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


ZERO = "0" * 32
ROUTER = "fe80" + "0" * 27 + "1"


def ipv6_row(
    gateway: str, *, to: str = ZERO, length: str = "00", metric: int = 1024, flags: int = 3
) -> str:
    return (
        f"{to} {length} {ZERO} 00 {gateway} {metric:08x} 00000001 00000000 {flags:08x}     eth0\n"
    )


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (ipv6_row(ROUTER), "fe80::1%eth0"),
        (ipv6_row("2a10" + "0" * 27 + "5") + ipv6_row(ROUTER, metric=2048), "2a10::5"),
        (ipv6_row(ROUTER, length="40", to="2a10" + "0" * 28), None),
        (ipv6_row(ZERO, flags=0x200), None),
        ("nonsense\n" + ipv6_row("xyz") + ipv6_row("00"), None),
        ("", None),
    ],
)
def test_default_ipv6_gateway(tmp_path: Path, table: str, expected: str | None) -> None:
    path = tmp_path / "ipv6_route"
    path.write_text(table, "ascii")
    assert default_ipv6_gateway(path) == expected
