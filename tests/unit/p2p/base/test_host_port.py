import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.base.host_port import format_host_port, normal_host, parse_host_port


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.168.1.10:3000", ("192.168.1.10", 3000)),
        (" example.org:1 ", ("example.org", 1)),
        ("Node-1.Example.org.:65535", ("node-1.example.org", 65535)),
        ("[::1]:3000", ("::1", 3000)),
        ("[2001:DB8::0:1]:3000", ("2001:db8::1", 3000)),
        ("[fe80::1%eth0]:3000", ("fe80::1%eth0", 3000)),
        ("[::ffff:192.0.2.1]:3000", None),
        ("localhost:3000", ("localhost", 3000)),
    ],
)
def test_host_and_port_are_read(text, expected):
    if expected is None:
        with pytest.raises(ValueError, match="not an IPv6 address"):
            parse_host_port(text)
    else:
        assert parse_host_port(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("192.168.1.10", "no port"),
        ("", "no host"),
        (":3000", "no host"),
        ("::1:3000", "needs brackets"),
        ("[::1]3000", "closing bracket"),
        ("[::1:3000", "closing bracket"),
        ("[example.org]:3000", "not an IPv6 address"),
        ("http://192.0.2.1:3000", "is a URL"),
        ("192.0.2.1:0", "from 1 to 65535"),
        ("192.0.2.1:65536", "from 1 to 65535"),
        ("192.0.2.1:99999999999999999999", "from 1 to 65535"),
        ("192.0.2.1:-1", "from 1 to 65535"),
        ("192.0.2.1:", "from 1 to 65535"),
        ("192.0.2.1:٣", "from 1 to 65535"),
        ("192.0.2.256:3000", "not an IPv4 address"),
        ("bad host:3000", "not a host name"),
        ("-bad:3000", "not a host name"),
        ("a" * 64 + ":3000", "not a host name"),
    ],
)
def test_malformed_addresses_are_refused_with_the_reason_and_the_text(text, words):
    with pytest.raises(ValueError, match=words) as caught:
        parse_host_port(text)
    assert repr(text) in str(caught.value)


def test_a_default_port_stands_in_for_a_missing_one_only():
    assert parse_host_port("example.org", default_port=3000) == ("example.org", 3000)
    assert parse_host_port("[::1]", default_port=3000) == ("::1", 3000)
    with pytest.raises(ValueError, match="port ''"):
        parse_host_port("example.org:", default_port=3000)


@given(st.ip_addresses(), st.integers(1, 65535))
def test_every_formatted_address_is_read_back(ip, port):
    host = normal_host(str(ip))
    assert parse_host_port(format_host_port(host, port)) == (host, port)


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused_with_value_error(text):
    try:
        host, port = parse_host_port(text)
    except ValueError:
        return
    assert host
    assert 1 <= port <= 65535


def test_one_host_has_one_spelling():
    assert normal_host("::FFFF:192.0.2.1") == "192.0.2.1"
    assert normal_host("2001:db8:0:0::1") == "2001:db8::1"
    assert normal_host("Example.ORG.") == "example.org"
