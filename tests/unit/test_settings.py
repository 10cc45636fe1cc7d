"""Settings: where values come from, what is refused and how, and that the written pages are current."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from config import (
    SCHEMA,
    HostPort,
    Loaded,
    SettingError,
    Settings,
    Source,
    describe,
    is_loopback,
    load,
)
from config.docs import FILES, env_example
from config.docs import main as write_docs
from config.schema import KINDS
from config.settings import SECTIONS

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads the real home, working directory or environment."""
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")


def from_env(**env: str) -> Loaded:
    return load(env=env, env_file=None)


def problems(
    cli: Mapping[str, object] | None = None,
    env: Mapping[str, str] | None = None,
    env_file: Path | None = None,
    config_file: Path | None = None,
) -> list[str]:
    with pytest.raises(SettingError) as caught:
        load(cli or {}, env=env or {}, env_file=env_file, config_file=config_file)
    assert str(caught.value).split("\n") == list(caught.value.problems)  # one line each
    return list(caught.value.problems)


# --- Precedence and origin


LAYERS = ("file", ".env", "environment", "command line")  # weakest first


def _load_with(tmp_path: Path, ports: dict[str, int]) -> Loaded:
    env_file, config_file = tmp_path / "my.env", tmp_path / "my.toml"
    if ".env" in ports:
        env_file.write_text(f"P2P_PORT={ports['.env']}\n")
    if "file" in ports:
        config_file.write_text(f"p2p_port = {ports['file']}\n")
    return load(
        {"p2p_port": ports.get("command line")},
        env={"P2P_PORT": str(ports["environment"])} if "environment" in ports else {},
        env_file=env_file if ".env" in ports else None,
        config_file=config_file if "file" in ports else None,
    )


@pytest.mark.parametrize(("weak", "strong"), list(itertools.combinations(LAYERS, 2)))
def test_the_stronger_of_two_sources_wins_and_is_named(
    tmp_path: Path, weak: str, strong: str
) -> None:
    loaded = _load_with(tmp_path, {weak: 1111, strong: 2222})
    assert loaded.settings.p2p_port == 2222
    assert loaded.origin["p2p_port"].source == strong


@pytest.mark.parametrize(
    ("layer", "origin"),
    [
        ("file", "file {tmp}/my.toml"),
        (".env", ".env {tmp}/my.env"),
        ("environment", "environment"),
        ("command line", "command line --p2p-port"),
    ],
)
def test_each_source_wins_over_the_default_and_says_exactly_where_it_is(
    tmp_path: Path, layer: str, origin: str
) -> None:
    loaded = _load_with(tmp_path, {layer: 1111})
    assert loaded.settings.p2p_port == 1111
    assert str(loaded.origin["p2p_port"]) == origin.format(tmp=tmp_path)
    assert not loaded.is_default("p2p_port")
    assert loaded.is_default("api_port")
    assert str(loaded.origin["api_port"]) == "default"


def test_a_value_equal_to_the_default_still_counts_as_asked_for() -> None:
    assert not from_env(P2P_PORT="3000").is_default("p2p_port")


