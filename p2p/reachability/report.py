"""Report of the reachability to the operator: one line, and what can be done about it. Pure."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from p2p.base.host_port import format_host_port
from p2p.reachability.nat_kind import NAMES, NatKind
from p2p.reachability.reachability import ReachabilityCore

State = Literal["reachable", "mapped", "nat", "relays", "unknown", "local", "off"]
STATES: Final[tuple[State, ...]] = (
    "reachable",  # dialled back at an address, or the operator gave one
    "mapped",  # the same, through a port mapping of the router
    "nat",  # behind a NAT of known kind, not reachable from outside
    "relays",  # not reachable from outside, for another reason
    "unknown",  # not tested yet
    "local",  # no node outside of this machine's networks is linked
    "off",  # no direct links
)


class ReachabilityReport(msgspec.Struct, frozen=True):
    state: State
    text: str
    advice: str = ""
    addresses: tuple[str, ...] = ()  # verified, as HOST:PORT
    external: str | None = None  # IP address that other nodes see
    confirmed: bool = False
    observers: int = 0  # network groups that agree on `external`
    nat: NatKind | None = None
    nat_confirmed: bool = False
    mapping: str = ""  # state of the port mapping


def report(core: ReachabilityCore, now: float, mapping: str = "") -> ReachabilityReport:
    """Return the report. `mapping`: state of the port mapping in words, empty if it is off."""
    if not core.listen_port:
        return ReachabilityReport("off", "accepts no direct links", mapping=mapping)
    external, verdict, verified = core.external(now), core.nat(now), core.verified()
    addresses = tuple(format_host_port(*each.key) for each in verified)
    common = {
        "addresses": addresses,
        "external": None if external is None else external.host,
        "observers": 0 if external is None else external.groups,
        "nat": None if verdict is None else verdict.kind,
        "nat_confirmed": verdict is not None and verdict.confirmed,
        "mapping": mapping,
    }
    if verified:
        best = verified[0]
        return _make(
            "mapped" if best.source == "mapped" else "reachable",
            f"{_HOW[best.source]} {', '.join(addresses)}{'' if best.confirmed else ', unconfirmed'}",
            confirmed=best.confirmed,
            **common,
        )
    if external is None or verdict is None:
        text = "no node outside of this machine's own networks is linked"
        return _make("local", text, **common)
    seen = f"{external.host}{'' if external.confirmed else ' (unconfirmed)'}"
    if core.reachable() is None:
        return _make("unknown", f"seen as {seen}; not tested yet from outside", **common)
    port = core.listen_port
    if verdict.kind == "none":
        text = f"only through relays, or over links that this node dials: {seen} does not answer at port {port}"
        advice = f"allow TCP port {port} in the firewall of this machine or network"
        return _make("relays", text, advice=advice, confirmed=external.confirmed, **common)
    known = verdict.kind != "unknown"
    maybe = "" if verdict.confirmed or not known else "probably "
    text = (
        f"behind {maybe}{NAMES[verdict.kind]} at {seen}: only through relays, or over links that this "
        "node dials"
    )
    advice = f"forward TCP port {port} of the router to this machine"
    if not mapping:
        advice = f"set PORT_MAPPING=true, or {advice}"
    return _make(
        "nat" if known else "relays", text, advice=advice, confirmed=external.confirmed, **common
    )


_HOW: Final = {
    "operator": "reachable at",
    "observed": "reachable at",
    "mapped": "mapped by the router, reachable at",
}


def _make(state: State, text: str, **fields: object) -> ReachabilityReport:
    return ReachabilityReport(state, text, **fields)  # type: ignore[arg-type]
