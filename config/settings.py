"""The schema: every setting with its type, range, default and meaning.

A setting's variable is its field's name in capitals. The sections are classes of their own so that code
can ask for no more than it needs.
Variables of the original design documents keep their names, units and defaults; durations are whole
milliseconds, with a property in seconds (`..._s`) beside each.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from ipaddress import ip_address
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, TypeVar

from config.section import Refused, Seconds, Section, field
from config.setting_types import (
    Choice,
    FilePath,
    Fraction,
    Host,
    HostNames,
    HostPort,
    HostPorts,
    Name,
    NodeIds,
    SignedUrls,
    Switch,
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
    rank = 0

    data_dir: Path = field(
        FilePath(what="a directory"),
        Path("~/.exchange-node"),
        "Directory of this node's key, journal and peer list; created when missing.",
    )
    instruments_file: Path | None = field(
        FilePath(what="a file", empty_ok=True),
        None,
        "File that defines the markets; empty for the default set.",
    )
    journal_sync: Literal["full", "normal"] = field(
        Choice(("full", "normal")),
        "full",
        "Durability of acknowledged orders: `full` survives a power failure, `normal` "
        "only the end of the process (kill -9).",
    )
    presence_lease_ms: int = field(
        Whole(1000, 600_000, unit="ms"),
        9000,
        "Time for which other nodes show this node's orders after its last presence message.",
    )
    credit_strangers: int = field(
        Whole(0, 1_000_000),
        10,
        "Most that all nodes without a credit limit of their own may owe together, in times of the limit that each of "
        "them has (`ledger credit` without `--peer`); 0: any amount.",
    )
    take_answer_wait: int = field(
        Whole(0, 60_000, unit="ms"),
        250,
        "Longest that the answer to an order waits for the nodes that it takes from, "
        "in the Bitfinex dialect and for requests under /v1 with `wait`; 0 answers at once.",
    )
    market_trades_kept: int = field(
        Whole(1000, 100_000_000),
        500_000,
        "Public trades of each market that are kept for history queries, in shares of their makers.",
    )
    market_candles_kept: int = field(
        Whole(1000, 100_000_000),
        50_000,
        "Candles of each market and length that are kept for history queries.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = field(
        Choice(("debug", "info", "warning", "error")),
        "warning",
        "Least severity of logged messages.",
    )
    log_format: Literal["text", "json"] = field(
        Choice(("text", "json")),
        "text",
        "Log lines for people (`text`) or one JSON object a line (`json`).",
    )
    log_file: Path | None = field(
        FilePath(what="a file", empty_ok=True),
        None,
        "Log to this file (mode 0600) instead of standard error.",
    )
    log_file_size: int = field(
        Whole(1, 10_000, unit="MiB"), 10, "Size at which the log file is rotated."
    )
    log_file_count: int = field(Whole(0, 1000), 5, "Rotated log files that are kept.")

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

    presence_lease_s = Seconds("presence_lease_ms")
    take_answer_wait_s = Seconds("take_answer_wait")


class PeerSection(Section):
    title = "Peers"
    rank = 10
    useless: ClassVar = {"P2P_ENABLED=false": ("P2P_HOST", "P2P_PORT")}

    p2p_enabled: bool = field(
        Switch(),
        True,
        "Direct TCP links between nodes; `false` carries everything over Grenache instead, "
        "which needs a Grape (GRAPE_URL or GRAPE_EMBEDDED).",
    )
    p2p_port: int = field(
        PORT,
        3000,
        "TCP port for links from other nodes, below 1024 only for those that have it configured; 0 lets the "
        "system choose, and the default gives way to a free port when it is in use.",
    )
    p2p_host: str = field(
        Host(),
        "0.0.0.0",
        "Address to listen on for links from other nodes; `0.0.0.0` and `::` are all, of IPv4 and IPv6.",
    )
    p2p_external_addresses: tuple[HostPort, ...] = field(
        HostPorts(),
        (),
        "Addresses, each as HOST:PORT, at which nodes outside reach this one, such as a port that the "
        "router forwards; announced without a test, unlike those that the node finds.",
    )
    port_mapping: bool = field(
        Switch(),
        True,
        "Request the router to forward the peer port (PCP, then NAT-PMP, with the extra upnp then UPnP), once a node outside of the "
        "local network is linked.",
    )
    p2p_relay_rate: int = field(
        Whole(0, 10_000_000_000, unit="bytes a second"),
        4_000_000,
        "What this node relays between nodes that cannot link to each other, shared fairly between the "
        "pairs that use it; 0 to relay nothing.",
    )
    p2p_security: Literal["tls", "off"] = field(
        Choice(("tls", "off")),
        "tls",
        "`tls`: links are encrypted and both sides prove their node id; `off`: plain TCP, "
        "for closed networks and debugging.",
    )
    p2p_network: str = field(
        Name(r"[a-z0-9-]{1,32}", "1 to 32 of a-z, 0-9 and -"),
        "main",
        "Name of the network; nodes of different networks do not link.",
    )
    max_peers: int = field(
        Whole(1, 10_000),
        50,
        "Most links to other nodes at once; from 8 on a quarter of them, up to 8, is reserved "
        "for links that this node dials.",
    )
    inbound_per_address: int = field(
        Whole(0, 10_000),
        4,
        "Most links that nodes at one public IP address may dial to this node; 0 for no limit.",
    )
    inbound_per_network: int = field(
        Whole(0, 10_000),
        12,
        "Most links that nodes of one public network (IPv4 /16, IPv6 /32) may dial to this "
        "node; 0 for no limit.",
    )
    inbound_per_address_local: int = field(
        Whole(0, 10_000),
        0,
        "The same for one loopback or private address, where many nodes are normal; 0 for "
        "no limit.",
    )
    peer_allow: tuple[str, ...] = field(
        NodeIds(),
        (),
        "Node ids, separated by commas, of a closed network, which refuses all others; empty "
        "for an open network.",
    )
    p2p_share_links: bool = field(
        Switch(),
        True,
        "Send the list of this node's links to linked nodes that request it, for the "
        "map on their page.",
    )
    peer_storage_path: Path = field(
        FilePath("the data directory", what="a file"),
        Path(".peers.json"),
        "File in which known peers are remembered; a relative path is inside the data directory.",
    )
    peer_reconnect_interval: int = field(
        Whole(100, 600_000, unit="ms"),
        30_000,
        "Wait before a lost peer is dialled again, once the first quick attempts have failed.",
    )
    client_request_timeout: int = field(
        Whole(1, 600_000, unit="ms"), 5000, "Timeout of a request to another node."
    )

    peer_reconnect_interval_s = Seconds("peer_reconnect_interval")
    client_request_timeout_s = Seconds("client_request_timeout")


class DiscoverySection(Section):
    title = "Discovery"
    rank = 20

    discovery_mdns: bool = field(
        Switch(), True, "Announce this node and find others on the local network by mDNS."
    )
    discovery_exchange: bool = field(
        Switch(), True, "Exchange addresses of nodes with linked peers."
    )
    bootstrap_peers: tuple[HostPort, ...] = field(
        HostPorts(),
        (),
        "Nodes to link to at the start, each as HOST:PORT; without direct links the port is their "
        "GRENACHE_PORT.",
    )
    dns_seeds: tuple[str, ...] = field(
        HostNames(),
        (),
        "Names whose DNS records list nodes to link to: SRV and TXT under "
        "`_exchange-node._tcp.NAME`, or else the addresses of NAME, at port 3000.",
    )
    peer_lists: tuple[tuple[str, str], ...] = field(
        SignedUrls(),
        (),
        "Signed lists of nodes to link to, made by `exchange-node peer-list`: `https://SERVER/FILE#ID`, "
        "with the node id of the signer.",
    )
    dns_servers: tuple[HostPort, ...] = field(
        HostPorts(names=False),
        (),
        "DNS servers to ask for them, each an IP address with a port; empty: the system's.",
    )
    seeds_reach: Literal["public", "private", "loopback"] = field(
        Choice(("public", "private", "loopback")),
        "public",
        "Addresses taken from DNS_SEEDS and PEER_LISTS: `private` adds those of private networks, `loopback` "
        "those of this machine too.",
    )


class ApiSection(Section):
    title = "API"
    rank = 30

    # Before api_host, whose check reads it.
    api_allow_remote: bool = field(
        Switch(),
        False,
        "Allow an API_HOST that other machines can reach; clients on other machines "
        "need an API key, and the operator's commands work on this machine only.",
    )
    api_host: str = field(Host(), "127.0.0.1", "Address to listen on for the HTTP API.")
    api_port: int = field(
        PORT,
        8300,
        "TCP port of the HTTP API; 0 lets the system choose, and the default gives way to a free "
        "port when it is in use.",
    )
    api_auth: Literal["optional", "required"] = field(
        Choice(("optional", "required")),
        "optional",
        "`optional`: on a loopback API_HOST, requests without an API key are the operator's; "
        "`required`: they see public market data only, as always on another API_HOST.",
    )
    api_tls_cert: Path | None = field(
        FilePath(what="a file", empty_ok=True),
        None,
        "Certificate, with its chain if there is one, in PEM form: the API is then served "
        "over TLS.",
    )
    api_tls_key: Path | None = field(
        FilePath(what="a file", empty_ok=True),
        None,
        "Private key of API_TLS_CERT in PEM form, without a password; empty when it is in that file.",
    )
    api_tls_self_signed: bool = field(
        Switch(),
        False,
        "Serve the API over TLS with a certificate that the node makes itself, "
        "DATA_DIR/api-cert.pem; clients are given that file.",
    )
    api_plain_keys: bool = field(
        Switch(),
        False,
        "Accept API keys over plain HTTP from other machines too, for trusted networks.",
    )
    api_rate_limit: int = field(
        Whole(0, 1_000_000),
        6000,
        "Requests a minute for each API key, and for each address without one; 0 is no limit, and "
        "the operator has none.",
    )
    api_max_streams: int = field(
        Whole(1, 10_000),
        256,
        "WebSocket connections at once, of the native stream and of the Bitfinex dialect each: one is an open file, 10 KB, up "
        "to 64 KB more if it reads slowly, and some microseconds for each change that it reads.",
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


class WorkerSection(Section):
    title = "Services"
    rank = 50

    worker_service_name: str = field(
        Name(r"[!-~]{1,64}", "1 to 64 visible characters"),
        "job_service",
        "Name of the service that `exchange-node worker` offers.",
    )
    worker_port: int = field(
        PORT,
        1337,
        "TCP port for links of a node started by `exchange-node worker`, unless P2P_PORT is "
        "set; the default gives way to a free port when it is in use.",
    )
    worker_announce_interval: int = field(
        Whole(100, 3_600_000, unit="ms"),
        5000,
        "Time between a node's announcements of its services; a node without one for "
        "three and a half intervals is no longer called.",
    )

    worker_announce_interval_s = Seconds("worker_announce_interval")


class RetrySection(Section):
    title = "Retries"
    rank = 60

    client_max_retries: int = field(
        Whole(0, 100), 3, "Further attempts after a request that failed and is safe to repeat."
    )
    client_retry_delay: int = field(
        Whole(0, 600_000, unit="ms"),
        1000,
        "Base of the exponential back-off with jitter before the same node is called "
        "again; another node is called after a few ms.",
    )

    client_retry_delay_s = Seconds("client_retry_delay")


class MetricsSection(Section):
    title = "Choosing peers"
    rank = 70

    router_policy: Literal["adaptive", "weighted"] = field(
        Choice(("adaptive", "weighted")),
        "adaptive",
        "Load balancing: `adaptive` calls the node with the least expected cost "
        "in seconds, `weighted` the node with the best score of four factors with the weights "
        "below.",
    )

    metrics_latency_weight: float = field(
        Fraction(), 0.4, "Weight of latency in a peer's score (`weighted` only)."
    )
    metrics_error_weight: float = field(
        Fraction(), 0.3, "Weight of errors in a peer's score (`weighted` only)."
    )
    metrics_timeout_weight: float = field(
        Fraction(), 0.2, "Weight of timeouts in a peer's score (`weighted` only)."
    )
    metrics_freshness_weight: float = field(
        Fraction(),
        0.1,
        "Weight of how recently a peer has answered in its score (`weighted` only).",
    )


@MetricsSection.check("metrics_freshness_weight")
def _not_all_zero(value: float, earlier: Mapping[str, Any]) -> None:
    names = ("metrics_latency_weight", "metrics_error_weight", "metrics_timeout_weight")
    # A wrong one is missing there and has its own line.
    if not value and not any(earlier.get(name, 1.0) for name in names):
        raise Refused("expected more than 0 for at least one of the METRICS_*_WEIGHT")


class BreakerSection(Section):
    title = "Circuit breaker"
    rank = 80

    circuit_breaker_failure_threshold: int = field(
        Whole(1, 1000), 5, "Failures in a row that open a peer's breaker."
    )
    circuit_breaker_cooldown_ms: int = field(
        Whole(1, 3_600_000, unit="ms"),
        10_000,
        "Longest that an open breaker waits before it lets a probe through; the first wait is "
        "about a tenth of it, and doubles with every failed probe.",
    )
    circuit_breaker_half_open_max_requests: int = field(
        Whole(1, 1000), 1, "Probes that a half-open breaker lets through at once."
    )

    circuit_breaker_cooldown_s = Seconds("circuit_breaker_cooldown_ms")


class GossipSection(Section):
    title = "Gossip"
    rank = 90

    gossip_hint_ttl: int = field(
        Whole(1, 86_400_000, unit="ms"), 60_000, "Lifetime of a hint about a peer's health."
    )
    gossip_publish_interval: int = field(
        Whole(1, 3_600_000, unit="ms"),
        5000,
        "Least time between two own hints about the same peer.",
    )
    gossip_decay_factor: float = field(
        Fraction(), 0.5, "Share of a hint's weight that is left after each sixth of its lifetime."
    )

    gossip_hint_ttl_s = Seconds("gossip_hint_ttl")
    gossip_publish_interval_s = Seconds("gossip_publish_interval")


class WrongValues(ValueError):
    """Some values cannot be used: the error of each, by key."""

    def __init__(self, errors: Mapping[str, ValueError]) -> None:
        super().__init__(", ".join(f"{key}: {error}" for key, error in errors.items()))
        self.errors: Final = errors


class Settings(
    NodeSection,
    PeerSection,
    DiscoverySection,
    ApiSection,
    WorkerSection,
    RetrySection,
    MetricsSection,
    BreakerSection,
    GossipSection,
):
    """All settings of a node, checked. Immutable. Made directly it reads nothing but its arguments; see `config.load`.

    An annex derives its settings from this class, and reads them as `settings.of(ItsSettings)`.

    Raises:
        WrongValues: values that cannot be used.
        TypeError: a name is not a setting.
    """

    fields_set: frozenset[str]  # keys of the settings that were given

    def __init__(self, **given: Any) -> None:
        values: dict[str, Any] = {}
        errors: dict[str, ValueError] = {}
        checks = {key: check for section in sections() for key, check in section.checks.items()}
        for section in reversed(sections()):
            for key, (kind, default, _) in section.fields.items():
                try:
                    value = kind.parse(given.get(key, default))
                    if key in checks:
                        checks[key](value, values)
                    values[key] = value
                except ValueError as error:
                    errors[key] = error
        if errors:
            raise WrongValues(errors)
        if unknown := given.keys() - values.keys():
            raise TypeError(f"no such setting: {', '.join(sorted(unknown))}")
        vars(self).update(values, fields_set=frozenset(given))

    def of(self, kind: type[S]) -> S:
        """Return these settings with those that an annex declares in `kind`."""
        view = kind.__new__(kind)
        vars(view).update(vars(self))
        return view

    @property
    def peers_path(self) -> Path:
        """The peer list; PEER_STORAGE_PATH inside the data directory unless it is absolute."""
        return self.data_dir / self.peer_storage_path


S = TypeVar("S", bound=Settings)


@cache
def sections() -> tuple[type[Section], ...]:
    """Return all sections, those of annexes too, in the order of documents."""
    # By name: the table lies above this package, and annexes are found by it alone.
    kinds = (Settings, *import_module("node.parts.table").settings())
    found = {part for kind in kinds for part in kind.__mro__ if issubclass(part, Section)}
    return tuple(sorted((part for part in found if part.fields), key=lambda part: part.rank))
