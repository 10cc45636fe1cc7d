"""Operations over the own nodes of a desk, on a real engine and journal."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from api_kit import Answer
from trading_kit import Api, running_api

from node.annexes.desk.desk_part import DeskPart
from node.annexes.desk.desk_profile import read_profile
from node.annexes.desk.desk_reader import DeskReader


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running_api(tmp_path / "journal") as api:
        yield api


def assert_problem(answer: Answer, status: int, code: str, *words: str) -> None:
    assert (answer.status, answer.json["code"]) == (status, code)
    assert all(word in answer.json["detail"] for word in words), answer.json


async def test_a_desk_is_read_through_the_node_and_a_broken_profile_is_named(
    api: Api, tmp_path: Path
) -> None:
    assert_problem(await api.get("/v1/desk/status"), 404, "no_desk", "DESK_PROFILE")
    document = {"api_url": api.url, "node_id": api.node.node_id, "pid": 1}
    (tmp_path / "node.json").write_text(json.dumps(document))
    profile = tmp_path / "desk.toml"
    profile.write_text('[[node]]\nname = "one"\ndata_dir = "."\n')
    api.node.parts = [DeskPart(DeskReader(lambda: read_profile(profile)))]
    await api.post("/v1/accounts/house/deposits", {"asset": "USD", "amount": "5"})
    (row,) = (await api.get("/v1/desk/balances")).json["totals"]
    assert (row["asset"], row["total"]) == ("USD", "5")
    for path in ("orders?open=false&limit=5", "trades?market=BTC-USD", "obligations"):
        found = (await api.get(f"/v1/desk/{path}")).json
        assert [node["code"] for node in found["nodes"]] == [None]
    refused = (await api.get("/v1/desk/orders?market=NO-SUCH")).json
    assert [node["code"] for node in refused["nodes"]] == ["unknown_market"]
    profile.write_text("")
    answer = await api.get("/v1/desk/status")
    assert_problem(answer, 503, "bad_desk_profile", "no [[node]]", str(profile))
