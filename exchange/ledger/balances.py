"""Balances by holder and asset, and what of an account's is held for its orders.

A purse keeps its holder's name, which goes into every posting, so that a trade makes no texts.
"""

from __future__ import annotations

from collections.abc import Iterator

from exchange.model.commands import HOUSE

ACCOUNT = "account:"  # and the account's number
PEER = "peer:"  # and the node's id
FEES = "fees"
OUTSIDE = "outside"


class LedgerError(Exception):
    """The books do not add up, or what was stored is not of a ledger. Never expected."""


class HolderBalance:
    """What the node owes one holder in one asset."""

    __slots__ = ("asset", "balance", "holder")

    def __init__(self, holder: str, asset: str) -> None:
        self.holder = holder
        self.asset = asset
        self.balance = 0


class AccountBalance(HolderBalance):
    """An account's, with what its open orders hold of it."""

    __slots__ = ("held", "holds", "key")

    def __init__(self, account: int, asset: str) -> None:
        super().__init__(f"{ACCOUNT}{account}", asset)
        self.key = (account, asset)
        self.held = 0  # the sum of `holds`
        self.holds: dict[int, int] = {}  # order -> amount

    def check(self) -> None:
        """LedgerError unless the holds add up and the balance covers them."""
        total = sum(self.holds.values())
        if total != self.held:
            raise LedgerError(
                f"{self.holder}: its orders hold {total} units of {self.asset}, not {self.held}"
            )
        if self.key[0] != HOUSE and not 0 <= total <= self.balance:
            raise LedgerError(
                f"{self.holder}: {total} units of {self.asset} are held of {self.balance}"
            )


class BalanceTable:
    """All purses of a node. Those that are asked for with a method named for a holder are made when
    there are none."""

    def __init__(self) -> None:
        self.accounts: dict[int, dict[str, AccountBalance]] = {}
        self.peers: dict[str, dict[str, HolderBalance]] = {}
        self._fees: dict[str, HolderBalance] = {}
        self._outside: dict[str, HolderBalance] = {}

    def __iter__(self) -> Iterator[HolderBalance]:
        for accounts in self.accounts.values():
            yield from accounts.values()
        for peers in self.peers.values():
            yield from peers.values()
        yield from self._fees.values()
        yield from self._outside.values()

    def account(self, account: int, asset: str) -> AccountBalance:
        try:
            return self.accounts[account][asset]
        except KeyError:
            purse = AccountBalance(account, asset)
            self.accounts.setdefault(account, {})[asset] = purse
            return purse

    def peer(self, peer: str, asset: str) -> HolderBalance:
        try:
            return self.peers[peer][asset]
        except KeyError:
            purse = HolderBalance(PEER + peer, asset)
            self.peers.setdefault(peer, {})[asset] = purse
            return purse

    def fees(self, asset: str) -> HolderBalance:
        return self._fees.get(asset) or self._fees.setdefault(asset, HolderBalance(FEES, asset))

    def outside(self, asset: str) -> HolderBalance:
        return self._outside.get(asset) or self._outside.setdefault(
            asset, HolderBalance(OUTSIDE, asset)
        )

    def find(self, holder: str, asset: str) -> HolderBalance | None:
        """LedgerError for what is no holder's name."""
        if holder == FEES:
            return self._fees.get(asset)
        if holder == OUTSIDE:
            return self._outside.get(asset)
        if holder.startswith(PEER):
            return self.peers.get(holder.removeprefix(PEER), {}).get(asset)
        return self.accounts.get(_account_number(holder), {}).get(asset)

    def named(self, holder: str, asset: str) -> HolderBalance:
        """As `find`, and made when there is none."""
        if holder == FEES:
            return self.fees(asset)
        if holder == OUTSIDE:
            return self.outside(asset)
        if holder.startswith(PEER):
            return self.peer(holder.removeprefix(PEER), asset)
        return self.account(_account_number(holder), asset)


def _account_number(holder: str) -> int:
    number = holder.removeprefix(ACCOUNT)
    if holder != f"{ACCOUNT}{number}" or not (number.isascii() and number.isdigit()):
        raise LedgerError(f"{holder!r} is no holder of a ledger")
    return int(number)
