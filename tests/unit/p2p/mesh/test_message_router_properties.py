"""Any message, any churn: taken or refused, and never heard twice."""

from __future__ import annotations

import random
from collections import Counter

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from router_kit import HELLO, Inbox, direct, make, news, node, signed
from virtual_mesh import NEWS, NOTE, VirtualMesh

from p2p.base import limits
from p2p.base.errors import Code, DeliveryError, RemoteProtocolError
from p2p.mesh.routed_messages import Way
from p2p.wire.messages import EVERYONE, Graft, IHave, pack


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_message_is_taken_or_refused_with_a_documented_error_and_can_be_passed_on(data):
    router = make()
    Inbox(router, NEWS)
    Inbox(router, NOTE)
    for number in (1, 2):
        router.link_up(0.0, node(number))
    ids = st.sampled_from([node(0), node(1), node(2), node(9), "", EVERYONE, "x"])
    for _ in range(data.draw(st.integers(1, 8))):
        base = data.draw(st.sampled_from([news(9, HELLO), signed(1, 2), signed(9, 0), direct(1)]))
        changes: dict[str, object] = {}
        for name, values in {
            "type": st.sampled_from([NEWS, NOTE, "ihave", "graft", "prune", "?"]),
            "from_": ids,
            "to": ids,
            "timestamp": st.integers(-(2**63), 2**64 - 1),
            "payload": st.sampled_from(
                [pack(x) for x in (1, {}, IHave([bytes(16)]), Graft([b""]))]
            ).map(msgspec.Raw),
            "id": st.none() | st.binary(max_size=20),
            "hops": st.integers(-(2**63), 2**64 - 1),
            "key": st.none() | st.binary(max_size=40),
            "sig": st.none() | st.binary(max_size=70),
        }.items():
            if data.draw(st.booleans()):
                changes[name] = data.draw(values)
        code = None
        try:
            router.receive(0.0, node(1), msgspec.structs.replace(base, **changes))
        except RemoteProtocolError as error:
            code = error.code
        assert code in (None, Code.ABUSE, Code.UNKNOWN_TYPE, Code.MALFORMED)
        if code is not None:
            router.link_down(0.0, node(1))
            router.link_up(0.0, node(1))
        router.tick(1.0)
        peers: Counter[str] = Counter()
        for out in router.take_outgoing():
            assert len(pack(out.envelope)) <= limits.MAX_FRAME
            peers.update(out.peers)
        assert all(peer in router.links for peer in peers)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), n=st.integers(3, 8))
def test_under_churn_notes_arrive_at_most_once_and_in_quiet_those_with_a_way_do(seed, n):
    mesh = VirtualMesh(n, seed=seed)
    rng = random.Random(seed)
    for number in range(40):
        a, b = rng.sample(range(n), 2)
        (mesh.unlink if rng.random() < 0.3 else mesh.link)(a, b)
        mesh.broadcast(rng.randrange(n), pack(["I am here", number]))
        a, b = rng.sample(range(n), 2)
        try:
            mesh.send(a, b, pack(number), queue_for=rng.choice([None, 3.0]))
        except DeliveryError:
            assert (min(a, b), max(a, b)) not in mesh.links
        mesh.run(rng.choice([0.0, 0.003, 0.3]))
    mesh.run(5.0)
    for origin in range(n):
        mesh.broadcast(origin, pack(["quiet", origin]))
    mesh.run(2.0)
    expected: list[list[bytes]] = [[] for _ in range(n)]
    for a in range(n):
        for b in mesh.component(a):
            if a != b:
                payload = pack(["final", a, b])
                assert mesh.send(a, b, payload) in (Way.DIRECT, Way.RELAYED)
                expected[b].append(payload)
    mesh.run(2.0)
    for i, notes in enumerate(mesh.notes):
        payloads = [note.payload for note in notes]
        assert len(set(payloads)) == len(payloads)
        assert set(expected[i]) <= set(payloads)
    assert mesh.cut == []
