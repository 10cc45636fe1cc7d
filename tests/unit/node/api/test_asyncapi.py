"""The stream's description of itself: complete, and true of the code."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import get_args

import pytest
from trading_kit import Api, running_api

from node.api.asyncapi import document, tag_of
from node.streams.stream_messages import (
    ClientMessage,
    ServerMessage,
)

ALL = (*get_args(ClientMessage), *get_args(ServerMessage))


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with running_api() as api:
        yield api


async def test_the_document_is_served(api: Api) -> None:
    answer = await api.get("/asyncapi.json")
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.json == json.loads(json.dumps(document()))
    assert answer.json["asyncapi"] == "3.0.0"
    page = await api.get("/docs")
    assert b'href="/asyncapi.json"' in page.body


def test_every_message_that_there_is_is_described_and_no_other() -> None:
    described = document()["components"]["messages"]
    assert set(described) == {kind.__name__ for kind in ALL}
    assert document()["channels"]["stream"]["messages"].keys() == described.keys()
    assert {message["name"] for message in described.values()} == {tag_of(kind) for kind in ALL}
