"""The oracles see a difference where there is one, and none where there is none."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

from exchange.engine.engine import Engine
from tests.oracles.__main__ import differences
from tests.oracles.digests import digest_of
from tests.oracles.surfaces import commands, metric_names


def test_a_seed_has_one_digest_and_another_seed_another() -> None:
    first = digest_of(4)
    assert first == digest_of(4)
    assert first.split()[2:] != digest_of(6).split()[2:]


def test_messages_in_another_order_change_the_digest() -> None:
    drain = Engine.drain

    def turned(engine: Engine, now: float) -> object:
        drained = drain(engine, now)
        drained.messages.reverse()
        return drained

    before = digest_of(4)
    with patch.object(Engine, "drain", turned):
        assert digest_of(4) != before


def test_help_covers_commands_below_commands() -> None:
    text = commands()
    for command in ("order buy", "account keys create", "ledger settle"):
        assert f"$ exchange-node {command} --help" in text or command in text


def test_metrics_are_compared_by_name_type_and_labels() -> None:
    exposition = '# HELP a b\n# TYPE a counter\na{x="1",y="2"} 7\na{x="2",y="2"} 8\nb 1\n'
    assert metric_names(exposition) == "# TYPE a counter\na x y\nb\n"


def test_differences_name_file_and_line(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    for folder, text in ((before, "one\ntwo\n"), (after, "one\n2\n")):
        folder.mkdir()
        (folder / "help.txt").write_text(text)
    assert differences(before, before) == []
    found = differences(before, after)
    assert found[:2] == ["--- before/help.txt", "+++ after/help.txt"]
    assert found[-2:] == ["-two", "+2"]
    (after / "new.txt").write_text("x\n")
    assert "+x" in differences(before, after)
