"""A pytest session that tries mutants: which of the collected tests notice a small fault in a module.

The session collects once. A forked child then runs every test under coverage; after that each mutant gets a child of
its own, in which the code of the changed functions is replaced and the tests that cover the mutant's line run, so that
a mutant costs a fork and the time of those tests alone. The parent runs no test, starts no thread and never changes.

Mutants outside functions, and those that change what a function closes over, cannot be put in like this and are not
counted.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import pickle
import select
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import coverage
import pytest

from tests.mutation.mutants import Mutant

SHORTEST_WAIT = 6.0  # seconds that a test with a mutant may always take
SLOWER = 10.0  # times its own time that a test with a mutant may take
LONGEST_WAIT = 1800.0  # seconds for all tests of a mutant

Arc = tuple[str, int, int]  # file, line left, line reached
Node = str  # name of a test as pytest gives it


@dataclass
class Record:
    """Results, times and branches of the tests without any mutant."""

    seconds: dict[Node, float] = field(default_factory=dict)
    failed: set[Node] = field(default_factory=set)
    arcs: dict[Node, set[Arc]] = field(default_factory=dict)


class Trial:
    """The collected tests, ready to run with and without mutants."""

    def __init__(self, items: Sequence[pytest.Item], root: Path) -> None:
        self.items = {item.nodeid: item for item in items}
        self._root = root
        self._functions = _functions(root)

    def record(self, folders: Iterable[Path]) -> Record:
        """Run every test once under coverage of the modules in `folders`."""
        with tempfile.TemporaryDirectory(prefix="mutation-") as scratch:
            data = Path(scratch) / "coverage"
            sources = [str(folder) for folder in folders]
            found = self._in_child(lambda: self._cover(data, sources), 3600.0)
            if found is None:
                raise RuntimeError("the tests without a mutant did not end within an hour")
            record: Record = found
            record.arcs = self._arcs(data)
        return record

    def _cover(self, data: Path, sources: list[str]) -> Record:
        record = Record()
        measured = coverage.Coverage(
            data_file=str(data), branch=True, source=sources, config_file=False
        )
        measured.start()
        for item, following in _with_next(list(self.items.values())):
            measured.switch_context(item.nodeid)
            began = time.monotonic()
            if not _passes(item, following):
                record.failed.add(item.nodeid)
            record.seconds[item.nodeid] = time.monotonic() - began
        measured.stop()
        measured.save()
        return record

    def _arcs(self, data: Path) -> dict[Node, set[Arc]]:
        arcs: dict[Node, set[Arc]] = {}
        with contextlib.closing(sqlite3.connect(data)) as database:
            rows = database.execute(
                "select context.context, file.path, arc.fromno, arc.tono from arc "
                "join file on file.id = arc.file_id join context on context.id = arc.context_id"
            )
            for node, path, start, end in rows:
                name = str(Path(path).relative_to(self._root))
                arcs.setdefault(node, set()).add((name, start, end))
        return arcs

    def usable(self, module: str, mutant: Mutant) -> bool:
        """True if the mutant can be put into the loaded program."""
        return bool(self._changes(module, mutant))

    def _changes(self, module: str, mutant: Mutant) -> list[tuple[FunctionType, CodeType]]:
        path = str(self._root / module)
        new = {_key(code): code for code in _codes(mutant.code(path))}
        changes = []
        for function in self._functions.get(path, ()):
            code = new.get(_key(function.__code__))
            if code is not None and code != function.__code__:
                if code.co_freevars != function.__code__.co_freevars:
                    return []
                changes.append((function, code))
        return changes

    def killer(
        self, module: str, mutant: Mutant, nodes: Sequence[Node], seconds: Mapping[Node, float]
    ) -> Node | None:
        """Return the first of the tests that fails or hangs with the mutant, or None.

        Args:
            nodes: names of the tests, in the order in which they run.
            seconds: what each test takes without a mutant.
        """
        if not nodes:
            return None
        with tempfile.TemporaryDirectory(prefix="mutation-") as scratch:
            begun = Path(scratch) / "begun"

            def run() -> Node | None:
                nowhere = Path(os.devnull).open("w")  # noqa: SIM115 - of a child that never returns
                for function, code in self._changes(module, mutant):
                    function.__code__ = code
                chosen = [self.items[node] for node in nodes]
                for item, following in _with_next(chosen):
                    begun.write_text(item.nodeid)
                    wait = SHORTEST_WAIT + SLOWER * seconds[item.nodeid]
                    faulthandler.dump_traceback_later(wait, exit=True, file=nowhere)
                    if not _passes(item, following):
                        return item.nodeid
                return None

            return self._in_child(run, LONGEST_WAIT, hung=begun.read_text)  # type: ignore[no-any-return]

    def _in_child(
        self, work: Callable[[], Any], wait: float, hung: Callable[[], Any] = lambda: None
    ) -> Any:
        """Run `work` in a forked child and return its result; `hung()` if it takes too long or dies."""
        receiving, sending = os.pipe()
        child = os.fork()
        if child == 0:
            _become_child(work, sending)
        os.close(sending)
        received = _read_until(receiving, time.monotonic() + wait)
        os.close(receiving)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return pickle.loads(received) if received else hung()


def _become_child(work: Callable[[], Any], sending: int) -> None:
    os.setpgid(0, 0)
    silent = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(silent, descriptor)
    try:
        result = pickle.dumps(work())
        with open(sending, "wb") as pipe:
            pipe.write(result)
    finally:
        os._exit(0)


def _read_until(descriptor: int, deadline: float) -> bytes:
    """Read to the end; what has arrived by the deadline is dropped if the end has not."""
    parts = []
    while select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
        part = os.read(descriptor, 1 << 20)
        if not part:
            return b"".join(parts)
        parts.append(part)
    return b""


class _Outcome:
    """Plugin that notes whether a test passed."""

    def __init__(self) -> None:
        self.passed = True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.passed = self.passed and not report.failed


def _passes(item: pytest.Item, following: pytest.Item | None) -> bool:
    outcome = _Outcome()
    plugins = item.config.pluginmanager
    plugins.register(outcome)
    try:
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
    finally:
        plugins.unregister(outcome)
    return outcome.passed


def _with_next(items: Sequence[pytest.Item]) -> Iterable[tuple[pytest.Item, pytest.Item | None]]:
    return zip(items, [*items[1:], None], strict=True)


def _functions(root: Path) -> dict[str, list[FunctionType]]:
    """Return every loaded function of the project by its file."""
    found: dict[str, list[FunctionType]] = {}
    gc.unfreeze()  # `tests.conftest` freezes what was collected
    for each in gc.get_objects():
        if type(each) is FunctionType and each.__code__.co_filename.startswith(str(root)):
            found.setdefault(each.__code__.co_filename, []).append(each)
    return found


def _codes(code: CodeType) -> Iterable[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _key(code: CodeType) -> tuple[str, int]:
    return code.co_qualname, code.co_firstlineno


def session(tests: Sequence[str], root: Path, use: Callable[[Trial], None]) -> int:
    """Collect tests and hand them over as a trial; returns pytest's exit code."""

    class Driver:
        def pytest_runtestloop(self, session: pytest.Session) -> bool:
            trial = Trial(session.items, root)
            gc.collect()
            gc.freeze()
            capture = session.config.pluginmanager.getplugin("capturemanager")
            capture.suspend_global_capture(in_=True)
            use(trial)
            return True

    sys.dont_write_bytecode = True
    options = ["-q", "--capture=no", "-p", "no:cacheprovider", "-m", "not process", "--no-header"]
    return int(pytest.main([*options, *tests], plugins=[Driver()]))
