"""The handshake as a table, for both roles, with no socket in sight."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import msgspec
import pytest

from p2p.base.errors import Code, HandshakeRefused, MalformedMessage
from p2p.base.identity import Identity
from p2p.wire.handshake import (
    MAX_OTHERS,
    TABLE,
    HandshakeMachine,
    HandshakeState,
    HandshakeTerms,
    Outgoing,
    Role,
    read_goodbye,
)
from p2p.wire.messages import (
    Capabilities,
    Codec,
    Envelope,
    Goodbye,
    Handshake,
    HandshakeAck,
    PeerAddress,
    pack,
)

A, B, C = (Identity.from_seed(bytes([n]) * 32) for n in (1, 2, 3))
CODEC = Codec()
ROLES = (Role.DIAL, Role.ACCEPT)


def terms(identity: Identity, **changes: Any) -> HandshakeTerms:
    capabilities = Capabilities(version="1.0.0", codecs=["msgpack"], agent="test")
    return HandshakeTerms(**{"identity": identity, "network": "n", "port": 3000, "capabilities": capabilities} | changes)  # fmt: skip


def machine(role: Role, mine: HandshakeTerms, **more: Any) -> HandshakeMachine:
    nonce = bytes([7 if role is Role.DIAL else 8]) * 32
    return HandshakeMachine(role, mine, **{"nonce": nonce} | more)


def wrap(kind: str, payload: msgspec.Struct, from_: str) -> Envelope:
    return Envelope(kind, from_, "", 0, msgspec.Raw(pack(payload)))


Change = Callable[[str, msgspec.Struct], msgspec.Struct]


def shake(
    dial: HandshakeMachine,
    accept: HandshakeMachine,
    *,
    change: Change = lambda kind, payload: payload,
    changed: Role | None = None,
) -> None:
    """Run both against each other until neither has more to say. `changed` speaks through `change`."""
    dialling, accepting = dial._terms.identity.node_id, accept._terms.identity.node_id
    wires: list[tuple[HandshakeMachine, str, Outgoing]] = []

    def say(speaker: HandshakeMachine, messages: list[Outgoing]) -> None:
        listener, name = (accept, dialling) if speaker is dial else (dial, accepting)
        for kind, payload in messages:
            if speaker.role is changed:
                payload = change(kind, payload)
            wires.append((listener, getattr(payload, "node_id", name), (kind, payload)))

    say(dial, dial.start())
    say(accept, accept.start())
    while wires:
        listener, name, (kind, payload) = wires.pop(0)
        say(listener, listener.receive(wrap(kind, payload, name)))
        if listener.state is HandshakeState.PROVEN:
            say(listener, listener.admit(None))


def refusal(dial: HandshakeMachine, accept: HandshakeMachine, **more: Any) -> HandshakeRefused:
    with pytest.raises(HandshakeRefused) as caught:
        shake(dial, accept, **more)
    return caught.value


def test_two_nodes_prove_themselves_to_each_other() -> None:
    dial = machine(Role.DIAL, terms(A, port=1), expect=B.node_id, tls_key=B.public_key)
    accept = machine(Role.ACCEPT, terms(B, port=2), tls_key=A.public_key)
    shake(dial, accept)
    assert dial.state is accept.state is HandshakeState.DONE
    assert dial.peer is not None
    assert accept.peer is not None
    assert (dial.peer.node_id, dial.peer.port) == (B.node_id, 2)
    assert (accept.peer.node_id, accept.peer.port) == (A.node_id, 1)


def test_the_accepting_side_is_silent_until_it_has_read_a_handshake() -> None:
    assert machine(Role.ACCEPT, terms(B)).start() == []


def test_the_accepting_sides_ack_waits_for_its_decision() -> None:
    dial, accept = machine(Role.DIAL, terms(A)), machine(Role.ACCEPT, terms(B))
    (hello,) = dial.start()
    accept.start()
    (answer,) = accept.receive(wrap(*hello, A.node_id))
    (ack,) = dial.receive(wrap(*answer, B.node_id))
    assert accept.receive(wrap(*ack, A.node_id)) == []
    assert accept.state is HandshakeState.PROVEN
    with pytest.raises(HandshakeRefused) as caught:
        accept.admit(Code.FULL)
    assert (caught.value.code, caught.value.by_us) == (Code.FULL, True)
    assert "as many peers" in caught.value.reason
    goodbye = Goodbye(caught.value.code.value, caught.value.reason)
    with pytest.raises(HandshakeRefused) as bytes_received:
        dial.receive(wrap("goodbye", goodbye, B.node_id))
    assert (bytes_received.value.code, bytes_received.value.by_us) == (Code.FULL, False)
    assert bytes_received.value.peer is None


def refused_with(goodbye: Goodbye) -> HandshakeRefused:
    dial = machine(Role.DIAL, terms(A))
    dial.start()
    with pytest.raises(HandshakeRefused) as caught:
        dial.receive(wrap("goodbye", goodbye, B.node_id))
    return caught.value


def test_a_full_node_may_name_others_and_they_are_bounded() -> None:
    accept = machine(Role.ACCEPT, terms(B))
    others = ((C.node_id, "192.0.2.3", 3000),)
    with pytest.raises(HandshakeRefused) as caught:
        accept.admit(Code.FULL, "", others)
    assert caught.value.others == others
    peers = [PeerAddress(C.node_id, "192.0.2.3", 3000 + n) for n in range(MAX_OTHERS + 5)]
    assert len(refused_with(Goodbye("full", "", peers)).others) == MAX_OTHERS
    assert refused_with(Goodbye("full", "", peers[:1])).others == others
    assert refused_with(Goodbye("full")).others == ()
    assert refused_with(Goodbye("abuse", "", peers)).others == ()
    over_grenache = PeerAddress(C.node_id, "192.0.2.3", 3000, "grenache")
    assert refused_with(Goodbye("full", "", [over_grenache])).others == ()


def test_a_goodbye_without_others_has_the_form_of_older_versions() -> None:
    assert msgspec.json.decode(msgspec.json.encode(Goodbye("full", "x"))) == {
        "code": "full",
        "reason": "x",
    }


def test_a_refusal_has_the_peer_that_tls_has_proven() -> None:
    dial = machine(Role.DIAL, terms(A), tls_key=B.public_key)
    accept = machine(Role.ACCEPT, terms(B))
    (hello,) = dial.start()
    accept.start()
    (answer,) = accept.receive(wrap(*hello, A.node_id))
    dial.receive(wrap(*answer, B.node_id))
    with pytest.raises(HandshakeRefused) as refused:
        dial.receive(wrap("goodbye", Goodbye("duplicate", "kept"), B.node_id))
    assert refused.value.peer == B.node_id


def both(mine: HandshakeTerms, **more: Any) -> list[tuple[HandshakeMachine, HandshakeMachine]]:
    """B with its usual terms against `mine`, which dials in one pair and accepts in the other."""
    return [
        (machine(Role.DIAL, mine), machine(Role.ACCEPT, terms(B), **more)),
        (machine(Role.DIAL, terms(B), **more), machine(Role.ACCEPT, mine)),
    ]


@pytest.mark.parametrize("pair", both(terms(A, network="other")))
def test_another_network_is_refused(pair: tuple[HandshakeMachine, HandshakeMachine]) -> None:
    error = refusal(*pair)
    assert error.code is Code.WRONG_NETWORK
    assert "'n'" in error.reason
    assert "'other'" in error.reason


@pytest.mark.parametrize("version", ["2.0.0", "0.9.1", "nonsense", ""])
@pytest.mark.parametrize("side", [0, 1])
def test_another_major_version_is_refused(version: str, side: int) -> None:
    assert refusal(*both(terms(A, version=version))[side]).code is Code.WRONG_VERSION


@pytest.mark.parametrize("side", [0, 1])
def test_another_minor_version_is_welcome(side: int) -> None:
    dial, accept = both(terms(A, version="1.7.3"))[side]
    shake(dial, accept)
    assert dial.state is accept.state is HandshakeState.DONE


@pytest.mark.parametrize("side", [0, 1])
def test_a_node_that_dials_itself_reports_it(side: int) -> None:
    assert refusal(*both(terms(B))[side]).code is Code.SELF


@pytest.mark.parametrize("side", [0, 1])
def test_a_key_other_than_the_certificates_is_refused(side: int) -> None:
    error = refusal(*both(terms(A), tls_key=C.public_key)[side])
    assert (error.code, "certificate" in error.reason) == (Code.WRONG_IDENTITY, True)


def test_another_node_than_the_one_dialled_is_refused() -> None:
    dial = machine(Role.DIAL, terms(A), expect=C.node_id)
    error = refusal(dial, machine(Role.ACCEPT, terms(B)))
    assert (error.code, C.node_id in error.reason) == (Code.WRONG_IDENTITY, True)


def alter(kind: str, **fields: Any) -> Change:
    def change(sent: str, payload: msgspec.Struct) -> msgspec.Struct:
        return msgspec.structs.replace(payload, **fields) if sent == kind else payload

    return change


LIES: list[tuple[str, Change, Code]] = [
    ("another's id", alter("handshake", node_id=C.node_id), Code.WRONG_IDENTITY),
    ("another's key", alter("handshake", public_key=C.public_key), Code.WRONG_IDENTITY),
    (
        "another's id and key",
        alter("handshake", node_id=C.node_id, public_key=C.public_key),
        Code.WRONG_IDENTITY,
    ),
    ("a short key", alter("handshake", public_key=b"short"), Code.MALFORMED),
    ("a short nonce", alter("handshake", nonce=b""), Code.MALFORMED),
    ("another nonce than it signs", alter("handshake", nonce=bytes(32)), Code.WRONG_IDENTITY),
    ("no port", alter("handshake", port=70000), Code.MALFORMED),
    ("a wrong signature", alter("handshake_ack", signature=bytes(64)), Code.WRONG_IDENTITY),
    ("no signature", alter("handshake_ack", signature=b""), Code.WRONG_IDENTITY),
    ("another id in the ack", alter("handshake_ack", node_id=C.node_id), Code.WRONG_IDENTITY),
]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    ("change", "code"), [lie[1:] for lie in LIES], ids=[lie[0] for lie in LIES]
)
def test_a_lie_is_refused(role: Role, change: Change, code: Code) -> None:
    error = refusal(
        machine(Role.DIAL, terms(A)), machine(Role.ACCEPT, terms(B)), change=change, changed=role
    )
    assert (error.code, error.by_us) == (code, True)


@pytest.mark.parametrize("field", ["role", "network", "nonces", "verifier"])
def test_an_ack_made_for_something_else_proves_nothing(field: str) -> None:
    """The accepting B signs a statement that differs from what A checks in one thing."""
    wrong: dict[str, Any] = {}
    if field == "role":
        signer = machine(Role.DIAL, terms(B), nonce=bytes([8]) * 32)
    elif field == "network":
        signer = machine(Role.ACCEPT, terms(B, network="other"))
    elif field == "nonces":
        signer = machine(Role.ACCEPT, terms(B), nonce=bytes([9]) * 32)
    else:
        signer = machine(Role.ACCEPT, terms(B))
        wrong = {"node_id": C.node_id}

    def change(kind: str, payload: msgspec.Struct) -> msgspec.Struct:
        if kind != "handshake_ack":
            return payload
        hello = machine(Role.DIAL, terms(A)).start()[0][1]
        assert isinstance(hello, Handshake)
        signer.peer = msgspec.structs.replace(hello, **wrong)
        return signer._message("handshake_ack")

    error = refusal(
        machine(Role.DIAL, terms(A)),
        machine(Role.ACCEPT, terms(B)),
        change=change,
        changed=Role.ACCEPT,
    )
    assert (error.code, "signature" in error.reason) == (Code.WRONG_IDENTITY, True)


def test_a_reflected_ack_proves_nothing() -> None:
    """B's accepting ack is the dialler's own, sent back under B's name."""
    dial = machine(Role.DIAL, terms(A))
    dial.start()
    hello = machine(Role.ACCEPT, terms(B))._message("handshake")
    ((_, ack),) = dial.receive(wrap("handshake", hello, B.node_id))
    assert isinstance(ack, HandshakeAck)
    forged = HandshakeAck(B.node_id, ack.signature)
    with pytest.raises(HandshakeRefused) as caught:
        dial.receive(wrap("handshake_ack", forged, B.node_id))
    assert caught.value.code is Code.WRONG_IDENTITY


