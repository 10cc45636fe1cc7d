"""The exchange's refusals as the API's: the HTTP status of each stable code."""

from __future__ import annotations

from types import TracebackType
from typing import Final

from exchange.orders.engine_context import CommandRejected
from node.views.views import ServiceError

# What is not here is 422: the request was understood, and cannot be done as it is.
_STATUS_OF: Final = {
    "unknown_order": 404,
    "unknown_market": 404,
    "unknown_account": 404,
    "unknown_key": 404,
    "client_id_reused": 409,
    "order_done": 409,
    "name_taken": 409,
    "halted": 409,
    "account_frozen": 403,
    "rate_limited": 429,
    "stale_data": 503,
    "starting": 503,
    "storage_failed": 503,
}


def status_of(code: str) -> int:
    return _STATUS_OF.get(code, 422)


def service_error(refused: CommandRejected) -> ServiceError:
    return ServiceError(status_of(refused.code), refused.code, refused.detail)


class refusals:  # noqa: N801 - a context manager, and half the price of one made by a generator
    """Translate refusals of the exchange into refusals of the API."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if isinstance(error, CommandRejected):
            raise service_error(error) from error
