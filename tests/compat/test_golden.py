"""The bytes of version 0.1.0: messages between nodes, journal records, signed documents, Grenache.

What is decoded and encoded again has to be the same bytes: a field that is renamed or moved would be lost or
end up elsewhere. Signatures have to hold, for their labels and what they cover are part of the wire.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.compat import product

GOLDEN: dict[str, Any] = json.loads(
    Path(__file__).parents[1].joinpath("fixtures/v0_1_0/golden.json").read_text("utf-8")
)
NETWORK = GOLDEN["network"]
MARKET = GOLDEN["market"]
MESSAGES: list[dict[str, str]] = GOLDEN["messages"]
RECORDS: list[dict[str, str]] = GOLDEN["journal"]["records"]
GRENACHE: dict[str, Any] = GOLDEN["grenache"]
A, B, C = (product.Identity.from_seed(bytes.fromhex(GOLDEN["seeds"][name])) for name in "abc")
KEYS = product.NodeKeys(B)
CODEC = product.codec()


def payload(name: str) -> Any:
    """The typed payload of a message."""
    (found,) = [m for m in MESSAGES if m["name"] == name]
    return CODEC.payload(found["type"], bytes.fromhex(found["payload"]))


def raw(name: str) -> bytes:
    (found,) = [m for m in MESSAGES if m["name"] == name]
    return bytes.fromhex(found["payload"])


def test_node_ids_come_from_keys_as_before() -> None:
    assert {"a": A.node_id, "b": B.node_id, "c": C.node_id} == GOLDEN["node_ids"]


# Messages

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


def test_every_message_type_has_an_example() -> None:
    assert {m["type"] for m in MESSAGES} == set(CODEC.payloads) - NEWER


@pytest.mark.parametrize("message", MESSAGES, ids=[m["name"] for m in MESSAGES])
def test_messages_keep_their_bytes(message: dict[str, str]) -> None:
    binary, text = bytes.fromhex(message["msgpack"]), message["json"].encode()
    for frame in (binary, text):
        envelope = CODEC.decode(frame)
        assert envelope.type == message["type"]
        assert bytes(envelope.payload).hex() == message["payload"]
        typed = CODEC.payload(envelope.type, envelope.payload)
        assert product.pack(typed).hex() == message["payload"]
        assert CODEC.encode(envelope) == binary
        assert CODEC.encode(envelope, as_json=True) == text


def test_batches_verify_and_make_the_same_feed() -> None:
    state = product.FeedState()
    head = bytes(32)
    for batch in (payload("trade"), payload("order")):
        assert batch.previous == head
        head = product.check_batch(KEYS, NETWORK, batch)
        for event in batch.events:  # the last one is a checkpoint, which checks the state
            state.apply(event)
    assert state.number == 8
    assert state.pages() == [payload("feed, snapshot").orders]


def test_a_snapshot_is_taken_by_a_present_engine() -> None:
    """Asked for by a node that lacks the feed, page by page."""
    engine = product.engine(C, NETWORK)
    peer = B.node_id
    engine.neighbour_up(1.0, peer)
    assert engine.receive(1.1, "presence", raw("presence"), A.node_id, peer)
    for tenths in range(12, 60):
        now = tenths / 10
        engine.tick(now)
        for message in engine.drain(now).messages:
            if (
                message.type == "feed_request"
                and CODEC.payload("feed_request", message.payload).market == MARKET
            ):
                assert engine.receive(now, "feed", raw("feed, snapshot"), peer, peer)
    assert engine.feeds[A.node_id, MARKET].number == 8
    found = [
        (side, price, owner, order, shown)
        for side, price, _, owner, order, shown in engine.markets[MARKET].contents()
    ]
    assert found == [(1, 901, A.node_id, 2, 6), (-1, 1000, A.node_id, 1, 3)]


def test_presence_is_believed() -> None:
    leases = product.PresenceLeases(KEYS, NETWORK, incarnation=1, lease_ms=9000)
    assert leases.accept(0.0, payload("presence")) == (True, A.node_id, True)
    assert leases.present(A.node_id)
    elsewhere = product.PresenceLeases(KEYS, "another network", incarnation=1, lease_ms=9000)
    assert elsewhere.accept(0.0, payload("presence"))[0] is False
    assert leases.accept(0.0, payload("presence, leaving"))[0] is True


def test_offers_of_services_are_believed() -> None:
    directory = product.ServiceDirectory(B, NETWORK, incarnation=1)
    assert directory.receive(0.0, raw("services"), 0.5) is True
    assert directory.providers("job_service") == (A.node_id,)
    assert directory.receive(1.0, raw("services, leaving"), 0.5) is True
    assert directory.providers("job_service") == ()
    elsewhere = product.ServiceDirectory(B, "another network", incarnation=1)
    assert elsewhere.receive(0.0, raw("services"), 0.5) is False


def test_hints_are_believed() -> None:
    heard: list[tuple[Any, ...]] = []
    hints = product.HealthGossip(C, NETWORK, incarnation=1)
    assert hints.receive(0.0, raw("hint"), lambda *said: heard.append(said)) is True
    assert [(origin, peer, seconds, rate) for _, origin, peer, _, seconds, rate in heard] == [
        (A.node_id, B.node_id, 0.25, 0.5)  # what is said of the receiver itself is left out
    ]
    elsewhere = product.HealthGossip(C, "another network", incarnation=1)
    assert elsewhere.receive(0.0, raw("hint"), lambda *said: None) is False


def test_broadcasts_and_relayed_messages_are_passed_on() -> None:
    """B relays what A signed for C, and C takes it; the id of a broadcast is that of its content."""
    (broadcast,) = [
        CODEC.decode(bytes.fromhex(m["msgpack"])) for m in MESSAGES if m["name"] == "broadcast"
    ]
    key = product.broadcast_id("presence", A.node_id, bytes(broadcast.payload))
    assert key == broadcast.id
    (signed,) = [
        CODEC.decode(bytes.fromhex(m["msgpack"])) for m in MESSAGES if m["name"] == "relayed"
    ]
    taken: list[product.Received] = []
    router = product.MessageRouter(C, rng=random.Random(1), wall_ms=lambda: 0)
    router.handle("take", lambda received: taken.append(received))
    router.handle("presence", lambda received: taken.append(received), origin=product.key_proves)
    router.link_up(0.0, B.node_id)
    router.receive(0.0, B.node_id, signed)
    router.receive(0.0, B.node_id, broadcast)
    assert [(t.type, t.origin, t.via) for t in taken] == [
        ("take", A.node_id, B.node_id),
        ("presence", A.node_id, B.node_id),
    ]


def test_a_handshake_is_the_same_word_for_word() -> None:
    """Ed25519 is deterministic: the same keys and nonces give the same proofs."""
    golden = GOLDEN["handshake"]
    identities = {"a": A, "b": B}
    sides = {
        name: product.HandshakeMachine(
            role,
            product.HandshakeTerms(
                identities[name],
                NETWORK,
                golden["port"],
                product.Capabilities("1.0.0", ["x"], ["msgpack"], "exchange-node/0.1.0"),
                version="1.0.0",
            ),
            CODEC,
            nonce=bytes.fromhex(golden["nonces"][name]),
            observed_address="127.0.0.1:4000" if name == "b" else "",
        )
        for name, role in (("a", product.Role.DIAL), ("b", product.Role.ACCEPT))
    }
    said = golden["said"]
    assert [one["from"] for one in said] == ["a", "b", "a", "b"]
    outgoing = {"a": sides["a"].start(), "b": sides["b"].start()}
    for number, one in enumerate(said):
        sender, receiver = one["from"], "b" if one["from"] == "a" else "a"
        if number == 3:
            outgoing["b"] += sides["b"].admit(None)
        kind, made = outgoing[sender].pop(0)
        envelope = CODEC.decode(one["json"].encode())
        assert (kind, product.pack(made)) == (envelope.type, bytes(envelope.payload))
        outgoing[receiver] += sides[receiver].receive(envelope)


# Bodies and documents


@pytest.mark.parametrize("body", GOLDEN["bodies"], ids=lambda body: body["type"])
def test_bodies_keep_their_fields(body: dict[str, str]) -> None:
    """Every key of version 0.1.0 has its value; keys that came later have defaults."""
    data = bytes.fromhex(body["msgpack"])
    read = msgspec.msgpack.decode(data, type=product.BODIES[body["type"]])
    written = msgspec.msgpack.decode(product.pack(read))
    assert_holds(written, msgspec.msgpack.decode(data))


def assert_holds(new: Any, old: Any) -> None:
    """Raises unless `new` is `old`, but for further keys in its maps."""
    if isinstance(old, dict):
        assert old.keys() <= new.keys()
        for key, value in old.items():
            assert_holds(new[key], value)
    elif isinstance(old, list):
        assert len(new) == len(old)
        for one, other in zip(new, old, strict=True):
            assert_holds(one, other)
    else:
        assert new == old


def test_a_saved_reconciliation_is_genuine_and_reads_the_same() -> None:
    evidence = msgspec.convert(GOLDEN["evidence"], product.Evidence)
    assert json.loads(msgspec.json.encode(evidence)) == GOLDEN["evidence"]
    found = product.judge(product.Checking(), evidence)
    assert not found.agree
    for signed, identity in ((evidence.ours, A), (evidence.theirs, B)):
        document = msgspec.msgpack.decode(signed.body, type=product.Statement)
        assert product.sign(product.NodeKeys(identity), document) == signed


def test_remembered_peers_keep_their_form() -> None:
    peer = msgspec.convert(GOLDEN["stored_peer"], product.StoredPeer)
    assert json.loads(msgspec.json.encode(peer)) == GOLDEN["stored_peer"]


def test_the_network_authority_is_the_same() -> None:
    assert product.authority_certificate().decode() == GOLDEN["authority"]


# The journal


def test_every_kind_of_record_has_an_example() -> None:
    kinds = {*product.SnapshotRecord.__args__, product.EarlierOrder}
    kinds -= {product.Order, product.LocalTrade}  # kinds that version 0.1.0 does not have
    later = {"give_up"}
    assert {record["kind"] for record in RECORDS} == {
        kind.__struct_config__.tag for kind in kinds
    } - later


@pytest.mark.parametrize("record", RECORDS, ids=[r["kind"] for r in RECORDS])
def test_old_bytes_decode_to_the_same_values_and_new_fields_are_last_with_defaults(
    record: dict[str, str],
) -> None:
    """A field may be added at the end of a record, with a default: earlier records lack it. No other may be renamed,
    moved or removed. A record without such fields keeps its bytes."""
    data = bytes.fromhex(record["hex"])
    (decoded,) = product.records_decoder().decode(data)
    (then,), (now,) = map(msgspec.msgpack.decode, (data, product.pack_records([decoded])))
    assert now[: len(then)] == then
    added = now[len(then) :]
    assert added == list(decoded.__struct_defaults__[::-1][: len(added)][::-1])
    assert decoded.__struct_config__.tag == record["kind"]


def test_a_state_is_made_of_all_records() -> None:
    state = product.State()
    for record in RECORDS:
        decoded = product.records_decoder().decode(bytes.fromhex(record["hex"]))
        state.apply(map(product.upgraded, decoded))
    again = product.State()
    again.apply(list(state.records()))
    assert product.plain(again.recovered()) == product.plain(state.recovered())


def test_frames_of_the_journal_keep_their_bytes() -> None:
    golden = GOLDEN["journal"]
    made = golden["frame"]
    data, inside = bytes.fromhex(made["hex"]), bytes.fromhex(made["payload"])
    assert product.frame(made["number"], made["durable"], inside) == data
    head = product.head_at(data, 0)
    assert (head.number, head.durable) == (made["number"], made["durable"])
    assert product.payload_at(data, 0, head) == inside
    for magic, name in ((b"xchg-log", "log_head"), (b"xchgstat", "state_head")):
        version = product.version_of(bytes.fromhex(golden[name]), magic)
        assert product.EARLIEST_VERSION <= version <= product.SCHEMA_VERSION
        assert product.file_head(magic, version).hex() == golden[name]


# Grenache


@pytest.mark.parametrize("message", GRENACHE["tunnel"], ids=lambda message: message["type"])
def test_tunnel_messages_keep_their_form(message: dict[str, Any]) -> None:
    read = {"request": product.tunnel.read_request, "reply": product.tunnel.read_reply}
    assert product.tunnel.to_json(read[message["type"]](message["json"])) == message["json"]


def test_dht_messages_keep_their_bytes() -> None:
    krpc = product.krpc
    for text in GRENACHE["queries"]:
        query = krpc.decode(bytes.fromhex(text))
        assert isinstance(query, krpc.KrpcQuery)
        assert krpc.encode_query(query.transaction, query.sender, query.ask).hex() == text
    reply = krpc.decode(bytes.fromhex(GRENACHE["reply"]))
    assert isinstance(reply, krpc.KrpcReply)
    assert krpc.encode_reply(reply).hex() == GRENACHE["reply"]
    failure = krpc.decode(bytes.fromhex(GRENACHE["failure"]))
    assert isinstance(failure, krpc.KrpcFailure)
    assert krpc.encode_failure(failure).hex() == GRENACHE["failure"]


def test_signed_values_in_the_dht_are_the_same() -> None:
    golden = GRENACHE["item"]
    value, salt = bytes.fromhex(golden["value"]), bytes.fromhex(golden["salt"])
    item = product.bep44.sign(A.private_key, golden["seq"], value, salt=salt, cas=golden["cas"])
    assert item.signature.hex() == golden["signature"]
    assert product.bep44.verify(item)
    assert product.bep44.mutable_key(A.public_key, salt).hex() == golden["key"]
    assert product.bep44.immutable_key(value).hex() == golden["immutable_key"]


def test_grenache_requests_keep_their_bytes() -> None:
    rpc = product.grenache_rpc
    request, reply = GRENACHE["rpc_request"], GRENACHE["rpc_reply"]
    assert rpc.encode_request(*rpc.decode_request(request)).decode() == request
    assert rpc.encode_reply(*rpc.decode_reply(reply)).decode() == reply