def test_from_must_be_the_node_id_claimed() -> None:
    accept = machine(Role.ACCEPT, terms(B))
    accept.start()
    ((_, hello),) = machine(Role.DIAL, terms(A)).start()
    with pytest.raises(HandshakeRefused) as caught:
        accept.receive(wrap("handshake", hello, C.node_id))
    assert caught.value.code is Code.WRONG_IDENTITY


EVENTS = ("handshake", "handshake_ack", "heartbeat", "order", "x" * 1000)


@pytest.mark.parametrize(
    ("role", "state", "event"),
    [row for row in product(ROLES, HandshakeState, EVENTS) if row not in TABLE],
)
def test_events_outside_the_table_are_unexpected(
    role: Role, state: HandshakeState, event: str
) -> None:
    stuck = machine(role, terms(A))
    stuck.state = state
    hello = machine(Role.DIAL, terms(B))._message("handshake")
    payload = HandshakeAck(B.node_id, b"") if event == "handshake_ack" else hello
    with pytest.raises(HandshakeRefused) as caught:
        stuck.receive(wrap(event, payload, B.node_id))
    assert (caught.value.code, caught.value.by_us) == (Code.UNEXPECTED, True)
    assert len(caught.value.reason) < 120
    assert stuck.state is HandshakeState.ENDED


