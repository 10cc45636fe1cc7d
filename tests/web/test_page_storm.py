"""The ladder under a storm of changes, with a cut inside."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.integration.processes import Nodes

if TYPE_CHECKING:
    from tests.web.browser import Pages

SECONDS = 6.0
RATE = 500.0


def test_a_storm_with_a_cut_leaves_the_ladder_right_and_the_page_small(
    nodes: Nodes, pages: Pages
) -> None:
    from tests.web.browser import until
    from tests.web.storm import load_on, open_market, settled, watch

    node = nodes.start("a")
    with load_on(node, RATE) as load:
        page = open_market(pages, node)
        before = watch(page, 1)
        found = watch(page, SECONDS)
    assert load.changes > 200
    assert load.errors == 0
    until(page, lambda: settled(page, node))
    assert found["sockets"] == 3  # it came back twice
    # Nothing is queued and nothing piles up: rows are the same elements however much changes.
    assert abs(found["elements"] - before["elements"]) < 0.2 * before["elements"] + 200
    assert page.locator("[data-trouble]").count() == 0
    pages.forgive("WebSocket")
