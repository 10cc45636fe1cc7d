"""The demos: their promised figures, the same story for the same seed, the command line, the drawings."""

from __future__ import annotations

import asyncio
import json
import random
import xml.etree.ElementTree as ET
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from node.annexes.demos import routing_demo, storm, throttled
from node.annexes.demos.demo_command import UNTIL_STOPPED
from node.annexes.demos.story import Story, bars
from node.cli.main import cli
from node.virtual import components
from node.virtual.loopback import LoopbackLink, LoopbackServer, LoopTime
from node.virtual.server_model import Network, Server, ServerSettings, VirtualTime
from node.virtual.svg_plot import Band, Line, Panel, svg, ticks
from p2p.flow import LoadReport, Outcome

SVG = "{http://www.w3.org/2000/svg}"


def demo(*words: str) -> Any:
    return CliRunner().invoke(cli, ["demo", *words], prog_name="exchange-node")


def figures(*words: str) -> dict[str, Any]:
    result = demo(*words, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@cache
def once(name: str, seed: str) -> dict[str, Any]:
    """The figures of a run that several tests look at."""
    return figures(name, "--seed", seed)


@pytest.mark.parametrize("seed", ["1", "2", "3"])
def test_the_storm_gives_the_figures_of_the_guide(seed: str) -> None:
    found = once("storm", seed)
    assert found["burst_per_second"] >= 18_000
    assert found["error_share"] > 0.5
    assert found["crashes"] >= 1
    assert found["delivered"] < 1000
    assert found["delivered"] + found["given_up"] <= found["messages"]


@pytest.mark.parametrize("seed", [str(n) for n in range(1, 13)])
def test_the_throttled_run_drains_near_the_optimum(seed: str) -> None:
    found = once("throttled", seed)
    assert found["times_optimum"] <= 1.4
    assert found["delivered"] == 2000
    assert found["lost"] == found["crashes"] == 0
    assert found["attempts_per_message"] <= 1.05
    assert found["peak_per_second"] <= 600
    assert found["breaker_opened"] >= 1
    assert found["rate_steps"] > 5
    assert 0.05 < found["warm_up_s"] < 2.0


def test_the_optimum_counts_the_slow_phase_and_the_restart() -> None:
    assert throttled.optimum(100, 500.0) == pytest.approx(0.2)
    assert throttled.optimum(750 + 375, 500.0) == pytest.approx(3.0)
    assert throttled.optimum(2000, 500.0) == pytest.approx(4.8 + 375 / 500)


@pytest.mark.parametrize("name", ["storm", "throttled", "components"])
def test_the_same_seed_gives_the_same_output(name: str) -> None:
    first = once(name, "1")
    assert figures(name, "--seed", "1") == first
    assert once(name, "2") | {"seed": 1} != first


@pytest.mark.parametrize("seed", ["1", "2", "3", "4", "5", "6"])
def test_every_component_does_its_work(seed: str) -> None:
    parts = once("components", seed)["parts"]
    assert len(parts) == 10
    assert [name for name, part in parts.items() if not part["holds"]] == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("storm", "the server falls over"),
        ("throttled", "times the optimum"),
        ("components", "TokenBucket"),
    ],
)
def test_without_json_a_story_and_a_summary_are_printed(name: str, said: str) -> None:
    result = demo(name)
    assert result.exit_code == 0
    assert said in result.stdout


def test_the_throttled_demo_shows_warm_up_steps_breaker_and_recovery() -> None:
    out = demo("throttled").stdout
    for said in ("warm-up over", "▼ rate", "▲ rate", "CLOSED to OPEN", "HALF_OPEN to CLOSED"):
        assert said in out


