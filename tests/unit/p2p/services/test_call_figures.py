"""Figures of calls: outcomes are those that this node knows."""

from p2p.services.call_figures import CallFigures


def test_codes_that_other_nodes_invent_are_one_outcome() -> None:
    figures = CallFigures()
    for outcome in ("ok", "busy", "ok", *(f"code_{n}" for n in range(1000))):
        figures.ended(outcome)
    assert figures.outcomes == {"ok": 2, "busy": 1, "other": 1000}
