"""The schema: every setting with its type, range, default and meaning.

A setting's variable is its field's name in capitals. The sections are classes of their own so that code
can ask for no more than it needs.
Variables of the original design documents keep their names, units and defaults; durations are whole
milliseconds, with a property in seconds (`..._s`) beside each.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from math import inf
from pathlib import Path
from typing import Any, Final, Literal

from config.section import Refused, Section, field
from config.setting_types import (
    Choice,
    FilePath,
    Fraction,
    Host,
    HostNames,
    HostPort,
    HostPorts,
    Ipv4,
    Name,
    NatsUrl,
    NodeIds,
    PostgresUrl,
    SignedUrls,
    Switch,
    Urls,
    Whole,
)

PORT: Final = Whole(0, 65535, what="a port number")


def is_loopback(host: str) -> bool:
    """Return True if a listener on `host` is reachable from this machine only."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


class NodeSection(Section):
    title = "Node"

    data_dir: Path = field(
        FilePath(what="a directory"),
        default=Path("~/.exchange-node"),
        description="Directory of this node's key, journal and peer list; created when missing.",
    )
    instruments_file: Path | None = field(
        FilePath(what="a file", empty_ok=True),
        default=None,
        description="File that defines the markets; empty for the default set.",
    )
    journal_sync: Literal["full", "normal"] = field(
        Choice(("full", "normal")),
        default="full",
        description="Durability of acknowledged orders: `full` survives a power failure, `normal` "
        "only the end of the process (kill -9).",
    )
    presence_lease_ms: int = field(
        Whole(1000, 600_000, unit="ms"),
        default=9000,
        description="Time for which other nodes show this node's orders after its last presence message.",
    )
    take_answer_wait: int = field(
        Whole(0, 60_000, unit="ms"),
        default=250,
        description="Longest that the answer to an order waits for the nodes that it takes from, "
        "in the Bitfinex dialect and for requests under /v1 with `wait`; 0 answers at once.",
    )
    market_trades_kept: int = field(
        Whole(1000, 100_000_000),
        default=500_000,
        description="Public trades of each market that are kept for history queries.",
    )
    market_candles_kept: int = field(
        Whole(1000, 100_000_000),
        default=50_000,
        description="Candles of each market and length that are kept for history queries.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = field(
        Choice(("debug", "info", "warning", "error")),
        default="warning",
        description="Least severity of logged messages.",
    )
    log_format: Literal["text", "json"] = field(
        Choice(("text", "json")),
        default="text",
        description="Log lines for people (`text`) or one JSON object a line (`json`).",
    )
    log_file: Path | None = field(
        FilePath(what="a file", empty_ok=True),
        default=None,
        description="Log to this file (mode 0600) instead of standard error.",
    )
    log_file_size: int = field(
        Whole(1, 10_000, unit="MiB"),
        default=10,
        description="Size at which the log file is rotated.",
    )
    log_file_count: int = field(
        Whole(0, 1000), default=5, description="Rotated log files that are kept."
    )
    tracing: bool = field(
        Switch(),
        default=False,
        description="Send traces of requests, orders, takes and service calls to an OpenTelemetry "
        "collector, which the standard `OTEL_*` variables name; needs the extra `[tracing]`.",
    )
    export_postgres: str = field(
        PostgresUrl(),
        default="",
        description="PostgreSQL database that gets a copy of what the journal holds (docs/export.md); needs the extra "
        "`[postgres]`.",
    )
    export_keep: int = field(
        Whole(0, 36_500, unit="days"),
        default=0,
        description="Days for which the database keeps fills, postings and public trades, in whole months; 0: for good; "
        "of nodes that share a database the smallest counts.",
    )
    desk_profile: Path | None = field(
        FilePath(what="a file", empty_ok=True),
        default=None,
        description="File that names the own nodes of a desk, which this node's page and `/v1/desk` show together "
        "(docs/operations.md); empty for none.",
    )
    standby_listen: tuple[HostPort, ...] = field(
        HostPorts(),
        default=(),
        description="Address at which the node accepts its standby (docs/standby.md); empty without one.",
    )
    standby_allow: tuple[str, ...] = field(
        NodeIds(),
        default=(),
        description="Id of the machine that may be this node's standby and get its journal and key, as `exchange-node "
        "standby` prints it.",
    )
    standby_ack: Literal["both", "first"] = field(
        Choice(("both", "first")),
        default="both",
        description="`both`: nothing leaves the node before its standby has it on the disk; `first`: the standby may lack the "
        "last orders.",
    )
    lease_postgres: str = field(
        PostgresUrl(),
        default="",
        description="PostgreSQL database, on a third machine, that says which of two machines is the node: lets the standby take "
        "over by itself (docs/standby.md); needs the extra `[postgres]`.",
    )
    export_nats: str = field(
        NatsUrl(),
        default="",
        description="NATS servers, separated by commas, that get a copy of what the journal holds and public market "
        "data (docs/bus.md); needs the extra `[nats]`.",
    )
    export_nats_kept: int = field(
        Whole(16, 1_000_000, unit="MiB"),
        default=1024,
        description="Size of each of the two streams that the export creates in NATS; older messages are dropped.",
    )
    export_log_kept: int = field(
        Whole(64, 1_000_000, unit="MiB"),
        default=1024,
        description="Most log that is kept for a database or bus that is away; beyond it the archive catches it up.",
    )

    @property
    def key_path(self) -> Path:
        """The node's private key."""
        return self.data_dir / "node.key"

    @property
    def journal_path(self) -> Path:
        return self.data_dir / "journal"

    @property
    def market_path(self) -> Path:
        """Public trades and candles."""
        return self.data_dir / "market.sqlite3"

    @property
    def market_steps_path(self) -> Path:
        """Record of the markets' price and quantity steps."""
        return self.data_dir / "market-steps.toml"

    @property
    def lock_path(self) -> Path:
        """Locked while a node runs on this data directory."""
        return self.data_dir / "node.lock"

    @property
    def runtime_path(self) -> Path:
        """Runtime file of a running node: API address, process id and node id for client commands."""
        return self.data_dir / "node.json"

    @property
    def presence_lease_s(self) -> float:
        return self.presence_lease_ms / 1000

    @property
    def take_answer_wait_s(self) -> float:
        return self.take_answer_wait / 1000


