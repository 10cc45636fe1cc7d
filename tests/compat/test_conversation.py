"""A conversation of two nodes of version 0.1.0, read with the present code, and one side of it played again.

`fixtures/v0_1_0/make_conversation.py` says what is in it.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.compat import product

LINES: list[dict[str, Any]] = [
    json.loads(line)
    for line in Path(__file__)
    .parents[1]
    .joinpath("fixtures/v0_1_0/conversation.jsonl")
    .read_text("utf-8")
    .splitlines()
]
HEAD = LINES.pop(0)
NETWORK: str = HEAD["network"]
IDENTITIES = {
    name: product.Identity.from_seed(bytes.fromhex(seed)) for name, seed in HEAD["seeds"].items()
}
NAMES = {identity.node_id: name for name, identity in IDENTITIES.items()}
CODEC = product.codec()
NEWER = {
    "refused",
    "probe",
    "probe_ack",
    "reachability",
    "branch",
    "relay_stream",
    "presence_request",
    "presences",
}  # types that 0.1.0 does not know
FRAMES = [(line["by"], bytes.fromhex(line["frame"])) for line in LINES if "frame" in line]


def messages(kind: str, by: str) -> list[Any]:
    """The typed messages of a kind that one side sent, in order."""
    envelopes = [CODEC.decode(frame) for sender, frame in FRAMES if sender == by]
    return [CODEC.payload(e.type, e.payload) for e in envelopes if e.type == kind]


def test_every_frame_is_read_and_written_the_same() -> None:
    seen: Counter[str] = Counter()
    for by, frame in FRAMES:
        envelope = CODEC.decode(frame)
        assert CODEC.encode(envelope, as_json=frame[:1] == b"{") == frame
        typed = CODEC.payload(envelope.type, envelope.payload)
        # Without types, so that a field that got lost is missed; 0 and 0.0 are the same.
        assert msgspec.msgpack.decode(product.pack(typed)) == msgspec.msgpack.decode(
            envelope.payload
        )
        assert envelope.from_ == IDENTITIES[by].node_id or envelope.to == "*"  # or passed on
        seen[envelope.type] += 1
    # All of 0.1.0 but cancel and hint, for which there was no occasion.
    assert set(seen) == set(CODEC.payloads) - {"cancel", "hint"} - NEWER


def test_frames_are_cut_from_the_stream() -> None:
    decoder = product.FrameDecoder()
    cut: list[bytes] = []
    stream = b"".join(len(f).to_bytes(4, "big") + f for by, f in FRAMES if by == "a")
    for at in range(0, len(stream), 1000):
        chunk = stream[at : at + 1000]
        decoder.writable()[: len(chunk)] = chunk
        decoder.wrote(len(chunk))
        while frames := decoder.take(10):
            cut += map(bytes, frames)
    assert cut == [f for by, f in FRAMES if by == "a"]


def test_batches_verify_and_follow_each_other() -> None:
    keys = product.NodeKeys(IDENTITIES["c"])
    heads: dict[bytes, bytes] = {}
    checked = 0
    for by in "ab":
        parts = [batch for part in messages("feed", by) for batch in part.batches]
        for batch in [*parts, *messages("order", by), *messages("trade", by)]:
            digest = product.check_batch(keys, NETWORK, batch)
            heads[batch.previous] = digest
            checked += 1
    assert checked > 5
    assert sum(following in heads for following in heads.values()) > 3


@pytest.mark.parametrize("side", ["a", "b"])
def test_a_side_played_again_decides_the_same(side: str) -> None:
    """It gets the same orders and the other side's frames, at the same times, and answers takes as before."""
    other = "b" if side == "a" else "a"
    peer = IDENTITIES[other].node_id
    engine = product.engine(IDENTITIES[side], NETWORK)
    engine.neighbour_up(1.0, peer)
    decided: list[Any] = []

    def drain(now: float) -> None:
        decided.extend(
            CODEC.payload(message.type, message.payload)
            for message in engine.drain(now).messages
            if message.type == "take_result"
        )

    for line in LINES:
        now = 1.0 + line["t"]
        engine.tick(now)
        if line["by"] == side and "place" in line:
            engine.orders.place(now, product.NewOrder(**line["place"]))
        elif line["by"] == side and "cancel" in line:
            engine.orders.cancel(now, line["cancel"])
        elif line["by"] == other and "frame" in line:
            envelope = CODEC.decode(bytes.fromhex(line["frame"]))
            if envelope.type in product.EXCHANGE_MESSAGES:
                payload = bytes(envelope.payload)
                assert engine.receive(now, envelope.type, payload, envelope.from_, peer)
        drain(now)

    def words(result: Any) -> tuple[Any, ...]:
        return (
            *(result.take, result.market, result.order),
            *(result.price, result.quantity, result.reason),
        )

    recorded = messages("take_result", side)
    assert recorded
    assert [words(result) for result in decided] == [words(result) for result in recorded]
    # What the other side wrote is held to its last number.
    (market,) = {take.market for take in messages("take", other)}
    written = max(
        batch.first + len(batch.events) - 1
        for kind in ("order", "trade")
        for batch in messages(kind, other)
        if batch.key == IDENTITIES[other].public_key
    )
    assert engine.feeds[peer, market].number == written
