"""Amounts of money between texts and units, exactly: what is wrong with a text is a `ServiceError`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from exchange.ledger.ledger import InsufficientBalance
from exchange.model.decimals import plain, scaled
from exchange.model.records import Posting
from node.service.trading import Balance
from node.views.account_views import MAX_NOTE, PostingView
from node.views.field_types import (
    DECIMAL_PATTERN,
    MAX_AMOUNT_TEXT,
    POSITIVE_PATTERN,
    refusal_status,
)
from node.views.timestamps import iso
from node.views.views import BalanceView, ServiceError

MAX_DIGITS: Final = 30  # before the point, and after it; nothing real has more
_AMOUNT: Final = re.compile(rf"\d{{1,{MAX_DIGITS}}}(\.\d{{1,{MAX_DIGITS}}})?", re.ASCII)


def units_of(
    text: str, asset: str, decimals: int, *, name: str = "amount", zero: bool = False
) -> int:
    """An amount in units of 10 ** -decimals, exact. With `zero` it may be 0.

    Raises:
        ServiceError: it is no such amount; the text says what to write instead.
    """

    def wrong(why: str) -> ServiceError:
        form = DECIMAL_PATTERN if zero else POSITIVE_PATTERN
        status = refusal_status(text, form, MAX_AMOUNT_TEXT)
        return ServiceError(
            status, "bad_amount", f"{name} {text[:40]!r}: {why}", pointer=f"/{name}"
        )

    if not _AMOUNT.fullmatch(text):
        if text.startswith("-"):
            raise wrong(
                "the amount is negative; give a positive amount, the command sets the direction"
            )
        raise wrong("it is not a plain decimal number such as 0.5 or 1000")
    part = text.partition(".")[2]
    units = scaled(text, decimals)
    if len(part.rstrip("0")) > decimals:
        nearest = plain(units, decimals)
        raise wrong(f"{asset} has {decimals} decimals; the nearest below is {nearest}")
    if not units and not zero:
        raise wrong("it must be more than 0")
    return units


class Amounts:
    """The assets of one node. `decimals` are those of its ledger."""

    def __init__(self, decimals: Mapping[str, int]) -> None:
        self._decimals = decimals

    def decimals(self, asset: str) -> int:
        return self._decimals[asset]

    def asset(self, name: str) -> str:
        """Its name as the ledger has it. Raises `ServiceError` when it is not traded here."""
        asset = name.upper()
        if asset not in self._decimals:
            raise ServiceError(
                422,
                "unknown_asset",
                f"no asset {name[:20]!r} is traded here; there are {', '.join(sorted(self._decimals))}",
            )
        return asset

    def amount(self, asset: str, text: str, *, name: str = "amount", zero: bool = False) -> int:
        return units_of(text, asset, self._decimals[asset], name=name, zero=zero)

    def text(self, asset: str, units: int) -> str:
        return plain(units, self._decimals[asset])

    @contextmanager
    def refusals(self, whose: str) -> Iterator[None]:
        """Translate refusals of the ledger into refusals of the API."""
        try:
            yield
        except InsufficientBalance as error:
            available = self.text(error.asset, error.available)
            needed = self.text(error.asset, error.needed)
            raise ServiceError(
                422,
                "insufficient_balance",
                f"{whose} has {available} {error.asset} available, and {needed} are needed",
            ) from None
        except ValueError as error:
            raise ServiceError(422, "out_of_range", str(error)) from None

    def balance(self, balance: Balance) -> BalanceView:
        asset = balance.asset
        return BalanceView(
            asset=asset,
            total=self.text(asset, balance.total),
            held=self.text(asset, balance.held),
            available=self.text(asset, balance.total - balance.held),
        )

    def posting(self, posting: Posting) -> PostingView:
        return PostingView(
            transaction=posting.transaction,
            time=iso(posting.time),
            holder=posting.holder,
            asset=posting.asset,
            amount=self.text(posting.asset, posting.amount),
            balance=self.text(posting.asset, posting.balance),
            kind=posting.kind,
            reference=posting.reference,
        )


def note(text: str) -> str:
    """Check the note of a transaction. Raises `ServiceError` unless it can be displayed."""
    if len(text) > MAX_NOTE or not text.isprintable():
        status = 422 if len(text) <= MAX_NOTE else 400
        detail = f"a note has at most {MAX_NOTE} printable characters"
        raise ServiceError(status, "bad_note", detail, pointer="/note")
    return text