class PeerSection(Section):
    title = "Peers"

    p2p_enabled: bool = field(
        Switch(),
        default=True,
        description="Direct TCP links between nodes; `false` carries everything over Grenache instead, "
        "which needs a Grape (GRAPE_URL or GRAPE_EMBEDDED).",
    )
    p2p_port: int = field(
        PORT,
        default=3000,
        description="TCP port for links from other nodes; 0 lets the system choose, and the default gives "
        "way to a free port when it is in use.",
    )
    p2p_host: str = field(
        Host(),
        default="0.0.0.0",
        description="Address to listen on for links from other nodes; `0.0.0.0` and `::` are all, of IPv4 and IPv6.",
    )
    p2p_external_addresses: tuple[HostPort, ...] = field(
        HostPorts(),
        default=(),
        description="Addresses, each as HOST:PORT, at which nodes outside reach this one, such as a port that the "
        "router forwards; announced without a test, unlike those that the node finds.",
    )
    port_mapping: bool = field(
        Switch(),
        default=True,
        description="Request the router to forward the peer port (PCP, then NAT-PMP, with the extra upnp then UPnP), once a node outside of the "
        "local network is linked.",
    )
    p2p_relay_rate: int = field(
        Whole(0, 10_000_000_000, unit="bytes a second"),
        default=4_000_000,
        description="What this node relays between nodes that cannot link to each other, shared fairly between the "
        "pairs that use it; 0 to relay nothing.",
    )
    p2p_security: Literal["tls", "off"] = field(
        Choice(("tls", "off")),
        default="tls",
        description="`tls`: links are encrypted and both sides prove their node id; `off`: plain TCP, "
        "for closed networks and debugging.",
    )
    p2p_network: str = field(
        Name(r"[a-z0-9-]{1,32}", "1 to 32 of a-z, 0-9 and -"),
        default="main",
        description="Name of the network; nodes of different networks do not link.",
    )
    max_peers: int = field(
        Whole(1, 10_000),
        default=50,
        description="Most links to other nodes at once; from 8 on a quarter of them, up to 8, is reserved "
        "for links that this node dials.",
    )
    inbound_per_address: int = field(
        Whole(0, 10_000),
        default=4,
        description="Most links that nodes at one public IP address may dial to this node; 0 for no limit.",
    )
    inbound_per_network: int = field(
        Whole(0, 10_000),
        default=12,
        description="Most links that nodes of one public network (IPv4 /16, IPv6 /32) may dial to this "
        "node; 0 for no limit.",
    )
    inbound_per_address_local: int = field(
        Whole(0, 10_000),
        default=0,
        description="The same for one loopback or private address, where many nodes are normal; 0 for "
        "no limit.",
    )
    peer_allow: tuple[str, ...] = field(
        NodeIds(),
        default=(),
        description="Node ids, separated by commas, of a closed network, which refuses all others; empty "
        "for an open network.",
    )
    p2p_share_links: bool = field(
        Switch(),
        default=True,
        description="Send the list of this node's links to linked nodes that request it, for the "
        "map on their page.",
    )
    peer_storage_path: Path = field(
        FilePath("the data directory", what="a file"),
        default=Path(".peers.json"),
        description="File in which known peers are remembered; a relative path is inside the data directory.",
    )
    peer_reconnect_interval: int = field(
        Whole(100, 600_000, unit="ms"),
        default=30_000,
        description="Wait before a lost peer is dialled again, once the first quick attempts have failed.",
    )
    client_request_timeout: int = field(
        Whole(1, 600_000, unit="ms"),
        default=5000,
        description="Timeout of a request to another node.",
    )

    @property
    def peer_reconnect_interval_s(self) -> float:
        return self.peer_reconnect_interval / 1000

    @property
    def client_request_timeout_s(self) -> float:
        return self.client_request_timeout / 1000


