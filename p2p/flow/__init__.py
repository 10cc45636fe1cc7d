"""Flow control: what keeps a backlog, a reconnect or an outage from becoming a storm.

For most uses there is one thing to know, the gate. It holds what is to be sent to one peer, starts as much
of it as the peer can take, and tries again what failed:

    async with Gate(name=peer, rng=random.Random(), load_of=lambda answer: answer.load) as gate:
        for message in backlog:                        # 2,000 of them: warmed up, not flooded
            gate.post(lambda m=message: send(m), ttl_s=60.0)
        answer = await gate.call(lambda: ask(peer))    # waits its turn behind them

and on the serving side, so that there is something to steer by:

    admission = Admission(workers=8)
    async with admission.admit(deadline) as admitted:  # Busy (with retry_after_s), Expired
        reply(await work(), admitted.load())

The parts, each of use alone; the plain forms take `now` (monotonic seconds) and do no I/O:

    Governor        how much may be under way to one peer    ready / on_send / on_result
    Outbox          what waits for it, bounded, with expiry  add / next / on_result
    TokenBucket     a rate, first come first served          try_take(now) / await take()
    WarmUp          a limit that ramps while all is well     rate(now) / hold / resume
    Aimd            a rate that follows failures             on_send / on_result / rate(now)
    RateOwner       the one that sets a bucket's rate        update(now)
    RetryStrategy   retries that pay tokens, in a budget     await execute(action)
    CircuitBreaker  stop asking who does not answer          allows / on_send / on_result, guarded()
    SlidingWindow   throughput, errors, p50, p95, p99        record / figures
    Shadow          what a limit would do, without doing it  decide(now) / figures
    Canary          a share of the clients, always the same  enrolled(client) / record / figures
    Admission       the server's bounded queue               admit() or AdmissionCore

A rate has one owner. To limit by rate and not by `Governor`:

    bucket = TokenBucket(10.0, burst=2.0)
    warm_up, aimd = WarmUp(1.0, 500.0, seconds=10.0), Aimd()
    owner = RateOwner(bucket, warm_up=warm_up, aimd=aimd)
    warm_up.resume(now)
    owner.update(now)              # before a take: the lowest of the limits is the bucket's rate
    await bucket.take()

A change is tried on a few clients first, and before that on none:

    gate.shadow = not canary.enrolled(client)  # decides and counts, delays nothing
    canary.record(now, client, latency_s, ok)
    canary.figures(now)                        # canary beside control
"""

from p2p.flow.admission import Admission, AdmissionCore, Expired
from p2p.flow.aimd import Aimd, AimdSettings
from p2p.flow.breaker_guard import (
    BreakerOpen,
    BreakerSettings,
    BreakerState,
    CircuitBreaker,
    guarded,
)
from p2p.flow.canary import Canary, CohortFigures
from p2p.flow.gate import Gate, GateClosed, GateStatus
from p2p.flow.governor import FlowEvent, Governor, GovernorSettings
from p2p.flow.load import Busy, LoadReport, Outcome, outcome_of
from p2p.flow.outbox import Outbox, OutboxEntry, OutboxExpired, OutboxFull
from p2p.flow.rate_owner import Limit, RateOwner
from p2p.flow.retry_strategy import (
    RetryBudget,
    RetryPolicy,
    RetrySettings,
    RetryStrategy,
    full_jitter,
)
from p2p.flow.shadow import Shadow, ShadowFigures
from p2p.flow.token_bucket import RateOwned, TokenBucket
from p2p.flow.warmup import WarmUp
from p2p.flow.window import SlidingWindow, WindowFigures

__all__ = [
    "Admission",
    "AdmissionCore",
    "Aimd",
    "AimdSettings",
    "BreakerOpen",
    "BreakerSettings",
    "BreakerState",
    "Busy",
    "Canary",
    "CircuitBreaker",
    "CohortFigures",
    "Expired",
    "FlowEvent",
    "Gate",
    "GateClosed",
    "GateStatus",
    "Governor",
    "GovernorSettings",
    "Limit",
    "LoadReport",
    "Outbox",
    "OutboxEntry",
    "OutboxExpired",
    "OutboxFull",
    "Outcome",
    "RateOwned",
    "RateOwner",
    "RetryBudget",
    "RetryPolicy",
    "RetrySettings",
    "RetryStrategy",
    "Shadow",
    "ShadowFigures",
    "SlidingWindow",
    "TokenBucket",
    "WarmUp",
    "WindowFigures",
    "full_jitter",
    "guarded",
    "outcome_of",
]
