"""The mutants that are made, and that tests notice them."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

from tests.mutation.__main__ import ROOT, folder_of_tests, mutants
from tests.mutation.mutants import mutants_of

SOURCE = '''
def largest(numbers: list[int] | None) -> int:
    """The largest."""
    if numbers is None or not numbers:
        return 0
    report(numbers)
    best = max(numbers)
    return best + 1 if best > 3 else best
'''
MODULE = "exchange/model/decimals.py"
TWO = "tests/mutation/two_tests.py"


def test_the_mutants_of_a_small_module() -> None:
    found = mutants_of(SOURCE)
    kinds = {mutant.what.rpartition(", in")[0] for mutant in found}
    assert kinds == {
        "the condition is turned round",
        "or is and",
        "Is is IsNot",
        "not is left out",
        "0 is 1",
        "report() is left out",
        "max is min",
        "Add is Sub",
        "Gt is GtE",
        "1 is 2",
        "3 is 4",
        "it returns None",
        "it returns True",
    }
    sources = {mutant.source() for mutant in found}
    assert len(sources) == len(found)  # each is another program
    assert ast.unparse(ast.parse(SOURCE)) not in sources


def test_a_room_has_the_folder_of_tests_its_folder_or_of_the_next_above() -> None:
    assert folder_of_tests("exchange/takes") == "tests/unit/exchange/takes"
    assert folder_of_tests("exchange/takes/take_protocol.py") == "tests/unit/exchange/takes"
    assert folder_of_tests("node/annexes/tracing") == "tests/unit/node/annexes"


def test_a_sample_is_the_same_for_the_same_seed() -> None:
    first, again = (mutants([MODULE], 5, 3) for _ in range(2))
    assert [str(mutant) for _, mutant in first] == [str(mutant) for _, mutant in again]
    assert [str(mutant) for _, mutant in mutants([MODULE], 5, 4)] != [str(m) for _, m in first]


def test_mutants_are_killed_and_tests_that_earn_nothing_are_listed(tmp_path: Path) -> None:
    """Two tests of one branch: the longer one earns nothing, and without a test the mutants survive."""
    chosen = tmp_path / "chosen.json"
    run(MODULE, "--tests", TWO, "--choose", "--out", str(chosen))
    choice = json.loads(chosen.read_text())
    assert [name.partition("::")[2] for name in choice["dropped"]] == ["test_long"]
    ended = run(MODULE, "--tests", TWO, "--only", "plain")
    assert " 0 of " not in ended.stdout
    assert "mutants killed" in ended.stdout
    beside = run(MODULE, "--tests", TWO, "--only", "scaled", "--sample", "3")
    assert "all: 0 of 3 mutants killed" in beside.stdout  # the tests do not run it


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.mutation", *arguments]
    return subprocess.run(
        command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=100
    )