@PeerSection.check("p2p_enabled")
def _some_way_to_peers(value: bool, earlier: Mapping[str, Any]) -> None:
    # A wrong discovery_grenache is missing there and has its own line.
    if not value and not earlier.get("discovery_grenache", True):
        raise Refused(
            "expected true, because with DISCOVERY_GRENACHE=false there are no other links to other nodes",
        )


class DiscoverySection(Section):
    title = "Discovery"

    discovery_mdns: bool = field(
        Switch(),
        default=True,
        description="Announce this node and find others on the local network by mDNS.",
    )
    discovery_exchange: bool = field(
        Switch(), default=True, description="Exchange addresses of nodes with linked peers."
    )
    bootstrap_peers: tuple[HostPort, ...] = field(
        HostPorts(),
        default=(),
        description="Nodes to link to at the start, each as HOST:PORT; without direct links the port is their "
        "GRENACHE_PORT.",
    )
    dns_seeds: tuple[str, ...] = field(
        HostNames(),
        default=(),
        description="Names whose DNS records list nodes to link to: SRV and TXT under "
        "`_exchange-node._tcp.NAME`, or else the addresses of NAME, at port 3000.",
    )
    peer_lists: tuple[tuple[str, str], ...] = field(
        SignedUrls(),
        default=(),
        description="Signed lists of nodes to link to, made by `exchange-node peer-list`: `https://SERVER/FILE#ID`, "
        "with the node id of the signer.",
    )
    dns_servers: tuple[HostPort, ...] = field(
        HostPorts(names=False),
        default=(),
        description="DNS servers to ask for them, each an IP address with a port; empty: the system's.",
    )


class ApiSection(Section):
    title = "API"

    # Before api_host, whose check reads it.
    api_allow_remote: bool = field(
        Switch(),
        default=False,
        description="Allow an API_HOST that other machines can reach; clients on other machines "
        "need an API key, and the operator's commands work on this machine only.",
    )
    api_host: str = field(
        Host(), default="127.0.0.1", description="Address to listen on for the HTTP API."
    )
    api_port: int = field(
        PORT,
        default=8300,
        description="TCP port of the HTTP API; 0 lets the system choose, and the default gives way to a free "
        "port when it is in use.",
    )
    api_auth: Literal["optional", "required"] = field(
        Choice(("optional", "required")),
        default="optional",
        description="`optional`: on a loopback API_HOST, requests without an API key are the operator's; "
        "`required`: they see public market data only, as always on another API_HOST.",
    )
    api_tls_cert: Path | None = field(
        FilePath(what="a file", empty_ok=True),
        default=None,
        description="Certificate, with its chain if there is one, in PEM form: the API is then served "
        "over TLS.",
    )
    api_tls_key: Path | None = field(
        FilePath(what="a file", empty_ok=True),
        default=None,
        description="Private key of API_TLS_CERT in PEM form, without a password; empty when it is in that file.",
    )
    api_tls_self_signed: bool = field(
        Switch(),
        default=False,
        description="Serve the API over TLS with a certificate that the node makes itself, "
        "DATA_DIR/api-cert.pem; clients are given that file.",
    )
    api_plain_keys: bool = field(
        Switch(),
        default=False,
        description="Accept API keys over plain HTTP from other machines too, for trusted "
        "networks.",
    )
    api_rate_limit: int = field(
        Whole(0, 1_000_000),
        default=6000,
        description="Requests a minute for each API key, and for each address without one; 0 is no limit, and "
        "the operator has none.",
    )

    @property
    def api_keys_required(self) -> bool:
        """True if operator access requires the operator's token."""
        return self.api_auth == "required" or not is_loopback(self.api_host)

    @property
    def api_has_tls(self) -> bool:
        return self.api_tls_cert is not None or self.api_tls_self_signed