def test_sources_are_merged_setting_by_setting(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('p2p_port = 1\nmax_peers = 2\np2p_network = "lab"\n')
    loaded = load(
        {"p2p_port": 9}, env={"MAX_PEERS": "8"}, env_file=None, config_file=config
    ).settings
    assert (loaded.p2p_port, loaded.max_peers, loaded.p2p_network) == (9, 8, "lab")


def test_a_list_of_a_stronger_source_replaces_the_weaker_one_even_when_empty(
    tmp_path: Path,
) -> None:
    config = tmp_path / "c.toml"
    config.write_text('bootstrap_peers = ["a:1", "b:2"]\n')

    def peers(env: dict[str, str]) -> tuple[HostPort, ...]:
        return load(env=env, env_file=None, config_file=config).settings.bootstrap_peers

    assert peers({}) == (HostPort("a", 1), HostPort("b", 2))
    assert peers({"BOOTSTRAP_PEERS": "c:3"}) == (HostPort("c", 3),)
    assert peers({"BOOTSTRAP_PEERS": ""}) == ()


def test_an_empty_variable_that_cannot_be_empty_counts_as_not_set(tmp_path: Path) -> None:
    env_file = tmp_path / "e"
    env_file.write_text("P2P_PORT=1234\nMAX_PEERS=\n")
    loaded = load(env={"P2P_PORT": " "}, env_file=env_file)
    assert (loaded.settings.p2p_port, loaded.settings.max_peers) == (1234, 50)
    assert loaded.is_default("max_peers")


def test_by_default_the_environment_of_the_process_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_PEERS", "7")
    assert load().settings.max_peers == 7
    assert load(env={}).settings.max_peers == 50


def test_settings_built_directly_read_nothing_but_their_arguments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MAX_PEERS", "7")
    Path(".env").write_text("MAX_PEERS=8\n")
    assert Settings(p2p_port=0).max_peers == 50
    assert Settings(p2p_port=0).p2p_port == 0


def test_the_command_line_keeps_typed_values() -> None:
    cli = {
        "discovery_mdns": False,
        "bootstrap_peers": ("a:1", "[::1]:2,c:3"),
        "data_dir": Path("d"),
    }
    settings = load(cli, env={}, env_file=None).settings
    assert settings.discovery_mdns is False
    assert [str(peer) for peer in settings.bootstrap_peers] == ["a:1", "[::1]:2", "c:3"]
    assert settings.data_dir == Path.cwd() / "d"


def test_a_flag_that_is_no_setting_is_a_mistake_in_the_program() -> None:
    with pytest.raises(TypeError, match="p2p-port"):
        load({"p2p-port": 1}, env={})


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().p2p_port = 1


# --- The .env file


def test_env_file_quotes_comments_and_export_are_understood(tmp_path: Path) -> None:
    env_file = tmp_path / "e"
    env_file.write_text(
        "\ufeff# a comment\n"
        "\n"
        "export P2P_PORT=4000   # the port\n"
        "P2P_NETWORK='lab-1'\n"
        'LOG_LEVEL = "debug"\n'
        'BOOTSTRAP_PEERS="a:1, [::1]:2"\n'
        "DATA_DIR=${HOME}/x#y\n"
        "OTHER_PROGRAM=whatever\r\n"
        "P2P_PORT=4001\n"
    )
    loaded = load(env={}, env_file=env_file)
    settings = loaded.settings
    assert settings.p2p_port == 4001  # the last one, as in a shell
    assert settings.p2p_network == "lab-1"
    assert settings.log_level == "debug"
    assert settings.bootstrap_peers == (HostPort("a", 1), HostPort("::1", 2))
    assert settings.data_dir == Path.cwd() / "${HOME}" / "x#y"
    assert loaded.warnings == ()


def test_the_default_env_file_is_read_from_the_working_directory_and_may_be_missing() -> None:
    assert load(env={}).is_default("p2p_port")
    Path(".env").write_text("P2P_PORT=4000\n")
    loaded = load(env={})
    assert loaded.settings.p2p_port == 4000
    assert str(loaded.origin["p2p_port"]) == f".env {Path.cwd()}/.env"
    assert load(env={}, env_file=None).settings.p2p_port == 3000


def test_a_directory_named_like_the_env_file_is_left_alone() -> None:
    Path(".env").mkdir()
    assert load(env={}).settings.p2p_port == 3000


def test_an_env_file_that_is_named_must_be_readable(tmp_path: Path) -> None:
    path = tmp_path / "none"
    assert problems(env_file=path) == [f"cannot read {path}: No such file or directory"]
    path.write_bytes(b"P2P_NETWORK=\xff\n")
    assert problems(env_file=path) == [f"cannot read {path}: it is not UTF-8 text"]


def test_lines_of_the_env_file_that_are_no_assignments_are_named_by_number(tmp_path: Path) -> None:
    path = tmp_path / "e"
    path.write_text("# secret things\n\nP2P_PORT 4000\nMAX_PEERS=3\n\n\n'x\nLOG_LEVEL\n")
    assert problems(env_file=path) == [
        f".env {path}: line 3 is not NAME=value",
        f".env {path}: line 7 is not NAME=value",
        f".env {path}: line 8 is not NAME=value",
    ]


# --- The config file


def test_the_config_file_in_the_data_directory_is_found_wherever_that_is_set(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "exchange-node.toml").write_text("p2p_port = 4000\n")
    env_file = tmp_path / "e"
    env_file.write_text(f"DATA_DIR={data}\n")
    for loaded in (
        load({"data_dir": str(data)}, env={}, env_file=None),
        load(env={"DATA_DIR": str(data)}, env_file=None),
        load(env={}, env_file=env_file),
    ):
        assert loaded.settings.p2p_port == 4000
        assert loaded.config_file == data / "exchange-node.toml"
        assert str(loaded.origin["p2p_port"]) == f"file {data}/exchange-node.toml"
    assert load(env={}, env_file=None).config_file is None


def test_the_config_file_in_the_default_data_directory_is_found(tmp_path: Path) -> None:
    data = tmp_path / "home" / ".exchange-node"
    data.mkdir()
    (data / "exchange-node.toml").write_text("p2p_port = 4000\n")
    assert load(env={}, env_file=None).settings.p2p_port == 4000


def test_a_config_file_that_is_named_replaces_the_one_in_the_data_directory(tmp_path: Path) -> None:
    (tmp_path / "exchange-node.toml").write_text("p2p_port = 4000\n")
    other = tmp_path / "other.toml"
    other.write_text(f"data_dir = '{tmp_path}'\nmax_peers = 9\n")
    loaded = load(env={}, env_file=None, config_file=other)
    assert (loaded.settings.p2p_port, loaded.settings.max_peers) == (3000, 9)
    assert loaded.settings.data_dir == tmp_path


def test_a_config_file_that_is_named_must_exist(tmp_path: Path) -> None:
    path = tmp_path / "none.toml"
    assert problems(config_file=path) == [f"cannot read {path}: No such file or directory"]


def test_the_config_file_of_the_data_directory_cannot_move_the_data_directory(
    tmp_path: Path,
) -> None:
    (tmp_path / "exchange-node.toml").write_text("data_dir = '/elsewhere'\n")
    (line,) = problems({"data_dir": tmp_path})
    assert line.startswith(f"file {tmp_path}/exchange-node.toml: data_dir cannot be set here")


@pytest.mark.parametrize(
    ("key", "closest"),
    [("p2p_prot", "p2p_port"), ("P2P_PORT", "p2p_port"), ("boostrap_peer", "bootstrap_peers")],
)
def test_an_unknown_key_in_the_config_file_is_refused_with_the_closest_known_one(
    tmp_path: Path, key: str, closest: str
) -> None:
    path = tmp_path / "c.toml"
    path.write_text(f"{key} = 1\n")
    assert problems(config_file=path) == [
        f"file {path}: unknown key '{key}'; the closest known one is {closest}"
    ]


def test_a_config_file_that_is_not_toml_is_refused_with_the_place(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("p2p_port = 1\nmax_peers\n")
    (line,) = problems(config_file=path)
    assert line.startswith(f"file {path}: not TOML: ")
    assert "line 2" in line


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
    "PEER_RECONNECT_INTERVAL": (100, 600_000), "PRESENCE_LEASE_MS": (1000, 600_000),
    "CLIENT_REQUEST_TIMEOUT": (1, 600_000), "CLIENT_MAX_RETRIES": (0, 100),
    "CLIENT_RETRY_DELAY": (0, 600_000), "GRAPE_CONCURRENCY": (1, 1024),
    "WORKER_ANNOUNCE_INTERVAL": (100, 3_600_000), "CIRCUIT_BREAKER_FAILURE_THRESHOLD": (1, 1000),
    "CIRCUIT_BREAKER_COOLDOWN_MS": (1, 3_600_000),
    "CIRCUIT_BREAKER_HALF_OPEN_MAX_REQUESTS": (1, 1000), "GOSSIP_HINT_TTL": (1, 86_400_000),
    "GOSSIP_PUBLISH_INTERVAL": (1, 3_600_000), "GRENACHE_PORT": (0, 65535),
    "GRENACHE_ANNOUNCE_INTERVAL": (1000, 600_000), "GRAPE_PEER_MAX_AGE": (1000, 86_400_000),
    "API_RATE_LIMIT": (0, 1_000_000), "MARKET_TRADES_KEPT": (1000, 100_000_000), "MARKET_CANDLES_KEPT": (1000, 100_000_000),
}  # fmt: skip
FRACTIONS = (
    "METRICS_LATENCY_WEIGHT", "METRICS_ERROR_WEIGHT", "METRICS_TIMEOUT_WEIGHT",
    "METRICS_FRESHNESS_WEIGHT", "GOSSIP_DECAY_FACTOR",
)  # fmt: skip
SWITCHES = (
    "DISCOVERY_MDNS", "DISCOVERY_EXCHANGE", "DISCOVERY_GRENACHE", "API_ALLOW_REMOTE",
    "P2P_ENABLED", "GRAPE_EMBEDDED", "GRAPE_BEP42", "GRENACHE_SERVICES",
    "API_TLS_SELF_SIGNED", "API_PLAIN_KEYS",
)  # fmt: skip
CHOICES = {
    "P2P_SECURITY": "tls, off",
    "LOG_LEVEL": "debug, info, warning, error",
    "LOG_FORMAT": "text, json",
    "JOURNAL_SYNC": "full, normal",
    "API_AUTH": "optional, required",
}
ADDRESSES = ("BOOTSTRAP_PEERS", "GRAPE_BOOTSTRAP")
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
            "a port number" if "PORT" in name
            else "a whole number of ms" if SCHEMA[name.lower()].unit
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
            (":3000", "':3000' has no port"),
            ("[::1]", "'[::1]' has no port"),
            ("::1:3000", "'::1:3000' is an IPv6 address without brackets"),
            ("a:0", "the port of 'a:0' is not from 1 to 65535"),
            ("a:65536", "the port of 'a:65536' is not from 1 to 65535"),
            ("a:x", "the port of 'a:x' is not from 1 to 65535"),
            ("a b:1", "'a b' is no host"),
            ("10.0.0.300:1", "'10.0.0.300' is no host"),
            ("[a]:1", "'[a]' is no host"),
            ("[10.0.0.1]:1", "'[10.0.0.1]' is no host"),
            ("a-.b:1", "'a-.b' is no host"),
            ("a/b:1", "'a/b' is no host"),
        )
    ),
    *((name, bad, "expected an IP address or host name")
      for name in ("P2P_HOST", "API_HOST", "GRENACHE_HOST", "GRAPE_HOST", "GRAPE_API_HOST") for bad in ("1.2.3", "a b", "-a", "a..b", "x" * 64)),
    *(("P2P_NETWORK", bad, f"expected {NETWORK}") for bad in ("Main", "a_b", "a b", "x" * 33)),
    *(("WORKER_SERVICE_NAME", bad, "expected 1 to 64 visible characters")
      for bad in ("a b", "x" * 65, "é")),
    ("ROUTER_POLICY", "greedy", "expected one of adaptive, weighted"),
    *(("GRAPE_URL", bad, f"expected {URL}")
      for bad in ("127.0.0.1:30001", "ftp://a", "http://", "http://a:70000", "http://a:0", "http://a b",
                  "http://[::1", "http://a,b", ",")),
    *(("GRAPE_PUBLIC_HOST", bad, "expected an IPv4 address such as 192.0.2.7, or nothing")
      for bad in ("a", "::1", "10.0.0", "0.0.0.0", "224.0.0.1")),
    ("DATA_DIR", "a\0b", "expected a directory"),
    ("DATA_DIR", "~no-such-user-here/x", "expected a directory (there is no home directory to put in place of ~)"),
    ("PEER_STORAGE_PATH", "a\0b", "expected a file, absolute or relative to the data directory"),
    ("INSTRUMENTS_FILE", "a\0b", "expected a file, or nothing"),
    ("API_TLS_CERT", "a\0b", "expected a file, or nothing"),
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
    assert {name for name, _, _ in WRONG} == {info.name for info in SCHEMA.values()}


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
    assert (
        caught.value.__suppress_context__
    )  # pydantic's message, which repeats values, is not shown


