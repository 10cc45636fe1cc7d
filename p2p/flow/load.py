"""Outcome and load of an attempt, the inputs of flow control."""

from __future__ import annotations

from typing import Literal, NamedTuple

Outcome = Literal["ok", "busy", "timeout", "reset"]
"""How an attempt ended.

    ok       the far side answered, be it with a refusal of its own (insufficient balance is no overload)
    busy     it refused because it has too much to do
    timeout  no answer in time
    reset    the link broke, or nobody accepted it
"""


class LoadReport(NamedTuple):
    """Load of a server as its reply reports it. Seconds, on the server's own clock."""

    waited_s: float  # this request, in the server's queue
    served_s: float  # this request, in service
    in_flight: int = 0  # requests inside the server when this one was done
