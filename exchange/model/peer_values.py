"""Types of the values that other nodes write: checked once, where bytes become objects.

Rules of this file:
- Limits of numbers and lengths are part of the protocol: no version passes on what exceeds them.
- Patterns are newer: versions before 0.3 pass on and journal any text. What only a pattern refuses is therefore not the
  fault of the node that brings it, and does not make a journal unreadable (`p2p.ground.peer_texts.is_earlier_text`).
- Names that are only compared with known ones (heads of feeds, requests) are plain strings. Who keeps one checks it with
  `is_market_key` or `is_node_name`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Final, Literal

from msgspec import Meta

MAX_EVENTS: Final = 256  # of one batch: far below the frame limit
MAX_ORDER: Final = 2**40  # order numbers of one owner
MAX_PRICE: Final = 2**48  # ticks
MAX_QUANTITY: Final = 2**53  # lots
_LIMIT: Final = 2**62  # bound of all other integers: fits signed 64 bits

# A step of `exchange.model.instruments`: canonical, above zero, at most a million, at most 12 decimals.
_STEP: Final = (
    r"(?:0\.0{0,11}[1-9]|[1-9][0-9]{0,5}(?:\.[0-9]{0,11}[1-9])?|0\.[0-9]{0,11}[1-9]|1000000)"
)
_ASSET: Final = "[A-Z0-9]{2,12}+"
_MARKET_KEY: Final = rf"^({_ASSET})-(?!\1@){_ASSET}@{_STEP}/{_STEP}\Z"
_NODE_NAME: Final = r"^[0-9a-z]{1,64}\Z"  # ids of test networks too

MarketKey = Annotated[str, Meta(max_length=80, pattern=_MARKET_KEY)]
"""Market as it is named between nodes (`Instrument.key`)."""

HeadName = Annotated[str, Meta(pattern=r"(?s)^.{0,80}\Z")]
"""Market that is only compared with known ones."""

NodeName = Annotated[str, Meta(max_length=64, pattern=_NODE_NAME)]
"""Node id whose key is not here to prove it."""

Reason = Annotated[str, Meta(max_length=64, pattern=r"^[0-9a-z_]*\Z")]
"""Code of a reason, for programs."""

ShortReason = Annotated[str, Meta(max_length=32, pattern=r"^[0-9a-z_]*\Z")]

Traceparent = Annotated[str, Meta(max_length=55, pattern=r"^[0-9a-f-]*\Z")]
"""Trace context of a program that traces (W3C Trace Context)."""

if TYPE_CHECKING:
    Side = int
else:
    Side = Literal[1, -1]  # BUY, SELL

OrderNumber = Annotated[int, Meta(gt=0, lt=MAX_ORDER)]
Price = Annotated[int, Meta(gt=0, lt=MAX_PRICE)]
Quantity = Annotated[int, Meta(gt=0, lt=MAX_QUANTITY)]
Shown = Annotated[int, Meta(ge=0, lt=MAX_QUANTITY)]
Time = Annotated[int, Meta(gt=0, lt=_LIMIT)]
Number = Annotated[int, Meta(gt=0, lt=_LIMIT)]
Mark = Annotated[int, Meta(ge=0, lt=_LIMIT)]
Key = Annotated[bytes, Meta(min_length=32, max_length=32)]
Hash = Annotated[bytes, Meta(min_length=32, max_length=32)]
Signature = Annotated[bytes, Meta(min_length=64, max_length=64)]

_market_key = re.compile(_MARKET_KEY)
_node_name = re.compile(_NODE_NAME)


def is_market_key(text: str) -> bool:
    """Report if a text has the form of a market's key."""
    return len(text) <= 80 and _market_key.match(text) is not None


def is_node_name(text: str) -> bool:
    """Report if a text has the form of a node id."""
    return _node_name.match(text) is not None