@given(st.dictionaries(st.sampled_from([info.name for info in SCHEMA.values()]), st.text()))
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
    for key, info in SCHEMA.items():
        if info.unit == "ms":
            assert getattr(Settings(), key.removesuffix("_ms") + "_s") * 1000 == int(info.default)


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
        "P2P_ENABLED=false (environment): expected true, because DISCOVERY_GRENACHE=false leaves no "
        "other way to other nodes"
    )


def test_settings_that_a_switch_makes_useless_are_told() -> None:
    told = from_env(DISCOVERY_GRENACHE="off", GRAPE_URL="http://h:1", GRAPE_EMBEDDED="on").warnings
    assert told == ("GRAPE_URL, GRAPE_EMBEDDED: not used, because of DISCOVERY_GRENACHE=false",)
    told = from_env(P2P_ENABLED="no", P2P_PORT="3000").warnings
    assert told == ("P2P_PORT: not used, because of P2P_ENABLED=false",)
    assert from_env(GRAPE_URL="http://h:1", P2P_PORT="3000").warnings == ()


# --- The schema and what is written from it


SEEDS = {  # names and defaults of the design documents
    "P2P_ENABLED": "true", "P2P_PORT": "3000", "P2P_HOST": "0.0.0.0", "DISCOVERY_MDNS": "true",
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
    "LOG_FORMAT": "text", "JOURNAL_SYNC": "full", "PRESENCE_LEASE_MS": "9000",
    "ROUTER_POLICY": "adaptive", "GRENACHE_HOST": "0.0.0.0", "GRENACHE_PORT": "3100",
    "GRENACHE_ANNOUNCE_INTERVAL": "30000", "GRAPE_EMBEDDED": "false", "GRAPE_HOST": "0.0.0.0",
    "GRAPE_API_HOST": "127.0.0.1", "GRAPE_PEER_MAX_AGE": "120000", "GRAPE_PUBLIC_HOST": "",
    "GRAPE_BEP42": "false", "GRENACHE_SERVICES": "false", "MARKET_TRADES_KEPT": "500000", "MARKET_CANDLES_KEPT": "50000",
    "API_AUTH": "optional", "API_TLS_CERT": "", "API_TLS_KEY": "", "API_TLS_SELF_SIGNED": "false",
    "API_PLAIN_KEYS": "false", "API_RATE_LIMIT": "6000",
}  # fmt: skip


