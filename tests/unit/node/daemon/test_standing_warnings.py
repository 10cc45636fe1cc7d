"""Warnings in the status: how many about other nodes, and for how long."""

from __future__ import annotations

from node.daemon.standing_warnings import MAX_NODES, MAX_OWN, StandingWarnings, few


def test_warnings_about_others_are_few_and_of_present_nodes_and_push_out_none_about_this_one() -> (
    None
):
    warnings = StandingWarnings()
    for n in range(2 * MAX_NODES):
        warnings.add(f"node {n} lies", "lies", f"{n}")
        warnings.add(f"node {n} lies again", "lies", f"{n}")
    warnings.add("node 7 is late", "late", "7")
    warnings.add("the disk is full")
    assert warnings.own == ["the disk is full"]
    present = {"7", *(str(n) for n in range(1990, 2000))}
    assert warnings.others(present, {"1999"}) == [
        *(f"node {n} lies again" for n in (1999, 1990, 1991)),
        "7 more such warnings about other nodes: lies",
        "node 7 is late",
    ]
    assert warnings.others(set(), {"1999"}) == []
    for n in range(2 * MAX_OWN):
        warnings.add(f"own {n}")
    assert len(warnings.own) == MAX_OWN


def test_of_a_kind_the_first_of_each_node_come_before_the_second_of_any() -> None:
    texts = {"a": ["a1", "a2", "a3"], "b": ["b1", "b2"]}
    assert few(texts, {"b"}, "x") == [
        "b1",
        "a1",
        "b2",
        "2 more such warnings about other nodes: x",
    ]
    assert few({"a": ["a1"]}, (), "x") == ["a1"]
