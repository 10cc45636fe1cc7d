"""The glossary leads to places that exist."""

from __future__ import annotations

from tests.structure import words_without_home


def test_every_place_that_the_glossary_names_exists() -> None:
    assert words_without_home() == []
