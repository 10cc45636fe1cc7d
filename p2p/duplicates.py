"""One link per pair of nodes, when a second one comes up.

It happens when both nodes dial at once, when a node dials a second address of a peer it has, and
when a peer that crashed without a word comes back before its old link is noticed to be dead.

If each side judged for itself, one could drop the old link while the other refuses the new one, and
the pair would lose both: age and silence of a link look different from its two ends. Rules over
shared facts alone (say, keep the one that the smaller id dialled) agree, but let a peer in again
only when the old link has timed out, or throw away an established link for every second dial.

So one side decides, and both know which without asking: **the node with the smaller id**. It keeps
the link it has while that is alive, and takes the new one when the old one has fallen silent. The
other side never closes either; it holds both for the round trip until the decision arrives as a
goodbye `duplicate` on one of them, or as a message on the new one. Only one side ever closes, so
both links cannot be lost, whatever each side has seen. If the deciding side has no memory of the
old link (it restarted), nobody closes that one: it dies of silence, and the held one takes over.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from p2p.limits import HEARTBEAT_INTERVAL

SUSPECT_AFTER: Final = 2.5 * HEARTBEAT_INTERVAL  # seconds: two heartbeats and their slack missed
MAX_HELD: Final = 3  # links of one peer that wait for its decision; an honest peer leaves one


class Verdict(Enum):
    """What to do with a second link to a peer."""

    REFUSE = "refuse"  # we decide: the old one stays
    REPLACE = "replace"  # we decide: the new one is used, the old one closed
    HOLD = "hold"  # the peer decides: use the old one meanwhile
    SWITCH = "switch"  # the peer decides, but the old one looks dead: use the new one meanwhile


def decides(own_id: str, peer_id: str) -> bool:
    """Whether we are the side that decides. Exactly one side is."""
    return own_id < peer_id


def second_link(own_id: str, peer_id: str, *, silent_for: float, held: int = 0) -> Verdict:
    """The verdict on a new link while there is an old one.

    `silent_for`: seconds since the last byte on the old link (infinite when it is closed).
    `held`: links of this peer that already wait beside the old one.
    """
    looks_dead = silent_for >= SUSPECT_AFTER
    if decides(own_id, peer_id):
        return Verdict.REPLACE if looks_dead else Verdict.REFUSE
    if held >= MAX_HELD:
        return Verdict.REFUSE
    return Verdict.SWITCH if looks_dead else Verdict.HOLD
