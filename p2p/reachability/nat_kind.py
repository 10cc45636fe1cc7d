"""Kind of the NAT before this node, as far as it can be known. Pure.

A NAT has a mapping behaviour and a filtering behaviour (RFC 4787). The mapping is known by probing two peers from one
local port: the same outside port twice is endpoint-independent, different ones are symmetric. The filtering is known by
dial-backs: a connection that comes through was not filtered, or a rule of the router forwards the port.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, Literal

import msgspec

from p2p.reachability.observed_address import Observation

NatKind = Literal["none", "full_cone", "port_restricted", "symmetric", "unknown"]

NAMES: Final[dict[NatKind, str]] = {
    "none": "no NAT",
    "full_cone": "a full-cone NAT, or a forwarded port",
    "port_restricted": "a port-restricted NAT",
    "symmetric": "a symmetric NAT",
    "unknown": "a NAT of unknown kind",
}
OBSERVERS: Final = 2  # of the mapping, at different addresses


class NatVerdict(msgspec.Struct, frozen=True):
    kind: NatKind
    confirmed: bool  # by two observers of the mapping, and a dial-back


def nat_kind(
    *,
    translated: bool,
    reachable: bool | None,
    mapped_ports: Collection[tuple[str, int]],
    listen_port: int,
    observations: Sequence[Observation],
) -> NatVerdict:
    """Return the kind of NAT.

    `translated`: the outside address is not this machine's. `reachable`: result of dial-backs to the listening port,
    without a port mapping of this node; None: none yet. `mapped_ports`: pairs of a probed peer's address and the outside
    port of this node's listening port.
    """
    if not translated:
        return NatVerdict("none", True)
    if reachable:
        return NatVerdict("full_cone", True)
    symmetric, confirmed = _symmetric(mapped_ports, listen_port, observations)
    if symmetric is None or (not symmetric and reachable is None):
        return NatVerdict("unknown", False)
    return NatVerdict("symmetric" if symmetric else "port_restricted", confirmed)


def _symmetric(
    mapped_ports: Collection[tuple[str, int]], listen_port: int, observations: Sequence[Observation]
) -> tuple[bool | None, bool]:
    """Return whether the outside port depends on the destination (None: not known), and if that is confirmed."""
    if len({host for host, _ in mapped_ports}) >= OBSERVERS:
        return len({port for _, port in mapped_ports}) > 1, True
    # One observer cannot tell. A NAT that keeps the ports of this machine is taken not to choose by destination.
    kept = [port == listen_port for _, port in mapped_ports]
    kept += [
        seen.seen_port == seen.local[1]
        for seen in observations
        if seen.outbound and seen.seen_port and seen.local[1]
    ]
    return (None if not kept else not all(kept)), False
