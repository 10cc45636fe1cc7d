"""The ladder under a storm of changes, with a cut inside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.processes import Nodes

if TYPE_CHECKING:
    from tests.web.browser import Pages

RATE = 500.0


@pytest.mark.parametrize("seconds", [3.0, pytest.param(60.0, marks=pytest.mark.long)])
def test_a_storm_with_a_cut_leaves_the_ladder_right_and_the_page_small(
    nodes: Nodes, pages: Pages, seconds: float
) -> None:
    from tests.web.browser import until
    from tests.web.storm import load_on, open_market, settled, watch

    node = nodes.start("a")
    with load_on(node, RATE) as load:
        page = open_market(pages, node)
        before = watch(page, 1)
        found = watch(page, seconds)
    assert load.changes > 0.2 * RATE * seconds
    assert load.errors == 0
    until(page, lambda: settled(page, node))
    assert found["sockets"] == 3  # it came back twice
    # Nothing is queued and nothing piles up: rows are the same elements however much changes.
    assert abs(found["elements"] - before["elements"]) < 0.2 * before["elements"] + 200
    assert page.locator("[data-trouble]").count() == 0
    pages.forgive("WebSocket")
