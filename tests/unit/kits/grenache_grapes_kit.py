"""Grapes of a Link without a network: what it posts is answered from a script, in virtual time."""

import asyncio
import random
from dataclasses import dataclass, field

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from p2p.grenache import bep44
from p2p.grenache.errors import GrapeUnreachable
from p2p.grenache.link.link_client import Link

ONE = ["192.0.2.1:1337"]

HELLO = "6d33adc2b6b2c14c3036feefb7fedbca1a880527"

OWNER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@dataclass
class FakeGrape:
    """`answers`: by kind of request, a value for all or a function of the data. A value may also be an
    exception to raise, a `(status, body)` as sent, or a list of those under `turns`."""

    url: str
    answers: dict = field(default_factory=dict)
    up: bool = True
    hangs: bool = False
    delay: float = 0.002
    log: list = field(default_factory=list)  # (time, kind, data)
    turns: dict = field(default_factory=dict)  # kind: answers used up one by one, before `answers`

    def kinds(self):
        return [kind for _, kind, _ in self.log if kind != "probe"]

    def times(self, kind):
        return [when for when, asked, _ in self.log if asked == kind]

    def data(self, kind):
        return [data for _, asked, data in self.log if asked == kind]

    def answer(self, kind, data):
        if self.turns.get(kind):
            found = self.turns[kind].pop(0)
        else:
            found = self.answers.get(kind, "ERR_REQ_NOTFOUND")
        return found(data) if callable(found) else found


class FakePost:
    """Implements `p2p.grenache.link.http_post.Post`."""

    def __init__(self, *grapes):
        self.grapes = {grape.url: grape for grape in grapes}
        self.closed = False

    async def __call__(self, url, body, *, timeout, limit):
        base, _, kind = url.rpartition("/")
        grape = self.grapes[base]
        data = orjson.loads(body)["data"]
        grape.log.append((asyncio.get_running_loop().time(), kind, data))
        async with asyncio.timeout(timeout):
            if grape.hangs:
                await asyncio.sleep(1e9)
            await asyncio.sleep(0 if not grape.up else grape.delay)
        if not grape.up:
            raise GrapeUnreachable("connection refused")
        found = grape.answer(kind, data)
        if isinstance(found, Exception):
            raise found
        status, reply = found if isinstance(found, tuple) else (200, orjson.dumps(found))
        return status, reply

    async def close(self):
        self.closed = True


def fake_grapes(count, **answers):
    """So many Grapes that answer alike, at `http://192.0.2.10:1` and so on."""
    return [FakeGrape(f"http://192.0.2.{number + 10}:1", dict(answers)) for number in range(count)]


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
