"""Outcome and load of an attempt, the inputs of flow control."""

from __future__ import annotations

from typing import Literal, NamedTuple

from p2p.base.errors import (
    ConnectFailed,
    DeliveryError,
    LinkClosed,
    P2PError,
    RpcError,
    RpcTimeout,
)

Outcome = Literal["ok", "busy", "timeout", "reset"]
"""Outcome of an attempt.

    ok       the far side answered, also if the application refused (insufficient balance)
    busy     it refused because it is overloaded
    timeout  no answer in time
    reset    the link broke, or no connection was made
"""


class LoadReport(NamedTuple):
    """Load of a server as its reply reports it. Seconds, on the server's own clock."""

    waited_s: float  # this request, in the server's queue
    served_s: float  # this request, in service
    in_flight: int = 0  # requests inside the server when this one was done


class Busy(P2PError):
    """Request refused because the server is overloaded. Try again after `retry_after_s` seconds."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"busy; try again in {retry_after_s:.3f} s")
        self.retry_after_s = retry_after_s


def outcome_of(error: Exception) -> tuple[Outcome, float]:
    """Return the outcome that an exception stands for, and the seconds that the far side asked to wait (or 0).

    Exceptions other than those of the transport are answers ("ok"): a refusal by the application is
    no evidence of overload.
    """
    after = getattr(error, "retry_after_s", 0.0)
    after = float(after) if isinstance(after, int | float) and 0.0 <= after < 3600.0 else 0.0
    if isinstance(error, RpcTimeout | TimeoutError):
        return "timeout", after
    if isinstance(error, RpcError):
        return ("busy" if error.code == "busy" else "ok"), after
    if isinstance(error, LinkClosed | ConnectFailed | DeliveryError | OSError | EOFError):
        return "reset", after
    if isinstance(error, Busy):
        return "busy", after
    return "ok", after
