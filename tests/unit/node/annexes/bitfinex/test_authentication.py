"""Admission of signed requests: signatures over the bytes as they came, nonces, permissions, transports."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from bitfinex_kit import BOB, Credentials, Exchange, running_exchange
from market_kit import NOW

from exchange.ledger.accounts import Accounts
from exchange.model.records import Permission
from node.annexes.bitfinex.authentication import KeyAuthenticator, KeySession
from node.annexes.bitfinex.errors import BitfinexError

PATH = "/v2/auth/r/wallets"
READ: frozenset[Permission] = frozenset({"read"})


@pytest.fixture
async def exchange() -> AsyncIterator[Exchange]:
    async with running_exchange() as exchange:
        yield exchange


async def refused(
    exchange: Exchange, headers: dict[str, str], data: bytes = b"{}", path: str = PATH
) -> tuple[int, str]:
    answer = await exchange.send(path, data, headers)
    word, code, text = answer.json
    assert (answer.status, word) == (500, "error")
    return code, text


async def test_unknown_paths_need_a_key_first(exchange: Exchange) -> None:
    path = "/v2/auth/r/nothing"
    assert await refused(exchange, {}, path=path) == (10100, "apikey: invalid")
    answer = await exchange.post(exchange.key(), "r/nothing")
    assert (answer.status, answer.json) == (404, ["error", 10000, "path: unknown"])


async def test_a_body_that_is_no_object_is_refused(exchange: Exchange) -> None:
    key = exchange.key()
    for raw, text in ((b"[]", "body: invalid"), (b"{", "json: invalid"), (b"7", "body: invalid")):
        answer = await exchange.post(key, "r/wallets", raw=raw)
        assert answer.json[1] == 10020
        assert answer.json[2].startswith(text)


async def test_a_body_that_is_too_long_is_refused(exchange: Exchange) -> None:
    answer = await exchange.post(exchange.key(), "r/wallets", raw=b" " * 70_000)
    assert answer.json[1:] == [10020, "body: invalid: it is too long"]


def gate(*, plain_keys: bool = False) -> tuple[KeyAuthenticator, Credentials]:
    accounts = Accounts()
    accounts.create(NOW, "alice")
    accounts.create(NOW, "bob")
    key = Credentials("the-key-of-bob-01", "the-secret-of-bob")
    accounts.create_key(NOW, BOB, frozenset[Permission](("read",)), "", key.key, key.secret)
    return KeyAuthenticator(accounts, plain_keys=plain_keys), key


@pytest.mark.parametrize(
    ("secure", "remote", "plain_keys", "let_in"),
    [
        (False, "127.0.0.1", False, True),
        (False, "::1", False, True),
        (False, "192.168.1.5", False, False),
        (False, "", False, False),
        (True, "192.168.1.5", False, True),
        (False, "192.168.1.5", True, True),
    ],
)
def test_keys_come_over_tls_or_from_this_machine(
    secure: bool, remote: str, plain_keys: bool, let_in: bool
) -> None:
    guard, key = gate(plain_keys=plain_keys)

    def both() -> tuple[KeySession, KeySession]:
        headers = key.headers(PATH, b"")
        return (
            guard.of_request(headers, PATH, b"", secure=secure, remote=remote),
            guard.of_event(key.event(), secure=secure, remote=remote),
        )

    if let_in:
        assert both() == (
            KeySession(BOB, READ, "the-key-of-bob-01"),
            KeySession(BOB, READ, "the-key-of-bob-01"),
        )
    else:
        with pytest.raises(BitfinexError, match="over TLS only") as refused:
            both()
        assert refused.value.code == 10100
