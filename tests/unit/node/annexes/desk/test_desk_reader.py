"""The own nodes of a desk, read together over the API."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from trading_kit import TOKEN, Api, running_api

from node.annexes.desk.desk_profile import DeskNode
from node.annexes.desk.desk_reader import DeskReader
from node.api.access import AccessRules


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    rules = AccessRules(keys_required=True, operator_token=TOKEN)
    async with running_api(tmp_path / "journal", rules=rules) as found:
        yield found


def key_file(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def runtime(path: Path, api: Api, node_id: str) -> str:
    """A data directory whose node is the API's, and has this id."""
    path.mkdir()
    document = {"api_url": api.url, "node_id": node_id, "pid": 1, "operator_token": TOKEN}
    (path / "node.json").write_text(json.dumps(document))
    return str(path)


async def codes(*nodes: DeskNode, **options: float) -> list[str | None]:
    view = await DeskReader(lambda: nodes, **options).balances()
    return [node.code for node in view.nodes]


async def test_each_fault_of_a_node_has_its_code_and_the_others_are_read(
    api: Api, tmp_path: Path
) -> None:
    operator = key_file(tmp_path / "good", f"operator:{TOKEN}")
    found = await codes(
        DeskNode("good", api=api.url, key_file=operator),
        DeskNode("again", api=api.url, key_file=operator),
        DeskNode("away", api="http://127.0.0.1:1"),
        DeskNode("none", data_dir=str(tmp_path / "none")),
        DeskNode("malformed", api="http://127.0.0.1:1/path"),
        DeskNode("other", data_dir=runtime(tmp_path / "d", api, "a" * 32)),
        DeskNode("wrong", api=api.url, key_file=key_file(tmp_path / "wrong", "operator:no")),
        DeskNode("open", api=api.url, key_file=key_file(tmp_path / "open", "a:b", 0o644)),
        DeskNode("text", api=api.url, key_file=key_file(tmp_path / "text", "nonsense")),
        DeskNode("keyless", api=api.url),
        DeskNode("certificate", api="https://127.0.0.1:1", ca_file=tmp_path / "text"),
    )
    assert found == [
        None, "same_node", "no_node", "no_node", "bad_address", "wrong_node", "bad_token",
        "key_file", "key_file", "key_required", "untrusted",
    ]  # fmt: skip


async def test_a_node_that_hangs_costs_its_time_and_no_more(api: Api, tmp_path: Path) -> None:
    operator = key_file(tmp_path / "good", f"operator:{TOKEN}")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with asyncio.timeout(5):
            found = await codes(
                DeskNode("hangs", api=f"http://127.0.0.1:{silent.getsockname()[1]}"),
                DeskNode("good", api=api.url, key_file=operator),
                timeout=0.2,
            )
    assert found == ["no_node", None]


async def test_a_node_that_took_over_an_address_is_known_by_its_own_id(
    api: Api, tmp_path: Path
) -> None:
    operator = key_file(tmp_path / "good", f"operator:{TOKEN}")
    node = DeskNode("one", api=api.url, key_file=operator)
    reader = DeskReader(lambda: [node])
    (before,) = (await reader.status()).nodes
    reader._ids[api.url] = "b" * 32  # another one was there
    assert [each.code for each in (await reader.status()).nodes] == ["wrong_node"]
    assert (await reader.status()).nodes == [before]


async def test_a_profile_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    def nodes() -> list[DeskNode]:
        raise ValueError("desk.toml names no node")

    with pytest.raises(ValueError, match="names no node"):
        await DeskReader(nodes).orders()
