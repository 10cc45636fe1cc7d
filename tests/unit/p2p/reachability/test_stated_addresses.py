"""Addresses that neighbours state: which of them are remembered, and as what."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from p2p.addresses.address import PeerFound
from p2p.base.identity import Identity
from p2p.reachability.dial_back import DialBackAnswer
from p2p.reachability.punch_service import ReachabilityHost
from p2p.reachability.reachability import DialBackRequest, ReachabilityCore
from p2p.reachability.reachability_service import ReachabilityService
from p2p.wire.link import PeerLink
from p2p.wire.messages import Envelope, Reachability, pack

NODE = Identity.from_seed(bytes(32)).node_id
SEEN = "11.8.0.1"
OTHER_KIND = "2a10::7"


@pytest.mark.parametrize(
    ("seen", "stated", "found"),
    [
        (SEEN, (SEEN, 3000), PeerFound(SEEN, 3000, NODE, "inbound")),
        (OTHER_KIND, (OTHER_KIND, 3000), PeerFound(OTHER_KIND, 3000, NODE, "inbound")),
        (
            SEEN,
            (OTHER_KIND, 3001),
            PeerFound(OTHER_KIND, 3001, NODE, "exchange", NODE, via_address=SEEN),
        ),
        (
            OTHER_KIND,
            (SEEN, 3001),
            PeerFound(SEEN, 3001, NODE, "exchange", NODE, via_address=OTHER_KIND),
        ),
        (SEEN, ("11.8.0.2", 3000), None),  # another machine of the same kind
        (SEEN, ("fe80::1", 3000), None),
        (SEEN, ("fd00::1", 3000), None),
        (SEEN, ("victim.example", 3000), None),
        (SEEN, (OTHER_KIND, 0), None),
    ],
)
def test_stated_addresses_are_candidates_only_at_the_seen_host_or_in_the_other_family(
    seen: str, stated: tuple[str, int], found: PeerFound | None
) -> None:
    remembered: list[PeerFound] = []
    service = service_with(remembered)
    link: Any = SimpleNamespace(peer=SimpleNamespace(node_id=NODE, address=seen))
    statement = Reachability(reachable=True, addresses=[stated])
    envelope = Envelope("reachability", NODE, "", 0, msgspec.Raw(pack(statement)))
    service._on_statement(cast(PeerLink, link), envelope)
    assert remembered == ([] if found is None else [found])
    kept = [stated] if stated[1] and stated[0] != "victim.example" else []
    assert service.stated[NODE] == Reachability(reachable=True, addresses=kept)


def service_with(remembered: list[PeerFound]) -> ReachabilityService:
    peers = SimpleNamespace(
        handle=lambda kind, handler: None,
        follow=lambda follower: None,
        withdraw=lambda node, host, keep: None,
        found=lambda peer: remembered.append(peer) if peer.usable else None,
        links={},
    )
    host = SimpleNamespace(
        node_id="own",
        links=SimpleNamespace(follow=lambda reachable: None),
        peers=peers,
        rpc=SimpleNamespace(serve=lambda *names, **kinds: None),
        relayed=list,
        now=lambda: 0.0,
    )
    core = ReachabilityCore(3000, lambda: bytes(16))
    return ReachabilityService(core, cast(ReachabilityHost, host), random.Random(1))


def test_little_is_kept_of_a_long_statement() -> None:
    service = service_with([])
    statement = Reachability(addresses=[(SEEN, port) for port in range(1, 2000)], nat="x" * 100)
    link: Any = SimpleNamespace(peer=SimpleNamespace(node_id=NODE, address=SEEN))
    service._on_statement(
        cast(PeerLink, link), Envelope("reachability", NODE, "", 0, msgspec.Raw(pack(statement)))
    )
    assert len(pack(service.stated[NODE])) < 300


async def test_answers_that_a_server_invents_are_one_outcome(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = service_with([])
    for n in range(100):
        answer = DialBackAnswer(f"status {n}")

        async def ask(
            request: DialBackRequest, proof: bytes, answer: DialBackAnswer = answer
        ) -> DialBackAnswer:
            return answer

        monkeypatch.setattr(service, "_ask", ask)
        await service._request_dial_back(DialBackRequest(NODE, SEEN, 3000, bytes(16)))
    assert service.counters == {"asked_other": 100}
