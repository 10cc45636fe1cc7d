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


async def test_the_body_is_signed_as_it_came(exchange: Exchange) -> None:
    key = exchange.key()
    for raw in (b"", b"{}", b"{ }", b'{"a": 1.50, "b":[ ]}', b"  "):
        answer = await exchange.post(key, "r/wallets", raw=raw)
        assert (answer.status, answer.json) == (200, [])
    headers = key.headers(PATH, b'{"a":1}')
    assert await refused(exchange, headers, b'{"a": 1}') == (10100, "apikey: digest invalid")


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


def test_the_payload_of_an_event_is_bound_to_its_nonce() -> None:
    guard, key = gate()

    def enter(**more: object) -> KeySession:
        return guard.of_event(key.event(**more), secure=True, remote="")

    def signed(payload: str, nonce: object) -> KeySession:
        return enter(authNonce=nonce, authPayload=payload, authSig=key.sign(payload.encode()))

    assert enter() == KeySession(BOB, READ, "the-key-of-bob-01")
    assert signed("AUTH100100", "100") == KeySession(
        BOB, READ, "the-key-of-bob-01"
    )  # bitfinex-api-node writes it twice
    assert signed("AUTH101", "101") == KeySession(BOB, READ, "the-key-of-bob-01")
    for payload, nonce in (("AUTH1", 5000), ("AUTH", ""), ("AUTHx", "x"), ("AUTH5", 5.0)):
        with pytest.raises(BitfinexError):
            signed(payload, nonce)
    for more in ({"authSig": None}, {"apiKey": 7}, {"authPayload": ["AUTH1"]}, {"authNonce": None}):
        with pytest.raises(BitfinexError):
            enter(**more)
