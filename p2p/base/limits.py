"""All limits of the peer protocol, each with its reason. Seconds and bytes."""

from __future__ import annotations

from typing import Final

PROTOCOL_VERSION: Final = "1.0.0"  # same major version: compatible

# Frames
MAX_FRAME: Final = 1024 * 1024  # design limit of one message, checked before anything is allocated
MAX_HANDSHAKE_FRAME: Final = 16 * 1024  # bytes held for a peer before the handshake
READ_BUFFER: Final = 256 * 1024  # of one recv; large enough to parse a burst in place

# Links
CONNECT_TIMEOUT: Final = 5.0  # TCP connect
HANDSHAKE_TIMEOUT: Final = 5.0  # TLS and handshake together, from accept or connect
HEARTBEAT_INTERVAL: Final = 2.0
DEAD_AFTER: Final = 8.0  # without a byte from the peer: a little more than three heartbeats
OUTBOX_LIMIT: Final = (
    8 * 1024 * 1024
)  # bytes queued for one peer that does not read; beyond that it is disconnected
OUTBOX_HIGH_WATER: Final = 1024 * 1024  # above this, senders with backpressure wait
MAX_PENDING_HANDSHAKES: Final = 64  # unfinished handshakes at once,
PENDING_PER_ADDRESS: Final = 8  # of one address
PENDING_PER_NETWORK: Final = 48  # and of one network group
FRAMES_PER_TURN: Final = 512  # messages handled from one link in one turn ...
TURN_TIME: Final = 0.0002  # ... or as many as fit in these seconds, at least one
MAX_BAD_MESSAGES: Final = 8  # unknown types or invalid broadcasts from one link before it is closed

# Peer exchange (BEP 11: at most once a minute, at most 50, connected peers only)
PEX_INTERVAL: Final = 60.0
PEX_FIRST_DELAY: Final = 1.0  # after a link comes up, so that a newcomer learns the others at once
PEX_MAX_PEERS: Final = 50

# Reconnecting
RECONNECT_LADDER: Final = (1.0, 5.0, 15.0)  # then PEER_RECONNECT_INTERVAL, doubling to the maximum
RECONNECT_MAX: Final = 600.0
RECONNECT_JITTER: Final = 0.25  # each wait is multiplied by 1 +- this
DIALS_PER_SECOND: Final = 20.0  # dials of one node at once
HEALTHY_AFTER: Final = 15.0  # a link this old resets the ladder
FORGET_AFTER_FAILURES: Final = 20  # a remembered address that failed this often in a row is dropped
MAX_KNOWN_ADDRESSES: Final = 1000
MAX_ADDRESSES_PER_SOURCE: Final = 64  # untried addresses remembered from one peer

# Router
SEEN_TTL: Final = 300.0  # seconds that a broadcast id is remembered; longer than any redelivery
SEEN_MAX: Final = 200_000  # and at most this many
STORE_TTL: Final = 30.0  # seconds that a broadcast can be pulled by a peer that missed it
STORE_MAX_BYTES: Final = 32 * 1024 * 1024
LAZY_FLUSH: Final = 0.1  # announcements are batched for this long
GRAFT_TIMEOUT: Final = 0.5  # announced but not received for this long: pull it
GRAFT_TIMEOUT_MAX: Final = 4.0  # on a link where pulls came too early
ANNOUNCE_MAX_IDS: Final = 1000  # ids in one announcement or pull
MISSING_MAX_PER_LINK: Final = 4000  # announced ids awaited from one peer
GRAFT_MAX_PER_LINK: Final = 256  # of these, pulled from it at once
GRAFT_TRIES: Final = 8  # pulls of one id, from its announcers in turn, before it is given up
GRAFT_BYTES_PER_SECOND: Final = 4 * 1024 * 1024  # answers to one peer's pulls; under OUTBOX_LIMIT
REPAIR_INTERVAL: Final = 2.0  # recent ids are announced again to links not known to hold them
REPAIR_ROUNDS: Final = 4  # this often each: an announcement may be lost with a broken link
RELAY_RATE: Final = (
    4_000_000.0  # bytes a second relayed for others, unless P2P_RELAY_RATE says otherwise
)
MAX_HOPS: Final = 32  # a relayed message that travelled further is dropped
ROUTE_TTL: Final = 30.0  # lifetime of a learned route
ROUTES_MAX: Final = 10_000  # nodes with a remembered route; keys are free to make
QUEUE_MAX_BYTES: Final = 16 * 1024 * 1024  # over all recipients
QUEUE_MAX_PER_PEER: Final = 2000  # messages

# RPC
RPC_TIMEOUT: Final = 5.0
RPC_MAX_IN_FLIGHT: Final = 1024  # requests being served for one peer
RPC_MAX_BYTES: Final = 8 * 1024 * 1024  # of their bodies
RPC_MAX_IN_FLIGHT_ALL: Final = 8192  # for all peers together: relayed callers cost nothing to make
RPC_MAX_BYTES_ALL: Final = 64 * 1024 * 1024
RPC_MAX_DEADLINE: Final = 300.0  # longest work on one request
