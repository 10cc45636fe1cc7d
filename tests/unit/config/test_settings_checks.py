"""Settings that depend on each other, and the documents that show all of them."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from settings_kit import from_env, leave_home, problems

from config import Loaded, SettingSource, describe, is_loopback, load, schema
from config.setting_info import kinds
from config.settings import sections
from config.settings_docs import FILES, env_example
from config.settings_docs import main as write_docs

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads the real home, working directory or environment."""
    leave_home(tmp_path, monkeypatch)


# --- Paths


def test_paths_are_derived_from_the_data_directory() -> None:
    settings = from_env(DATA_DIR="/srv/node").settings
    assert settings.key_path == Path("/srv/node/node.key")
    assert settings.journal_path == Path("/srv/node/journal")
    assert settings.peers_path == Path("/srv/node/.peers.json")
    assert settings.lock_path == Path("/srv/node/node.lock")
    assert settings.runtime_path == Path("/srv/node/node.json")


def test_the_default_data_directory_is_in_the_home_directory(tmp_path: Path) -> None:
    assert from_env().settings.data_dir == tmp_path / "home" / ".exchange-node"


def test_the_peer_list_is_inside_the_data_directory_unless_absolute(tmp_path: Path) -> None:
    def peers_path(text: str) -> Path:
        return from_env(DATA_DIR="/srv/node", PEER_STORAGE_PATH=text).settings.peers_path

    assert peers_path("sub/p.json") == Path("/srv/node/sub/p.json")
    assert peers_path("/var/p.json") == Path("/var/p.json")
    assert peers_path("~/p.json") == tmp_path / "home" / "p.json"


def test_relative_paths_start_at_the_working_directory_or_the_config_files_directory(
    tmp_path: Path,
) -> None:
    assert from_env(INSTRUMENTS_FILE="m.toml").settings.instruments_file == Path.cwd() / "m.toml"
    config = tmp_path / "c.toml"
    config.write_text("instruments_file = 'm.toml'\ndata_dir = '~/d'\npeer_storage_path = 'p'\n")
    settings = load(env={}, env_file=None, config_file=config).settings
    assert settings.instruments_file == tmp_path / "m.toml"
    assert settings.data_dir == tmp_path / "home" / "d"
    assert settings.peers_path == tmp_path / "home" / "d" / "p"


def test_no_instruments_file_means_the_default_set() -> None:
    assert from_env().settings.instruments_file is None
    assert from_env(INSTRUMENTS_FILE="").settings.instruments_file is None


# --- Warnings


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("P2P_PROT", "P2P_PORT"),
        ("p2p_port", "P2P_PORT"),
        ("P2P_MAX_PEERS", "MAX_PEERS"),
        ("BOOSTRAP_PEERS", "BOOTSTRAP_PEERS"),
        ("CIRCUIT_BREAKER_COOLDOWN", "CIRCUIT_BREAKER_COOLDOWN_MS"),
        ("API_KEYS_REQUIRED", "API_PLAIN_KEYS"),
        ("P2P_ENCRYPTION", "P2P_SECURITY"),
        ("GRAPE_API_LISTEN_HOST", "GRAPE_API_HOST"),
        ("BOOTSTRAP_NODES", "BOOTSTRAP_PEERS"),
        ("LOG_TO_FILE", "LOG_FILE"),
        ("EXCHANGE_NODE_P2P_PORT", "P2P_PORT"),
        ("EXCHANGE_NODE_DATADIR", "DATA_DIR"),
        ("EXCHANGE_NODE_KEYS", "EXCHANGE_NODE_KEY"),
    ],
)
def test_a_variable_that_looks_like_one_of_ours_gives_a_warning(
    tmp_path: Path, name: str, meant: str
) -> None:
    assert from_env(**{name: "1"}).warnings == (
        f"{name} (environment) is not a setting; did you mean {meant}?",
    )
    env_file = tmp_path / "e"
    env_file.write_text(f"{name}=1\n")
    assert load(env={}, env_file=env_file).warnings == (
        f"{name} (.env {env_file}) is not a setting; did you mean {meant}?",
    )


