"""The parts of the trial in a bare Debian that need no root."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.bare.__main__ import OF_TOOLS, Failed, main, run_tests
from tests.bare.bare_root import Terminal
from tests.bare.machine import archives, local_paths
from tests.bare.readme_lines import ROOT, bot_block, readme_lines

README = (ROOT / "README.md").read_text("utf-8")


def test_the_readme_has_a_line_that_starts_a_node_and_one_that_runs_all_tests() -> None:
    lines = readme_lines(README)
    assert lines.packages == ("python3-venv",)
    assert lines.start.endswith("&& .venv/bin/exchange-node start")
    assert lines.tests.endswith("&& .venv/bin/pytest -n 2")  # nothing is selected


@pytest.mark.parametrize("lost", ["sudo apt install", "exchange-node start\n", "pytest -n 2"])
def test_a_readme_without_one_of_them_is_named(lost: str) -> None:
    with pytest.raises(ValueError, match=r"README\.md has to"):
        readme_lines(README.replace(lost, "something else"))


def test_the_block_of_the_bot_and_its_output_are_distinguished() -> None:
    block, printed = bot_block((ROOT / "docs" / "api.md").read_text("utf-8"))
    assert block.startswith("mkdir -p ~/exchange-bot")
    assert printed.startswith("[(0.25, 30000.0")


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", ".ci/run"])
def test_no_line_to_copy_names_a_version_of_python(name: str) -> None:
    assert "python3.1" not in (ROOT / name).read_text("utf-8")


def test_the_chosen_tests_are_there() -> None:
    assert [path for path in OF_TOOLS if not (ROOT / path).exists()] == []


@pytest.mark.parametrize(
    "text",
    [
        "deb http://mirror.example/debian bookworm main contrib\n# deb http://no.example x main\n",
        "deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian bookworm main\n",
        "Types: deb\n# a comment\nURIs: http://mirror.example/debian\nSuites: bookworm\n"
        "Components: main\n\nTypes: deb\nURIs: http://no.example\nSuites: x\nComponents: other\n",
    ],
)
def test_archives_of_apt_are_found_in_either_format(text: str) -> None:
    assert list(archives(text)) == [("http://mirror.example/debian", "bookworm")]


@pytest.mark.parametrize(
    ("value", "paths"),
    [
        ("cert = /etc/ssl/own.crt", ["/etc/ssl/own.crt"]),
        ("file:///opt/a/simple file:///opt/b%20c", ["/opt/a/simple", "/opt/b c"]),
        ("https://index.example/simple", []),
        ("180", []),
    ],
)
def test_files_and_folders_that_pip_uses_are_found_in_its_settings(
    value: str, paths: list[str]
) -> None:
    assert [str(path) for path in local_paths(value)] == paths


def test_a_terminal_copies_what_is_printed_and_passes_on_ctrl_c(tmp_path: Path) -> None:
    program = "import time\ntry:\n    print('begun', flush=True)\n    time.sleep(60)\n"
    program += "except KeyboardInterrupt:\n    raise SystemExit(7)\n"
    log = tmp_path / "log"
    with log.open("wb") as output:
        terminal = Terminal([sys.executable, "-c", program], output)
        try:
            assert terminal.wait(20, lambda: b"begun" in log.read_bytes()) is None
            terminal.interrupt()
            assert terminal.wait(20) == 7
        finally:
            terminal.close()


def test_a_terminal_is_not_waited_for_longer_than_asked(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as output:
        terminal = Terminal(["sleep", "60"], output)
        try:
            with pytest.raises(TimeoutError, match=r"not within 0\.2 s"):
                terminal.wait(0.2)
        finally:
            terminal.close()


class Printing:
    """Stands in for a root: a line of the tests that prints a text and ends with a code."""

    def __init__(self, text: str, code: int) -> None:
        self.program = f"print({text!r}); raise SystemExit({code})"

    def typed(self, line: str, output: object) -> Printing:
        self.terminal = Terminal([sys.executable, "-c", self.program], output)  # type: ignore[arg-type]
        return self

    def __enter__(self) -> Terminal:
        return self.terminal

    def __exit__(self, *error: object) -> None:
        self.terminal.close()


def test_reasons_of_skipped_tests_are_printed_and_a_failure_is_one(tmp_path: Path) -> None:
    said = (
        "\x1b[33mSKIPPED\x1b[0m [1] x.py:1: jq is not installed\n\x1b[32m1 passed, 1 skipped\x1b[0m"
    )
    log = tmp_path / "log"
    told = run_tests(Printing(said, 0), "pytest", log)  # type: ignore[arg-type]
    assert told == "SKIPPED [1] x.py:1: jq is not installed\n1 passed, 1 skipped"
    with pytest.raises(Failed, match="ended with 1"):
        run_tests(Printing(said, 1), "pytest", log)  # type: ignore[arg-type]


@pytest.mark.parametrize("words", [["woody"], ["trixie", "potato"]])
def test_an_unknown_release_is_refused(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["bare", *words])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert f"unknown release {words[-1]}; known: bookworm, trixie" in capsys.readouterr().err
