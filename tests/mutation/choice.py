"""Choose the tests that earn their place: cheapest first, each takes a branch or kills a mutant that no other does."""

from __future__ import annotations

import ast
import heapq
import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tests.mutation.mutants import Mutant
from tests.mutation.trial import Arc, Node, Record, Trial

LINES_A_SECOND = 20.0  # lines of test that a second of run time weighs
MOST_SECONDS = 4.0  # of tests that a mutant is tried on at a time
HEAD = 2.0  # lines that any test weighs: its name and the gap above it


@dataclass
class Choice:
    """Test functions that are kept, and those that earn nothing."""

    kept: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    kept_lines: int = 0
    dropped_lines: int = 0
    tried: int = 0  # mutants
    added: int = 0  # tests that were kept for a mutant


class Functions:
    """Test functions, each with its parametrized items."""

    def __init__(self, trial: Trial, record: Record, modules: set[str]) -> None:
        self.items: dict[str, list[Node]] = {}
        self.arcs: dict[str, set[Arc]] = {}
        self.cost: dict[str, float] = {}
        self.lines: dict[str, int] = {}
        for node in trial.items:
            if node in record.failed:
                continue
            name = node.partition("[")[0]
            self.items.setdefault(name, []).append(node)
            arcs = self.arcs.setdefault(name, set())
            arcs |= {arc for arc in record.arcs.get(node, ()) if arc[0] in modules}
        for name, nodes in self.items.items():
            self.lines[name] = _lines(name)
            seconds = sum(record.seconds[node] for node in nodes)
            self.cost[name] = self.lines[name] + HEAD + LINES_A_SECOND * seconds


def choose(
    trial: Trial,
    record: Record,
    mutants: list[tuple[str, Mutant]],
    modules: set[str],
    seconds: float,
) -> Choice:
    """Choose among the tests of a trial.

    Args:
        mutants: mutants to kill; those that the tests chosen for branches leave alive are tried on all others.
        modules: modules whose branches count.
        seconds: time for mutants; 0: until all are tried.
    """
    functions = Functions(trial, record, modules)
    kept = _cover(functions)
    choice = Choice()
    by_line: dict[tuple[str, int], set[str]] = {}
    for name, arcs in functions.arcs.items():
        for module, start, end in arcs:
            by_line.setdefault((module, abs(start)), set()).add(name)
            by_line.setdefault((module, abs(end)), set()).add(name)
    began = time.monotonic()

    def killer(module: str, mutant: Mutant, names: set[str]) -> Node | None:
        """Try the tests with the fewest branches first: they are about the mutant's line."""
        nodes: list[Node] = []
        left = MOST_SECONDS
        for name in sorted(names, key=lambda name: len(functions.arcs[name])):
            for node in functions.items[name]:
                left -= record.seconds[node]
                if left > 0 or not nodes:
                    nodes.append(node)
        return trial.killer(module, mutant, nodes, record.seconds)

    for module, mutant in mutants:
        if seconds and time.monotonic() - began > seconds:
            break
        if not trial.usable(module, mutant):
            continue
        choice.tried += 1
        names: set[str] = set()
        for line in mutant.lines():
            names |= by_line.get((module, line), set())
        if names <= kept or killer(module, mutant, names & kept) is not None:
            continue
        found = killer(module, mutant, names - kept)
        if found is not None:
            kept.add(found.partition("[")[0])
            choice.added += 1
            print(f"  {choice.tried}: kept for {module} {mutant}: {found}", flush=True)
    choice.kept = sorted(kept)
    choice.dropped = sorted(functions.items.keys() - kept)
    choice.kept_lines = sum(functions.lines[name] for name in choice.kept)
    choice.dropped_lines = sum(functions.lines[name] for name in choice.dropped)
    return choice


def _cover(functions: Functions) -> set[str]:
    """Return test functions that take every branch, by the greedy rule: the most new branches for the cost first."""
    left = set[Arc]().union(*functions.arcs.values())
    heap = [(-len(arcs) / functions.cost[name], name) for name, arcs in functions.arcs.items()]
    heapq.heapify(heap)
    kept: set[str] = set()
    while heap and left:
        _, name = heapq.heappop(heap)
        new = functions.arcs[name] & left
        if not new:
            continue
        worth = -len(new) / functions.cost[name]
        if heap and worth > heap[0][0]:
            heapq.heappush(heap, (worth, name))
            continue
        kept.add(name)
        left -= new
    return kept


def _lines(name: str) -> int:
    path, *inside = name.split("::")
    return _spans(path).get("::".join(inside), 1)


@cache
def _spans(path: str) -> dict[str, int]:
    spans: dict[str, int] = {}

    def walk(nodes: list[ast.stmt], prefix: str) -> None:
        for node in nodes:
            if isinstance(node, ast.ClassDef):
                walk(node.body, f"{prefix}{node.name}::")
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
                spans[prefix + node.name] = (node.end_lineno or first) - first + 1

    walk(ast.parse(Path(path).read_text()).body, "")
    return spans