def test_variables_of_other_programs_are_ignored_quietly() -> None:
    names = (
        *("PATH", "HOME", "LANG", "LC_ALL", "PORT", "HOST", "http_proxy", "_", "A", "GOSSIP"),
        *("API_KEY", "API_TOKEN", "LOG_FILE", "CLIENT_ID", "CLIENT_SECRET", "MAX_MEM", "PEER_ID"),
        *("DATA_SOURCE", "DATABASE_URL", "APP_PORT", "WORKER_COUNT", "METRICS_PORT", "NODE_ENV"),
        *("EXCHANGE_NODE_KEY", "EXCHANGE_NODE_DESK", "EXCHANGE_NODE_DEBUG", "EXCHANGE_URL"),
    )
    assert from_env(**dict.fromkeys(names, "x")).warnings == ()


def test_an_api_open_to_other_machines_is_possible_when_allowed_and_gives_a_warning() -> None:
    loaded = from_env(API_HOST="0.0.0.0", API_ALLOW_REMOTE="true")
    assert loaded.settings.api_host == "0.0.0.0"
    (warning,) = loaded.warnings
    assert warning.startswith(
        "API_HOST=0.0.0.0 (environment): the API is served without TLS, so API k"
    )
    assert loaded.settings.api_keys_required


def test_an_open_api_with_tls_gives_no_warning_and_plain_keys_another_one() -> None:
    remote = {"API_HOST": "0.0.0.0", "API_ALLOW_REMOTE": "true"}
    assert from_env(**remote, API_TLS_SELF_SIGNED="true").warnings == ()
    assert from_env(**remote, API_TLS_CERT="/c.pem").warnings == ()
    (warning,) = from_env(**remote, API_PLAIN_KEYS="true").warnings
    assert "can read its clients' API keys" in warning


def test_keys_are_optional_on_loopback_only() -> None:
    assert not from_env().settings.api_keys_required
    assert from_env(API_AUTH="required").settings.api_keys_required
    remote = from_env(API_HOST="10.0.0.1", API_ALLOW_REMOTE="true", API_AUTH="optional")
    assert remote.settings.api_keys_required


def test_there_is_one_certificate() -> None:
    (line,) = problems(env={"API_TLS_CERT": "/c.pem", "API_TLS_SELF_SIGNED": "true"})
    assert line == (
        "API_TLS_SELF_SIGNED=true (environment): expected false, because API_TLS_CERT is the "
        "certificate to use"
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "::1", "[::1]", "localhost"])
def test_a_loopback_api_needs_no_permission(host: str) -> None:
    assert from_env(API_HOST=host).warnings == ()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", "localhost.evil"])
def test_other_hosts_are_not_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_a_wrong_permission_is_reported_alone() -> None:
    (line,) = problems(env={"API_HOST": "0.0.0.0", "API_ALLOW_REMOTE": "perhaps"})
    assert line == "API_ALLOW_REMOTE=perhaps (environment): expected true or false"


def test_plain_links_give_a_warning() -> None:
    (warning,) = from_env(P2P_SECURITY="off").warnings
    assert warning.startswith("P2P_SECURITY=off (environment)")


def test_without_direct_links_grenache_has_to_stay_on() -> None:
    assert not from_env(P2P_ENABLED="false").settings.p2p_enabled
    (line,) = problems(env={"P2P_ENABLED": "false", "DISCOVERY_GRENACHE": "off"})
    assert line == (
        "P2P_ENABLED=false (environment): expected true, because with DISCOVERY_GRENACHE=false there are "
        "no other links to other nodes"
    )


def test_settings_that_a_switch_makes_useless_are_reported() -> None:
    told = from_env(DISCOVERY_GRENACHE="off", GRAPE_URL="http://h:1", GRAPE_EMBEDDED="on").warnings
    assert told == ("GRAPE_URL, GRAPE_EMBEDDED: ignored because of DISCOVERY_GRENACHE=false",)
    told = from_env(P2P_ENABLED="no", P2P_PORT="3000").warnings
    assert told == ("P2P_PORT: ignored because of P2P_ENABLED=false",)
    assert from_env(GRAPE_URL="http://h:1", P2P_PORT="3000").warnings == ()


# --- The schema and what is written from it


