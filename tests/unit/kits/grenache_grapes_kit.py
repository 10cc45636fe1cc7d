"""Grapes of a Link in memory."""

import asyncio
import random

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fake_grapes import FakePost

from p2p.grenache import bep44
from p2p.grenache.link.link_client import Link

ONE = ["192.0.2.1:1337"]

HELLO = "6d33adc2b6b2c14c3036feefb7fedbca1a880527"

OWNER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def make_link(*grapes, **more):
    return Link(
        [grape.url for grape in grapes], post=FakePost(*grapes), rng=random.Random(7), **more
    )


def now():
    return asyncio.get_running_loop().time()


def signed(seq, value=b"text", *, salt=b"", cas=None):
    """A signed item, its key, and what a Grape answers that holds it."""
    item = bep44.sign(OWNER, seq, value, salt=salt, cas=cas)
    answer = {
        **{"id": "00" * 20, "token": None, "k": item.public_key.hex(), "seq": seq},
        **{"sig": item.signature.hex(), "v": value.decode()},
    }
    return item, bep44.mutable_key(item.public_key, salt).hex(), answer
