"""`exchange-node grape`: its options, and what it tells; the Grape itself is a dictionary here."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fake_grape import NODE_ID, FakeGrape

from config import Loaded
from node.annexes.grenache import run_grape
from node.cli.main import cli
from p2p.grenache.grape.grape_http import GrapeApi
from p2p.grenache.grape.grape_settings import BootstrapStatus, GrapeSettings, GrapeStatus


class Started:
    """Grapes that the command would have started."""

    def __init__(self) -> None:
        self.loaded: Loaded | None = None
        self.options: dict[str, Any] = {}

    def run(self, loaded: Loaded, **options: Any) -> int:
        self.loaded, self.options = loaded, options
        return 0

    def __getattr__(self, name: str) -> Any:
        assert self.loaded is not None, "it was not started"
        return getattr(self.loaded.settings, name)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Started:
    for name in [name for name in os.environ if name.startswith("GRAPE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    found = Started()
    monkeypatch.setattr(run_grape, "run", found.run)
    return found


def command(*words: str) -> Result:
    return CliRunner().invoke(cli, ["grape", *words])


# Options


def test_without_options_it_is_a_useful_grape(started: Started) -> None:
    assert command().exit_code == 0
    assert (started.grape_host, started.grape_dht_port) == ("0.0.0.0", 20001)
    assert (started.grape_api_host, started.grape_api_port) == ("127.0.0.1", 30001)
    assert (started.grape_bootstrap, started.grape_peer_max_age) == ((), 120_000)
    assert started.options == {
        "node_liveness": 60.0,
        "max_values": 5000,
        "max_payload": 8192,
        "as_json": False,
    }


@pytest.mark.parametrize(
    "line",
    [
        "--dp 1 --aph 2 --bn 127.0.0.1:3,127.0.0.1:4 -b 127.0.0.1 --dpa 9000 --dnl 5000 --dc 7 "
        "--dht_maxValues 8 --check_maxPayloadSize 999",
        "--dht_port 1 --api_port 2 --bootstrap 127.0.0.1:3 --bn 127.0.0.1:4 --bind 127.0.0.1 "
        "--dht_peer_maxAge 9000 --dht_nodeLiveness 5000 --dht_concurrency 7 --max-values 8 "
        "--max-payload 999",
        "--dht-port 1 --api-port 2 --bn 127.0.0.1:3,127.0.0.1:4 --b 127.0.0.1 --peer-max-age 9000 "
        "--node-liveness 5000 --concurrency 7 --max-values 8 --check-max-payload-size 999",
    ],
)
def test_the_options_of_the_node_js_program_are_understood(started: Started, line: str) -> None:
    done = command(*line.split())
    assert (done.exit_code, done.output) == (0, "")
    assert (started.grape_dht_port, started.grape_api_port) == (1, 2)
    assert started.grape_bootstrap == (("127.0.0.1", 3), ("127.0.0.1", 4))
    assert (started.grape_host, started.grape_api_host) == ("127.0.0.1", "127.0.0.1")
    assert (started.grape_peer_max_age, started.grape_concurrency) == (9000, 7)
    assert started.options["node_liveness"] == 5.0
    assert (started.options["max_values"], started.options["max_payload"]) == (8, 999)


def test_options_that_mean_nothing_here_are_ignored_with_a_warning(started: Started) -> None:
    done = command("--cache_maxAge", "1000", "--dht_maxTables", "5")
    assert done.exit_code == 0
    assert "--cache_maxAge is ignored" in done.stderr
    assert "--dht_maxTables is ignored" in done.stderr


def test_the_two_addresses_can_be_given_apart(started: Started) -> None:
    command("-b", "127.0.0.1", "--api-host", "::1")
    assert (started.grape_host, started.grape_api_host) == ("127.0.0.1", "::1")
    command("--bind", "127.0.0.1", "--dht-host", "127.0.0.2")
    assert (started.grape_host, started.grape_api_host) == ("127.0.0.2", "127.0.0.1")


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("--dp x", 2, "(command line --grape-dht-port): expected a port number"),
        ("--aph 70000", 2, "(command line --grape-api-port): expected a port number"),
        ("--bn 127.0.0.1", 2, "'127.0.0.1' has no port"),
        ("--bn [::1]:20001", 2, "it supports IPv4 only; give the Grape's IPv4 address"),
        ("-b ::1", 2, "choose an IPv4 address with --bind or --dht-host"),
        ("-b a,b", 2, "'a,b' is not an IP address or host name"),
        ("--dpa -1", 2, "(command line --grape-peer-max-age): expected a whole number of ms"),
        ("--public-host x", 2, "expected an IPv4 address such as 192.0.2.7"),
        ("--max-payload 1", 2, "256<=x<=1048576"),
        ("--dq 1", 2, "No such option"),
    ],
)
def test_a_wrong_option_names_the_expected_form(
    started: Started, line: str, code: int, said: str
) -> None:
    done = command(*line.split())
    assert done.exit_code == code
    assert said in done.stderr
    assert started.loaded is None


def test_help_shows_how_without_the_spellings_for_scripts() -> None:
    done = command("--help")
    assert "exchange-node grape --dp 20002 --aph 30002 --bn 127.0.0.1:20001" in done.output
    assert "curl -d" in done.output
    assert "--grape-" not in done.output
    assert "dht_" not in done.output


# What it tells


class TellingGrape(FakeGrape):
    """A dictionary that also knows how it stands."""

    def __init__(self, settings: GrapeSettings | None = None) -> None:
        super().__init__()
        self.nodes = 0
        self.start_error: OSError | None = None
        self.stopped = False

    address = ("127.0.0.1", 20001)

    async def start(self) -> None:
        if self.start_error is not None:
            raise self.start_error

    async def stop(self) -> None:
        self.stopped = True

    def status(self) -> Any:
        return GrapeStatus(
            address=self.address,
            node_id=NODE_ID.hex(),
            uptime=1.0,
            nodes=self.nodes,
            doubtful_nodes=0,
            announcements=0,
            own_announcements=0,
            values=0,
            seen_as=None,
            bootstrap=(BootstrapStatus("127.0.0.1", 20002, False, None),),
            counters={},
        )


@pytest.mark.looptime
async def test_found_and_lost_bootstrap_nodes_are_logged() -> None:
    grape: Any = TellingGrape()
    said: list[str] = []
    watching = asyncio.create_task(run_grape._watch(grape, True, said.append))
    await asyncio.sleep(9)
    assert said == []
    await asyncio.sleep(60)
    assert len(said) == 1
    assert "no answer yet from 127.0.0.1:20002 (--bn)" in said.pop()
    for nodes in (1, 1, 2, 0, 0, 2):
        grape.nodes = nodes
        await asyncio.sleep(1)
    assert said == [
        "joined the DHT: 1 other Grape known",
        "no other Grape answers any more; serving the local entries, and trying again",
        "joined the DHT: 2 other Grapes known",
    ]
    watching.cancel()


@pytest.mark.looptime
async def test_a_first_grape_without_bootstrap_has_nothing_to_complain_of() -> None:
    grape: Any = TellingGrape()
    said: list[str] = []
    watching = asyncio.create_task(run_grape._watch(grape, False, said.append))
    await asyncio.sleep(60)
    assert said == []
    watching.cancel()


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EADDRINUSE, "another program does, perhaps another Grape; choose another port with"),
        (errno.EADDRNOTAVAIL, "this machine has no such address; choose one that it has with"),
        (errno.EACCES, "Permission denied ("),
    ],
)
async def test_an_address_that_cannot_be_had_is_explained(
    started: Started, number: int, said: str
) -> None:
    command()
    assert started.loaded is not None
    settings = started.loaded.settings
    grape: Any = TellingGrape()
    api = GrapeApi(grape)
    grape.start_error = OSError(number, os.strerror(number))
    with pytest.raises(run_grape.StartError) as dht:
        await run_grape._listen(settings, grape, api)
    assert f"for the DHT at UDP 0.0.0.0:20001: {said}" in str(dht.value)
    assert "--dp" in str(dht.value) or "--bind" in str(dht.value)
    grape.start_error = None

    async def no_start(host: str, port: int) -> Any:
        raise OSError(number, os.strerror(number))

    api.start = no_start  # type: ignore[method-assign]
    with pytest.raises(run_grape.StartError) as over_http:
        await run_grape._listen(settings, grape, api)
    assert f"for the API at 127.0.0.1:30001: {said}" in str(over_http.value)
    assert "--aph" in str(over_http.value) or "--api-host" in str(over_http.value)


async def test_the_banner_and_the_line_for_scripts_name_reachable_addresses(
    started: Started,
) -> None:
    command("--bn", "127.0.0.1:20002")
    assert started.loaded is not None
    grape: Any = TellingGrape()
    api = GrapeApi(grape)
    await api.start("127.0.0.1", 0)
    try:
        text = run_grape.banner(grape, api, started.loaded.settings)
        for part in (NODE_ID.hex(), "127.0.0.1:20001 (UDP)", api.url, "127.0.0.1:20002"):
            assert part in text
        line = run_grape._ready_line(grape, api)
        assert "\n" not in line
        assert json.loads(line) == {
            "node_id": NODE_ID.hex(),
            "dht_address": "127.0.0.1:20001",
            "dht_port": 20001,
            "api_url": api.url,
            "api_port": api.address[1],
            "pid": os.getpid(),
        }
    finally:
        await api.stop()
