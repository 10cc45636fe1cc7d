"""Settings of Grenache and of the Grape inside a node."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any, ClassVar

from config.section import Refused, Seconds, Section, field
from config.setting_types import Host, HostPort, HostPorts, Ipv4, Switch, Urls, Whole
from config.settings import PORT, Settings


class GrenacheSection(Section):
    title = "Grenache"
    rank = 40
    useless: ClassVar = {
        "DISCOVERY_GRENACHE=false": (
            "GRAPE_URL",
            "GRAPE_EMBEDDED",
            "GRENACHE_HOST",
            "GRENACHE_PORT",
            "GRENACHE_SERVICES",
        )
    }

    discovery_grenache: bool = field(
        Switch(), True, "Announce this node and find others through a Grape, when one answers."
    )
    grape_url: tuple[str, ...] = field(
        Urls(),
        ("http://127.0.0.1:30001",),
        "HTTP API of the Grape to use, or of several; a Grape announces nodes under "
        "its own address, so one of them should run on this machine.",
    )
    grenache_host: str = field(
        Host(), "0.0.0.0", "Address to listen on for Grenache requests of other nodes."
    )
    grenache_port: int = field(
        PORT,
        3100,
        "TCP port for Grenache requests of other nodes, opened once a Grape has answered, at the "
        "start if there are no direct links; 0 lets the system choose, and the default gives way to a free "
        "port when it is in use.",
    )
    grenache_services: bool = field(
        Switch(),
        False,
        "Let every Grenache program that reaches GRENACHE_PORT call the services of this node, "
        "and look for services that no node offers among Grenache workers.",
    )
    grenache_announce_interval: int = field(
        Whole(1000, 600_000, unit="ms"),
        30_000,
        "Time between announcements of this node at the Grape, whose entries expire "
        "after about two minutes.",
    )

    grenache_announce_interval_s = Seconds("grenache_announce_interval")


class GrapeSection(Section):
    title = "Own Grape"
    rank = 41

    grape_embedded: bool = field(
        Switch(),
        False,
        "Run a Grape inside this node; the node uses it, and GRAPE_URL only if that is set too.",
    )
    grape_host: str = field(Host(), "0.0.0.0", "Address of the DHT's UDP socket.")
    grape_dht_port: int = field(PORT, 20001, "UDP port of the DHT.")
    grape_api_host: str = field(
        Host(), "127.0.0.1", "Address of the Grape's HTTP API, which has no access control."
    )
    grape_api_port: int = field(PORT, 30001, "TCP port of the Grape's HTTP API.")
    grape_bootstrap: tuple[HostPort, ...] = field(
        HostPorts(), (), "DHT nodes to join, each as HOST:PORT; one running node is enough."
    )
    grape_concurrency: int = field(
        Whole(1, 1024), 32, "DHT queries under way at once for one lookup."
    )
    grape_peer_max_age: int = field(
        Whole(0, 2_147_483_647, unit="ms"),
        120_000,
        "Lifetime of an announcement that is not renewed; 0 keeps it for ever.",
    )
    grape_public_host: str = field(
        Ipv4(),
        "",
        "IPv4 address under which this Grape records its own announcements; empty for "
        "the address that other DHT nodes see.",
    )
    grape_bep42: bool = field(
        Switch(),
        False,
        "Derive the DHT node id from the address, and require that of others outside "
        "private networks (BEP 42), which real Grapes do not follow.",
    )

    @property
    def grape_peer_max_age_s(self) -> float:
        return self.grape_peer_max_age / 1000 if self.grape_peer_max_age else inf


@GrenacheSection.check("p2p_enabled")
def _some_way_to_peers(value: bool, earlier: Mapping[str, Any]) -> None:
    # A wrong discovery_grenache is missing there and has its own line.
    if not value and not earlier.get("discovery_grenache", True):
        raise Refused(
            "expected true, because with DISCOVERY_GRENACHE=false there are no other links to other nodes",
        )


class BridgeSettings(Settings, GrenacheSection, GrapeSection):
    """Settings of a node with Grenache."""
