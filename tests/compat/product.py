# ruff: noqa: F401 - other modules take these names from here
"""The names of the present code that the tests of earlier versions' files need, all in one place.

When a module or class is renamed this file follows; the fixtures and the tests stay as they are.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, Final

import msgspec

from exchange.engine.engine import MESSAGES as EXCHANGE_MESSAGES
from exchange.engine.engine import Engine
from exchange.feeds.feed import FeedState
from exchange.feeds.presence import PresenceLeases
from exchange.journal.frames import file_head, frame, head_at, payload_at, version_of
from exchange.journal.journal import SCHEMA_VERSION, Journal
from exchange.journal.state import JournalState as State
from exchange.journal.state import SnapshotRecord
from exchange.journal.write_ahead_log import EARLIEST_VERSION
from exchange.ledger.reconciliation import Evidence
from exchange.ledger.reconciliation import evaluate as judge
from exchange.ledger.statements import SignedDocument, Statement, StatementPart
from exchange.ledger.statements import sign_document as sign
from exchange.model.codec import pack as pack_records
from exchange.model.codec import unpacker
from exchange.model.commands import NewOrder
from exchange.model.events import check_batch
from exchange.model.instruments import Instruments
from exchange.model.ports import Send
from exchange.model.records import EarlierOrder, LocalTrade, Order, Recovered, upgraded
from node.daemon.node_keys import Checking, NodeKeys
from node.service.public_services import BookQuery, PublicStatus, TradesQuery
from node.service.statement_service import PartRequest
from node.views.views import BookView, MarketView, TradeView
from p2p.addresses.peer_storage import PeerStorage, StoredPeer
from p2p.base.identity import Identity
from p2p.grenache import bep44
from p2p.grenache.dht import krpc
from p2p.grenache.rpc import rpc_wire as grenache_rpc
from p2p.grenache_links import tunnel
from p2p.mesh.message_router import MessageRouter
from p2p.mesh.routed_messages import Received, broadcast_id
from p2p.mesh.signed_broadcast import key_proves
from p2p.services.health_gossip import HealthGossip
from p2p.services.service_directory import ServiceDirectory
from p2p.services.service_mesh import MESSAGES as MESH_MESSAGES
from p2p.services.service_server import ServiceCall, ServiceReply
from p2p.wire import handshake
from p2p.wire.framing import FrameDecoder
from p2p.wire.handshake import HandshakeTerms, Role
from p2p.wire.messages import Capabilities, Codec, pack
from p2p.wire.tls import authority_certificate

FIXTURES: Final = Path(__file__).parents[1] / "fixtures" / "v0_1_0"

BODIES: Final[
    dict[str, Any]
] = {  # what is inside requests and responses, by its name in golden.json
    "service call": ServiceCall,
    "service reply": ServiceReply,
    "statement question": PartRequest,
    "signed": SignedDocument,
    "statement": Statement,
    "statement part": StatementPart,
    "book query": BookQuery,
    "trades query": TradesQuery,
    "public status": PublicStatus,
    "book": BookView,
    "trades": list[TradeView],
    "markets": list[MarketView],
}


def codec() -> Codec:
    """Reads and writes every message between nodes."""
    return Codec({**EXCHANGE_MESSAGES, **MESH_MESSAGES})


def records_decoder() -> Any:
    """Decodes a list of records, of the log or of a state file."""
    return unpacker(list[SnapshotRecord | EarlierOrder])


def engine(identity: Identity, network: str, recovered: Recovered | None = None) -> Engine:
    """An engine on the default markets that may write at once. Its clock stands at 1 s."""
    instruments = Instruments.load(FIXTURES / "instruments.toml")
    found = Engine(
        NodeKeys(identity),
        [instrument.key for instrument in instruments],
        network=network,
        epoch_us=1_790_000_000_000_000,
        rng=random.Random(1),
        instruments=instruments,
        recovered=recovered,
        fence_max=0.0,
        now=1.0,
    )
    found.resume(1.0)
    return found


def open_journal(data_dir: Path, owner: str) -> Journal:
    """The journal in a data directory."""
    return Journal(data_dir / "journal", owner=owner, background=False)


class Fields(list[Any]):
    """The fields of a struct in their order, without names."""


def plain(value: Any) -> Any:
    """A value as JSON has it, without the names of classes and fields."""
    if isinstance(value, Order):
        names = EarlierOrder.__struct_fields__
        return Fields(plain(getattr(value, name)) for name in names)
    if isinstance(value, msgspec.Struct):
        return Fields(plain(getattr(value, name)) for name in value.__struct_fields__)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return sorted([plain(key), plain(each)] for key, each in value.items())
    if isinstance(value, (set, frozenset)):
        return sorted(plain(each) for each in value)
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return value


def agrees(found: Any, expected: Any) -> bool:
    """Compare a `plain` value with that of an earlier version: fields may have been added at a struct's end."""
    if isinstance(found, Fields):
        return len(found) >= len(expected) and all(map(agrees, found, expected))
    if isinstance(found, list):
        return (
            isinstance(expected, list)
            and len(found) == len(expected)
            and all(map(agrees, found, expected))
        )
    return bool(found == expected)


def HandshakeMachine(
    role: Role, terms: HandshakeTerms, codec: Codec, *, nonce: bytes, observed_address: str
) -> handshake.HandshakeMachine:
    """One side of a handshake, as earlier versions made it."""
    return handshake.HandshakeMachine(role, terms, nonce=nonce, seen_at=(observed_address, 0))
