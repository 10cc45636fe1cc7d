"""Operations of the node's operator: accounts, their keys and money, and halts of markets.

Takes and returns texts. Changes return when they are durable.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import msgspec

from exchange.engine.engine import Engine
from exchange.ledger.accounts import AccountError
from exchange.model.commands import HOUSE, SUSPENSE, Selection
from exchange.model.decimals import plain
from exchange.model.records import Account, ApiKey
from node.service.account_trading import AccountTrading
from node.service.amounts import Amounts, note
from node.service.committer import Committer
from node.service.market_steps import MarketSteps
from node.service.position_service import PositionService
from node.service.refusals import refusals, status_of
from node.service.trading import Span
from node.views.account_views import (
    MAX_REASON,
    AccountChange,
    AccountRequest,
    AccountView,
    ChangedAccountView,
    FeesView,
    HaltView,
    KeyRequest,
    KeyView,
    MarketStepsView,
    MoneyRequest,
    NewKeyView,
    PostingView,
    TransferView,
)
from node.views.order_mapping import OrderMapping
from node.views.timestamps import iso
from node.views.views import BalanceView, OrderView, ServiceError

KEY_BYTES: Final = 16  # as hex: a word on a command line must not begin with a dash
SECRET_BYTES: Final = 32


class OperatorService:
    """See the module's docstring. `clock` is the engine's."""

    def __init__(
        self,
        engine: Engine,
        texts: OrderMapping,
        trading: AccountTrading,
        committer: Committer,
        clock: Callable[[], float],
        steps: MarketSteps,
    ) -> None:
        self._engine = engine
        self._accounts = engine.accounts
        self._ledger = engine.ledger
        self._texts = texts
        self._trading = trading
        self._committer = committer
        self._clock = clock
        self._steps = steps
        self.money = Amounts(engine.ledger.decimals)
        self.positions = PositionService(engine, self.money, committer, clock)

    # Accounts

    def account(self, name: str) -> Account:
        """An account by its name or number."""
        found = self._accounts.by_name(name)
        if found is None and name.isascii() and name.isdigit() and len(name) <= 12:
            found = self._accounts.get(int(name))
        if found is None:
            raise ServiceError(
                404,
                "unknown_account",
                f"unknown account {name[:40]!r}; 'exchange-node account list' lists them, "
                "'exchange-node account create NAME' makes one",
            )
        return found

    def accounts(self) -> list[AccountView]:
        return [_account_view(account) for account in self._accounts.all()]

    def show(self, name: str) -> AccountView:
        return _account_view(self.account(name))

    async def create(self, request: AccountRequest) -> AccountView:
        if request.name.isdigit():
            raise ServiceError(
                400,
                "bad_name",
                f"{request.name[:40]!r} would be taken for an account's number; put a letter into it",
                pointer="/name",
            )
        limits = {
            name: value
            for name in ("max_open_orders", "orders_per_minute")
            if (value := getattr(request, name)) is not None
        }
        with _refusals():
            account = self._accounts.create(self._now(), request.name, **limits)
        await self._committer.durable()
        return _account_view(account)

    async def change(self, name: str, request: AccountChange) -> ChangedAccountView:
        account = self.account(name)
        cancelled = 0
        with _refusals():  # limits first: they may be refused when nothing has changed yet
            if request.max_open_orders is not None or request.orders_per_minute is not None:
                self._accounts.set_limits(
                    account.number,
                    max_open_orders=request.max_open_orders,
                    orders_per_minute=request.orders_per_minute,
                )
            if request.frozen:
                cancelled = len(self._engine.orders.freeze(self._clock(), account.number))
            elif request.frozen is not None:
                self._accounts.thaw(account.number)
        view = _account_view(self.account(name))
        await self._committer.durable()
        return ChangedAccountView(**msgspec.structs.asdict(view), cancelled_orders=cancelled)

    # Money

    def balances(self, account: int) -> list[BalanceView]:
        return [self.money.balance(balance) for balance in self._trading.balances_of(account)]

    async def deposit(self, name: str, request: MoneyRequest) -> TransferView:
        account, asset = self.account(name), self.money.asset(request.asset)
        amount = self.money.amount(asset, request.amount)
        with self.money.refusals(f"account {account.name}"):
            transaction = self._ledger.deposit(
                self._now(), account.number, asset, amount, note(request.note)
            )
        return await self._transferred(transaction, account, asset, amount)

    async def withdraw(self, name: str, request: MoneyRequest) -> TransferView:
        account, asset = self.account(name), self.money.asset(request.asset)
        amount = self.money.amount(asset, request.amount)
        if account.frozen and account.number != SUSPENSE:
            raise ServiceError(
                403,
                "account_frozen",
                f"account {account.name} is frozen and cannot withdraw; thaw it first with: "
                f"exchange-node account thaw {account.name}",
            )
        with self.money.refusals(f"account {account.name}"):
            transaction = self._ledger.withdraw(
                self._now(), account.number, asset, amount, note(request.note)
            )
        return await self._transferred(transaction, account, asset, -amount)

    async def _transferred(
        self, transaction: int, account: Account, asset: str, amount: int
    ) -> TransferView:
        total, held = self._ledger.holdings(account.number).get(asset, (0, 0))
        await self._committer.durable()
        return TransferView(
            transaction=transaction,
            account=account.number,
            asset=asset,
            amount=self.money.text(asset, amount),
            balance=self.money.text(asset, total),
            available=self.money.text(asset, total - held),
        )

    async def postings(
        self, holder: str, span: Span, *, asset: str | None = None
    ) -> list[PostingView]:
        """A holder's lines of the ledger. `holder` is account:NAME or account:NUMBER, peer:NODE, fees
        or outside."""
        if asset is not None:
            asset = self.money.asset(asset)
        found = await self._trading.postings_of(self._holder(holder), span, asset=asset)
        return [self.money.posting(posting) for posting in found]

    def _holder(self, text: str) -> str:
        kind, _, name = text.partition(":")
        if kind == "account" and name:
            return f"account:{self.account(name).number}"
        if kind == "peer" and name:
            return f"peer:{self.positions.peer(name)}"
        if text in ("fees", "outside"):
            return text
        raise ServiceError(
            400,
            "bad_holder",
            f"{text[:40]!r} is not a holder; expected account:NAME, peer:NODE, fees or outside",
            parameter="holder",
        )

    def fees(self, account: int) -> list[FeesView]:
        """Fees of the account by market. The house pays nothing."""
        return [
            FeesView(
                market=instrument.symbol,
                maker_fee="0" if account == HOUSE else plain(instrument.maker_ppm, 6),
                taker_fee="0" if account == HOUSE else plain(instrument.taker_ppm, 6),
            )
            for instrument in self._texts.by_key.values()
        ]

    # Keys

    def keys(self, name: str) -> list[KeyView]:
        return [_key_view(key) for key in self._accounts.keys_of(self.account(name).number)]

    async def create_key(self, name: str, request: KeyRequest) -> NewKeyView:
        account = self.account(name)
        with _refusals():
            key = self._accounts.create_key(
                self._now(),
                account.number,
                frozenset(request.permissions),
                request.label,
                secrets.token_hex(KEY_BYTES),
                secrets.token_urlsafe(SECRET_BYTES),
            )
        await self._committer.durable()
        return NewKeyView(**msgspec.structs.asdict(_key_view(key)), secret=key.secret)

    async def revoke_key(self, key: str) -> KeyView:
        with _refusals():
            revoked = self._accounts.revoke(self._now(), key)
        await self._committer.durable()
        return _key_view(revoked)

    # Markets

    def halts(self) -> list[HaltView]:
        return [self._halt_view(key) for key in self._texts.by_key]

    async def halt(self, market: str, reason: str) -> HaltView:
        key = self._texts.instrument(market).key
        if not (0 < len(reason) <= MAX_REASON and reason.isprintable()):
            status = 422 if 0 < len(reason) <= MAX_REASON else 400
            detail = f"a reason has 1 to {MAX_REASON} printable characters"
            raise ServiceError(status, "bad_reason", detail, pointer="/reason")
        with refusals():
            self._engine.orders.halt(key, reason)
        await self._committer.durable()
        return self._halt_view(key)

    async def resume(self, market: str) -> HaltView:
        key = self._texts.instrument(market).key
        with refusals():
            resumed = self._engine.orders.resume_market(self._clock(), key)
        if not resumed:
            raise ServiceError(409, "not_halted", f"{self._texts.by_key[key].symbol} is not halted")
        await self._committer.durable()
        return self._halt_view(key)

    def market_steps(self) -> list[MarketStepsView]:
        return self._steps.views()

    async def change_market_steps(self, market: str) -> list[OrderView]:
        """Halt the market, cancel its open orders, and record the configured steps for the next start.

        Returns:
            The orders that were cancelled.

        Raises:
            ServiceError: the steps are the configured ones, or other nodes have not answered yet.
        """
        instrument = self._texts.instrument(market)
        symbol, key = instrument.symbol, instrument.key
        view = self._steps.view(symbol)
        if (view.tick, view.lot) == (view.configured_tick, view.configured_lot):
            raise ServiceError(
                409,
                "same_steps",
                f"{symbol} has the configured steps of {view.tick} and {view.lot} already: others are "
                "configured by INSTRUMENTS_FILE",
            )
        await self.halt(market, "its price and quantity steps change at the next start")
        numbers = {
            order.number for order in self._engine.order_store.open.values() if order.market == key
        }
        accounts = {account.number for account in self._accounts.all()} | {HOUSE}
        cancelled = [
            order
            for account in sorted(accounts)
            for order in await self._trading.cancel_many(
                Selection(account=account, market=key), reason="steps_changed"
            )
        ]
        pending = sum(
            order.market == key and order.pending > 0
            for order in self._engine.order_store.open.values()
        )
        if pending:
            raise ServiceError(
                409,
                "takes_pending",
                f"{pending} open orders of {symbol} await answers of other nodes, which may be fills. The market "
                "is halted and its other orders are cancelled: try again in some seconds, or go on in the present "
                f"steps with 'exchange-node market resume {symbol}'",
            )
        self._steps.change(symbol)
        return [self._texts.order(order) for order in cancelled if order.number in numbers]

    def _halt_view(self, key: str) -> HaltView:
        reason = self._engine.halts.reason(key)
        symbol = self._texts.by_key[key].symbol
        return HaltView(market=symbol, halted=reason is not None, reason=reason or "")

    def _now(self) -> int:
        return self._engine.us(self._clock())


@contextmanager
def _refusals() -> Iterator[None]:
    """Translate refusals of the account registry into refusals of the API."""
    try:
        yield
    except AccountError as error:
        code = "bad_label" if error.code == "bad_key" else error.code
        detail = error.detail[:1].lower() + error.detail[1:].rstrip(".")
        raise ServiceError(status_of(code), code, detail) from None


def _account_view(account: Account) -> AccountView:
    return AccountView(
        number=account.number,
        name=account.name,
        created=iso(account.created) if account.created else None,
        frozen=account.frozen,
        max_open_orders=account.max_open_orders,
        orders_per_minute=account.orders_per_minute,
    )


def _key_view(key: ApiKey) -> KeyView:
    return KeyView(
        key=key.key,
        account=key.account,
        permissions=sorted(key.permissions),
        label=key.label,
        created=iso(key.created),
        revoked=iso(key.revoked) if key.revoked else None,
    )
