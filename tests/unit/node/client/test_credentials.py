"""Keys and files as people hand them over: trimmed, checked, never repeated in a message."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.annexes.desk.desk_profile import read_profile
from node.client.credentials import (
    KeyRefused,
    looks_like_key,
    parse_key,
    read_text,
    without_password,
)
from node.client.exchange_client import ExchangeClient, checked_url, client_headers
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


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("a".encode("utf-16"), "UTF-16"),
        ("a".encode("utf-16-be").join([b"\xfe\xff", b""]), "UTF-16"),
        (b"a\nb\n\xe9", r"line 3.*save it as UTF-8"),
        (b"x" * 11, "longer than 10 bytes"),
    ],
)
def test_files_that_are_no_utf8_text_are_named_with_line_and_cure(
    tmp_path: Path, data: bytes, why: str
) -> None:
    path = tmp_path / "f"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=why):
        read_text(path, 10)


def test_a_profile_of_another_system_is_read(tmp_path: Path) -> None:
    path = tmp_path / "desk.toml"
    path.write_bytes(b'\xef\xbb\xbf[[node]]\r\nname = " a "\r\napi = "https://x:1 "\r\n')
    (node,) = read_profile(path)
    assert (node.name, node.api) == ("a", "https://x:1")


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


@pytest.mark.parametrize(
    ("key", "secret"), [(None, "secret"), ("key", None), ("", ""), ("key", "")]
)
def test_half_of_a_key_is_refused_and_does_not_act_as_operator(
    key: str | None, secret: str | None
) -> None:
    with pytest.raises(KeyRefused):
        client_headers(key, secret, None)
    assert client_headers(None, None, None) == {}
