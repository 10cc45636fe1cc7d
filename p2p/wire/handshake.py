"""Handshake of both roles as one table. No I/O.

    dialling node                     accepting node
        handshake          ----->
                           <-----     handshake
        handshake_ack      ----->                        proven: admit the peer?
                           <-----     handshake_ack
        proven: admit? established                      established

The accepting side sends nothing before it has read a stranger's handshake, and its ack means that it has
admitted the peer, so that a refusal ("full", "duplicate") reaches the dialling side as such. An ack signs
both nonces: the keys are proven also where there is no TLS. Where there is, the key must moreover be
that of the peer's certificate, which excludes a man in the middle.

Handshake messages, and a goodbye during it, are always JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, StrEnum

import msgspec

from p2p.base.errors import Code, HandshakeRefused, RemoteProtocolError
from p2p.base.identity import PUBLIC_KEY_LENGTH, Identity, node_id_of, verify
from p2p.base.limits import PROTOCOL_VERSION
from p2p.ground.peer_texts import printable
from p2p.wire.messages import Capabilities, Codec, Envelope, Goodbye, Handshake, HandshakeAck, pack

NONCE_LENGTH = 32  # bytes
MAX_OTHERS = 16  # addresses in a goodbye

ADMISSION_REASONS = {
    Code.FULL: "this node has as many peers as MAX_PEERS allows",
    Code.DUPLICATE: "another link to the same peer is kept",
}


class Role(StrEnum):
    DIAL = "dial"
    ACCEPT = "accept"


class HandshakeState(Enum):
    START = "not started"
    AWAIT_HANDSHAKE = "waiting for the peer's handshake"
    AWAIT_ACK = "waiting for the peer's handshake_ack"
    PROVEN = "the peer is proven, not yet admitted"
    DONE = "established"
    ENDED = "ended"


class Step(msgspec.Struct, frozen=True):
    """Reaction to an event: a check, then the messages to send, then the next state."""

    check: str  # a method's name, "" for none
    sends: tuple[str, ...]
    then: HandshakeState


TABLE: dict[tuple[Role, HandshakeState, str], Step] = {
    (Role.DIAL, HandshakeState.START, "start"): Step(
        "", ("handshake",), HandshakeState.AWAIT_HANDSHAKE
    ),
    (Role.DIAL, HandshakeState.AWAIT_HANDSHAKE, "handshake"): Step(
        "_check_claims", ("handshake_ack",), HandshakeState.AWAIT_ACK
    ),
    (Role.DIAL, HandshakeState.AWAIT_ACK, "handshake_ack"): Step(
        "_check_proof", (), HandshakeState.PROVEN
    ),
    (Role.DIAL, HandshakeState.PROVEN, "admit"): Step("", (), HandshakeState.DONE),
    (Role.ACCEPT, HandshakeState.START, "start"): Step("", (), HandshakeState.AWAIT_HANDSHAKE),
    (Role.ACCEPT, HandshakeState.AWAIT_HANDSHAKE, "handshake"): Step(
        "_check_claims", ("handshake",), HandshakeState.AWAIT_ACK
    ),
    (Role.ACCEPT, HandshakeState.AWAIT_ACK, "handshake_ack"): Step(
        "_check_proof", (), HandshakeState.PROVEN
    ),
    (Role.ACCEPT, HandshakeState.PROVEN, "admit"): Step(
        "", ("handshake_ack",), HandshakeState.DONE
    ),
}

Outgoing = tuple[str, msgspec.Struct]  # message type, payload

_codec = Codec()


class HandshakeTerms(msgspec.Struct, frozen=True):
    """Statements of this node about itself."""

    identity: Identity
    network: str
    port: int  # where it accepts links, 0 if it does not
    capabilities: Capabilities
    version: str = PROTOCOL_VERSION


class HandshakeMachine:
    """One handshake without I/O.

    The driver sends the messages that the methods return, and turns a raised `HandshakeRefused(by_us=True)` into
    a goodbye with its code and reason.
    """

    def __init__(
        self,
        role: Role,
        terms: HandshakeTerms,
        *,
        nonce: bytes,
        expect: str | None = None,
        tls_key: bytes | None = None,
        seen_at: tuple[str, int] = ("", 0),
    ) -> None:
        """`nonce` is 32 fresh random bytes. `expect` is the node id that was dialled, if known;
        `tls_key` the raw key proven by TLS; `seen_at` where we see the peer, with port 0 if it is not known."""
        self.role = role
        self.state = HandshakeState.START
        self.peer: Handshake | None = None  # its claims; proven from State.PROVEN on
        self.observed: tuple[str, int] = ("", 0)  # where the peer sees this node; unproven
        self._terms = terms
        self._nonce = nonce
        self._expect = expect
        self._tls_key = tls_key
        self._seen_at = seen_at

    def start(self) -> list[Outgoing]:
        return self._step("start", None)

    def receive(self, envelope: Envelope) -> list[Outgoing]:
        """Process a message of the peer.

        Raises:
            HandshakeRefused: by either side; the handshake has ended.
        """
        payload: msgspec.Struct | None = None
        try:
            if envelope.type in ("handshake", "handshake_ack", "goodbye"):
                payload = _codec.payload(envelope.type, envelope.payload)
        except RemoteProtocolError as error:
            raise self.refusal(error.code, error.reason) from error
        if isinstance(payload, Goodbye):
            self.state = HandshakeState.ENDED
            code, reason = read_goodbye(payload)
            proven = self.peer if self._tls_key is not None else None
            peer = None if proven is None else proven.node_id
            raise HandshakeRefused(
                code or Code.UNEXPECTED, reason, by_us=False, peer=peer, others=_others(payload)
            )
        claimed = getattr(payload, "node_id", envelope.from_)
        if envelope.from_ != claimed:
            raise self.refusal(Code.WRONG_IDENTITY, "`from` and the node id differ")
        return self._step(envelope.type, payload)

    def admit(
        self,
        code: Code | None,
        reason: str = "",
        others: tuple[tuple[str, str, int], ...] = (),
    ) -> list[Outgoing]:
        """Apply the node's decision about the proven peer: None admits it. `others`: nodes that a declined peer may
        dial.

        Raises:
            HandshakeRefused: `code` was given.
        """
        if code is not None:
            refusal = self.refusal(code, reason or ADMISSION_REASONS.get(code, "not admitted"))
            refusal.others = others
            raise refusal
        return self._step("admit", None)

    def expired(self, seconds: float) -> HandshakeRefused:
        """Return the refusal of a peer that took too long."""
        return self.refusal(Code.TIMEOUT, f"after {seconds:g} s still {self.state.value}")

    def refusal(self, code: Code, reason: str) -> HandshakeRefused:
        """End the handshake and return the error to raise."""
        self.state = HandshakeState.ENDED
        return HandshakeRefused(code, reason, by_us=True)

    def _step(self, event: str, payload: msgspec.Struct | None) -> list[Outgoing]:
        step = TABLE.get((self.role, self.state, event))
        if step is None:
            raise self.refusal(Code.UNEXPECTED, f"{event[:40]!r} while {self.state.value}")
        if step.check:
            check: Callable[[msgspec.Struct | None], None] = getattr(self, step.check)
            check(payload)
        self.state = step.then
        return [(kind, self._message(kind)) for kind in step.sends]

    def _message(self, kind: str) -> msgspec.Struct:
        terms, identity = self._terms, self._terms.identity
        if kind == "handshake":
            return Handshake(
                node_id=identity.node_id,
                public_key=identity.public_key,
                version=terms.version,
                network=terms.network,
                port=terms.port,
                nonce=self._nonce,
                capabilities=terms.capabilities,
            )
        assert self.peer is not None  # noqa: S101 - the table has no ack before the peer's handshake
        statement = proof_bytes(
            self.role,
            terms.network,
            signer=identity.node_id,
            signer_nonce=self._nonce,
            verifier=self.peer.node_id,
            verifier_nonce=self.peer.nonce,
        )
        return HandshakeAck(
            identity.node_id,
            identity.sign(statement),
            self._seen_at[0],
            self._seen_at[1] or msgspec.UNSET,
        )

    def _check_claims(self, claims: Handshake) -> None:
        terms = self._terms
        if claims.network != terms.network:
            raise self.refusal(
                Code.WRONG_NETWORK,
                f"this node is of the network {terms.network!r}, not {claims.network[:40]!r}",
            )
        if major(claims.version) != major(terms.version):
            raise self.refusal(
                Code.WRONG_VERSION,
                f"this node speaks version {terms.version}, not {claims.version[:40]!r}",
            )
        if len(claims.public_key) != PUBLIC_KEY_LENGTH or len(claims.nonce) != NONCE_LENGTH:
            raise self.refusal(Code.MALFORMED, "the key and the nonce have 32 bytes each")
        if not 0 <= claims.port <= 65535:
            raise self.refusal(Code.MALFORMED, f"no port: {claims.port}")
        if claims.node_id != node_id_of(claims.public_key):
            raise self.refusal(Code.WRONG_IDENTITY, "the node id is not that of the public key")
        if self._tls_key is not None and claims.public_key != self._tls_key:
            raise self.refusal(Code.WRONG_IDENTITY, "the key is not that of the certificate")
        if claims.node_id == terms.identity.node_id:
            raise self.refusal(Code.SELF, "this is the node itself")
        if self._expect is not None and claims.node_id != self._expect:
            raise self.refusal(
                Code.WRONG_IDENTITY, f"{self._expect} was dialled, but {claims.node_id} answered"
            )
        self.peer = claims

    def _check_proof(self, ack: HandshakeAck) -> None:
        peer, terms = self.peer, self._terms
        assert peer is not None  # noqa: S101 - as in _message
        if ack.node_id != peer.node_id:
            raise self.refusal(Code.WRONG_IDENTITY, "another node id than in the handshake")
        statement = proof_bytes(
            Role.ACCEPT if self.role is Role.DIAL else Role.DIAL,
            terms.network,
            signer=peer.node_id,
            signer_nonce=peer.nonce,
            verifier=terms.identity.node_id,
            verifier_nonce=self._nonce,
        )
        if not verify(peer.public_key, ack.signature, statement):
            raise self.refusal(Code.WRONG_IDENTITY, "the signature does not prove the key")
        port = ack.observed_port
        self.observed = (
            ack.observed_address,
            port if isinstance(port, int) and 0 < port <= 65535 else 0,
        )


def proof_bytes(
    role: Role,
    network: str,
    *,
    signer: str,
    signer_nonce: bytes,
    verifier: str,
    verifier_nonce: bytes,
) -> bytes:
    """Return the bytes that an ack signs. The signer's role is in them, so that an ack cannot be reflected
    to its author.
    """
    label = "exchange-node handshake 1"
    return pack([label, role.value, network, signer, signer_nonce, verifier, verifier_nonce])


def major(version: str) -> str:
    """Return the part of a version number that has to agree (semver.org)."""
    return version.partition(".")[0]


def read_goodbye(goodbye: Goodbye) -> tuple[Code | None, str]:
    """Return code and reason of a peer's goodbye, fit for logs. A code that this node does not know (of a
    newer peer) is None, and stands in the reason.
    """
    reason = printable(goodbye.reason)
    try:
        return Code(goodbye.code), reason
    except ValueError:
        return None, f"{printable(goodbye.code)[:40]}: {reason}"


def _others(goodbye: Goodbye) -> tuple[tuple[str, str, int], ...]:
    """Return the nodes that a peer without a slot names in place of itself: claims."""
    if goodbye.code != Code.FULL or not isinstance(goodbye.peers, list):
        return ()
    return tuple(
        (peer.node_id, peer.address, peer.port)
        for peer in goodbye.peers[:MAX_OTHERS]
        if peer.carrier == "tcp"
    )
