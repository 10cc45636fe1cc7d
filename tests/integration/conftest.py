"""Nodes for the tests of this directory: stopped after each test, their logs shown when it fails. And
machines of their own, where network namespaces can be made."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from nat_lab import NatLab, nat_lab, why_no_lab
from netns import Namespace, namespace_pair, why_no_namespaces
from postgres_server import PostgresServer, binaries
from processes import NODES, Nodes, show_logs

LOG_TAIL = 8000  # characters


@pytest.fixture
def nodes(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Nodes]:
    """`in_both_modes` makes a test run a second time, over Grenache alone."""
    found = Nodes(tmp_path, getattr(request, "param", "p2p"))
    show_logs(request, found)
    yield found
    found.cleanup()


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[NatLab]:
    """Homes behind routers, in network namespaces."""
    reason = why_no_lab()
    if reason is not None:
        pytest.skip(reason)
    with nat_lab(tmp_path) as found:
        yield found


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """A database server of the module's own."""
    if binaries() is None:
        pytest.skip("PostgreSQL is not installed")
    found = PostgresServer()
    found.start()
    yield found
    found.close()


@pytest.fixture
def needs_namespaces() -> None:
    reason = why_no_namespaces()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture
def machines(needs_namespaces: None) -> Iterator[tuple[Namespace, Namespace]]:
    """Two, on one cable."""
    with namespace_pair() as both:
        yield both


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    found = item.stash.get(NODES, None)
    if report.failed and found is not None:
        for node in found.all:
            report.sections.append((f"log of node {node.name}", node.log[-LOG_TAIL:]))
    return report
