"""Values in the DHT: keys, signatures and limits (BEP 44)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from p2p.grenache import bep44
from p2p.grenache.directory import MutableItem
from p2p.grenache.errors import BadInput

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))

# The test vectors of BEP 44.
VECTOR_KEY = bytes.fromhex("77ff84905a91936367c01360803104f92432fcd904a43511876df5cdf3e7e548")
VECTOR = MutableItem(
    VECTOR_KEY,
    1,
    b"Hello World!",
    bytes.fromhex(
        "305ac8aeb6c9c151fa120f120ea2cfb923564e11552d06a5d856091e5e853cff"
        "1260d3f39e4999684aa92eb73ffd136e6f4f3ecbfda0ce53a1608ecd7ae21f01"
    ),
)


def test_only_signed_values_verify():
    item = bep44.sign(KEY, 7, b"value", salt=b"salt", cas=6)
    assert bep44.verify(item)
    assert item.cas == 6
    for other in (
        replace(item, seq=8),
        replace(item, value=b"other"),
        replace(item, salt=b"other"),
        replace(item, salt=b""),
        replace(item, public_key=VECTOR_KEY),
        replace(item, signature=VECTOR.signature),
        replace(item, signature=b"short"),
        replace(item, public_key=b"short"),
        replace(item, public_key=b"\xff" * 32),
    ):
        assert not bep44.verify(other)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"value": bytes(1000)}, "v must be less than 1000 bytes in put()"),
        ({"public_key": bytes(31)}, "opts.k ed25519 public key must be 32 bytes"),
        (
            {"signature": bytes(63)},
            "opts.sign function or options.sig signature is required for mutable put",
        ),
        ({"salt": bytes(65)}, "opts.salt is > 64 bytes long"),
        ({"value": "text"}, "ERR_GRAPE_VALUE"),
        ({"value": bytearray(3)}, "ERR_GRAPE_VALUE"),
        ({"salt": "text"}, "ERR_GRAPE_SALT"),
        ({"seq": -1}, "opts.seq not an integer"),
        ({"seq": 2**63}, "opts.seq not an integer"),
        ({"seq": 1.5}, "opts.seq not an integer"),
        ({"seq": True}, "opts.seq not an integer"),
        ({"cas": -1}, "opts.cas must be an integer if provided"),
        ({"cas": "1"}, "opts.cas must be an integer if provided"),
    ],
)
def test_items_that_no_grape_stores_are_refused_with_the_real_error(change, sentence):
    with pytest.raises(BadInput) as caught:
        bep44.check(replace(VECTOR, **change))
    assert caught.value.code == sentence


def test_signing_refuses_values_that_cannot_be_put():
    with pytest.raises(BadInput):
        bep44.sign(KEY, 1, bytes(1000))
