"""Methods of the client against the declarations of the operations."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

import msgspec
import pytest

from node.client.client_calls import Rows
from node.client.exchange_client import ExchangeClient
from node.operations import operator_operations, public_operations, trading_operations
from node.operations.operation import Operation

OPERATIONS = [
    value
    for module in (trading_operations, operator_operations, public_operations)
    for value in vars(module).values()
    if isinstance(value, Operation)
]
METHODS = {
    value.operation.name: value
    for kind in ExchangeClient.__mro__
    for value in vars(kind).values()
    if hasattr(value, "operation")
}
OWN_NAMES = {"order_id": "id", "node_id": "node", "open_only": "open", "newest_first": "sort"}
NOT_OFFERED = {
    "cursor",
    "all",
}  # `every_...` passes the cursor, `cancel_many` is about all that fit


class Recorder(ExchangeClient):
    """A client that records calls and answers with pages of two rows."""

    def __init__(self) -> None:
        super().__init__("http://node")
        self.sent: list[tuple[str, Any]] = []

    async def call(self, operation: Operation[Any, Any, Any], arguments: Mapping[str, Any]) -> Any:
        self.sent.append(operation.write(arguments))
        return [1, 2], None if len(self.sent) > 1 else "5.1"


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.name)
def test_each_operation_has_a_method_with_its_parameters(
    operation: Operation[Any, Any, Any],
) -> None:
    method = METHODS[operation.name]
    if not hasattr(method, "__wrapped__"):
        return  # made from the declaration alone
    parameters = dict(signature(method).parameters)
    del parameters["self"]
    names = set(parameters) - {"rows"} | (
        set(Rows.__annotations__) if "rows" in parameters else set()
    )
    fields = () if operation.body is None else msgspec.structs.fields(operation.body)
    defaults = {
        name: param.schema.get("default") for name, (_, param) in operation.in_query.items()
    }
    defaults |= {field.encode_name: field.default for field in fields}
    bodies = [
        each
        for each in parameters.values()
        if operation.body and each.annotation == operation.body.__name__
    ]
    wanted = {
        *operation.in_path,
        *operation.in_query,
        *(() if bodies else (f.encode_name for f in fields)),
    }
    assert {
        OWN_NAMES.get(name, name) for name in names - {b.name for b in bodies}
    } == wanted - NOT_OFFERED
    for name, parameter in parameters.items():
        if parameter.default not in (parameter.empty, None) and name != "permissions":
            assert (
                parameter.default == defaults[OWN_NAMES.get(name, name)]
                or parameter.default is False
            )


async def test_arguments_become_path_query_and_body() -> None:
    client = Recorder()
    await client.orders(market="A-B", open_only=False, account="alice", start=5, newest_first=False)
    await client.order("1/2", account=None)
    await client.cancel_many(group=0)
    await client.deposit("alice", "USD", "5", note="cash")
    await client.set_credit("USD", None)
    await client.book("A-B", depth=25)
    await client.ping(node_id="ab")
    await client.create_key("alice")
    assert client.sent == [
        ("/v1/orders?market=A-B&open=false&account=alice&start=5&sort=asc", None),
        ("/v1/orders/1%2F2", None),
        ("/v1/orders?group=0&all=true", None),
        ("/v1/accounts/alice/deposits", {"asset": "USD", "amount": "5", "note": "cash"}),
        ("/v1/credit", {"asset": "USD"}),
        ("/v1/book/A-B", None),
        ("/v1/peers/ab/ping", None),
        ("/v1/accounts/alice/keys", {}),  # it takes a body, of which nothing is given
    ]


async def test_pages_are_read_to_the_last_one() -> None:
    client = Recorder()
    assert [row async for row in client.every_fill(market="A-B")] == [1, 2, 1, 2]
    assert [target for target, _ in client.sent] == [
        "/v1/fills?limit=1000&sort=asc&market=A-B",
        "/v1/fills?limit=1000&sort=asc&market=A-B&cursor=5.1",
    ]


async def test_wrong_arguments_are_refused_before_anything_is_sent() -> None:
    client = Recorder()
    wrong: Any = client
    for call in (
        lambda: wrong.order(),
        lambda: wrong.order("1", "2"),
        lambda: wrong.book(),
        lambda: wrong.fills(colour="red"),
    ):
        with pytest.raises(TypeError):
            await call()
    with pytest.raises(TypeError, match="getAccount needs 'account'"):
        operator_operations.GET_ACCOUNT.write({})
    with pytest.raises(TypeError, match="getStatus does not take x"):
        public_operations.GET_STATUS.write({"x": 1})
    assert client.sent == []
