"""Reads from the own nodes of a desk, side by side, and their exact sums.

Failures of a node are part of each answer (`DeskNodeView.code`):

    no_node      nothing answers, or what answers is no node
    bad_address  its address is none
    wrong_node   another node answers at its address
    same_node    it is a node that the profile names before
    untrusted    its certificate is not trusted
    key_file     its key file cannot be used
    others       the code with which the node refused
"""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

from exchange.ledger.statements import text_of, units
from node.annexes.desk.desk_profile import DeskNode
from node.annexes.desk.desk_views import (
    DeskBalance,
    DeskBalancesView,
    DeskFill,
    DeskNodeBalance,
    DeskNodeObligations,
    DeskNodeView,
    DeskObligation,
    DeskObligationsView,
    DeskOrder,
    DeskOrdersView,
    DeskStatus,
    DeskStatusView,
    DeskTradesView,
)
from node.client.credentials import parse_key, read_text
from node.client.exchange_client import (
    ApiError,
    ClientError,
    ExchangeClient,
    PooledTransport,
    UntrustedNode,
)
from node.client.node_finder import FoundNode, NoNode, find
from node.client.server_trust import Trust
from node.views.account_views import ObligationView
from node.views.views import BalanceView, FillView

T = TypeVar("T")
Credentials = tuple[str, str]  # key and secret

MAX_KEY_FILE: Final = 4096  # bytes
TIMEOUT: Final = 10.0  # seconds for each node
MAX_AT_ONCE: Final = 8  # nodes that are asked side by side


class _Failure(Exception):
    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class _Answers(Generic[T]):
    nodes: list[DeskNodeView]
    found: list[tuple[str, T]]  # by name, in the order of the profile

    def own(self) -> set[str]:
        return {node.node_id for node in self.nodes if node.node_id is not None}


