import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.grenache.errors import BadInput
from p2p.grenache.input_checks import (
    check_host,
    check_json_integer,
    check_key,
    check_service,
    check_url,
    salt_text,
    value_text,
)

KEY = "6d33adc2b6b2c14c3036feefb7fedbca1a880527"


@pytest.mark.parametrize("name", ["", None, 7, b"rpc", ["rpc"], "x" * 257, "é" * 129, "\ud800"])
def test_other_service_names_are_refused(name):
    with pytest.raises(BadInput):
        check_service(name)


@pytest.mark.parametrize(
    "key", ["", "zz", KEY[:-1], KEY + "0", "g" * 40, KEY + "\n", None, b"6" * 40]
)
def test_keys_that_a_grape_would_read_as_empty_are_refused(key):
    with pytest.raises(BadInput):
        check_key(key)


def test_values_and_salts_are_text():
    assert value_text("né".encode()) == "né"
    assert salt_text(b"v1 prices") == "v1 prices"
    for refused in (value_text, salt_text):
        with pytest.raises(BadInput, match="UTF-8"):
            refused(b"ok \xff")


@pytest.mark.parametrize("salt", [b"[1,2]", b'"x"', b" {}", b'{"length":2}', b"\n[]", b'"\\ud800"'])
def test_a_salt_that_a_grape_decodes_as_json_is_refused(salt):
    with pytest.raises(BadInput, match="JSON"):
        salt_text(salt)


@pytest.mark.parametrize("salt", [b"1", b"true", b"null", b"1.5", b"12e3"])
def test_json_without_bytes_is_no_trouble_as_a_salt(salt):
    assert salt_text(salt) == salt.decode()


def test_a_salt_has_a_limit():
    assert salt_text(b"s" * 64)
    with pytest.raises(BadInput, match="64"):
        salt_text(b"s" * 65)


def test_numbers_are_exact_in_javascript():
    assert check_json_integer(2**53 - 1, "seq") == 2**53 - 1
    with pytest.raises(BadInput, match="seq"):
        check_json_integer(2**53, "seq")


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


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "224.0.0.1", "255.255.255.255", "::1", "name", "1.2.3.04", ""]
)
def test_only_an_ipv4_address_that_can_be_dialled_is_announced(host):
    with pytest.raises(BadInput):
        check_host(host)
    assert check_host("192.0.2.7") == "192.0.2.7"


@given(st.text(max_size=60))
def test_a_url_is_normal_or_refused(text):
    try:
        normal = check_url(text)
    except BadInput:
        return
    assert check_url(normal) == normal
