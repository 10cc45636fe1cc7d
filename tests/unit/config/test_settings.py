"""Settings are merged from defaults, files, the environment and the command line, and know where from."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from settings_kit import from_env, leave_home, problems

from config import HostPort, Loaded, Settings, load


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads the real home, working directory or environment."""
    leave_home(tmp_path, monkeypatch)


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
def test_each_source_wins_over_the_default_and_is_named_exactly(
    tmp_path: Path, layer: str, origin: str
) -> None:
    loaded = _load_with(tmp_path, {layer: 1111})
    assert loaded.settings.p2p_port == 1111
    assert str(loaded.origin["p2p_port"]) == origin.format(tmp=tmp_path)
    assert not loaded.is_default("p2p_port")
    assert loaded.is_default("api_port")
    assert str(loaded.origin["api_port"]) == "default"


def test_a_value_equal_to_the_default_still_counts_as_set() -> None:
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


def test_a_variable_that_is_set_but_empty_is_refused_unless_empty_is_a_value(
    tmp_path: Path,
) -> None:
    env_file = tmp_path / "e"
    env_file.write_text("P2P_PORT=1234\nMAX_PEERS=\nBOOTSTRAP_PEERS=\n")
    assert problems(env={"P2P_PORT": " ", "LOG_FILE": ""}, env_file=env_file) == [
        "P2P_PORT= (environment) is set but empty: unset it, or give a port number from 0 to 65535",
        f"MAX_PEERS= (.env {env_file}) is set but empty: unset it, or give a whole number from 1 to 10000",
    ]


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
    with pytest.raises(AttributeError, match="frozen"):
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
    assert problems(env_file=path) == [
        f"cannot read {path}: it is not UTF-8 text (line 1); save it as UTF-8"
    ]


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


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("value", [b"7", b'"7"', b"' 7 '", b" 7 "])
def test_files_of_other_systems_are_read(
    tmp_path: Path, mark: bytes, end: bytes, value: bytes
) -> None:
    env_file, config_file = tmp_path / "e", tmp_path / "c.toml"
    env_file.write_bytes(mark + end.join([b"MAX_PEERS=" + value, b"P2P_NETWORK=a", b""]))
    config_file.write_bytes(mark + end.join([b"p2p_port = " + value.strip(), b""]))
    settings = load(env={}, env_file=env_file, config_file=config_file).settings
    assert (settings.max_peers, settings.p2p_network, settings.p2p_port) == (7, "a", 7)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("max_peers = 7".encode("utf-16"), "it is UTF-16 text; save it as UTF-8"),
        (b"max_peers = 7\n# caf\xe9\n", "it is not UTF-8 text (line 2); save it as UTF-8"),
    ],
)
def test_other_encodings_are_named_with_line_and_cure(
    tmp_path: Path, data: bytes, why: str
) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(data)
    assert problems(config_file=path) == [f"cannot read {path}: {why}"]
    assert problems(env_file=path) == [f"cannot read {path}: {why}"]


@pytest.mark.parametrize("key", ["bootstrap_peers", "grape_bootstrap"])
def test_a_final_dot_of_a_name_is_no_part_of_it(key: str) -> None:
    loaded = load({key: "localhost.:3000,localhost:3000,[::1]:1"}, env={}, env_file=None)
    assert [str(each) for each in getattr(loaded.settings, key)] == ["localhost:3000", "[::1]:1"]
    for given in ("http://localhost.:30001", "http://localhost.:30001/", "http://localhost:30001"):
        grape = load({"grape_url": given}, env={}, env_file=None).settings.grape_url
        assert grape == ("http://localhost:30001",)
    settings = load(
        {"dns_seeds": "a.example.,b.example", "api_host": "localhost."}, env={}, env_file=None
    ).settings
    assert (settings.dns_seeds, settings.api_host) == (("a.example", "b.example"), "localhost")
