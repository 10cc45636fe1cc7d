import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.grenache.errors import BadInput
from p2p.grenache.input_checks import (
    check_url,
    salt_text,
)


@pytest.mark.parametrize("salt", [b"1", b"true", b"null", b"1.5", b"12e3"])
def test_json_without_bytes_is_no_trouble_as_a_salt(salt):
    assert salt_text(salt) == salt.decode()


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("http://127.0.0.1:30001", "http://127.0.0.1:30001"),
        (" http://127.0.0.1:30001/ ", "http://127.0.0.1:30001"),
        ("HTTP://LocalHost:1", "http://localhost:1"),
        ("https://grape.example", "https://grape.example:443"),
        ("http://[::1]:30001", "http://[::1]:30001"),
    ],
)
def test_urls_have_one_spelling(given, normal):
    assert check_url(given) == normal


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("127.0.0.1:30001", "http://"),
        ("ftp://host:1", "not ftp"),
        ("http://", "no host"),
        ("http://host:0", "port"),
        ("http://host:99999", "port"),
        ("http://host:30001/lookup", "more than a host"),
        ("http://host:30001?x=1", "more than a host"),
        ("http://[::1", "IPv6"),
    ],
)
def test_a_wrong_url_is_quoted_with_the_expected_form(url, reason):
    with pytest.raises(BadInput, match=reason) as raised:
        check_url(url)
    assert repr(url) in str(raised.value)


def test_a_password_in_a_url_is_not_quoted():
    with pytest.raises(BadInput) as raised:
        check_url("http://me:secret@host:30001")
    assert "secret" not in str(raised.value)


@given(st.text(max_size=60))
def test_a_url_is_normal_or_refused(text):
    try:
        normal = check_url(text)
    except BadInput:
        return
    assert check_url(normal) == normal