@pytest.mark.parametrize("module", [storm, throttled])
def test_a_terminal_sees_it_live(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.annexes.demos.story.PLAYBACK", 1000.0)
    out = Console(width=110, height=40, force_terminal=True, record=True)
    with out.capture() as shown:
        assert module.run(1, False, False, None, out) == 0
    text = shown.get()
    assert "offered/s" in text
    assert "DOWN" in text


@pytest.mark.parametrize("name", ["storm", "throttled", "components"])
def test_the_plot_is_a_drawing_with_axes_lines_and_a_legend(name: str, tmp_path: Path) -> None:
    path = tmp_path / "run.svg"
    figures(name, "--plot", str(path))
    root = ET.fromstring(path.read_text(encoding="utf-8"))
    texts = ["".join(t.itertext()) for t in root.iter(f"{SVG}text")]
    assert "seconds" in texts
    lines = [
        [tuple(map(float, p.split(","))) for p in line.attrib["points"].split()]
        for line in root.iter(f"{SVG}polyline")
    ]
    assert len(lines) >= 4
    for line in lines:
        assert all(0 <= x <= 860 and 0 <= y <= 300 for x, y in line)


def test_a_plot_that_cannot_be_written_is_reported_in_one_line(tmp_path: Path) -> None:
    result = demo("throttled", "--plot", str(tmp_path / "missing" / "run.svg"))
    assert result.exit_code == 2
    assert "No such file" in result.stderr


def test_options_of_the_plain_demo_do_not_pass_for_those_of_a_scene() -> None:
    result = demo("--seed", "3", "storm")
    assert result.exit_code == 2
    assert "--seed belongs behind 'storm'" in result.stderr


def test_the_group_still_runs_nodes_when_no_scene_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}

    def run(**options: object) -> int:
        asked.update(options)
        return 0

    monkeypatch.setattr("node.annexes.demos.trading_demo.run", run)
    assert demo("--nodes", "4", "--seconds", "10", "--seed", "7").exit_code == 0
    assert asked == {"nodes": 4, "seconds": 10.0, "seed": 7, "json": False, "open_page": None}
    assert demo("--open").exit_code == 0
    assert callable(asked["open_page"])
    assert asked["seconds"] == UNTIL_STOPPED
    assert demo("--open", "--seconds", "9").exit_code == 0
    assert asked["seconds"] == 9.0


# The pieces


def test_ticks_are_round_numbers_around_the_range() -> None:
    assert ticks(0.0, 18_400.0)[-1] >= 18_400
    for low, high in ((0.0, 1.0), (0.0, 7.3), (-3.0, 12.0), (0.0, 0.004), (5.0, 5.0)):
        found = ticks(low, high)
        assert found[0] <= low
        assert found[-1] >= high
        assert 3 <= len(found) <= 9


def test_text_in_a_drawing_is_escaped_and_an_empty_panel_is_drawn() -> None:
    panel = Panel("<a & b>", "x", "y", [Line("l", [])], [Band(0.0, 1.0, "<down>")])
    root = ET.fromstring(svg("t", [panel]))
    assert "<a & b>" in ["".join(t.itertext()) for t in root.iter(f"{SVG}text")]


def test_bars_show_the_last_values_against_the_highest() -> None:
    assert bars([0.0, 1.0, 4.0, 8.0]) == " ▁▄█"
    assert bars([0.0] * 3) == "   "
    assert len(bars([1.0] * 500, width=60)) == 60


def test_a_story_knows_when_the_server_was_down() -> None:
    story = Story("t", 1)
    for number, up in enumerate([True, False, False, True, False]):
        story.sample(number, server_up=up, server_waiting=0)
    assert [(round(b.start, 1), round(b.end, 1)) for b in story.outages()] == [
        (0.1, 0.3),
        (0.4, 0.5),
    ]


def test_the_model_server_does_its_capacity_slows_down_and_crashes() -> None:
    def served(rate: float, seconds: float) -> tuple[Server, int]:
        time = VirtualTime()
        server = Server(time, random.Random(1))
        rng = random.Random(2)
        ok = 0

        def done(outcome: Outcome, load: LoadReport | None) -> None:
            nonlocal ok
            ok += outcome == "ok"

        network = Network(time, server)

        def arrive() -> None:
            network.ask(done)
            time.at(time.now + rng.expovariate(rate), arrive)

        arrive()
        time.run(seconds)
        return server, ok

    calm, ok = served(400.0, 20.0)
    assert calm.crashes == 0
    assert ok == pytest.approx(8000, rel=0.05)
    crowded, ok = served(700.0, 20.0)
    assert crowded.crashes >= 1
    assert ok < 0.5 * 500 * 20
    assert ServerSettings().capacity == pytest.approx(500.0)


# Real sockets