SEEDS = {  # names and defaults of the design documents
    "P2P_ENABLED": "true", "P2P_PORT": "3000", "P2P_HOST": "0.0.0.0", "DISCOVERY_MDNS": "true",
    "PEER_LISTS": "", "DNS_SEEDS": "", "DNS_SERVERS": "", "SEEDS_REACH": "public",
    "DISCOVERY_GRENACHE": "true", "BOOTSTRAP_PEERS": "", "PEER_STORAGE_PATH": ".peers.json",
    "MAX_PEERS": "50", "PEER_RECONNECT_INTERVAL": "30000", "GRAPE_URL": "http://127.0.0.1:30001",
    "GRAPE_DHT_PORT": "20001", "GRAPE_API_PORT": "30001", "GRAPE_BOOTSTRAP": "",
    "GRAPE_CONCURRENCY": "32", "WORKER_SERVICE_NAME": "job_service", "WORKER_PORT": "1337",
    "WORKER_ANNOUNCE_INTERVAL": "5000", "CLIENT_REQUEST_TIMEOUT": "5000", "CLIENT_MAX_RETRIES": "3",
    "CLIENT_RETRY_DELAY": "1000", "METRICS_LATENCY_WEIGHT": "0.4", "METRICS_ERROR_WEIGHT": "0.3",
    "METRICS_TIMEOUT_WEIGHT": "0.2", "METRICS_FRESHNESS_WEIGHT": "0.1",
    "CIRCUIT_BREAKER_FAILURE_THRESHOLD": "5", "CIRCUIT_BREAKER_COOLDOWN_MS": "10000",
    "CIRCUIT_BREAKER_HALF_OPEN_MAX_REQUESTS": "1", "GOSSIP_HINT_TTL": "60000",
    "GOSSIP_PUBLISH_INTERVAL": "5000", "GOSSIP_DECAY_FACTOR": "0.5",
}  # fmt: skip

OWN = {
    "P2P_SECURITY": "tls", "P2P_NETWORK": "main", "DATA_DIR": "~/.exchange-node",
    "API_HOST": "127.0.0.1", "API_PORT": "8300", "API_ALLOW_REMOTE": "false",
    "DISCOVERY_EXCHANGE": "true", "INSTRUMENTS_FILE": "", "LOG_LEVEL": "warning",
    "LOG_FORMAT": "text", "LOG_FILE": "", "LOG_FILE_SIZE": "10", "LOG_FILE_COUNT": "5",
    "JOURNAL_SYNC": "full", "PRESENCE_LEASE_MS": "9000", "TAKE_ANSWER_WAIT": "250",
    "CREDIT_STRANGERS": "10", "TAKE_UNRELIABLE_LAST": "false",
    "ROUTER_POLICY": "adaptive", "GRENACHE_HOST": "0.0.0.0", "GRENACHE_PORT": "3100",
    "GRENACHE_ANNOUNCE_INTERVAL": "30000", "GRAPE_EMBEDDED": "false", "GRAPE_HOST": "0.0.0.0",
    "GRAPE_API_HOST": "127.0.0.1", "GRAPE_PEER_MAX_AGE": "120000", "GRAPE_PUBLIC_HOST": "",
    "GRAPE_BEP42": "false", "GRENACHE_SERVICES": "false", "MARKET_TRADES_KEPT": "500000", "MARKET_CANDLES_KEPT": "50000",
    "API_AUTH": "optional", "API_TLS_CERT": "", "API_TLS_KEY": "", "API_TLS_SELF_SIGNED": "false",
    "API_PLAIN_KEYS": "false", "API_RATE_LIMIT": "6000", "API_MAX_STREAMS": "256", "P2P_SHARE_LINKS": "true",
    "TRACING": "false",
    "EXPORT_POSTGRES": "", "EXPORT_NATS": "", "EXPORT_NATS_KEPT": "1024", "EXPORT_KEEP": "0", "DESK_PROFILE": "",
    "EXPORT_LOG_KEPT": "1024",
    "STANDBY_LISTEN": "", "STANDBY_ALLOW": "", "STANDBY_ACK": "both", "LEASE_POSTGRES": "",
    "INBOUND_PER_ADDRESS": "4", "INBOUND_PER_NETWORK": "12", "INBOUND_PER_ADDRESS_LOCAL": "0",
    "PEER_ALLOW": "", "P2P_EXTERNAL_ADDRESSES": "", "PORT_MAPPING": "true",
    "P2P_RELAY_RATE": "4000000",
}  # fmt: skip


def test_names_and_defaults_are_those_agreed() -> None:
    assert {info.name: info.default for info in schema().values()} == SEEDS | OWN


