"""Budgets of the structure: whoever needs more changes the number in `tests/structure.py` and says why."""

from __future__ import annotations

from tests import structure


def test_no_room_has_more_lines_than_its_budget() -> None:
    found = structure.lines_by_room()
    over = {room: lines for room, lines in found.items() if lines > structure.LINES.get(room, 0)}
    assert over == {}
    assert set(structure.LINES) <= set(found), "a budget of a room that is gone"


def test_no_more_constructors_take_more_than_six_arguments() -> None:
    found = structure.wide_constructors()
    assert len(found) <= structure.WIDE_CONSTRUCTORS, sorted(found)


def test_no_more_attributes_are_set_from_outside() -> None:
    found = structure.late_bindings()
    assert len(found) <= structure.LATE_BINDINGS, found


def test_packages_stand_on_no_more_floors() -> None:
    assert structure.floors() == structure.FLOORS


async def test_an_order_passes_no_more_calls_and_modules() -> None:
    # On a busy machine other work of the node's gets in between.
    found = [(await structure.ways("order by REST"))["order by REST"] for _ in range(3)]
    assert min(each["calls"] for each in found) <= structure.CALLS
    assert min(each["modules"] for each in found) <= structure.MODULES


def test_tables_of_contents_name_the_modules_of_their_folders() -> None:
    assert structure.stale_contents() == {}
