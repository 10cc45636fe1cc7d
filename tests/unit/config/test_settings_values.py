"""Values of settings: what is taken, what is refused and with which words."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from settings_kit import from_env, leave_home, problems

from config import HostPort, SettingError, Settings, load, schema
from config.section import Section
from config.setting_info import kinds
from node.parts import table


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads the real home, working directory or environment."""
    leave_home(tmp_path, monkeypatch)


# --- The config file


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        ("p2p_port = true", "P2P_PORT=true ({}): expected a port number from 0 to 65535"),
        ("p2p_port = 3000.0", "P2P_PORT=3000.0 ({}): expected a port number from 0 to 65535"),
        ("discovery_mdns = 2", "DISCOVERY_MDNS=2 ({}): expected true or false"),
        ("metrics_error_weight = true", "METRICS_ERROR_WEIGHT=true ({}): expected a number from 0 to 1"),
        ("p2p_network = ['a']", "P2P_NETWORK=a ({}): expected 1 to 32 of a-z, 0-9 and -"),
        ("worker_service_name = ['a']", "WORKER_SERVICE_NAME=a ({}): expected 1 to 64 visible characters"),
        ("p2p_host = 1", "P2P_HOST=1 ({}): expected an IP address or host name"),
        ("data_dir = 1", "DATA_DIR=1 ({}): expected a directory"),
        ("data_dir = ''", "DATA_DIR= ({}): expected a directory"),
        (
            "bootstrap_peers = 1",
            "BOOTSTRAP_PEERS=1 ({}): expected comma-separated HOST:PORT, IPv6 addresses in brackets",
        ),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_toml_type_is_refused(
    tmp_path: Path, toml: str, expected: str
) -> None:
    path = tmp_path / "c.toml"
    path.write_text(toml)
    assert problems(config_file=path) == [expected.format(f"file {path}")]


