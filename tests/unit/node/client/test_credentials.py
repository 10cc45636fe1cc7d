"""Keys and files as people hand them over: trimmed, checked, never repeated in a message."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.annexes.desk.desk_profile import read_profile
from node.client.credentials import (
    KeyRefused,
    looks_like_key,
    parse_key,
    without_password,
)
from node.client.exchange_client import ExchangeClient, checked_url
from node.client.node_finder import api_url
from node.client.streaming_client import StreamingClient

KEY = "f383c83c61392bea"
SECRET = "s3cr3tS3CR3Ts3cr3t"
BOM = "\ufeff"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is empty"),
        (" \r\n", "is empty"),
        (f"{KEY}", "no key, colon and secret"),
        (f"{KEY}:", "no key, colon and secret"),
        (f":{SECRET}", "no key, colon and secret"),
        (f"{BOM}{KEY}:{SECRET}", "byte order mark"),
        (f"{KEY}:{SECRET}{BOM}", "byte order mark"),
        (f'"{KEY}:{SECRET}"', "quotes"),
        (f"'{KEY}:{SECRET}'", "quotes"),
        (f"“{KEY}:{SECRET}”", "quotes"),
        (f"{KEY}:{SECRET}\n{KEY}:{SECRET}", "more than one line"),
        (f"{KEY}:\r\n{SECRET}", "more than one line"),
        (f"{KEY} :{SECRET}", "white space in its key"),
        (f"{KEY}: {SECRET}", "white space in its secret"),
        (f"{KEY}:{SECRET}\u00a0x", "white space in its secret"),
        (f"{KEY}:{SECRET}é", "a character in its secret"),
        (f"{KEY}:{SECRET}€", "a character in its secret"),
        (f"{KEY}\x00:{SECRET}", "a character in its key"),
        (f"{KEY}:{SECRET}\udcff", "a character in its secret"),
        (f"{KEY}:{SECRET}\u200b", "a character in its secret"),
    ],
)
def test_a_malformed_key_is_refused_without_being_repeated(text: str, why: str) -> None:
    with pytest.raises(KeyRefused, match=why) as caught:
        parse_key(text)
    assert SECRET not in str(caught.value)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("secret", ["a\r", "a\nX-Evil: 1", "é€", "", " a"])
@pytest.mark.parametrize("client", [ExchangeClient, StreamingClient])
def test_clients_refuse_a_secret_that_no_header_can_have(client: type, secret: str) -> None:
    with pytest.raises(KeyRefused) as caught:
        client("http://127.0.0.1:1", key=KEY, secret=secret)
    assert not secret.strip() or secret not in str(caught.value)


def test_a_key_in_the_place_of_its_file_is_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "desk.toml"
    path.write_text(f'[[node]]\napi = "https://x:1"\nkey_file = "{KEY}:{SECRET}"\n')
    with pytest.raises(ValueError, match="expected the path of a file") as caught:
        read_profile(path)
    assert SECRET not in str(caught.value)
    assert not looks_like_key("keys/bob.key")
    assert not looks_like_key("C:/keys/bob.key")


@pytest.mark.parametrize("check", [api_url, checked_url])
@pytest.mark.parametrize("url", ["http//u:pass@h", "ftp://u:pass@h", "u:pass@h/x", "ftp://pass@"])
def test_a_password_in_an_address_is_not_repeated(check: object, url: str) -> None:
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:8300") as caught:
        check(url)  # type: ignore[operator]
    assert "pass" not in str(caught.value)
    assert without_password("http://h:1/a") == "http://h:1/a"
