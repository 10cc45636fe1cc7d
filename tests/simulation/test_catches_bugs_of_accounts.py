"""Deliberate bugs in payments between nodes, statements, frozen accounts and keys.

See test_catches_bugs.py, which has those of orders, takes, feeds and the ledger.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from exchange.engine import order_manager
from exchange.ledger import accounts, ledger
from exchange.model.records import ApiKey, PutNonce
from exchange.orders import fills, order_validation
from tests.simulation import disk
from tests.simulation.runner import run_one

HUNT = range(128)  # accounts are frozen in a third of the runs only

Patch = pytest.MonkeyPatch
Bug = Callable[[Patch], None]


# Payments


def pays_twice(patch: Patch) -> None:
    """A payment is written down a second time."""
    settle = ledger.Ledger.settle

    def twice(self: Any, *args: Any) -> int:
        settle(self, *args)
        return settle(self, *args)

    patch.setattr(ledger.Ledger, "settle", twice)


def pays_again_at_the_start(patch: Patch) -> None:
    """A restart posts the last payment of the journal once more."""
    recover = disk.MemoryDisk.recover

    def again(self: Any) -> Any:
        recovered = recover(self)
        last = [posting for posting in self.postings() if posting.kind == "settlement"][-2:]
        for posting in last:
            recovered.balances[posting.holder, posting.asset] += posting.amount
        return recovered

    patch.setattr(disk.MemoryDisk, "recover", again)


def takes_paid_for_received(patch: Patch) -> None:
    """A payment by a node is recorded as a payment to it."""
    settle = ledger.Ledger.settle

    def wrongly(self: Any, time: int, peer: str, asset: str, amount: int, note: str) -> int:
        return settle(self, time, peer, asset, abs(amount), note)

    patch.setattr(ledger.Ledger, "settle", wrongly)


def does_not_write_payments(patch: Patch) -> None:
    """A payment changes the balance, and is not in the journal."""
    settle = ledger.Ledger.settle

    def unwritten(self: Any, *args: Any) -> int:
        before = len(self.records)
        number = settle(self, *args)
        del self.records[before:]
        return number

    patch.setattr(ledger.Ledger, "settle", unwritten)


# Statements


def goes_by_its_own_clock(patch: Patch) -> None:
    """The taker of a trade writes down when it heard of it, not when it was."""
    taker_fill = fills.FillRecorder.taker_fill

    def later(self: Any, now: float, order: Any, **fill: Any) -> None:
        taker_fill(self, now, order, **{**fill, "time": self._context.us(now)})

    patch.setattr(fills.FillRecorder, "taker_fill", later)


# Frozen accounts


def thaws_at_the_start(patch: Patch) -> None:
    """A restarted node knows its accounts, and not that they are frozen."""
    restore = accounts.Accounts.restore

    def thawed(self: Any, known: Any, *args: Any) -> None:
        restore(self, [msgspec.structs.replace(each, frozen=False) for each in known], *args)

    patch.setattr(accounts.Accounts, "restore", thawed)


def does_not_write_freezes(patch: Patch) -> None:
    """Freezes are not in the journal."""

    def unwritten(self: Any, number: int) -> Any:
        account = msgspec.structs.replace(self._known(number), frozen=True)
        self._keep(account)
        return account

    patch.setattr(accounts.Accounts, "freeze", unwritten)


def leaves_the_orders_of_the_frozen(patch: Patch) -> None:
    """The open orders of an account that is frozen stay in the book."""
    patch.setattr(
        order_manager.OrderManager,
        "freeze",
        lambda self, now, number: self._context.accounts.freeze(number),
    )


def lets_the_frozen_trade(patch: Patch) -> None:
    """Orders of frozen accounts are accepted."""
    patch.setattr(
        order_validation.OrderValidation,
        "check_active",
        lambda self, number: self._context.accounts.by_number[number],
    )


# Keys


def _keeps_out(patch: Patch, name: str, kind: type[Any]) -> None:
    """A method of `Accounts` does what it does, and its records of this kind are not written."""
    method = getattr(accounts.Accounts, name)

    def quiet(self: Any, *args: Any) -> Any:
        result = method(self, *args)
        self.records[:] = [record for record in self.records if not isinstance(record, kind)]
        return result

    patch.setattr(accounts.Accounts, name, quiet)


def does_not_write_nonces(patch: Patch) -> None:
    """Used nonces are not in the journal."""
    _keeps_out(patch, "authenticate", PutNonce)


def does_not_write_revocations(patch: Patch) -> None:
    """Revocations of keys are not in the journal."""
    _keeps_out(patch, "revoke", ApiKey)


def does_not_write_keys(patch: Patch) -> None:
    """A new key is not in the journal."""
    _keeps_out(patch, "create_key", ApiKey)


def takes_a_nonce_again(patch: Patch) -> None:
    """A nonce may be as great as the last one."""
    authenticate = accounts.Accounts.authenticate

    def generous(self: Any, key: str, nonce: int, *args: Any) -> Any:
        used = self._nonces
        kind = (key, len(str(nonce)))
        if used.get(kind) == nonce:
            used[kind] -= 1
        return authenticate(self, key, nonce, *args)

    patch.setattr(accounts.Accounts, "authenticate", generous)


def lets_revoked_keys_in(patch: Patch) -> None:
    """A revoked key is a key."""
    patch.setattr(accounts.Accounts, "_account_of", lambda self, key: self.by_number[key.account])


BUGS: list[tuple[Bug, set[str]]] = [
    (pays_twice, {"balances_follow"}),
    (pays_again_at_the_start, {"money_survives"}),
    (takes_paid_for_received, {"balances_follow"}),
    (does_not_write_payments, {"balances_follow", "sums_to_zero"}),
    (goes_by_its_own_clock, {"statements_agree"}),
    (thaws_at_the_start, {"frozen_stays"}),
    (does_not_write_freezes, {"frozen_stays"}),
    (leaves_the_orders_of_the_frozen, {"frozen_stays"}),
    (lets_the_frozen_trade, {"frozen_stays"}),
    (does_not_write_nonces, {"nonce_stays"}),
    (does_not_write_revocations, {"key_stays"}),
    (does_not_write_keys, {"key_stays"}),
    (takes_a_nonce_again, {"nonce_stays"}),
    (lets_revoked_keys_in, {"key_stays"}),
]

# Seeds that show a bug, where the first that does comes late. If they no longer do, the hunt goes on.
SHOWN_BY = {"leaves_the_orders_of_the_frozen": 36, "lets_the_frozen_trade": 12}


@pytest.mark.parametrize(("bug", "expected"), BUGS, ids=[bug.__name__ for bug, _ in BUGS])
def test_a_bug_is_caught(bug: Bug, expected: set[str], monkeypatch: Patch) -> None:
    bug(monkeypatch)
    seeds = (SHOWN_BY.get(bug.__name__, 0), *HUNT)
    outcomes = (run_one(seed, nasty=True) for seed in seeds)
    outcome = next((o for o in outcomes if o.failed), None)
    assert outcome is not None, f"{bug.__doc__} No seed of {HUNT} shows it."
    assert outcome.failed in expected, f"seed {outcome.seed}: {outcome.failed}: {outcome.detail}"
    assert outcome.tail
