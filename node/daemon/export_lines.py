"""Contents of a journal as lines of JSON, with the fields that the API has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from config import Settings
from exchange.journal.export import KINDS, Exported, JournalExport
from exchange.journal.journal_reader import Advance
from exchange.ledger.balances import ACCOUNT
from exchange.ledger.market_units import decimals_of
from exchange.model.decimals import plain
from exchange.model.instruments import Instruments
from exchange.model.records import Account, ApiKey, Fill, Order, Posting, Recovered
from exchange.orders.engine_context import stored_decimals
from node.views.order_mapping import OrderMapping
from node.views.timestamps import iso

__all__ = ["KINDS", "ExportFilter", "lines"]


class ExportFilter(NamedTuple):
    """Selection of an export. Times in us."""

    kinds: frozenset[str]
    account: str | None  # name or number
    start: int
    end: int | None


def lines(settings: Settings, chosen: ExportFilter, advance: Advance) -> Iterator[bytes]:
    """Yield the lines of an export.

    Raises:
        JournalError: there is no journal, or it is damaged.
        LookupError: there is no such account.
    """
    path = settings.instruments_file
    instruments = Instruments.load(path) if path else Instruments.default()
    with JournalExport(settings.journal_path, advance) as found:
        account = _account(found.state, chosen.account)
        decimals = {**decimals_of(instruments), **stored_decimals(found.state)}
        shaper = _Shaper(
            OrderMapping(instruments, found.owner, lambda asset: decimals.get(asset, 0)), decimals
        )
        for item in found.items(chosen.kinds):
            if account is not None and _account_of(item) != account:
                continue
            time = _time_of(item)
            if time < chosen.start or (chosen.end is not None and time > chosen.end):
                continue
            yield msgspec.json.encode(shaper.shape(item))


def _account(state: Recovered, name: str | None) -> int | None:
    if name is None:
        return None
    if name.lower() in ("house", "0"):
        return 0
    for account in state.accounts:
        if name in (str(account.number), account.name) or name.lower() == account.name.lower():
            return account.number
    raise LookupError(f"unknown account {name!r}: 'exchange-node account list' lists them")


def _account_of(item: Exported) -> int | None:
    if isinstance(item, Posting):
        number = item.holder.removeprefix(ACCOUNT)
        return int(number) if item.holder.startswith(ACCOUNT) else None
    return item.number if isinstance(item, Account) else item.account


def _time_of(item: Exported) -> int:
    if isinstance(item, Order):
        return item.updated
    return item.created if isinstance(item, Account | ApiKey) else item.time


class _Shaper:
    def __init__(self, mapping: OrderMapping, decimals: dict[str, int]) -> None:
        self._mapping = mapping
        self._decimals = decimals

    def shape(self, item: Exported) -> dict[str, Any]:
        """Return the fields of a line."""
        if isinstance(item, Order | Fill):
            kind = "order" if isinstance(item, Order) else "fill"
            view = (
                self._mapping.order(item) if isinstance(item, Order) else self._mapping.fill(item)
            )
            fields = msgspec.to_builtins(view)
            if isinstance(item, Order):
                fields["account"] = item.account
            return {"kind": kind, **fields}
        if isinstance(item, Posting):
            decimals = self._decimals.get(item.asset, 0)
            return {
                "kind": "posting",
                "transaction": item.transaction,
                "holder": item.holder,
                "asset": item.asset,
                "amount": plain(item.amount, decimals),
                "balance": plain(item.balance, decimals),
                "time": iso(item.time),
                "type": item.kind,
                "reference": item.reference,
            }
        fields = _named(item)
        fields["created"] = iso(item.created)
        if isinstance(item, Account):
            return {"kind": "account", **fields}
        fields["permissions"] = sorted(item.permissions)
        del fields["secret"]
        if item.revoked:
            fields["revoked"] = iso(item.revoked)
        return {"kind": "key", "id": fields.pop("key"), **fields}


def _named(item: msgspec.Struct) -> dict[str, Any]:
    """Return the fields of a struct that is encoded as an array, by name."""
    return msgspec.structs.asdict(item)
