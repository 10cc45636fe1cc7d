"""Permissions, rates and transports of requests: decisions without a server."""

from __future__ import annotations

import pytest

from exchange.ledger.accounts import Accounts
from node.api.access import ANYBODY, THE_OPERATOR, AccessControl, AccessRules, Caller, is_loopback
from node.http.rate_limit import RateLimit
from node.service.account_trading import DeadMansSwitch
from node.views.views import ServiceError

KEY, SECRET = "k" * 32, "s" * 43
NEAR, FAR = "127.0.0.1", "192.0.2.7"


def door(**rules: object) -> AccessControl:
    accounts = Accounts()
    accounts.create(1, "alice")
    accounts.create_key(1, 1, ["read"], "", KEY, SECRET)
    return AccessControl(accounts, AccessRules(**rules))  # type: ignore[arg-type]


def bearer(credentials: str) -> dict[str, str]:
    return {"authorization": f"Bearer {credentials}"}


def refusal(door: AccessControl, headers: dict[str, str], *, secure: bool, remote: str) -> str:
    with pytest.raises(ServiceError) as caught:
        door.identify(headers, secure=secure, remote=remote)
    assert SECRET not in caught.value.detail
    return caught.value.code


@pytest.mark.parametrize("remote", [NEAR, "::1", "127.9.9.9", "::1%lo"])
def test_keys_are_taken_on_this_machine_over_anything(remote: str) -> None:
    caller = door().identify(bearer(f"{KEY}:{SECRET}"), secure=False, remote=remote)
    assert (caller.account, caller.permissions, caller.operator) == (1, {"read"}, False)


def test_keys_of_other_machines_need_tls_unless_configured_otherwise() -> None:
    header = bearer(f"{KEY}:{SECRET}")
    assert refusal(door(), header, secure=False, remote=FAR) == "tls_required"
    assert refusal(door(), header, secure=False, remote="") == "tls_required"
    assert door().identify(header, secure=True, remote=FAR).account == 1
    assert door(plain_keys=True).identify(header, secure=False, remote=FAR).account == 1


def test_without_a_key_one_is_the_operator_only_where_keys_are_optional() -> None:
    assert door().identify({}, secure=False, remote=NEAR) is THE_OPERATOR
    assert door(keys_required=True).identify({}, secure=True, remote=NEAR) is ANYBODY


def test_the_operators_token_is_compared_whole() -> None:
    held = door(keys_required=True, operator_token="token")
    assert held.identify(
        {"authorization": "bearer operator:token"}, secure=True, remote=FAR
    ).operator
    for wrong in ("toke", "tokens", "TOKEN", "tökén"):
        assert refusal(held, bearer(f"operator:{wrong}"), secure=True, remote=FAR) == "bad_token"
    none = door(keys_required=True)
    assert refusal(none, bearer("operator:x"), secure=True, remote=FAR) == "bad_token"


@pytest.mark.parametrize("token", ["", "token"])
@pytest.mark.parametrize("required", [False, True])
@pytest.mark.parametrize(
    "header",
    [
        "",
        " ",
        "Bearer",
        "Bearer ",
        "Bearer  \t",
        "Bearer :",
        "Bearer  : ",
        f"Bearer {KEY}:",
        f"Bearer :{SECRET}",
        "Bearer operator:",
        "Bearer x",
        f"Basic {KEY}:{SECRET}",
        f"{KEY}:{SECRET}",
        "x" * 9999,
    ],
)
def test_empty_and_other_authorization_headers_are_refused(
    header: str, required: bool, token: str
) -> None:
    held = door(keys_required=required, operator_token=token)
    headers = {"authorization": header}
    assert refusal(held, headers, secure=True, remote=NEAR) == "bad_authorization"


@pytest.mark.parametrize("value", ["", " ", f"{KEY}:{SECRET}"])
@pytest.mark.parametrize(
    "name",
    [
        "X-API-Key",
        "x-api-key",
        "X_API_KEY",
        "Api-Key",
        "apikey",
        "X-Api-Secret",
        "X-Auth-Token",
        "Token",
        "X-Access-Token",
        "bfx-apikey",
        "bfx-token",
        "bfx-signature",
        "X-MBX-APIKEY",
        "CB-ACCESS-KEY",
    ],
)
def test_keys_in_other_headers_are_refused_and_not_the_operators(name: str, value: str) -> None:
    assert refusal(door(), {name: value}, secure=False, remote=NEAR) == "bad_authorization"


@pytest.mark.parametrize(
    "name",
    [
        "Accept",
        "Cookie",
        "Sec-WebSocket-Key",
        "Idempotency-Key",
        "X-Request-Id",
        "X-Exchange-Node",
        "X-Forwarded-For",
    ],
)
def test_headers_that_are_no_credentials_are_left_alone(name: str) -> None:
    assert door().identify({name: "x"}, secure=False, remote=NEAR) is THE_OPERATOR


@pytest.mark.parametrize(
    ("caller", "allowed"),
    [
        (ANYBODY, {"public"}),
        (Caller(1, frozenset({"read"})), {"public", "read"}),
        (Caller(1, frozenset({"trade"})), {"public", "trade"}),
        (Caller(0, frozenset({"read"})), {"public", "read", "node"}),
        (THE_OPERATOR, {"public", "read", "trade", "node", "operator"}),
    ],
)
def test_what_each_may(caller: Caller, allowed: set[str]) -> None:
    every = ("public", "read", "trade", "node", "operator")
    assert {access for access in every if caller.may(access)} == allowed  # type: ignore[arg-type]


def test_no_secret_is_in_a_repr() -> None:
    assert "token" not in repr(AccessRules(operator_token="token")).replace("operator_token", "")


def test_addresses_that_are_none_are_not_loopback() -> None:
    assert not any(map(is_loopback, ("", "localhost", "x", FAR, "::")))


# Rates


def test_a_minutes_worth_at_once_and_then_as_many_as_the_rate_gives() -> None:
    rate = RateLimit(60)
    assert [rate.ask("a", 0.0).allowed for _ in range(61)] == [True] * 60 + [False]
    assert rate.ask("b", 0.0).remaining == 59
    refused = rate.ask("a", 0.5)
    assert (refused.allowed, refused.reset, refused.limit) == (False, 1, 60)
    assert rate.ask("a", 1.0).allowed
    assert not rate.ask("a", 1.0).allowed
    assert sum(rate.ask("a", 1000.0).allowed for _ in range(70)) == 60


def test_any_rate_is_allowed_without_a_limit() -> None:
    rate = RateLimit(0)
    assert all(rate.ask("a", 0.0).allowed for _ in range(1000))


# The dead man's switch


def test_the_switch_is_due_when_it_was_not_set_again() -> None:
    switch = DeadMansSwitch()
    assert switch.set(1, 100) == ("dead_man:1", 100)
    switch.set(2, 300)
    assert switch.due(99) == []
    switch.set(1, 200)
    assert switch.due(150) == []
    assert switch.due(200) == [1]
    assert switch.set(1, None) == ("dead_man:1", 0)
    assert switch.due(250) == []


def test_the_switch_is_found_again() -> None:
    stored = {"dead_man:1": 100, "dead_man:2": 0, "next_order": 7}
    assert DeadMansSwitch(stored).due(1000) == [1]
