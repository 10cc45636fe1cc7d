"""Balances by holder and asset, and the amounts that open orders hold of an account's balance.

Holders are accounts, other nodes (peers), the fee income, and the outside world. A balance keeps its
holder's name as a string, because every posting carries the name and a trade should not format strings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from exchange.model.commands import HOUSE, SUSPENSE

ACCOUNT = "account:"  # and the account's number
PEER = "peer:"  # and the node's id
FEES = "fees"
OUTSIDE = "outside"


class LedgerError(Exception):
    """A broken invariant: the books do not add up, or stored balances cannot come from a ledger."""


class HolderBalance:
    """Amount that the node owes one holder in one asset. Units."""

    __slots__ = ("asset", "balance", "holder")

    def __init__(self, holder: str, asset: str) -> None:
        self.holder = holder
        self.asset = asset
        self.balance = 0


class AccountBalance(HolderBalance):
    """Balance of an account, with the amounts that its open orders hold."""

    __slots__ = ("held", "holds", "key")

    def __init__(self, account: int, asset: str) -> None:
        super().__init__(f"{ACCOUNT}{account}", asset)
        self.key = (account, asset)
        self.held = 0  # the sum of `holds`
        self.holds: dict[int, int] = {}  # order -> amount

    def check(self) -> None:
        """Check that the holds add up and that the balance covers them.

        Raises:
            LedgerError: they do not.
        """
        total = sum(self.holds.values())
        if total != self.held:
            raise LedgerError(
                f"{self.holder}: its orders hold {total} units of {self.asset}, not {self.held}"
            )
        if self.key[0] not in (HOUSE, SUSPENSE) and not 0 <= total <= self.balance:
            raise LedgerError(
                f"{self.holder}: {total} units of {self.asset} are held of {self.balance}"
            )


class PeerBalance(HolderBalance):
    """Balance of another node: negative, if it owes."""

    __slots__ = ()


class BalanceTable:
    """All balances of a node. Methods named after a kind of holder create the balance if it is missing."""

    def __init__(self) -> None:
        self.accounts: dict[int, dict[str, AccountBalance]] = {}
        self.peers: dict[str, dict[str, PeerBalance]] = {}
        self.owed: Counter[str] = Counter()  # by all peers; asset -> amount
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
            holding = AccountBalance(account, asset)
            self.accounts.setdefault(account, {})[asset] = holding
            return holding

    def peer(self, peer: str, asset: str) -> PeerBalance:
        try:
            return self.peers[peer][asset]
        except KeyError:
            holding = PeerBalance(PEER + peer, asset)
            self.peers.setdefault(peer, {})[asset] = holding
            return holding

    def fees(self, asset: str) -> HolderBalance:
        return self._fees.get(asset) or self._fees.setdefault(asset, HolderBalance(FEES, asset))

    def outside(self, asset: str) -> HolderBalance:
        return self._outside.get(asset) or self._outside.setdefault(
            asset, HolderBalance(OUTSIDE, asset)
        )

    def owe(self, holding: HolderBalance, change: int) -> None:
        """Note a change of a peer's balance."""
        now = holding.balance
        self.owed[holding.asset] += max(0, -now) - max(0, change - now)

    def restore(self, holder: str, asset: str, balance: int) -> None:
        """Set a stored balance. Raises as `find` does."""
        holding = self.named(holder, asset)
        change, holding.balance = balance - holding.balance, balance
        if type(holding) is PeerBalance:
            self.owe(holding, change)

    def find(self, holder: str, asset: str) -> HolderBalance | None:
        """Return an existing balance, or None.

        Raises:
            LedgerError: `holder` is not the name of a holder.
        """
        if holder == FEES:
            return self._fees.get(asset)
        if holder == OUTSIDE:
            return self._outside.get(asset)
        if holder.startswith(PEER):
            return self.peers.get(holder.removeprefix(PEER), {}).get(asset)
        return self.accounts.get(_account_number(holder), {}).get(asset)

    def named(self, holder: str, asset: str) -> HolderBalance:
        """Return a balance by its holder's name; create it if it is missing. Raises as `find` does."""
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
        raise LedgerError(f"{holder!r} is not the name of a holder of balances")
    return int(number)