def test_toml_types_and_texts_are_both_taken(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(
        'p2p_port = "4000"\ndiscovery_mdns = false\nmetrics_error_weight = 1\n'
        'metrics_latency_weight = 0.25\nbootstrap_peers = "a:1,b:2"\n'
    )
    settings = load(env={}, env_file=None, config_file=path).settings
    assert (settings.p2p_port, settings.discovery_mdns) == (4000, False)
    assert (settings.metrics_error_weight, settings.metrics_latency_weight) == (1.0, 0.25)
    assert settings.bootstrap_peers == (HostPort("a", 1), HostPort("b", 2))


# --- Wrong values


WHOLE = {
    "P2P_PORT": (0, 65535), "API_PORT": (0, 65535), "GRAPE_DHT_PORT": (0, 65535),
    "GRAPE_API_PORT": (0, 65535), "WORKER_PORT": (0, 65535), "MAX_PEERS": (1, 10_000),
    "INBOUND_PER_ADDRESS": (0, 10_000), "INBOUND_PER_NETWORK": (0, 10_000),
    "INBOUND_PER_ADDRESS_LOCAL": (0, 10_000), "EXPORT_LOG_KEPT": (64, 1_000_000), "EXPORT_NATS_KEPT": (16, 1_000_000), "EXPORT_KEEP": (0, 36_500),
    "PEER_RECONNECT_INTERVAL": (100, 600_000), "PRESENCE_LEASE_MS": (1000, 600_000),
    "CLIENT_REQUEST_TIMEOUT": (1, 600_000), "CLIENT_MAX_RETRIES": (0, 100),
    "CLIENT_RETRY_DELAY": (0, 600_000), "GRAPE_CONCURRENCY": (1, 1024),
    "WORKER_ANNOUNCE_INTERVAL": (100, 3_600_000), "CIRCUIT_BREAKER_FAILURE_THRESHOLD": (1, 1000),
    "CIRCUIT_BREAKER_COOLDOWN_MS": (1, 3_600_000),
    "CIRCUIT_BREAKER_HALF_OPEN_MAX_REQUESTS": (1, 1000), "GOSSIP_HINT_TTL": (1, 86_400_000),
    "GOSSIP_PUBLISH_INTERVAL": (1, 3_600_000), "GRENACHE_PORT": (0, 65535),
    "GRENACHE_ANNOUNCE_INTERVAL": (1000, 600_000), "GRAPE_PEER_MAX_AGE": (0, 2_147_483_647), "TAKE_ANSWER_WAIT": (0, 60_000),
    "CREDIT_STRANGERS": (0, 1_000_000),
    "LOG_FILE_SIZE": (1, 10_000), "LOG_FILE_COUNT": (0, 1000),
    "API_RATE_LIMIT": (0, 1_000_000), "API_MAX_STREAMS": (1, 10_000), "MARKET_TRADES_KEPT": (1000, 100_000_000), "MARKET_CANDLES_KEPT": (1000, 100_000_000),
    "P2P_RELAY_RATE": (0, 10_000_000_000),
}  # fmt: skip

FRACTIONS = (
    "METRICS_LATENCY_WEIGHT", "METRICS_ERROR_WEIGHT", "METRICS_TIMEOUT_WEIGHT",
    "METRICS_FRESHNESS_WEIGHT", "GOSSIP_DECAY_FACTOR",
)  # fmt: skip

SWITCHES = (
    "DISCOVERY_MDNS", "DISCOVERY_EXCHANGE", "DISCOVERY_GRENACHE", "API_ALLOW_REMOTE",
    "P2P_ENABLED", "GRAPE_EMBEDDED", "GRAPE_BEP42", "GRENACHE_SERVICES", "TAKE_UNRELIABLE_LAST",
    "API_TLS_SELF_SIGNED", "API_PLAIN_KEYS", "P2P_SHARE_LINKS", "PORT_MAPPING", "TRACING",
)  # fmt: skip

CHOICES = {
    "P2P_SECURITY": "tls, off",
    "SEEDS_REACH": "public, private, loopback",
    "LOG_LEVEL": "debug, info, warning, error",
    "LOG_FORMAT": "text, json",
    "JOURNAL_SYNC": "full, normal",
    "API_AUTH": "optional, required",
}

ADDRESSES = ("BOOTSTRAP_PEERS", "GRAPE_BOOTSTRAP", "P2P_EXTERNAL_ADDRESSES")

LIST = "comma-separated HOST:PORT, IPv6 addresses in brackets"

URL = (
    "an address such as http://127.0.0.1:30001, without user name or query, or several with commas"
)

NETWORK = "1 to 32 of a-z, 0-9 and -"

WRONG = [
    *(
        (name, bad, f"expected {what} from {low} to {high}")
        for name, (low, high) in WHOLE.items()
        for what in [
            "a port number" if name.endswith("PORT")
            else f"a whole number of {schema()[name.lower()].unit}" if schema()[name.lower()].unit
            else "a whole number"
        ]
        for bad in (str(low - 1), str(high + 1), "x", "1.5", "1_0", "٣", "1e3", "9" * 30)
    ),
    *(
        (name, bad, "expected a number from 0 to 1")
        for name in FRACTIONS
        for bad in ("-0.1", "1.01", "nan", "inf", "x", "0_0.5", "1e999", "٠")
    ),
    *((name, bad, "expected true or false") for name in SWITCHES for bad in ("2", "tru", "none")),
    *((name, bad, f"expected one of {words}") for name, words in CHOICES.items() for bad in ("x", "1")),
    *(
        (name, bad, f"expected {LIST} ({detail})")
        for name in ADDRESSES
        for bad, detail in (
            ("a:1,b", "'b' has no port"),
            (":3000", "':3000' has no host"),
            ("https://example.org", "'https://example.org' is a URL"),
            ("http://u:secret@example.org:3000", "'http://***@example.org:3000' is a URL"),
            ("ws://1.2.3.4:80", "'ws://1.2.3.4:80' is a URL"),
            ("a:b:3000", "'a:b:3000' has more than one colon"),
            ("[::1]", "'[::1]' has no port"),
            ("::1:3000", "'::1:3000' is an IPv6 address without brackets"),
            ("a:0", "the port of 'a:0' is not from 1 to 65535"),
            ("a:65536", "the port of 'a:65536' is not from 1 to 65535"),
            ("a:x", "the port of 'a:x' is not from 1 to 65535"),
            ("a b:1", "'a b' is not a host"),
            ("10.0.0.300:1", "'10.0.0.300' is not a host"),
            ("[a]:1", "'[a]' is not a host"),
            ("[10.0.0.1]:1", "'[10.0.0.1]' is not a host"),
            ("a-.b:1", "'a-.b' is not a host"),
            ("a/b:1", "'a/b' is not a host"),
        )
    ),
    *((name, bad, "expected an IP address or host name")
      for name in ("P2P_HOST", "API_HOST", "GRENACHE_HOST", "GRAPE_HOST", "GRAPE_API_HOST") for bad in ("1.2.3", "a b", "-a", "a..b", "x" * 64)),
    *(("P2P_NETWORK", bad, f"expected {NETWORK}") for bad in ("Main", "a_b", "a b", "x" * 33)),
    *(("WORKER_SERVICE_NAME", bad, "expected 1 to 64 visible characters")
      for bad in ("a b", "x" * 65, "é")),
    *(("PEER_ALLOW", bad, f"expected comma-separated node ids of 32 characters from a-z and 2-7 ({bad!r} is not a node id)")
      for bad in ("abc", "a" * 31 + "1")),
    *(("DNS_SEEDS", bad, f"expected comma-separated host names such as nodes.example.org ({detail})")
      for bad, detail in (("a b", "'a b' is not a host"), ("a,b:1", "'b:1' is not a host"),
                          ("192.0.2.1", "'192.0.2.1' is an address, not a name"))),
    *(("PEER_LISTS", bad, f"expected comma-separated https addresses, each with # and the node id of its signer{detail}")
      for bad, detail in (("https://a/b", ""), ("ftp://a/b#" + "a" * 32, ""), ("https://a/b#x", " ('x' is not a node id)"))),
    *(("DNS_SERVERS", bad, f"expected comma-separated IP:PORT, IPv6 addresses in brackets ({detail})")
      for bad, detail in (("ns.example:53", "'ns.example' is not an IP address"), ("192.0.2.1", "'192.0.2.1' has no port"))),
    ("ROUTER_POLICY", "greedy", "expected one of adaptive, weighted"),
    *(("GRAPE_URL", bad, f"expected {URL}")
      for bad in ("127.0.0.1:30001", "ftp://a", "http://", "http://a:70000", "http://a:0", "http://a b",
                  "http://[::1", "http://a,b", ",")),
    *(("GRAPE_PUBLIC_HOST", bad, "expected an IPv4 address such as 192.0.2.7, or nothing")
      for bad in ("a", "::1", "10.0.0", "0.0.0.0", "224.0.0.1")),
    ("STANDBY_LISTEN", "10.0.0.1", "expected comma-separated HOST:PORT, IPv6 addresses in brackets ('10.0.0.1' has no port)"),
    ("STANDBY_ALLOW", "machine", "expected comma-separated node ids of 32 characters from a-z and 2-7 ('machine' is not a node id)"),
    ("STANDBY_ACK", "all", "expected one of both, first"),
    ("LEASE_POSTGRES", "desk", "expected an address such as postgresql://user:password@host/database, or empty"),
    *(("EXPORT_POSTGRES", bad, "expected an address such as postgresql://user:password@host/database, or empty")
      for bad in ("host", "mysql://a/b", "http://a", "postgresql:// a/b", "postgresql://[::1")),
    *(("EXPORT_NATS", bad, "expected an address such as nats://user:password@host:4222, several separated by commas, or empty")
      for bad in ("host", "http://a", "nats://", "nats://a,b", "nats://a b", "nats://[::1", ",")),
    ("DATA_DIR", "a\0b", "expected a directory"),
    ("DATA_DIR", "~no-such-user-here/x", "expected a directory (the home directory, for ~, is unknown)"),
    ("PEER_STORAGE_PATH", "a\0b", "expected a file, absolute or relative to the data directory"),
    ("INSTRUMENTS_FILE", "a\0b", "expected a file, or nothing"),
    ("API_TLS_CERT", "a\0b", "expected a file, or nothing"),
    ("DESK_PROFILE", "a\0b", "expected a file, or nothing"),
    ("LOG_FILE", "a\0b", "expected a file, or nothing"),
    ("API_TLS_KEY", "a\0b", "expected a file, or nothing"),
    ("API_TLS_KEY", "key.pem", "expected nothing, because API_TLS_CERT is empty"),
    ("API_HOST", "0.0.0.0", "expected a loopback address such as 127.0.0.1; API_ALLOW_REMOTE=true "
     "allows others"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "expected"), WRONG)
def test_a_wrong_value_stops_with_one_line_of_name_value_origin_and_expectation(
    name: str, value: str, expected: str
) -> None:
    (line,) = problems(env={name: value})
    shown = value.replace("\0", "\\x00")
    assert line == f"{name}={shown} (environment): {expected}"


def test_every_setting_has_a_wrong_value_above() -> None:
    assert {name for name, _, _ in WRONG} == {info.name for info in schema().values()}


def test_the_ends_of_each_range_are_accepted() -> None:
    for name, ends in WHOLE.items():
        for end in ends:
            assert getattr(from_env(**{name: str(end)}).settings, name.lower()) == end
    for name in FRACTIONS:
        for text, value in (("0", 0.0), ("1", 1.0), (".5", 0.5), ("5e-1", 0.5)):
            assert getattr(from_env(**{name: text}).settings, name.lower()) == value


def test_all_wrong_values_are_listed_in_the_order_of_the_documentation(tmp_path: Path) -> None:
    config, env_file = tmp_path / "c.toml", tmp_path / "e"
    config.write_text("nonsense = 1\nmax_peers = 0\n")
    env_file.write_text("LOG_LEVEL=loud\n")
    lines = problems({"p2p_port": 70000}, {"API_HOST": "0.0.0.0"}, env_file, config)
    assert [line.split(": ")[0] for line in lines] == [
        f"file {config}",
        f"LOG_LEVEL=loud (.env {env_file})",
        "P2P_PORT=70000 (command line --p2p-port)",
        f"MAX_PEERS=0 (file {config})",
        "API_HOST=0.0.0.0 (environment)",
    ]


def test_an_unreadable_file_does_not_hide_other_wrong_values(tmp_path: Path) -> None:
    lines = problems(env={"P2P_PORT": "x"}, env_file=tmp_path / "none")
    assert [line.split(" ")[0] for line in lines] == ["cannot", "P2P_PORT=x"]


def test_a_wrong_value_that_a_stronger_source_replaces_does_no_harm(tmp_path: Path) -> None:
    assert load({"p2p_port": 1}, env={"P2P_PORT": "x"}, env_file=None).settings.p2p_port == 1


def test_a_wrong_value_with_line_breaks_or_of_great_length_stays_one_short_line() -> None:
    (line,) = problems(env={"P2P_NETWORK": "a\nb\x1b[31m"})
    assert line.startswith("P2P_NETWORK=a\\nb\\x1b[31m (environment)")
    for name in ("P2P_NETWORK", "BOOTSTRAP_PEERS"):
        (line,) = problems(env={name: "x" * 5000})
        assert len(line) < 500


@pytest.mark.parametrize(
    "url",
    [
        "http://alice:hunter2@127.0.0.1:30001",
        "http://alice:hun/hunter2@h:1",
        "htp://alice:hunter2@h",
        "alice:hunter2@h:1",
        "http://h:1/?token=hunter2",
        "http://h:1/#hunter2",
        "http://alice:hunter2@h\u2100:1",  # urlsplit's own message repeats this one
        "http://alice:hunter2\n@h:1",
    ],
)
def test_credentials_in_a_wrong_value_are_never_repeated(url: str) -> None:
    with pytest.raises(SettingError) as caught:
        from_env(GRAPE_URL=url)
    assert "hunter2" not in str(caught.value)
    assert "alice" not in str(caught.value)
    assert caught.value.__context__ is None  # an error in the chain may repeat values


@given(st.dictionaries(st.sampled_from([info.name for info in schema().values()]), st.text()))
def test_any_text_is_accepted_or_refused_with_one_line_for_each_value(env: dict[str, str]) -> None:
    # The data directory decides which file is looked for; keep that inside the test.
    env = {name: text for name, text in env.items() if name != "DATA_DIR"}
    refused: SettingError | None = None
    try:
        load(env=env, env_file=None)
    except SettingError as error:
        refused = error
    if refused is not None:
        assert len(str(refused).splitlines()) == len(refused.problems)
        named = {line.partition("=")[0] for line in refused.problems}
        assert named <= set(env)
        rest = {name: text for name, text in env.items() if name not in named}
        if "API_ALLOW_REMOTE" in named:
            rest.pop("API_HOST", None)  # judged only once it is clear what is allowed
        load(env=rest, env_file=None)


# --- Kinds of value


@pytest.mark.parametrize("text", ["true", "TRUE", "Yes", "on", "1", "t", "y", " true "])
def test_the_usual_spellings_of_true(text: str) -> None:
    assert from_env(API_ALLOW_REMOTE=text).settings.api_allow_remote is True


@pytest.mark.parametrize("text", ["false", "FALSE", "No", "off", "0", "f", "n"])
def test_the_usual_spellings_of_false(text: str) -> None:
    assert from_env(DISCOVERY_MDNS=text).settings.discovery_mdns is False


def test_words_are_taken_in_any_letter_case() -> None:
    settings = from_env(LOG_LEVEL="DEBUG", P2P_SECURITY="Off", LOG_FORMAT="JSON").settings
    assert (settings.log_level, settings.p2p_security, settings.log_format) == (
        "debug",
        "off",
        "json",
    )


def test_addresses_are_read_with_ipv6_in_brackets_blanks_and_repeats() -> None:
    text = "192.168.1.100:3000, node-1.example.org:3001,,[::1]:3000 ,[fe80::1%eth0]:5,192.168.1.100:3000"
    peers = from_env(BOOTSTRAP_PEERS=text).settings.bootstrap_peers
    assert peers == (
        HostPort("192.168.1.100", 3000),
        HostPort("node-1.example.org", 3001),
        HostPort("::1", 3000),
        HostPort("fe80::1%eth0", 5),
    )
    again = from_env(BOOTSTRAP_PEERS=",".join(map(str, peers))).settings.bootstrap_peers
    assert again == peers


def test_a_host_loses_its_brackets() -> None:
    assert from_env(P2P_HOST="[::]").settings.p2p_host == "::"


def test_a_url_loses_its_final_slash() -> None:
    assert from_env(
        GRAPE_URL="https://grape.example/x/, http://b:1,http://b:1"
    ).settings.grape_url == ("https://grape.example/x", "http://b:1")


def test_durations_in_the_environment_are_milliseconds_and_have_a_property_in_seconds() -> None:
    settings = from_env(
        PEER_RECONNECT_INTERVAL="1500",
        CLIENT_REQUEST_TIMEOUT="2500",
        PRESENCE_LEASE_MS="3500",
        WORKER_ANNOUNCE_INTERVAL="4500",
        CLIENT_RETRY_DELAY="5500",
        CIRCUIT_BREAKER_COOLDOWN_MS="6500",
        GOSSIP_HINT_TTL="7500",
        GOSSIP_PUBLISH_INTERVAL="8500",
    ).settings
    assert settings.peer_reconnect_interval_s == 1.5
    assert settings.client_request_timeout_s == 2.5
    assert settings.presence_lease_s == 3.5
    assert settings.worker_announce_interval_s == 4.5
    assert settings.client_retry_delay_s == 5.5
    assert settings.circuit_breaker_cooldown_s == 6.5
    assert settings.gossip_hint_ttl_s == 7.5
    assert settings.gossip_publish_interval_s == 8.5


def test_every_duration_has_its_property_in_seconds() -> None:
    for kind in (Settings, *table.settings()):
        for section in (part for part in kind.__mro__ if issubclass(part, Section)):
            for key in (key for key, field in section.fields.items() if field.kind.unit == "ms"):
                seconds = getattr(Settings().of(kind), key.removesuffix("_ms") + "_s")
                assert seconds * 1000 == int(schema()[key].default)


def test_the_password_of_the_bus_is_never_shown() -> None:
    kind = kinds()["export_nats"]
    urls = "nats://desk:hidden-word@host, tls://desk:hidden-word@other:4223"
    assert kind.text(kind.parse(urls)) == "nats://***@host,tls://***@other:4223"
    assert "hidden-word" not in kind.shown(urls)


def test_the_password_of_the_database_is_never_shown() -> None:
    kind = kinds()["export_postgres"]
    for url in (
        "postgresql://desk:hidden-word@host/desk",
        "postgresql://host/desk?user=desk&password=hidden-word",
    ):
        assert "hidden-word" not in kind.text(kind.parse(url))
        assert "hidden-word" not in kind.shown(url)
