"""Commands in messages, as a shell finds the program."""

from __future__ import annotations

import pytest

from node.client.node_finder import program, same_node


@pytest.mark.parametrize(
    ("called", "found", "shown"),
    [
        ("/opt/x y/exchange-node", None, "'/opt/x y/exchange-node'"),
        ("/opt/venv/bin/exchange-node", None, "/opt/venv/bin/exchange-node"),
        ("/opt/venv/bin/exchange-node", "/usr/bin/exchange-node", "exchange-node"),
        ("/opt/node/cli/main.py", None, "exchange-node"),
    ],
)
def test_commands_to_copy_name_a_program_that_a_shell_finds(
    monkeypatch: pytest.MonkeyPatch, called: str, found: str | None, shown: str
) -> None:
    monkeypatch.setattr("sys.argv", [called, "demo"])
    monkeypatch.setattr("shutil.which", lambda name: found)
    program.cache_clear()
    try:
        assert program() == shown
        hint = same_node("see 'exchange-node status'", "")
        assert shown == "exchange-node" or f"`{shown} status`" in hint
    finally:
        program.cache_clear()
