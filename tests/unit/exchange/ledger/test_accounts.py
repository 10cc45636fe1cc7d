"""Accounts, their limits and keys: who is let in, and what is remembered."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchange.ledger.accounts import (
    MAX_ACCOUNTS,
    MAX_KEYS,
    MAX_LIMIT,
    MAX_NONCE,
    RESERVED,
    AccountError,
    Accounts,
    AuthError,
    _signature,
)
from exchange.model.commands import HOUSE, SUSPENSE
from exchange.model.records import Account, ApiKey, PutNonce

KEY, SECRET = "key-0123456789abcdef", "secret-0123456789abcdef"
MESSAGE = b"/api/v2/auth/r/wallets1{}"
MS, US = 1_700_000_000_000, 1_700_000_000_000_000  # one moment as two programs count it


def with_key(**limits: int) -> Accounts:
    """Account 1, "alice", with a key."""
    made = Accounts()
    made.create(5, "alice", **limits)
    made.create_key(6, 1, {"read", "trade"}, "bot", KEY, SECRET)
    return made


def sign(message: bytes = MESSAGE, secret: str = SECRET) -> str:
    return hmac.new(secret.encode(), message, hashlib.sha384).hexdigest()


def ask(made: Accounts, nonce: int, key: str = KEY, signature: str | None = None) -> Account:
    signature = sign() if signature is None else signature
    return made.authenticate(key, nonce, MESSAGE, signature)[0]


def restarted(made: Accounts) -> Accounts:
    again = Accounts()
    again.restore(
        {r.number: r for r in made.records if isinstance(r, Account)}.values(),
        {r.key: r for r in made.records if isinstance(r, ApiKey)}.values(),
        {(r.key, r.digits): r.nonce for r in made.records if isinstance(r, PutNonce)},
    )
    return again


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises((AccountError, AuthError)) as refused:
        call()
    assert str(refused.value) == refused.value.detail
    return refused.value.code


# Accounts


@pytest.mark.parametrize("name", ["alice", "ALICE", "house"])
def test_names_are_unique_regardless_of_case(name: str):
    made = with_key()
    assert code_of(lambda: made.create(7, name)) == "name_taken"
    assert made.by_name("ALICE") == made.get(1)


@pytest.mark.parametrize("name", ["", ".x", "-x", "a b", "ä", "a" * 33, "a\n", "a/b", "a:b"])
def test_invalid_names_are_refused(name: str):
    made = Accounts()
    assert code_of(lambda: made.create(7, name)) == "bad_name"
    assert made.records == []


def test_accounts_are_numbered_after_the_house_and_suspense_has_a_name_of_its_own() -> None:
    accounts = Accounts()
    accounts.restore([Account(1, "suspense", 1), Account(2, "suspense-2", 1)], [], {})
    assert accounts.create(1, "c").number == 3
    found = accounts.add_suspense(5)
    assert (found.number, found.name, found.created, found.frozen) == (
        SUSPENSE,
        "suspense-3",
        5,
        True,
    )
    assert accounts.create(1, "d").number == 4


def test_accounts_are_bounded():
    made = Accounts()
    made.restore([Account(n, f"a{n}", 0) for n in range(1, MAX_ACCOUNTS)], [], {})
    made.create(1, "last")
    assert code_of(lambda: made.create(1, "more")) == "too_many"
    assert len(made) == MAX_ACCOUNTS + 1  # and the house


def test_a_frozen_account_can_be_thawed():
    made = with_key()
    assert made.freeze(1).frozen
    assert made.get(1) == made.by_name("alice") == made.freeze(1)
    assert ask(made, MS).frozen  # it may look
    assert not made.thaw(1).frozen
    assert code_of(lambda: made.freeze(HOUSE)) == "unknown_account"
    assert code_of(lambda: made.freeze(9)) == code_of(lambda: made.thaw(9)) == "unknown_account"


@pytest.mark.parametrize("limit", [-1, MAX_LIMIT + 1])
def test_limits_are_bounded(limit: int):
    made = with_key()
    made.records.clear()
    assert code_of(lambda: made.set_limits(1, max_open_orders=limit)) == "bad_limit"
    assert code_of(lambda: made.set_limits(1, orders_per_minute=limit)) == "bad_limit"
    assert code_of(lambda: made.create(1, "bob", max_open_orders=limit)) == "bad_limit"
    assert code_of(lambda: made.set_limits(9, max_open_orders=1)) == "unknown_account"
    assert made.records == []


def test_each_limit_is_set_by_itself():
    made = with_key(max_open_orders=3, orders_per_minute=4)
    made.set_limits(1, max_open_orders=5)
    account = made.set_limits(1, orders_per_minute=6)
    assert (account.max_open_orders, account.orders_per_minute) == (5, 6)
    assert made.get(1) == account


def test_a_lower_rate_counts_at_once_and_none_allows_none():
    made = with_key(orders_per_minute=30)
    assert made.allows_order(1.0, 1)
    made.set_limits(1, orders_per_minute=2)
    assert [made.allows_order(1.0, 1) for _ in range(3)] == [
        True,
        False,
        False,
    ]  # a 30th of its minute is used
    made.set_limits(1, orders_per_minute=0)
    assert not made.allows_order(1000.0, 1)


def test_the_house_has_no_rate_and_an_unknown_account_places_nothing():
    made = Accounts()
    assert all(made.allows_order(0.0, HOUSE) for _ in range(10_000))
    assert not made.allows_order(0.0, 1)


@given(st.lists(st.floats(0, 200), max_size=300), st.integers(0, 60))
def test_in_any_time_an_account_places_at_most_a_minutes_worth_and_its_rate(
    times: list[float], rate: int
):
    made = with_key(orders_per_minute=rate)
    times.sort()
    placed = [at for at in times if made.allows_order(at, 1)]
    for i, first in enumerate(placed):
        for j in range(i, len(placed)):
            assert j - i + 1 <= rate + (placed[j] - first) * rate / 60 + 1e-6


# Keys


def test_a_key_belongs_to_an_account_and_stores_its_secret():
    made = with_key()
    key = ApiKey(KEY, SECRET, 1, frozenset({"read", "trade"}), 6, "bot")
    assert made.records[-1] == key
    assert made.keys_of(1) == [key]
    assert made.key(KEY) == key
    assert (made.keys_of(HOUSE), made.key("other")) == ([], None)
    assert SECRET not in repr(key)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"account": 9}, "unknown_account"),
        ({"permissions": set()}, "bad_key"),
        ({"permissions": {"read", "withdraw"}}, "bad_key"),
        ({"key": "short"}, "bad_key"),
        ({"key": "k" * 129}, "bad_key"),
        ({"key": "key 0123456789abcdef"}, "bad_key"),
        ({"secret": "s" * 15}, "bad_key"),
        ({"secret": ""}, "bad_key"),
        ({"label": "l" * 101}, "bad_key"),
        ({"label": "a\nb"}, "bad_key"),
        ({"key": KEY}, "key_taken"),
    ],
)
def test_invalid_keys_are_refused(changes: dict[str, object], code: str):
    made = with_key()
    made.records.clear()
    arguments = {
        "time": 1,
        "account": 1,
        "permissions": {"read"},
        "label": "",
        "key": "another-0123456789",
        "secret": SECRET,
    }
    assert code_of(lambda: made.create_key(**(arguments | changes))) == code  # type: ignore[arg-type]
    assert made.records == []
    assert len(made.keys_of(1)) == 1


def test_keys_of_an_account_are_bounded_revoked_ones_included():
    made = with_key()
    for n in range(MAX_KEYS - 1):
        made.create_key(1, 1, {"read"}, "", f"{n:016}", SECRET)
    made.revoke(2, KEY)
    more = "more-0123456789abcdef"
    assert code_of(lambda: made.create_key(3, 1, {"read"}, "", more, SECRET)) == "too_many"
    made.create_key(3, HOUSE, {"read"}, "", more, SECRET)


def test_a_revoked_key_stays_refused_and_is_never_reused():
    made = with_key()
    revoked = made.revoke(8, KEY)
    assert (revoked.revoked, made.keys_of(1)) == (8, [revoked])
    made.records.clear()
    assert made.revoke(9, KEY) == revoked
    assert made.records == []
    assert code_of(lambda: ask(made, MS)) == "revoked"
    assert code_of(lambda: made.authenticate_bearer(KEY, SECRET)) == "revoked"
    assert code_of(lambda: made.create_key(9, 1, {"read"}, "", KEY, SECRET)) == "key_taken"
    assert code_of(lambda: made.revoke(9, "other")) == "unknown_key"


# Who is asking


@given(st.text(min_size=1, max_size=200), st.binary(max_size=300))
def test_signatures_are_those_of_hmac(secret: str, message: bytes):
    expected = hmac.digest(secret.encode(), message, "sha384").hex()
    assert [_signature(secret, message) for _ in range(2)] == [expected] * 2


def test_a_signed_request_gives_its_account_and_key():
    made = with_key()
    account, key = made.authenticate(KEY, MS, MESSAGE, sign().upper())
    assert (account, key) == (made.get(1), made.key(KEY))
    assert made.records[-1] == PutNonce(KEY, 13, MS)


@pytest.mark.parametrize(
    "signature",
    [
        "",
        "0" * 96,
        sign()[:-1],
        sign() + "0",
        sign(b"other"),
        sign(secret="other"),
        "é" * 96,
        "\ud800",
    ],
)
def test_a_wrong_signature_is_refused_and_uses_up_no_nonce(signature: str):
    made = with_key()
    made.records.clear()
    assert code_of(lambda: ask(made, MAX_NONCE, signature=signature)) == "bad_signature"
    assert made.records == []
    assert ask(made, MAX_NONCE).name == "alice"


def test_unknown_keys_and_wrong_signatures_get_the_same_answer():
    """Neither from a request with a wrong signature nor from a revoked key."""
    made = with_key()
    made.create_key(6, 1, {"read"}, "", "revoked-0123456789", SECRET)
    made.revoke(7, "revoked-0123456789")
    answers = set()
    for key in (KEY, "revoked-0123456789", "unknown-0123456789"):
        for call in (
            lambda key=key: ask(made, MS, key, "0" * 96),
            lambda key=key: made.authenticate_bearer(key, "wrong"),
        ):
            with pytest.raises(AuthError) as refused:
                call()
            answers.add((refused.value.code, refused.value.detail))
    assert len(answers) == 1


def test_the_secret_that_stands_in_for_unknown_keys_is_refused():
    made = Accounts()
    stand_in = "stands in for the secret of an unknown key: both checks take the same time"
    signature = sign(secret=stand_in)
    assert code_of(lambda: ask(made, MS, "unknown", signature)) == "bad_signature"
    bearer = code_of(lambda: made.authenticate_bearer("unknown", stand_in))
    assert bearer == "bad_signature"


def test_the_greatest_nonce_is_the_greatest_integer_of_64_bits():
    made = with_key()
    assert code_of(lambda: ask(made, 2**63)) == "nonce_too_small"
    ask(made, 2**63 - 1)
    assert code_of(lambda: ask(made, 2**63 - 1)) == "nonce_too_small"


@pytest.mark.parametrize(
    "nonce", [0, -1, -(10**13), MAX_NONCE + 1, 1 << 20_000], ids=int.bit_length
)
def test_a_nonce_of_an_absurd_size_is_refused(nonce: int):
    made = with_key()
    made.records.clear()
    assert code_of(lambda: ask(made, nonce)) == "nonce_too_small"
    assert made.records == []


def test_a_bearer_secret_needs_no_nonce():
    made = with_key()
    made.records.clear()
    account, key = made.authenticate_bearer(KEY, SECRET)
    assert (account.name, key.key) == ("alice", KEY)
    assert made.records == []
    for wrong in ("", SECRET[:-1], SECRET.upper(), "é", "\ud800"):
        code = code_of(lambda wrong=wrong: made.authenticate_bearer(KEY, wrong))
        assert code == "bad_signature"


# Restart


def test_accounts_keys_and_used_nonces_survive_a_restart():
    made = with_key()
    made.freeze(1)
    made.set_limits(HOUSE, max_open_orders=9)
    made.create_key(6, 1, {"read"}, "", "revoked-0123456789", SECRET)
    made.revoke(7, "revoked-0123456789")
    ask(made, MS)
    again = restarted(made)
    assert again.all() == made.all()
    assert again.keys_of(1) == made.keys_of(1)
    assert again.records == []
    assert code_of(lambda: ask(again, MS)) == "nonce_too_small"
    assert ask(again, MS + 1).frozen
    assert code_of(lambda: ask(again, MS, "revoked-0123456789")) == "revoked"
    assert again.create(9, "bob").number == 2
    assert code_of(lambda: again.create(9, "Alice")) == "name_taken"


def test_a_stored_key_without_an_account_is_refused():
    key = ApiKey(KEY, SECRET, 4, frozenset({"read"}), 6)
    assert code_of(lambda: Accounts().restore([], [key], {})) == "unknown_account"


@pytest.mark.parametrize("name", sorted(RESERVED | {"suspense-2", "Fees", "OUTSIDE"}))
def test_a_name_of_the_ledger_is_refused_for_new_accounts_and_read_of_earlier_ones(
    name: str,
) -> None:
    accounts = Accounts()
    with pytest.raises(AccountError, match="ledger itself uses") as caught:
        accounts.create(1, name)
    assert caught.value.code == "bad_name"
    accounts.restore([Account(7, name, 1)], [], {})
    found = accounts.by_name(name)
    assert found is not None
    assert (found.number, found.name) == (7, name)
    assert accounts.create(2, f"{name}-of-alice").number == 8