def test_weights_that_are_all_zero_are_refused() -> None:
    weights = {
        f"METRICS_{name}_WEIGHT": "0" for name in ("LATENCY", "ERROR", "TIMEOUT", "FRESHNESS")
    }
    (line,) = problems(env=weights)
    assert line == (
        "METRICS_FRESHNESS_WEIGHT=0 (environment): expected more than 0 for at least one of the "
        "METRICS_*_WEIGHT"
    )
    assert from_env(**weights | {"METRICS_ERROR_WEIGHT": "1"}).settings.metrics_error_weight == 1


def test_every_field_belongs_to_one_section_and_is_described_in_one_sentence() -> None:
    assert set(schema()) == set(kinds())
    assert sum(len(section.fields) for section in sections()) == len(schema())
    for info in schema().values():
        assert info.description.endswith(".")
        assert ". " not in info.description
        assert "|" not in info.description + info.expected  # would break the table


def test_flags_are_the_names_with_dashes_but_for_bootstrap() -> None:
    assert schema()["p2p_port"].flag == "--p2p-port"
    assert schema()["bootstrap_peers"].flag == "--bootstrap"
    loaded = load({"bootstrap_peers": "a:1"}, env={}, env_file=None)
    assert str(loaded.origin["bootstrap_peers"]) == "command line --bootstrap"


def test_describe_shows_each_setting_as_it_would_be_written_and_where_it_came_from() -> None:
    loaded = load(
        {"discovery_mdns": False},
        env={"BOOTSTRAP_PEERS": "[::1]:1, a:2", "DATA_DIR": "/srv/n"},
        env_file=None,
    )
    views = {view.name: view for view in describe(loaded)}
    assert list(views) == [info.name for info in schema().values()]
    assert (views["BOOTSTRAP_PEERS"].value, views["BOOTSTRAP_PEERS"].origin) == (
        "[::1]:1,a:2",
        "environment",
    )
    assert views["DISCOVERY_MDNS"].value == "false"
    assert views["DISCOVERY_MDNS"].origin == "command line --discovery-mdns"
    assert views["DATA_DIR"].value == "/srv/n"
    assert views["DATA_DIR"].default == "~/.exchange-node"
    assert views["INSTRUMENTS_FILE"].value == ""
    assert views["PRESENCE_LEASE_MS"].unit == "ms"
    assert json.loads(json.dumps(asdict(views["P2P_PORT"])))["value"] == "3000"


def values(loaded: Loaded) -> dict[str, str]:
    return {view.name: view.value for view in describe(loaded)}


def test_described_values_can_be_loaded_again() -> None:
    first = from_env(
        BOOTSTRAP_PEERS="[::1]:1,a:2", DISCOVERY_MDNS="no", METRICS_ERROR_WEIGHT="0.125"
    )
    again = from_env(**{view.name: view.value for view in describe(first)})
    assert values(again) == values(first)


@pytest.mark.parametrize("name", list(FILES))
def test_written_pages_are_current(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert text == FILES[name](), "run: python -m config.settings_docs"


def test_the_pages_are_written_into_the_given_directory(tmp_path: Path) -> None:
    write_docs([str(tmp_path / "out")])
    for name, text in FILES.items():
        assert (tmp_path / "out" / name).read_text(encoding="utf-8") == text()


def test_env_example_with_every_line_switched_on_loads_and_equals_the_defaults(
    tmp_path: Path,
) -> None:
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    on = [line[1:] if line[:1] == "#" and line[1:2].isupper() else line for line in lines]
    path = tmp_path / "e"
    path.write_text("\n".join(on))
    loaded = load(env={}, env_file=path)
    assert {str(origin) for origin in loaded.origin.values()} == {f".env {path}"}  # all were there
    assert values(loaded) == values(load(env={}, env_file=None))
    assert loaded.warnings == ()


def test_env_example_as_it_is_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "e"
    path.write_text(env_example())
    loaded = load(env={}, env_file=path)
    assert all(loaded.is_default(key) for key in schema())
    assert loaded.origin["p2p_port"].source is SettingSource.DEFAULT


def test_pages_do_not_depend_on_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    before: dict[str, Any] = {name: text() for name, text in FILES.items()}
    monkeypatch.setenv("HOME", os.sep + "elsewhere")
    assert {name: text() for name, text in FILES.items()} == before