@ApiSection.check("api_host")
def _remote_only_when_allowed(value: str, earlier: Mapping[str, Any]) -> None:
    # A wrong api_allow_remote is missing there and has its own line.
    if not is_loopback(value) and not earlier.get("api_allow_remote", True):
        raise Refused(
            "expected a loopback address such as 127.0.0.1; API_ALLOW_REMOTE=true allows others",
        )


@ApiSection.check("api_tls_key")
def _key_of_a_certificate(value: Path | None, earlier: Mapping[str, Any]) -> None:
    if value is not None and earlier.get("api_tls_cert", value) is None:
        raise Refused("expected nothing, because API_TLS_CERT is empty")


@ApiSection.check("api_tls_self_signed")
def _one_certificate(value: bool, earlier: Mapping[str, Any]) -> None:
    if value and earlier.get("api_tls_cert") is not None:
        raise Refused("expected false, because API_TLS_CERT is the certificate to use")


class GrenacheSection(Section):
    title = "Grenache"

    discovery_grenache: bool = field(
        Switch(),
        default=True,
        description="Announce this node and find others through a Grape, when one answers.",
    )
    grape_url: tuple[str, ...] = field(
        Urls(),
        default=("http://127.0.0.1:30001",),
        description="HTTP API of the Grape to use, or of several; a Grape announces nodes under "
        "its own address, so one of them should run on this machine.",
    )
    grenache_host: str = field(
        Host(),
        default="0.0.0.0",
        description="Address to listen on for Grenache requests of other nodes.",
    )
    grenache_port: int = field(
        PORT,
        default=3100,
        description="TCP port for Grenache requests of other nodes, opened once a Grape has answered, at the "
        "start if there are no direct links; 0 lets the system choose, and the default gives way to a free "
        "port when it is in use.",
    )
    grenache_services: bool = field(
        Switch(),
        default=False,
        description="Let every Grenache program that reaches GRENACHE_PORT call the services of this node, "
        "and look for services that no node offers among Grenache workers.",
    )
    grenache_announce_interval: int = field(
        Whole(1000, 600_000, unit="ms"),
        default=30_000,
        description="Time between announcements of this node at the Grape, whose entries expire "
        "after about two minutes.",
    )

    @property
    def grenache_announce_interval_s(self) -> float:
        return self.grenache_announce_interval / 1000


class GrapeSection(Section):
    title = "Own Grape"

    grape_embedded: bool = field(
        Switch(),
        default=False,
        description="Run a Grape inside this node; the node uses it, and GRAPE_URL only if that is set too.",
    )
    grape_host: str = field(
        Host(), default="0.0.0.0", description="Address of the DHT's UDP socket."
    )
    grape_dht_port: int = field(PORT, default=20001, description="UDP port of the DHT.")
    grape_api_host: str = field(
        Host(),
        default="127.0.0.1",
        description="Address of the Grape's HTTP API, which has no access control.",
    )
    grape_api_port: int = field(
        PORT, default=30001, description="TCP port of the Grape's HTTP API."
    )
    grape_bootstrap: tuple[HostPort, ...] = field(
        HostPorts(),
        default=(),
        description="DHT nodes to join, each as HOST:PORT; one running node is enough.",
    )
    grape_concurrency: int = field(
        Whole(1, 1024), default=32, description="DHT queries under way at once for one lookup."
    )
    grape_peer_max_age: int = field(
        Whole(0, 2_147_483_647, unit="ms"),
        default=120_000,
        description="Lifetime of an announcement that is not renewed; 0 keeps it for ever.",
    )
    grape_public_host: str = field(
        Ipv4(),
        default="",
        description="IPv4 address under which this Grape records its own announcements; empty for "
        "the address that other DHT nodes see.",
    )
    grape_bep42: bool = field(
        Switch(),
        default=False,
        description="Derive the DHT node id from the address, and require that of others outside "
        "private networks (BEP 42), which real Grapes do not follow.",
    )

    @property
    def grape_peer_max_age_s(self) -> float:
        return self.grape_peer_max_age / 1000 if self.grape_peer_max_age else inf


class WorkerSection(Section):
    title = "Services"

    worker_service_name: str = field(
        Name(r"[!-~]{1,64}", "1 to 64 visible characters"),
        default="job_service",
        description="Name of the service that `exchange-node worker` offers.",
    )
    worker_port: int = field(
        PORT,
        default=1337,
        description="TCP port for links of a node started by `exchange-node worker`, unless P2P_PORT is "
        "set; the default gives way to a free port when it is in use.",
    )
    worker_announce_interval: int = field(
        Whole(100, 3_600_000, unit="ms"),
        default=5000,
        description="Time between a node's announcements of its services; a node without one for "
        "three and a half intervals is no longer called.",
    )

    @property
    def worker_announce_interval_s(self) -> float:
        return self.worker_announce_interval / 1000


