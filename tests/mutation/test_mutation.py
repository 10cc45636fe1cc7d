"""The mutants that are made, and that those which once survived are noticed now."""

from __future__ import annotations

import ast

from tests.mutation.__main__ import ROOT
from tests.mutation.mutants import mutants_of
from tests.mutation.plan import SUBJECTS

SOURCE = '''
def largest(numbers: list[int] | None) -> int:
    """The largest."""
    if numbers is None or not numbers:
        return 0
    report(numbers)
    best = max(numbers)
    return best + 1 if best > 3 else best
'''


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


def test_every_subject_has_mutants_and_tests() -> None:
    for subject in SUBJECTS.values():
        for module in subject.modules:
            assert mutants_of((ROOT / module).read_text())
        for path in subject.tests:
            assert (ROOT / path).exists()
