"""The stream's description of itself: complete, and true of the code."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, get_args

import msgspec
import pytest
from api_kit import Api, running_api
from jsonschema import Draft7Validator, ValidationError
from stream_kit import validator

from node.api.asyncapi import ANSWERED, EXAMPLES, SENT, document, tag_of
from node.streams.book_checksums import level_check
from node.streams.stream_messages import (
    FIELDS,
    Answer,
    BookL1,
    BookL2Snapshot,
    Channel,
    ClientMessage,
    ServerMessage,
    StreamMessage,
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


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_every_reference_leads_somewhere() -> None:
    found = set(references(document()))
    assert len(found) > 50
    for reference in found:
        node = document()
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]


def test_every_message_that_there_is_is_described_and_no_other() -> None:
    described = document()["components"]["messages"]
    assert set(described) == {kind.__name__ for kind in ALL}
    assert document()["channels"]["stream"]["messages"].keys() == described.keys()
    assert {message["name"] for message in described.values()} == {tag_of(kind) for kind in ALL}


def test_every_message_is_part_of_an_operation() -> None:
    operations = document()["operations"]
    received, sent = set(), set()
    for operation in operations.values():
        names = {r["$ref"].rpartition("/")[2] for r in operation["messages"]}
        (received if operation["action"] == "receive" else sent).update(names)
    assert received == {kind.__name__ for kind in get_args(ClientMessage)}
    assert sent == {kind.__name__ for kind in get_args(ServerMessage)}


def test_the_tables_cover_every_channel_and_every_message() -> None:
    assert set(SENT) == set(FIELDS) == set(get_args(Channel))
    assert {kind for kinds in SENT.values() for kind in kinds} == set(get_args(StreamMessage))
    assert set(ANSWERED) == set(get_args(ClientMessage))
    assert {kind for kinds in ANSWERED.values() for kind in kinds} == set(get_args(Answer))


def test_every_message_but_pong_has_a_summary() -> None:
    silent = {
        name for name, m in document()["components"]["messages"].items() if "summary" not in m
    }
    assert silent == {"Pong"}


def test_every_kind_has_an_example_and_every_example_is_valid() -> None:
    assert {type(example) for example in EXAMPLES} == set(ALL)
    for message in document()["components"]["messages"].values():
        for example in message["examples"]:
            validator(message["name"]).validate(example["payload"])


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example).__name__)
def test_an_example_decodes_to_itself(example: msgspec.Struct) -> None:
    union = ClientMessage if isinstance(example, ClientMessage) else ServerMessage
    assert msgspec.json.decode(msgspec.json.encode(example), type=union) == example


def test_the_schemas_are_schemas() -> None:
    for schema in document()["components"]["schemas"].values():
        Draft7Validator.check_schema(schema)


@pytest.mark.parametrize(
    "wrong",
    [
        {"op": "subscribe"},
        {"op": "subscribe", "channel": "news"},
        {"op": "subscribe", "channel": "book", "depth": 3},
        {"op": "subscribe", "channel": "book", "conflate_ms": 60_001},
        {"op": "subscribe", "channel": "book", "price": "1"},
    ],
)
def test_what_a_node_would_refuse_is_not_valid(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        validator("subscribe").validate(wrong)


@pytest.mark.parametrize("entry", [["1", "2"], ["1", "2", 3, 4], ["1e5", "2", 3], ["1", "-2", 3]])
def test_an_entry_of_another_shape_is_not_valid(entry: list[Any]) -> None:
    (example,) = [e for e in EXAMPLES if isinstance(e, BookL2Snapshot)]
    message = msgspec.json.decode(msgspec.json.encode(example))
    with pytest.raises(ValidationError):
        validator("book_l2_snapshot").validate(message | {"bids": [entry]})


def test_the_checksum_of_the_example_is_right() -> None:
    for example in EXAMPLES:
        if isinstance(example, BookL1):
            assert example.bid is not None
            assert example.checksum == level_check("buy", example.bid)
        elif isinstance(example, BookL2Snapshot):
            assert example.checksum == sum(level_check("buy", level) for level in example.bids)
