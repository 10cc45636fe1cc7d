"""Flow control: limits on what is sent to a peer, so that a backlog or an outage does not overload it.

Most programs need the gate alone. It queues actions for one peer, starts as many as the peer can
handle, and retries those that failed:

    async with Gate(name=peer, rng=random.Random(), load_of=lambda answer: answer.load) as gate:
        for message in backlog:                        # 2,000 of them: warmed up, not flooded
            gate.post(lambda m=message: send(m), ttl_s=60.0)
        answer = await gate.call(lambda: ask(peer))    # waits its turn behind them

and on the serving side, whose replies carry the load that the gate uses:

    admission = Admission(workers=8)
    async with admission.admit(deadline) as admitted:  # Busy (with retry_after_s), Expired
        reply(await work(), admitted.load())

Each part can be used alone; the plain forms take `now` (monotonic seconds) and do no I/O:

    Governor        limit of attempts in flight to one peer    ready / on_send / on_result
    Outbox          bounded queue of messages, with expiry     add / next / on_result
    TokenBucket     rate limit, first come first served        try_take(now) / await take()
    WarmUp          limit that ramps while no stress shows     rate(now) / hold / resume
    Aimd            rate that is cut by failures               on_send / on_result / rate(now)
    RateOwner       sole owner of a bucket's rate              update(now)
    RetryStrategy   retries from a budget, each costs a token  await execute(action)
    CircuitBreaker  no requests to a peer that fails           allows / on_send / on_result, guarded()
    SlidingWindow   throughput, errors, p50, p95, p99          record / figures
    Shadow          effect of a limit, without the limit       decide(now) / figures
    Canary          fixed share of the clients                 enrolled(client) / record / figures
    Admission       bounded queue of a server                  admit() or AdmissionCore

A rate has one owner. To limit a rate instead of attempts in flight:

    bucket = TokenBucket(10.0, burst=2.0)
    warm_up, aimd = WarmUp(1.0, 500.0, seconds=10.0), Aimd()
    owner = RateOwner(bucket, warm_up=warm_up, aimd=aimd)
    warm_up.resume(now)
    owner.update(now)              # before a take: the lowest of the limits is the bucket's rate
    await bucket.take()

A new limit is tried in shadow mode first, then on a few clients:

    gate.shadow = not canary.enrolled(client)  # counts delays, delays nothing
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
from p2p.flow.gate import Gate, GateClosed, GateSettings, GateStatus
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
    "GateSettings",
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
