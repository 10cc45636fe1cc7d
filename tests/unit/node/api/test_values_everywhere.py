"""Values that a body takes are taken in paths, in queries and on the stream too, whatever letters they have."""

from __future__ import annotations

import asyncio
import string
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, quote_plus, urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trading_kit import Api, client_of, running_api
from yarl import URL

ORDER: Final = {"market": "BTC-USD", "side": "buy", "quantity": "0.1", "price": "20000"}
PRINTABLE: Final = "".join(map(chr, range(32, 127)))
HARD: Final = (
    "{6f9619ff-8b86-d011-b42d-00cf4fc964ff}",
    "{}",
    "{client_id}",
    "a b",
    " ",
    "a/b",
    "/",
    "a%2Fb",
    "%",
    "%25",
    "%7B",
    "a+b",
    "a?b#c&d=e",
    "...",
    "a:b;c,d",
    '"\\',
    "cancel-after",
    "by-client-id",
    "1",
)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running_api(tmp_path / "journal") as api:
        yield api


async def status_and_body(api: Api, method: str, target: str) -> tuple[int, Any]:
    """`target` goes out as it is, without a library's own encoding."""
    async with api.session.request(method, URL(api.url + target, encoded=True)) as answer:
        return answer.status, await answer.json(content_type=None)


async def check_client_id(api: Api, client_id: str) -> None:
    """Place by body, stream and client; read by path; cancel by query and stream."""
    placed = await api.post("/v1/orders", ORDER | {"client_id": client_id})
    assert placed.status == 201, placed.json
    path = f"/v1/orders/by-client-id/{quote(client_id, safe='')}"
    for target in (path, path.replace("%7B", "{").replace("%7D", "}"), path.replace("%2F", "%2f")):
        status, found = await status_and_body(api, "GET", target)
        assert (status, found.get("id")) == (200, placed.json["id"]), target
    async with client_of(api) as client:
        assert (await client.order_by_client_id(client_id)).client_id == client_id
    for written in (urlencode({"client_id": client_id}), f"client_id={quote(client_id, safe='')}"):
        status, found = await status_and_body(api, "DELETE", f"/v1/orders?{written}")
        assert status == 200
    assert (await api.get(f"/v1/orders/{placed.json['number']}")).json["status"] == "cancelled"


async def check_on_the_stream(api: Api, client_id: str) -> None:
    async with api.session.ws_connect(f"{api.url}/v1/stream") as socket:
        order = ORDER | {"client_id": client_id}
        await socket.send_json({"op": "submit", "id": client_id, "order": order})
        told = await socket.receive_json(timeout=5)
        assert (told["event"], told["id"]) == ("accepted", client_id)
        await socket.send_json({"op": "cancel_many", "id": "2", "client_id": client_id})
        assert (await socket.receive_json(timeout=5))["event"] == "accepted"
    open_orders = (await api.get("/v1/orders")).json
    assert client_id not in {order["client_id"] for order in open_orders}


@pytest.mark.parametrize("client_id", HARD)
async def test_client_ids_work_on_the_stream(api: Api, client_id: str) -> None:
    await check_on_the_stream(api, client_id)


@settings(max_examples=5, deadline=None)
@given(st.lists(st.text(PRINTABLE, min_size=1, max_size=64), min_size=10, max_size=15, unique=True))
def test_any_client_id_that_is_taken_is_found_again(client_ids: list[str]) -> None:
    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with running_api(Path(folder) / "journal") as api:
                for client_id in client_ids:
                    if client_id in (".", ".."):
                        refused = await api.post("/v1/orders", ORDER | {"client_id": client_id})
                        assert (refused.status, refused.json["code"]) == (400, "bad_client_id")
                    else:
                        await check_client_id(api, client_id)

    asyncio.run(run())


@pytest.mark.parametrize("client_id", [".", ".."])
async def test_client_ids_that_no_path_can_carry_are_refused(api: Api, client_id: str) -> None:
    refused = await api.post("/v1/orders", ORDER | {"client_id": client_id})
    assert (refused.status, refused.json["code"]) == (400, "bad_client_id")


ACCOUNT_NAMES: Final = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}", fullmatch=True)


@settings(max_examples=4, deadline=None)
@given(
    st.lists(ACCOUNT_NAMES, min_size=3, max_size=6, unique_by=str.lower),
    st.text(string.printable[:95] + "äé€{}", max_size=20),
)
def test_accounts_and_labels_are_found_again(names: list[str], label: str) -> None:
    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with running_api(Path(folder) / "journal") as api:
                for name in names:
                    made = await api.post("/v1/accounts", {"name": name})
                    if made.status != 201:  # a number, or a name that the node uses itself
                        continue
                    path = f"/v1/accounts/{quote(name, safe='')}"
                    assert (await status_and_body(api, "GET", path))[1]["name"] == name
                    key = await api.post(f"{path}/keys", {"label": label})
                    assert key.status == 201, key.json
                    assert [k["label"] for k in (await api.get(f"{path}/keys")).json] == [label]
                    query = f"/v1/orders?account={quote_plus(name)}"
                    assert await status_and_body(api, "GET", query) == (200, [])

    asyncio.run(run())
