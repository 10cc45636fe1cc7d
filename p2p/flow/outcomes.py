"""What an exception of an attempt means to flow control."""

from __future__ import annotations

from p2p.base.errors import ConnectFailed, DeliveryError, LinkClosed, RpcError, RpcTimeout
from p2p.flow.admission import Busy
from p2p.flow.load import Outcome


def outcome_of(error: Exception) -> tuple[Outcome, float]:
    """The outcome, and the seconds that the far side asked to wait (0: it did not say).

    Any other exception than those of transport is an answer ("ok"): a refusal by the application says
    nothing about overload.
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
