"""Permissions, rates and transports of requests: decisions without a server."""

from __future__ import annotations

import pytest

from exchange.ledger.accounts import Accounts
from node.api.access import AccessControl, AccessRules, is_loopback
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


def test_keys_of_other_machines_need_tls_unless_configured_otherwise() -> None:
    header = bearer(f"{KEY}:{SECRET}")
    assert refusal(door(), header, secure=False, remote=FAR) == "tls_required"
    assert refusal(door(), header, secure=False, remote="") == "tls_required"
    assert door().identify(header, secure=True, remote=FAR).account == 1
    assert door(plain_keys=True).identify(header, secure=False, remote=FAR).account == 1


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


# The dead man's switch


def test_the_switch_is_found_again() -> None:
    stored = {"dead_man:1": 100, "dead_man:2": 0, "next_order": 7}
    assert DeadMansSwitch(stored).due(1000) == [1]
