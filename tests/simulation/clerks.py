"""Operators and clients with keys, drawn from a generator of their own: payments between nodes, accounts
frozen and thawed, keys created and revoked, signed requests and copies of them.

Both nodes record a payment. An operator without confirmation that it is durable looks for its note in the
ledger before recording it again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from exchange.model.commands import NewOrder
from node.virtual.server_model import VirtualTime
from tests.simulation.bots import MID
from tests.simulation.clock import Trace
from tests.simulation.invariants import Violation
from tests.simulation.register import Change, Key, Register, let_in
from tests.simulation.settings import Settings
from tests.simulation.simulated_node import Node
from tests.simulation.watch import Watch

AGAIN = 0.7  # seconds between looks at what is to be written down
LABEL = "of a simulation"
DIGITS = (13, 16)  # of nonces that count in milliseconds, and in microseconds


@dataclass(slots=True, eq=False)
class _Line:
    """Half of a payment, on one node. `amount`: positive: the node has paid."""

    node: Node
    peer: str
    asset: str
    amount: Fraction
    note: str
    boot: int = 0  # of its node, when it was last written


class Clerks:
    """`active`: whether there is still to be activity."""

    def __init__(
        self,
        settings: Settings,
        nodes: Sequence[Node],
        clock: VirtualTime,
        trace: Trace,
        watch: Watch,
        active: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._nodes = nodes
        self._clock = clock
        self._trace = trace
        self._watch = watch
        self._active = active
        self._rng = random.Random(f"clerks {settings.seed}")
        self._unwritten: list[_Line] = []
        self.payments = 0
        self.freezes = 0
        self.requests = 0  # signed ones that were let in

    def plan(self) -> None:
        trading, rng = self._settings.trading, self._rng
        plan = [
            *[self._pay] * trading.payments,
            *[self._freeze] * trading.freezes,
            *[self._key] * trading.keys,
        ]
        for action in plan:
            self._clock.at(rng.uniform(0.2, self._settings.duration), action)

    @property
    def done(self) -> bool:
        """Report if every payment is on the disks of both nodes."""
        return not self._unwritten

    def _some(self, *, serving: bool = True) -> Node | None:
        running = [node for node in self._nodes if node.running and (node.serving or not serving)]
        return self._rng.choice(running) if running and self._active() else None

    def _register(self, node: Node) -> Register:
        return self._watch.registers[node.number]

    # Payments

    def _pay(self) -> None:
        """A part of what is open between two nodes, or a little more than all, is paid."""
        node, rng = self._some(), self._rng
        if node is None:
            return
        open_ = [
            (peer, asset, units)
            for peer, amounts in node.engine.ledger.positions().items()
            if peer not in self._watch.hostile
            for asset, units in amounts.items()
        ]
        if not open_:
            return
        peer, asset, units = rng.choice(open_)
        owed = Fraction(units, 10 ** node.operator.decimals(asset))
        step = Fraction(1, 10**8 if self._settings.trading.instruments else 1)
        part = rng.choice((Fraction(1), Fraction(1, 2), Fraction(1, 3), Fraction(5, 4)))
        amount = -(owed * part // step) * step
        if not amount:
            return
        other = self._nodes[self._watch.number_of[peer]]
        self.payments += 1
        note = f"payment {self.payments}"
        for line in (
            _Line(node, peer, asset, amount, note),
            _Line(other, node.node_id, asset, -amount, note),
        ):
            self._unwritten.append(line)
            self._clock.after(rng.uniform(0.0, 2.0), lambda line=line: self._write_down(line))

    def _write_down(self, line: _Line) -> None:
        node = line.node
        books = self._watch.books[node.number]
        if line.note in books.disk.notes:
            self._unwritten.remove(line)
            return
        if node.serving and line.boot != node.boots and not self._waits(line):
            line.boot = node.boots
            units = int(line.amount * 10 ** node.operator.decimals(line.asset))
            books.settled(line.note, line.peer, line.asset, line.amount)
            time = node.engine.us(node.now)
            node.engine.ledger.settle(time, line.peer, line.asset, units, line.note)
            self._trace.note("payment", node.number, line.peer, line.asset, units)
            node.promise(lambda: books.acknowledged(line.note))
        self._clock.after(AGAIN, lambda: self._write_down(line))

    @staticmethod
    def _waits(line: _Line) -> bool:
        """A node with credit limits pays when nothing is under way with the other: its limit holds for
        what it was when it was asked."""
        engine = line.node.engine
        if not engine.ledger.credit or line.amount > 0:
            return False
        kept = engine.orders.decisions.reservations
        return any(take.maker == line.peer for take in engine.orders.takes.pending) or any(
            decision.taker == line.peer for decision in kept
        )

    # Accounts

    def _freeze(self) -> None:
        """Also while the node listens, and then its orders are cancelled later."""
        node, rng = self._some(serving=self._rng.random() < 0.7), self._rng
        if node is None or not node.operator.accounts:
            return
        account = rng.randint(1, node.operator.accounts)
        self.freezes += 1
        self._set_frozen(node, account, frozen=True)

        def thaw() -> None:
            if node.running and self._active():
                self._set_frozen(node, account, frozen=False)

        if rng.random() < 0.7:
            self._clock.after(rng.choice((0.05, 1.0, 4.0)) * rng.uniform(0.5, 1.5), thaw)

    def _set_frozen(self, node: Node, account: int, *, frozen: bool) -> None:
        self._trace.note("freeze" if frozen else "thaw", node.number, account)
        engine, register = node.engine, self._register(node)
        if frozen:
            engine.orders.freeze(node.now, account)
        else:
            engine.accounts.thaw(account)
        orders = [*engine.order_store.open_orders, *engine.order_store.recent.values()]
        most = {o.number: o.filled + o.pending + o.reserved for o in orders if o.account == account}
        change = Change(frozen, most)
        node.promise(register.asked(("frozen", account), False, change))

    # Keys

    def _key(self) -> None:
        node, rng = self._some(), self._rng
        if node is None or not node.operator.accounts:
            return
        register = self._register(node)
        known = [key for key in register.keys if register.now(("key", key.name), "") != "absent"]
        chance = rng.random()
        if chance < 0.15 or not known:
            self._make_key(node, register)
        elif chance < 0.25:
            self._revoke(node, register, rng.choice(known))
        elif chance < 0.85:
            self._sign(node, register, rng.choice(known))
        else:
            self._copy(node, register, rng.choice(known))

    def _make_key(self, node: Node, register: Register) -> None:
        account = self._rng.randint(1, node.operator.accounts)
        key = Key(f"key-{node.number:03d}-{len(register.keys):08d}", account)
        register.keys.append(key)
        self._trace.note("key", node.number, key.name)
        time, may = node.engine.us(node.now), ("read", "trade")
        node.engine.accounts.create_key(time, account, may, LABEL, key.name, key.secret)
        node.promise(register.asked(("key", key.name), "absent", Change("valid")))

    def _revoke(self, node: Node, register: Register, key: Key) -> None:
        self._trace.note("revoke", node.number, key.name)
        node.engine.accounts.revoke(node.engine.us(node.now), key.name)
        node.promise(register.asked(("key", key.name), "absent", Change("revoked")))

    def _sign(self, node: Node, register: Register, key: Key) -> None:
        """An order, with a nonce above all that this client has sent."""
        digits = self._rng.choice(DIGITS)
        nonce = key.sent.get(digits, 2 * 10 ** (digits - 1)) + self._rng.randint(1, 5)
        key.sent[digits] = nonce
        allowed = register.now(("key", key.name), "absent") == "valid"
        if let_in(node.engine, key, nonce) != allowed:
            raise Violation("key_stays", f"node {node.number} and {key}: let in is not {allowed}")
        if not allowed:
            return
        change = Change(nonce)
        told = register.asked(("nonce", key.name, digits), 0, change)
        self.requests += 1
        side = self._rng.choice((1, -1))
        new = NewOrder(
            market=self._rng.choice(node.markets),
            side=side,
            price=MID + self._rng.randint(-self._settings.spread, self._settings.spread),
            quantity=self._rng.randint(1, 20),
            account=key.account,
        )
        if node.place(new):  # a refusal is told at once, and what was refused can come again
            node.promise(told)

    def _copy(self, node: Node, register: Register, key: Key) -> None:
        """Somebody sends a request once more, or one that was overtaken."""
        if not key.sent:
            return
        digits = self._rng.choice(sorted(key.sent))
        last = register.now(("nonce", key.name, digits), 0)
        assert isinstance(last, int)
        nonce = last - self._rng.choice((0, 0, 1, 2))
        if last and let_in(node.engine, key, nonce):
            raise Violation("nonce_stays", f"node {node.number} takes nonce {nonce} of {key} again")
