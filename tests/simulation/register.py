"""Accounts, keys and nonces of one node, as its operator and its clients were told of them.

Until somebody has heard that a change is durable, a crash may take it back, and may not: what is found after
a restart has to be one of the values that are still possible.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Container, Hashable
from dataclasses import dataclass, field
from typing import Literal

from exchange.engine.engine import Engine
from exchange.ledger.accounts import AuthError
from exchange.model.records import Fill, Order
from tests.simulation.invariants import Violation

KeyState = Literal["absent", "valid", "revoked"]


@dataclass(slots=True, eq=False)
class Change:
    """A value that was asked for. `most`: of a freeze, by order, what may be filled of it at most."""

    value: object
    most: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class Key:
    """An API key, and how its client counts: by number of digits, the last nonce it has sent."""

    name: str
    account: int
    sent: dict[int, int] = field(default_factory=dict)

    @property
    def secret(self) -> str:
        return f"secret-of-{self.name}"

    def signature(self, message: bytes) -> str:
        return hmac.digest(self.secret.encode(), message, "sha384").hex()


class Register:
    """See the module. What is asked for is in the node's memory at once."""

    def __init__(self, node: int) -> None:
        self.node = node
        self.keys: list[Key] = []  # that were ever asked for
        self._possible: dict[Hashable, list[Change]] = {}  # the last one is what the memory has

    def asked(self, name: Hashable, before: object, change: Change) -> Callable[[], None]:
        """`change` is made, where `before` was. To be called when its client hears of it."""
        known = self._possible.setdefault(name, [Change(before)])
        known.append(change)

        def told() -> None:
            found = self._possible[name]
            if change in found:  # else something later was told already
                del found[: found.index(change)]

        return told

    def now(self, name: Hashable, otherwise: object) -> object:
        """The value in memory."""
        return self._possible[name][-1].value if name in self._possible else otherwise

    # Freezing

    def frozen(self, account: int) -> bool:
        return bool(self.now(("frozen", account), False))

    def accepted(self, order: Order) -> None:
        """Nothing of a frozen account is traded. Here: it places no orders."""
        if self.frozen(order.account):
            raise Violation(
                "frozen_stays", f"node {self.node}: account is frozen, accepted {order}"
            )

    def traded(self, fill: Fill, filled: int) -> None:
        """Nothing of a frozen account is traded but what others were deciding about at that moment.

        `filled`: all of the order that is filled.
        """
        if not self.frozen(fill.account):
            return
        most = self._possible["frozen", fill.account][-1].most.get(fill.order, 0)
        if filled > most:
            raise Violation(
                "frozen_stays",
                f"node {self.node}: {fill} of a frozen account; {most} of the order were filled or "
                f"under way, {filled} are filled",
            )

    # Restarts

    def started(self, engine: Engine) -> None:
        """Acknowledged commands survive kill -9: freezes, keys, revocations, used nonces."""
        for name, possible in self._possible.items():
            match name:
                case ("frozen", int(number)):
                    account = engine.accounts.get(number)
                    self._found(name, possible, account is not None and account.frozen)
                case ("key", str()):
                    self._found(name, possible, self._state(engine, name[1]))
        for key in self.keys:
            for digits in key.sent:
                self._stays_used(engine, key, digits)

    def _found(self, name: Hashable, possible: list[Change], value: object) -> None:
        same = [change for change in possible if change.value == value]
        if not same:
            values = [change.value for change in possible]
            raise Violation(
                f"{'frozen' if isinstance(value, bool) else 'key'}_stays",
                f"node {self.node} restarts with {name} {value}, possible are {values}",
            )
        most: dict[int, int] = {}
        for change in same:
            for order, quantity in change.most.items():
                most[order] = max(quantity, most.get(order, 0))
        possible[:] = [Change(value, most)]

    def _state(self, engine: Engine, name: str) -> KeyState:
        key = next(key for key in self.keys if key.name == name)
        try:
            engine.accounts.authenticate_bearer(key.name, key.secret)
        except AuthError as error:
            return "revoked" if error.code == "revoked" else "absent"
        return "valid"

    def _stays_used(self, engine: Engine, key: Key, digits: int) -> None:
        name = ("nonce", key.name, digits)
        possible = self._possible.get(name)
        if possible is None:
            return
        used = possible[0].value  # at least this one
        assert isinstance(used, int)
        if used and let_in(engine, key, used):
            raise Violation("nonce_stays", f"node {self.node} takes nonce {used} of {key} again")
        # Whichever of the later ones is on the disk, its client goes on above all of them.
        possible[:] = possible[:1]

    # The end

    def final(self, engine: Engine, hostile: Container[str] = ()) -> None:
        """Nothing of a frozen account is left to trade, or held for it.

        But what it asked of a dishonest owner, who need not say what became of it.
        """
        asked = {take.order for take in engine.orders.takes.pending if take.maker in hostile}
        for account in engine.accounts.all():
            if not self.frozen(account.number):
                continue
            left = engine.order_store.of_account(account.number)
            if asked & {order.number for order in left}:
                continue
            held = {a: h for a, (_, h) in engine.ledger.holdings(account.number).items() if h}
            if left or held:
                raise Violation(
                    "frozen_stays", f"node {self.node}, {account}: {left} are open, {held} held"
                )


def let_in(engine: Engine, key: Key, nonce: int) -> bool:
    """Report if a signed request is admitted; an admitted one uses its nonce."""
    message = b"order %d" % nonce
    try:
        engine.accounts.authenticate(key.name, nonce, message, key.signature(message))
    except AuthError:
        return False
    return True
