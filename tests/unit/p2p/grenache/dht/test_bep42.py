"""Node ids that fit their addresses (BEP 42)."""

from __future__ import annotations

import random

from dht_kit import FAR, LOCAL, NEAR, Solo, node_id
from hypothesis import given
from hypothesis import strategies as st

from p2p.grenache.dht.bep42 import crc32c, fits, make_id
from p2p.grenache.dht.dht_node import DhtNode
from p2p.grenache.dht.dht_settings import DhtSettings
from p2p.grenache.dht.krpc import KrpcQuery, PingQuery, encode_query


def test_the_checksum_of_the_standard():
    assert crc32c(b"123456789") == 0xE3069283


@given(st.integers(1, 2**32 - 1), st.integers())
def test_a_made_id_fits_its_address(number, seed):
    host = ".".join(str(byte) for byte in number.to_bytes(4, "big"))
    assert fits(make_id(host, random.Random(seed)), host)


def test_any_id_fits_a_private_or_loopback_address():
    for host in ("127.0.0.1", "10.0.0.1", "192.168.0.1", "172.16.0.1", "169.254.0.1"):
        assert fits(node_id(1), host)
    assert not fits(node_id(1), "8.8.8.8")


def test_with_the_option_a_node_whose_id_does_not_fit_is_served_but_not_entered():
    solo = Solo(bep42=True)
    good = make_id(FAR[0], random.Random(1))
    for address, sender, entered in (
        (FAR, node_id(1), False),
        (FAR, good, True),
        (NEAR, node_id(2), True),
        (LOCAL, node_id(3), True),
    ):
        out = solo.receive(address, encode_query(b"tt", sender, PingQuery()))
        assert len([m for _, m in out if not isinstance(m, KrpcQuery)]) == 1
        for to, message in solo.queries(out):
            if to == address:
                solo.answer(to, message, sender)
        assert (solo.core.table.at(address) is not None) == entered


def test_a_node_with_a_public_address_has_an_id_that_fits_it():
    node = DhtNode(DhtSettings(bep42=True, public_host="203.0.113.9"), random.Random(1), 0.0)
    assert fits(node.id, "203.0.113.9")


def test_a_node_changes_to_an_id_of_its_observed_address_and_keeps_its_contacts():
    solo = Solo(bep42=True)
    before = solo.node.id
    for n in (1, 2, 3):
        address = (f"203.0.113.{n}", 4000)
        sender = make_id(address[0], random.Random(n))
        for to, message in solo.receive(address, encode_query(b"tt", sender, PingQuery())):
            if isinstance(message, KrpcQuery) and to == address:
                says = ("198.51.100.7", 4000) if n > 1 else None
                solo.answer(to, message, sender, seen_as=says)
        solo.wait(0.5)
        assert (solo.node.id == before) == (n < 3)  # of two contacts one voice is not enough
    assert fits(solo.node.id, "198.51.100.7")
    assert len(solo.core.table) == 3
    stays = solo.node.id
    solo.wait(1)
    assert solo.node.id == stays