def test_names_and_defaults_are_those_agreed() -> None:
    assert {info.name: info.default for info in SCHEMA.values()} == SEEDS | OWN


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
    assert set(SCHEMA) == set(KINDS) == set(Settings.model_fields)
    assert sum(len(section.model_fields) for section in SECTIONS) == len(SCHEMA)
    for info in SCHEMA.values():
        assert info.description.endswith(".")
        assert ". " not in info.description
        assert "|" not in info.description + info.expected  # would break the table


def test_flags_are_the_names_with_dashes_but_for_bootstrap() -> None:
    assert SCHEMA["p2p_port"].flag == "--p2p-port"
    assert SCHEMA["bootstrap_peers"].flag == "--bootstrap"
    loaded = load({"bootstrap_peers": "a:1"}, env={}, env_file=None)
    assert str(loaded.origin["bootstrap_peers"]) == "command line --bootstrap"


def test_describe_shows_each_setting_as_it_would_be_written_and_where_it_came_from() -> None:
    loaded = load(
        {"discovery_mdns": False},
        env={"BOOTSTRAP_PEERS": "[::1]:1, a:2", "DATA_DIR": "/srv/n"},
        env_file=None,
    )
    views = {view.name: view for view in describe(loaded)}
    assert list(views) == [info.name for info in SCHEMA.values()]
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


def test_what_describe_shows_can_be_loaded_again() -> None:
    first = from_env(
        BOOTSTRAP_PEERS="[::1]:1,a:2", DISCOVERY_MDNS="no", METRICS_ERROR_WEIGHT="0.125"
    )
    again = from_env(**{view.name: view.value for view in describe(first)})
    assert again.settings == first.settings


@pytest.mark.parametrize("name", list(FILES))
def test_written_pages_are_current(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert text == FILES[name](), "run: python -m config.docs"


def test_the_pages_are_written_into_the_directory_asked_for(tmp_path: Path) -> None:
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
    assert loaded.settings == load(env={}, env_file=None).settings
    assert loaded.warnings == ()


def test_env_example_as_it_is_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "e"
    path.write_text(env_example())
    loaded = load(env={}, env_file=path)
    assert all(loaded.is_default(key) for key in SCHEMA)
    assert loaded.origin["p2p_port"].source is Source.DEFAULT


def test_pages_do_not_depend_on_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    before: dict[str, Any] = {name: text() for name, text in FILES.items()}
    monkeypatch.setenv("HOME", os.sep + "elsewhere")
    assert {name: text() for name, text in FILES.items()} == before
