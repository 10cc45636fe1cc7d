"""Fair shares of the links that a node pushes broadcasts to. No I/O, no clock.

A node pushes to MAX_PUSHED links on request. Without shares, the identities of one operator that request first keep
the slots, and honest neighbours get every broadcast an announcement and a pull later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

MAX_PUSHED: Final = (
    8  # links that may ask to be pushed to; others are refused, unless they have no other
)


def displaced_by(group: str, holders: Mapping[str, str]) -> str | None:
    """Return the link that loses its slot to a request from `group`, None if the request is refused.

    `holders` has the network group of each link with a slot, earliest first; an empty group has one member. A
    slot moves only from a group that would still have as many as the one that asks, so that it never moves back.
    """
    counts = Counter(each for each in holders.values() if each)
    if not counts:
        return None
    largest, held = counts.most_common(1)[0]
    if held < (counts[group] if group else 0) + 2:
        return None
    return next(link for link in reversed(list(holders)) if holders[link] == largest)
