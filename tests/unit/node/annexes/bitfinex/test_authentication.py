"""Admission of signed requests: signatures over the bytes as they came, nonces, permissions, transports."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from bitfinex_kit import ALICE, BOB, Credentials, Exchange, running_exchange
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


async def test_the_query_is_not_signed(exchange: Exchange) -> None:
    key = exchange.key()
    assert (await exchange.send(f"{PATH}?x=1", b"", key.headers(PATH, b""))).status == 200


async def test_a_signature_is_for_one_path_and_one_secret(exchange: Exchange) -> None:
    key = exchange.key()
    wrong = (10100, "apikey: digest invalid")
    assert await refused(exchange, key.headers("/v2/auth/r/orders", b"{}")) == wrong
    other = Credentials(key.key, "another-secret-of-it")
    assert await refused(exchange, other.headers(PATH, b"{}")) == wrong
    unknown = Credentials("a-key-nobody-made", key.secret)
    assert await refused(exchange, unknown.headers(PATH, b"{}")) == wrong


async def test_what_is_missing_is_refused(exchange: Exchange) -> None:
    key = exchange.key()
    assert await refused(exchange, {}) == (10100, "apikey: invalid")
    for name in ("bfx-apikey", "bfx-signature"):
        headers = key.headers(PATH, b"{}")
        del headers[name]
        assert await refused(exchange, headers) == (10100, "apikey: invalid")
    headers = key.headers(PATH, b"{}")
    del headers["bfx-nonce"]
    assert await refused(exchange, headers) == (10114, "nonce: invalid")
    for nonce in ("x", "-1", "1.5", "٣", "9" * 20):
        assert (await refused(exchange, key.headers(PATH, b"{}", "1") | {"bfx-nonce": nonce}))[
            0
        ] in (10114, 10100)


async def test_a_nonce_only_grows(exchange: Exchange) -> None:
    key = exchange.key()
    assert (await exchange.send(PATH, b"{}", key.headers(PATH, b"{}", "500"))).status == 200
    for nonce in ("500", "499"):
        said = await refused(exchange, key.headers(PATH, b"{}", nonce))
        assert said == (10114, "nonce: small")
    assert (await exchange.send(PATH, b"{}", key.headers(PATH, b"{}", "501"))).status == 200


async def test_milliseconds_and_microseconds_do_not_hinder_each_other(exchange: Exchange) -> None:
    """ccxt counts in the one, bitfinex-api-py in the other; both may use one key."""
    key = exchange.key()
    for nonce in (NOW, NOW // 1000, NOW + 1, NOW // 1000 + 1):
        headers = key.headers(PATH, b"{}", str(nonce))
        assert (await exchange.send(PATH, b"{}", headers)).status == 200


async def test_a_request_that_is_sent_twice_does_nothing_twice(exchange: Exchange) -> None:
    key = exchange.key()
    path = "/v2/auth/w/order/submit"
    body = b'{"type":"EXCHANGE LIMIT","symbol":"tBTCUSD","amount":"1","price":"30000"}'
    headers = key.headers(path, body)
    assert (await exchange.send(path, body, headers)).status == 200
    assert await refused(exchange, headers, body, path) == (10114, "nonce: small")
    assert len(exchange.trading.placed) == 1


async def test_a_revoked_key_is_refused(exchange: Exchange) -> None:
    key = exchange.key()
    exchange.accounts.revoke(NOW, key.key)
    assert await refused(exchange, key.headers(PATH, b"{}")) == (10100, "apikey: invalid")


async def test_a_reading_key_reads_and_does_not_trade(exchange: Exchange) -> None:
    key = exchange.key(ALICE, ("read",))
    assert (await exchange.post(key, "r/wallets")).status == 200
    for path in ("submit", "update", "cancel", "cancel/multi", "multi"):
        answer = await exchange.post(key, f"w/order/{path}", {"all": 1})
        assert answer.json == [
            "error", 10100, "apikey: permission invalid: this key may only read",
        ]  # fmt: skip


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
