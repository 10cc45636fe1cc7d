"""All limits of the peer protocol, each with its reason. Seconds and bytes."""

from __future__ import annotations

from typing import Final

PROTOCOL_VERSION: Final = "1.0.0"  # same major version: compatible

# Frames
MAX_FRAME: Final = 1024 * 1024  # design limit of one message, checked before anything is allocated
MAX_HANDSHAKE_FRAME: Final = 16 * 1024  # a stranger may make us hold this much, no more
READ_BUFFER: Final = 256 * 1024  # one recv; large enough that a burst is parsed in place

# Links
CONNECT_TIMEOUT: Final = 5.0  # TCP connect
HANDSHAKE_TIMEOUT: Final = 5.0  # TLS and handshake together, from accept or connect
HEARTBEAT_INTERVAL: Final = 2.0
DEAD_AFTER: Final = 8.0  # no byte from the peer for this long: three heartbeats and a bit were lost
OUTBOX_LIMIT: Final = (
    8 * 1024 * 1024
)  # bytes waiting for one peer that does not read, then it is cut
OUTBOX_HIGH_WATER: Final = 1024 * 1024  # above this, senders that can wait do
MAX_PENDING_HANDSHAKES: Final = 64  # strangers in the middle of a handshake at once
FRAMES_PER_TURN: Final = 512  # handled from one link before other links get their turn ...
TURN_TIME: Final = 0.005  # ... or as many as this many seconds allow, and at least one
MAX_BAD_MESSAGES: Final = 8  # unknown types or invalid broadcasts from one link before it is cut

# Peer exchange (BEP 11: at most once a minute, at most 50, connected peers only)
PEX_INTERVAL: Final = 60.0
PEX_FIRST_DELAY: Final = 1.0  # after a link comes up, so that a newcomer learns the others at once
PEX_MAX_PEERS: Final = 50

# Reconnecting
RECONNECT_LADDER: Final = (1.0, 5.0, 15.0)  # then PEER_RECONNECT_INTERVAL, doubling to the maximum
RECONNECT_MAX: Final = 600.0
RECONNECT_JITTER: Final = 0.25  # each wait is multiplied by 1 +- this
DIALS_PER_SECOND: Final = 20.0  # of one node, whatever is due
HEALTHY_AFTER: Final = 15.0  # a link this old resets the ladder
FORGET_AFTER_FAILURES: Final = 20  # a remembered address that failed this often in a row is dropped
MAX_KNOWN_ADDRESSES: Final = 1000
MAX_ADDRESSES_PER_SOURCE: Final = 64  # how many untried addresses one peer can make us remember

# Router
SEEN_TTL: Final = 300.0  # how long a broadcast id is remembered; longer than any redelivery
SEEN_MAX: Final = 200_000  # and at most so many
STORE_TTL: Final = 30.0  # how long a broadcast can be pulled by a peer that missed it
STORE_MAX_BYTES: Final = 32 * 1024 * 1024
LAZY_FLUSH: Final = 0.1  # announcements are batched for this long
GRAFT_TIMEOUT: Final = 0.5  # announced but not received for this long: pull it
GRAFT_TIMEOUT_MAX: Final = 4.0  # on a link where that has turned out to be too soon
ANNOUNCE_MAX_IDS: Final = 1000  # ids in one announcement or pull
MISSING_MAX_PER_LINK: Final = 4000  # ids that one peer can make us wait for
GRAFT_MAX_PER_LINK: Final = 256  # of these, pulled from it at once
GRAFT_TRIES: Final = 8  # pulls of one id, going round its announcers, before it is given up
GRAFT_BYTES_PER_SECOND: Final = 4 * 1024 * 1024  # answers to one peer's pulls; under OUTBOX_LIMIT
REPAIR_INTERVAL: Final = 2.0  # recent ids are announced again to links not known to hold them
REPAIR_ROUNDS: Final = 4  # this often each: an announcement may be lost with a broken link
MAX_HOPS: Final = 32  # a relayed message that travelled further is dropped
ROUTE_TTL: Final = 30.0  # a learned way to a node is believed for this long
ROUTES_MAX: Final = 10_000  # nodes that a way is remembered to; keys are free to make
QUEUE_MAX_BYTES: Final = 16 * 1024 * 1024  # over all recipients
QUEUE_MAX_PER_PEER: Final = 2000  # messages

# RPC
RPC_TIMEOUT: Final = 5.0
RPC_MAX_IN_FLIGHT: Final = 1024  # requests being served for one peer
RPC_MAX_BYTES: Final = 8 * 1024 * 1024  # of their bodies
RPC_MAX_IN_FLIGHT_ALL: Final = 8192  # for all peers together: relayed callers cost nothing to make
RPC_MAX_BYTES_ALL: Final = 64 * 1024 * 1024
RPC_MAX_DEADLINE: Final = 300.0  # longest that a caller can make us work for one request