def test_every_row_of_the_table_is_reached_by_an_honest_handshake() -> None:
    walked: set[tuple[Role, HandshakeState, str]] = set()

    class Walking(HandshakeMachine):
        def _step(self, event: str, payload: msgspec.Struct | None) -> list[Outgoing]:
            walked.add((self.role, self.state, event))
            return super()._step(event, payload)

    shake(
        Walking(Role.DIAL, terms(A), nonce=bytes(32)),
        Walking(Role.ACCEPT, terms(B), nonce=bytes(32)),
    )
    assert walked == set(TABLE)


@pytest.mark.parametrize("payload", [pack({"nodeId": 1}), b"\x81\xa6nodeId\xa2\xff\xfe"])
@pytest.mark.parametrize("role", ROLES)
def test_a_payload_of_the_wrong_shape_or_text_is_malformed(role: Role, payload: bytes) -> None:
    waiting = machine(role, terms(A))
    waiting.start()
    with pytest.raises(HandshakeRefused) as caught:
        waiting.receive(Envelope("handshake", B.node_id, "", 0, msgspec.Raw(payload)))
    assert caught.value.code is Code.MALFORMED


@pytest.mark.parametrize("role", ROLES)
def test_a_handshake_timeout_names_the_awaited_message(role: Role) -> None:
    waiting = machine(role, terms(A))
    waiting.start()
    error = waiting.expired(5.0)
    assert (error.code, error.by_us) == (Code.TIMEOUT, True)
    assert "after 5 s still waiting for the peer's handshake" in error.reason


def test_a_goodbyes_words_are_made_fit_for_a_log() -> None:
    code, reason = read_goodbye(Goodbye("full", "no\nroom\x1b[31m" + "!" * 1000))
    assert code is Code.FULL
    assert reason.startswith("no?room?[31m")
    assert len(reason) == 200
    assert read_goodbye(Goodbye("moon_phase", "later")) == (None, "moon_phase: later")


def test_a_json_frame_with_an_integer_beyond_64_bits_is_malformed() -> None:
    """It came from `python -m tests.fuzz handshake`: a stranger may send it before the handshake."""
    with pytest.raises(MalformedMessage):
        Codec().decode(b'{"type":"x","from":"","to":"","timestamp":1,"payload":1%s}' % (b"0" * 30))