class DeskReader:
    """A desk, as in `node.annexes.desk.desk.Desk`."""

    def __init__(
        self,
        nodes: Callable[[], Sequence[DeskNode]],
        *,
        key: Credentials | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        """`nodes` is called for each reading. `key` is for nodes without a key file; without it those of this
        machine are asked as their operator. `timeout`: seconds for each node.
        """
        self._nodes = nodes
        self._key = key
        self._timeout = timeout
        self._ids: dict[str, str] = {}  # of nodes at addresses, by URL

    async def status(self) -> DeskStatusView:
        answers = await self._ask(lambda client: client.status())
        rows = [DeskStatus(node=name, status=view) for name, view in answers.found]
        return DeskStatusView(nodes=answers.nodes, status=rows)

    async def balances(self, *, account: str | None = None) -> DeskBalancesView:
        answers = await self._ask(lambda client: client.balances(account=account))
        rows = [
            DeskNodeBalance(node=name, balance=view)
            for name, views in answers.found
            for view in views
        ]
        totals = sum_balances(row.balance for row in rows)
        return DeskBalancesView(nodes=answers.nodes, balances=rows, totals=totals)

    async def orders(
        self,
        *,
        market: str | None = None,
        open_only: bool = True,
        limit: int = 100,
        account: str | None = None,
    ) -> DeskOrdersView:
        answers = await self._ask(
            lambda client: client.orders(
                market=market, open_only=open_only, limit=limit, account=account
            )
        )
        rows = [DeskOrder(node=name, order=view) for name, views in answers.found for view in views]
        rows.sort(key=lambda row: row.order.created, reverse=True)
        return DeskOrdersView(nodes=answers.nodes, orders=rows)

    async def trades(
        self, *, market: str | None = None, limit: int = 100, account: str | None = None
    ) -> DeskTradesView:
        answers = await self._ask(
            lambda client: client.fills(market=market, limit=limit, account=account)
        )
        pairs = [(name, fill) for name, fills in answers.found for fill in fills]
        return DeskTradesView(nodes=answers.nodes, trades=join_fills(pairs, answers.own()))

    async def obligations(self) -> DeskObligationsView:
        answers = await self._ask(lambda client: client.obligations())
        views = [view for _, each in answers.found for view in each]
        outside, inside = net_obligations(views, answers.own())
        by_node = [DeskNodeObligations(node=name, obligations=each) for name, each in answers.found]
        return DeskObligationsView(
            nodes=answers.nodes, obligations=outside, own=inside, by_node=by_node
        )

    async def _ask(self, work: Callable[[ExchangeClient], Awaitable[T]]) -> _Answers[T]:
        nodes = self._nodes()
        turn = asyncio.Semaphore(MAX_AT_ONCE)

        async def ask(node: DeskNode) -> tuple[str, T] | _Failure:
            async with turn:
                try:
                    return await self._ask_one(node, work)
                except _Failure as failure:
                    return failure

        answers: _Answers[T] = _Answers([], [])
        names: dict[str, str] = {}  # by node id
        for node, answer in zip(nodes, await asyncio.gather(*map(ask, nodes)), strict=True):
            if not isinstance(answer, _Failure) and answer[0] in names:
                text = f"is the same node as {names[answer[0]]}; name each node once"
                answer = _Failure("same_node", text)
            if isinstance(answer, _Failure):
                view = DeskNodeView(
                    name=node.name, node_id=None, code=answer.code, error=str(answer)
                )
            else:
                node_id, found = answer
                if node_id:
                    names[node_id] = node.name
                view = DeskNodeView(name=node.name, node_id=node_id or None, code=None, error=None)
                answers.found.append((node.name, found))
            answers.nodes.append(view)
        return answers

    async def _ask_one(
        self, node: DeskNode, work: Callable[[ExchangeClient], Awaitable[T]]
    ) -> tuple[str, T]:
        """Return the node's id, empty if its key does not see it, and the answer."""
        try:
            found = find(node.data_dir, node.api)
        except NoNode as error:
            raise _Failure("no_node", str(error)) from None
        except ValueError as error:
            raise _Failure("bad_address", str(error)) from None
        key, secret = self._credentials(node, found)
        node_id = found.node_id or self._ids.get(found.url)
        client = ExchangeClient(
            found.url,
            key=key,
            secret=secret,
            node_id=node_id,
            transport=PooledTransport(self._timeout, trust=_trust(node, found)),
        )
        try:
            async with asyncio.timeout(2 * self._timeout), client:
                if node_id is None and (node_id := await _id_of(client)):
                    self._ids[found.url] = node_id
                return node_id or "", await work(client)
        except ApiError as error:
            if error.code == "wrong_node":
                self._ids.pop(found.url, None)
            raise _Failure(error.code, f"{error.detail} ({error.code})") from None
        except UntrustedNode as error:
            text = f"{error}; name the node's certificate as ca_file in the profile"
            raise _Failure("untrusted", text) from None
        except ClientError as error:
            hint = found.hint() if node.api is None else "is its address right, and is it running?"
            raise _Failure("no_node", f"{error}; {hint}") from None
        except TimeoutError:
            text = f"{found.url} answered too slowly"
            raise _Failure("no_node", text) from None

    def _credentials(self, node: DeskNode, found: FoundNode) -> tuple[str | None, str | None]:
        if node.key_file is not None:
            return _read_key(node.key_file)
        if self._key is not None:
            return self._key
        return ("operator", found.operator_token) if found.operator_token else (None, None)


async def _id_of(client: ExchangeClient) -> str:
    try:
        return (await client.status()).node_id
    except ApiError as error:
        if error.code != "operator_only":
            raise
        return ""  # the key of an account does not see it


def _trust(node: DeskNode, found: FoundNode) -> Trust:
    if node.ca_file is None:
        return Trust(fingerprint=found.fingerprint)
    trust = Trust(ca_file=node.ca_file)
    try:
        trust.context()
    except (OSError, ValueError):
        text = f"{node.ca_file} is no certificate in PEM form"
        raise _Failure("untrusted", text) from None
    return trust


def _read_key(path: Path) -> Credentials:
    try:
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            text = f"{path} can be read by others; run: chmod 600 {path}"
            raise _Failure("key_file", text)
        return parse_key(read_text(path, MAX_KEY_FILE))
    except OSError as error:
        text = f"cannot read {path}: {error.strerror or error}"
        raise _Failure("key_file", text) from None
    except ValueError as error:  # without the key
        text = f"{path} must contain KEY:SECRET, as 'account keys create' prints it; it {error}"
        raise _Failure("key_file", text) from None


def sum_balances(views: Iterable[BalanceView]) -> list[DeskBalance]:
    """Sum by asset, sorted by its name."""
    sums: dict[str, list[int]] = {}
    for view in views:
        of = sums.setdefault(view.asset, [0, 0, 0])
        for place, amount in enumerate((view.total, view.held, view.available)):
            of[place] += units(amount)
    return [
        DeskBalance(
            asset=asset, total=text_of(total), held=text_of(held), available=text_of(available)
        )
        for asset, (total, held, available) in sorted(sums.items())
    ]


def net_obligations(
    views: Iterable[ObligationView], own: Collection[str]
) -> tuple[list[DeskObligation], list[DeskObligation]]:
    """Net the payments by peer and asset; those among own nodes (`own`: their ids) apart.

    Returns:
        With nodes outside, and among own nodes. The latter are zero where both nodes agree.
    """
    nets: dict[tuple[str, str], int] = {}
    for view in views:
        amount = units(view.amount)
        name = view.peer, view.asset
        nets[name] = nets.get(name, 0) + (amount if view.direction == "collect" else -amount)
    outside: list[DeskObligation] = []
    inside: dict[str, int] = {}
    for (peer, asset), net in sorted(nets.items()):
        if peer in own:
            inside[asset] = inside.get(asset, 0) + net
        elif net:
            outside.append(DeskObligation(peer=peer, asset=asset, net=text_of(net)))
    return outside, [
        DeskObligation(peer="", asset=asset, net=text_of(net))
        for asset, net in sorted(inside.items())
    ]


def join_fills(fills: Iterable[tuple[str, FillView]], own: Collection[str]) -> list[DeskFill]:
    """Join fills of several nodes, newest first. `fills`: pairs of a node's name and its fill."""
    joined: dict[tuple[str, str, str], DeskFill] = {}
    for node, fill in fills:
        internal = fill.counterparty in own
        # Both sides of a trade have one id; an order that meets its own node has both there.
        key = (fill.id, "", "") if internal else (fill.id, node, fill.order_id)
        known = joined.get(key)
        if known is None or fill.role == "taker":
            joined[key] = DeskFill(node=node, internal=internal, fill=fill)
    return sorted(joined.values(), key=lambda each: each.fill.time, reverse=True)
