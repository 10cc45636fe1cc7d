"""Signed list of peers, as one file: JSON with addresses, node ids, an end, and the signer's key and signature.

The list may come over any path: its signature and its end are checked, and its readers name the signer. The
signature covers everything but itself, in the form in which this module writes it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Final

import msgspec

from p2p.base.host_port import parse_host_port
from p2p.base.identity import Identity, is_node_id, node_id_of, verify

MAX_BYTES: Final = 262_144  # of a file
MAX_PEERS: Final = 1000
MAX_DAYS: Final = 400
_AHEAD: Final = 3600.0  # seconds that the signer's clock may be ahead
_LABEL: Final = b"exchange-node peer list\x00"


class PeerListError(ValueError):
    """A list that is not used, with the reason."""


class ListedPeer(msgspec.Struct, frozen=True):
    """A node of a list. `address`: HOST:PORT; `node`: its id."""

    address: Annotated[str, msgspec.Meta(max_length=300)]
    node: Annotated[str, msgspec.Meta(max_length=32)]


class PeerList(msgspec.Struct, frozen=True):
    """The file. Times are seconds since the epoch; `key` is the signer's Ed25519 key."""

    network: str
    made: int
    expires: int
    peers: Annotated[list[ListedPeer], msgspec.Meta(max_length=MAX_PEERS)]
    key: bytes
    signature: bytes = b""

    def addresses(self) -> list[tuple[str, int, str]]:
        """Return host, port and node id of every peer."""
        return [(*parse_host_port(peer.address), peer.node) for peer in self.peers]


def sign_list(
    identity: Identity, network: str, peers: list[ListedPeer], now: float, days: int
) -> bytes:
    """Return the file of a list that ends in `days`. `now`: seconds since the epoch.

    Raises:
        PeerListError: an address or an id cannot be used, or there are too many.
    """
    if len(peers) > MAX_PEERS:
        raise PeerListError(f"a list has at most {MAX_PEERS} peers, not {len(peers)}")
    made = int(now)
    found = PeerList(network, made, made + days * 86_400, peers, identity.public_key)
    _check_peers(found)
    signed = msgspec.structs.replace(found, signature=identity.sign(_signed(found)))
    return msgspec.json.format(msgspec.json.encode(signed), indent=1) + b"\n"


def read_list(file: bytes, network: str, signer: str, now: float) -> PeerList:
    """Return the list of a file. `signer`: the node id that must have signed it; `now`: seconds since the
    epoch.

    Raises:
        PeerListError: it is not used, and why.
    """
    if len(file) > MAX_BYTES:
        raise PeerListError(f"it has more than {MAX_BYTES} bytes")
    try:
        found = msgspec.json.decode(file, type=PeerList)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PeerListError(f"it is not a list of peers: {error}") from None
    if node_id_of(found.key) != signer:
        raise PeerListError(f"it is signed by {node_id_of(found.key)}, not by {signer}")
    if not verify(found.key, found.signature, _signed(found)):
        raise PeerListError("its signature is wrong")
    if found.network != network:
        raise PeerListError(f"it is of the network {found.network!r}, not of {network!r}")
    if found.made > now + _AHEAD:
        raise PeerListError(f"it was made in the future, at {_text(found.made)}")
    if found.expires <= now:
        raise PeerListError(f"it ended at {_text(found.expires)}; its publisher has to renew it")
    if found.expires > found.made + MAX_DAYS * 86_400:
        raise PeerListError(f"it is to last more than {MAX_DAYS} days")
    _check_peers(found)
    return found


def _check_peers(found: PeerList) -> None:
    for peer in found.peers:
        try:
            parse_host_port(peer.address)
        except ValueError as error:
            raise PeerListError(str(error)) from None
        if not is_node_id(peer.node):
            raise PeerListError(f"{peer.node!r} is not a node id")


def _signed(found: PeerList) -> bytes:
    """Return the bytes that the signature covers."""
    return _LABEL + msgspec.json.encode(msgspec.structs.replace(found, signature=b""))


def _text(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return str(seconds)