async def test_the_loopback_server_answers_resets_and_comes_back() -> None:
    time = LoopTime()
    model = Server(time, random.Random(1))
    server = LoopbackServer(model)
    await server.start()
    link = LoopbackLink(time, server.port, timeout_s=0.5)

    async def ask() -> tuple[Outcome, LoadReport | None]:
        answer: asyncio.Future[tuple[Outcome, LoadReport | None]] = (
            asyncio.get_running_loop().create_future()
        )
        link.ask(lambda outcome, load: answer.set_result((outcome, load)))
        return await answer

    try:
        outcome, load = await ask()
        assert outcome == "ok"
        assert load is not None
        assert load.served_s > 0.0
        model.fall(0.1)
        assert (await ask())[0] == "reset"
        await asyncio.sleep(0.15)
        assert (await ask())[0] == "ok"
        model.slow = 1e6
        assert (await ask())[0] == "timeout"
        asked = asyncio.create_task(ask())
        await asyncio.sleep(0.05)
        model.fall(9.0)
        assert (await asked)[0] == "reset"
    finally:
        await link.close()
        await server.close()
        time.close()


def test_the_throttled_run_on_real_sockets_delivers_everything() -> None:
    found = figures("throttled", "--real")
    assert found["delivered"] == 2000
    assert found["lost"] == found["crashes"] == 0
    assert found["attempts_per_message"] <= 1.1
    assert found["breaker_opened"] >= 1


def test_the_storm_on_real_sockets_takes_the_server_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storm, "LIMIT_S", 1.0)
    found = figures("storm", "--real")
    assert found["crashes"] >= 1
    assert found["error_share"] > 0.5
    assert found["burst_per_second"] > 3000


def test_the_components_with_an_async_form_run_on_this_machines_clock(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = components.run(1, True, True, None, Console(stderr=True))
    parts = json.loads(capsys.readouterr().out)["parts"]
    assert len(parts) == 3
    assert code == 0, parts


# Routing


@pytest.mark.parametrize("seed", ["1", "2", "3"])
def test_no_call_fails_among_slow_flaky_and_crashing_workers(seed: str) -> None:
    found = figures("routing", "--seed", seed)
    assert found["failed_calls"] == 0
    assert found["round_robin"]["failed_calls"] > 20
    assert found["attempts"] < found["round_robin"]["attempts"]
    assert found["p99_ms"] < found["round_robin"]["p99_ms"]
    workers = {row["worker"]: row for row in found["workers"]}
    assert workers["slow"]["share_when_ill"] < 0.08  # a fifth is fair
    assert workers["crashing"]["share_when_ill"] < 0.03
    assert workers["slow"]["route_away_s"] <= 2.0
    assert workers["crashing"]["route_away_s"] <= 2.0
    for name in ("slow", "flaky", "crashing"):
        assert workers[name]["route_back_s"] <= 8.0
    assert sum(row["share"] for row in found["workers"]) == pytest.approx(1.0, abs=0.001)


def test_routing_is_the_same_for_the_same_seed_and_prints_its_phases(tmp_path: Path) -> None:
    picture = tmp_path / "r.svg"
    first, again = (
        demo("routing", "--seed", "4"),
        demo("routing", "--seed", "4", "--plot", str(picture)),
    )
    assert first.exit_code == again.exit_code == 0
    assert first.stdout == again.stdout
    assert first.stdout != demo("routing", "--seed", "5").stdout
    assert "'crashing' crashes in the middle of its work" in first.stdout
    assert "each in turn:" in first.stdout
    assert (
        len(ET.parse(picture).getroot().findall(f".//{SVG}polyline")) == 20
    )  # each line and its legend


def test_routing_among_real_processes_survives_the_kill_of_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        routing_demo, "REAL_LENGTH", 10.0
    )  # half of what one who watches gets to see
    monkeypatch.setattr(routing_demo, "REAL_CRASH", (3.0, 6.0))
    found = figures("routing", "--real")
    assert found["failed_calls"] == 0
    assert found["calls"] > 500
    workers = {row["worker"]: row for row in found["workers"]}
    assert workers["crashing"]["share_when_ill"] < 0.02
    assert workers["slow"]["share"] < 0.1