class RetrySection(Section):
    title = "Retries"

    client_max_retries: int = field(
        Whole(0, 100),
        default=3,
        description="Further attempts after a request that failed and is safe to repeat.",
    )
    client_retry_delay: int = field(
        Whole(0, 600_000, unit="ms"),
        default=1000,
        description="Base of the exponential back-off with jitter before the same node is called "
        "again; another node is called after a few ms.",
    )

    @property
    def client_retry_delay_s(self) -> float:
        return self.client_retry_delay / 1000


class MetricsSection(Section):
    title = "Choosing peers"

    router_policy: Literal["adaptive", "weighted"] = field(
        Choice(("adaptive", "weighted")),
        default="adaptive",
        description="Load balancing: `adaptive` calls the node with the least expected cost "
        "in seconds, `weighted` the node with the best score of four factors with the weights "
        "below.",
    )

    metrics_latency_weight: float = field(
        Fraction(),
        default=0.4,
        description="Weight of latency in a peer's score (`weighted` only).",
    )
    metrics_error_weight: float = field(
        Fraction(), default=0.3, description="Weight of errors in a peer's score (`weighted` only)."
    )
    metrics_timeout_weight: float = field(
        Fraction(),
        default=0.2,
        description="Weight of timeouts in a peer's score (`weighted` only).",
    )
    metrics_freshness_weight: float = field(
        Fraction(),
        default=0.1,
        description="Weight of how recently a peer has answered in its score (`weighted` only).",
    )


@MetricsSection.check("metrics_freshness_weight")
def _not_all_zero(value: float, earlier: Mapping[str, Any]) -> None:
    names = ("metrics_latency_weight", "metrics_error_weight", "metrics_timeout_weight")
    # A wrong one is missing there and has its own line.
    if not value and not any(earlier.get(name, 1.0) for name in names):
        raise Refused("expected more than 0 for at least one of the METRICS_*_WEIGHT")


class BreakerSection(Section):
    title = "Circuit breaker"

    circuit_breaker_failure_threshold: int = field(
        Whole(1, 1000), default=5, description="Failures in a row that open a peer's breaker."
    )
    circuit_breaker_cooldown_ms: int = field(
        Whole(1, 3_600_000, unit="ms"),
        default=10_000,
        description="Longest that an open breaker waits before it lets a probe through; the first wait is "
        "about a tenth of it, and doubles with every failed probe.",
    )
    circuit_breaker_half_open_max_requests: int = field(
        Whole(1, 1000),
        default=1,
        description="Probes that a half-open breaker lets through at once.",
    )

    @property
    def circuit_breaker_cooldown_s(self) -> float:
        return self.circuit_breaker_cooldown_ms / 1000


class GossipSection(Section):
    title = "Gossip"

    gossip_hint_ttl: int = field(
        Whole(1, 86_400_000, unit="ms"),
        default=60_000,
        description="Lifetime of a hint about a peer's health.",
    )
    gossip_publish_interval: int = field(
        Whole(1, 3_600_000, unit="ms"),
        default=5000,
        description="Least time between two own hints about the same peer.",
    )
    gossip_decay_factor: float = field(
        Fraction(),
        default=0.5,
        description="Share of a hint's weight that is left after each sixth of its lifetime.",
    )

    @property
    def gossip_hint_ttl_s(self) -> float:
        return self.gossip_hint_ttl / 1000

    @property
    def gossip_publish_interval_s(self) -> float:
        return self.gossip_publish_interval / 1000


class Settings(
    NodeSection,
    PeerSection,
    DiscoverySection,
    ApiSection,
    GrenacheSection,
    GrapeSection,
    WorkerSection,
    RetrySection,
    MetricsSection,
    BreakerSection,
    GossipSection,
):
    """All settings of a node, checked. Immutable."""

    title = "All"

    @property
    def peers_path(self) -> Path:
        """The peer list; PEER_STORAGE_PATH inside the data directory unless it is absolute."""
        return self.data_dir / self.peer_storage_path


SECTIONS: Final[tuple[type[Section], ...]] = (
    NodeSection,
    PeerSection,
    DiscoverySection,
    ApiSection,
    GrenacheSection,
    GrapeSection,
    WorkerSection,
    RetrySection,
    MetricsSection,
    BreakerSection,
    GossipSection,
)
