"""The course: every figure is within what its page promises, and the command line around it."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

from node.annexes.learn import drop_in
from node.annexes.learn.course import STEPS, CourseStep, UnknownSetting, find_step, read_page
from node.cli.main import cli


def learn(*words: str) -> Result:
    return CliRunner().invoke(cli, ["learn", *words], prog_name="exchange-node")


def broken(step: CourseStep, seed: int, *, changed: bool) -> list[str]:
    """Figures of a run that are outside what the page promises."""
    page = read_page(step)
    figures = step.run(seed, page.change if changed else {}).figures
    found = []
    for promise in page.promises:
        low, high = promise.range(changed)
        if not low <= figures[promise.figure] <= high:
            found.append(f"{promise.figure}: {figures[promise.figure]}, not {low} to {high}")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.slug)
def test_a_step_shows_the_figures_of_its_page(step: CourseStep) -> None:
    result = learn(str(step.number), "--json")
    found = json.loads(result.stdout)
    assert found["promised"], "a page without promises"
    outside = {
        name: (found["figures"][name], span)
        for name, span in found["promised"].items()
        if not span[0] <= found["figures"][name] <= span[1]
    }
    assert not outside
    assert found["kept"]
    assert result.exit_code == 0


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.slug)
def test_the_change_of_a_page_gives_its_promised_figures(step: CourseStep) -> None:
    assert not broken(step, 1, changed=True)


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.slug)
def test_other_seeds_keep_the_promises_too(step: CourseStep) -> None:
    for seed in (2, 3):
        assert not broken(step, seed, changed=False)
        assert not broken(step, seed, changed=True)


@pytest.mark.parametrize("number", [4, 6, 15])
def test_the_same_seed_gives_the_same_output(number: int) -> None:
    assert learn(str(number)).output == learn(str(number)).output
    assert learn(str(number), "--seed", "9").output != learn(str(number)).output or number == 15


def test_the_list_names_every_step_and_its_settings() -> None:
    output = learn().output
    for step in STEPS:
        assert step.slug in output
        assert all(f"{name}=" in output for name in step.settings)
    rows = json.loads(learn("--json").stdout)["steps"]
    assert [row["step"] for row in rows] == [step.number for step in STEPS]


def test_a_step_prints_its_page_and_the_answer_on_request() -> None:
    plain = learn("15").output
    for word in ("What.", "Why.", "Files", "Change", "Question", "as promised"):
        assert word in plain
    assert "Counted as latency" not in plain
    assert "Counted as latency" in learn("sliding-window", "--answer").output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("18",), "There are 1 to 17"),
        (("gosip",), "Did you mean gossip?"),
        (("15", "--set", "slots=3"), "has no setting 'slots'; it has seconds=10"),
        (("15", "--set", "seconds"), "must be NAME=NUMBER"),
        (("--set", "seconds=3"), "need a step"),
    ],
)
def test_mistakes_are_explained(words: tuple[str, ...], said: str) -> None:
    result = learn(*words)
    assert result.exit_code == 2
    assert said in result.output


def test_settings_of_ones_own_run_without_a_promise() -> None:
    result = learn("15", "--set", "seconds=7")
    assert result.exit_code == 0
    assert "promises nothing for these settings" in result.output


def test_a_figure_outside_its_promise_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    step = find_step("sliding-window")
    assert step is not None
    page = read_page(step)
    first = page.promises[0]
    worse = type(first)(first.figure, first.meaning, 0.0, 0.001, 0.0, 0.001)
    broken_page = type(page)(page.title, page.intro, page.sections, (worse,), page.change)
    monkeypatch.setattr("node.annexes.learn.learn_command.read_page", lambda step: broken_page)
    result = learn("15")
    assert result.exit_code == 1
    assert "OUTSIDE what is promised" in result.output


def test_a_setting_out_of_range_is_refused() -> None:
    with pytest.raises(UnknownSetting, match="expected a number from 0 up"):
        STEPS[0].run(1, {"grapes": float("inf")})


@pytest.mark.slow
async def test_the_drop_in_delivers_requests_that_the_bare_client_loses() -> None:
    found = await drop_in.compare()
    assert found["as it was"]["delivered"] < drop_in.MESSAGES
    assert found["through the gate"]["delivered"] == drop_in.MESSAGES
