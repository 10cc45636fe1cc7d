"""Adaptive router: choose the peer for the next request from the results of earlier ones.

No I/O: the caller sends, and reports. `pick` looks at all candidates, or at `SAMPLE` of them when there
are more; it takes the one with the lowest cost by the policy, multiplied for a slow start after an
outage and for hints. A peer whose breaker is open is left out until a probe is due; the next
request is then the probe. While fewer than half of the candidates are usable, all are used as if no
breaker were open (Envoy's panic threshold): `pick` always returns a peer. A peer's cost is cached,
and computed anew after an event of that peer or after `REFRESH` seconds.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import replace
from math import inf
from typing import Generic, TypeVar

from p2p.adaptive.circuit_breaker import Breaker, BreakerSettings, BreakerState
from p2p.adaptive.cost_policy import CostPolicy, Policy
from p2p.adaptive.health_hints import (
    DEGRADED,
    HEALTHY,
    Hint,
    HintBook,
    HintPublisher,
    HintSettings,
    Signal,
)
from p2p.adaptive.peer_metrics import Load, Outcome, PeerMetrics, Pool
from p2p.adaptive.routing_events import Explained, Kind, RoutingEvent, explanation
from p2p.adaptive.weighted_policy import WeightedPolicy, Weights

SAMPLE = 16  # candidates looked at in one pick
REFRESH = 0.02  # seconds that a cached cost is used
ALONE_REFRESH = 1.0  # where there is no choice: only lost calls and missing answers are looked for
TIE = 1.05  # costs this near to the lowest count as equal: the least recently used peer is chosen
CROWD = 0.3  # share of others in the peers' work from which a caller is one of a crowd, and ...
CROWD_TIE = 2.0  # ... prefers, among costs this near, the peer that answered it last
HINTED_TIE = 1.6  # the same for a peer with hints, most of which would have no effect otherwise
NONE = 1.7e308  # above any cost, below infinity
PANIC = 0.5  # share of candidates that must be usable for breakers to be obeyed
# Seconds without a request after which two timeouts in a row open the breaker.
AVOIDED_FOR = 1.0
PROBE_SPACING = 100  # own picks between two probes, which bounds the cost of probing ...
PROBE_WAIT = 8.0  # ... for a caller that sends little: seconds between two probes
LONGEST_SHARE = 0.6  # share of CIRCUIT_BREAKER_COOLDOWN_MS waited at most, so that a failed probe can be retried
REMEMBERED = 4096  # peers; beyond it the longest unused are forgotten
BAD_RATE = 0.2  # decayed failure share that makes an own DEGRADED hint
BAD_CALLS = 4.0  # with at least this many recent calls

P = TypeVar("P", bound=Hashable)


class _Peer:
    __slots__ = (
        "bare",
        "breaker",
        "cost",
        "hinted",
        "metrics",
        "peer",
        "refreshed",
        "stale_at",
        "used",
    )

    def __init__(self, peer: Hashable, now: float, breaker: Breaker, used: float) -> None:
        self.peer = peer
        self.metrics = PeerMetrics(now)
        self.breaker = breaker
        self.cost = 0.0  # as compared; infinite while the breaker is not closed
        self.bare = 0.0  # without the breaker
        self.stale_at = -inf
        self.refreshed = -inf
        self.hinted = False
        self.used = used  # number of the last pick; below 0 and random before the first


class AdaptiveRouter(Generic[P]):
    """Times in seconds on one monotonic clock; peers are any hashable values.

    Args:
        rng: all randomness; the same seed and calls give the same picks.
        policy: "adaptive" (default), "weighted" (the learning guide's factors), or an object of that kind.
        on_event: called with every decision, change and hint. Without it no event is built.
    """

    def __init__(
        self,
        rng: random.Random | None = None,
        *,
        policy: str | Policy = "adaptive",
        weights: Weights | None = None,
        breaker: BreakerSettings | None = None,
        hints: HintSettings | None = None,
        on_event: Callable[[RoutingEvent], None] | None = None,
    ) -> None:
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, keeps no secret
        if policy == "adaptive":
            self.policy: Policy = CostPolicy()
        elif policy == "weighted":
            self.policy = WeightedPolicy(weights)
        elif isinstance(policy, str):
            raise ValueError(f"unknown policy {policy!r}: expected 'adaptive' or 'weighted'")
        else:
            self.policy = policy
        # In the costs of other policies twice as much may be more than a queue: they keep taking turns.
        self._stays = isinstance(self.policy, CostPolicy)
        self.on_event = on_event
        self.hints = HintBook(hints)
        self._publisher = HintPublisher(hints)
        settings = breaker or BreakerSettings()
        shorter = min(settings.longest_share, LONGEST_SHARE)
        self._breaker_settings = replace(settings, longest_share=shorter)
        self._peers: dict[Hashable, _Peer] = {}
        self._not_closed: dict[Hashable, _Peer] = {}  # those whose breaker is not closed
        self._pool = Pool()
        self._picks = 0
        self._panic = False
        self._probe_pick = -PROBE_SPACING  # the pick that was the latest probe
        self._probe_at = -inf

    # -- choice ------------------------------------------------------------------------------------

    def pick(self, now: float, candidates: Collection[P], exclude: Collection[P] = ()) -> P:
        """Choose the candidate for the next request. `exclude` (peers that failed just now) is obeyed while
        any other is left.

        It changes no state except the time of last use: report the send with `on_send`.

        Raises:
            ValueError: there are no candidates.
        """
        several = _several(candidates, exclude)
        count = len(several)
        if not count:
            raise ValueError("no candidates to pick from")
        if self._not_closed:
            probe = self._probe_due(now, several)
            if probe is not None:
                return probe
        elif count == 1 and self._needs_no_look(now, several[0]):
            return several[0]
        looked = several if count <= SAMPLE else self._sample(several)
        crowd = self._stays and self._pool.foreign > CROWD
        tie = CROWD_TIE if crowd else TIE
        peers = self._peers
        near: list[_Peer] = []
        low = limit = NONE
        shut = 0
        for p in looked:
            peer = peers.get(p)
            if peer is None:
                peer = self._add(now, p)
            if peer.stale_at <= now:
                self._refresh(now, peer)
                if peer.metrics.row > 1:
                    self._trip_if_avoided(now, peer)
            cost = peer.cost
            if cost <= limit:
                near.append(peer)
                if cost < low:
                    low, limit = cost, cost * tie
            elif cost == inf:
                shut += 1
        best = _latest_answered(near, low) if crowd else _least_used(near, limit)
        if best is None or shut > len(looked) * (1.0 - PANIC):
            best = self._pick_despite_breakers(now, several, looked)
        elif self._panic:
            self._set_panic(now, False, len(several) - shut, len(several))
        self._picks += 1
        best.used = self._picks
        if self.on_event is not None:
            self._notify_pick(now, best, looked)
        return best.peer  # type: ignore[return-value]

    def _needs_no_look(self, now: float, p: P) -> bool:
        """Take the only candidate, whatever it costs, if nothing else is to be done about it."""
        peer = self._peers.get(p)
        if (
            peer is None
            or peer.metrics.row > 1
            or now - peer.refreshed >= ALONE_REFRESH
            or self._panic
            or self.on_event is not None
        ):
            return False
        self._picks += 1
        peer.used = self._picks
        return True

    def _sample(self, several: Sequence[P]) -> Sequence[P]:
        """Return `SAMPLE` of many candidates."""
        # Consecutive candidates from a random start: as good as a random sample when loads do not
        # depend on the order, and much cheaper.
        count = len(several)
        start = int(self._rng.random() * count)
        looked = several[start : start + SAMPLE]
        if start + SAMPLE > count:
            looked = [*looked, *several[: start + SAMPLE - count]]
        return looked

    def _pick_despite_breakers(
        self, now: float, several: Sequence[P], looked: Sequence[P]
    ) -> _Peer:
        """Choose when most of the sampled peers have an open breaker."""
        usable = [p for p in several if p not in self._not_closed]
        if len(usable) >= PANIC * len(several):
            looked = usable if len(usable) <= SAMPLE else self._sample(usable)
            panic = False
        else:
            panic = True
        if panic is not self._panic:
            self._set_panic(now, panic, len(usable), len(several))
        chosen: _Peer | None = None
        low = inf
        for p in looked:
            peer = self._peers.get(p) or self._add(now, p)
            if peer.stale_at <= now:
                self._refresh(now, peer)
            cost = peer.bare if panic else peer.cost
            if chosen is None or (cost, peer.used) < (low, chosen.used):
                chosen, low = peer, cost
        assert chosen is not None  # noqa: S101 - looked at is never empty
        return chosen

    def _set_panic(self, now: float, panic: bool, usable: int, candidates: int) -> None:
        self._panic = panic
        if self.on_event is not None:
            what = "routing as if no breaker were open" if panic else "breakers are obeyed again"
            self._notify(now, "panic", None, what, {"usable": usable, "candidates": candidates})

    def _probe_due(self, now: float, several: Sequence[P]) -> P | None:
        too_soon = (
            self._picks - self._probe_pick < PROBE_SPACING and now - self._probe_at < PROBE_WAIT
        )
        for peer in self._not_closed.values():
            # The cheapest test first: this runs before nearly every pick while a breaker is open.
            if too_soon and not peer.breaker.succeeding:
                continue
            if not peer.breaker.allows(now, self._shift(now, peer)) or peer.peer not in several:
                continue
            self._picks += 1
            self._probe_pick, self._probe_at = self._picks, now
            peer.used = self._picks
            if self.on_event is not None:
                self._notify(now, "pick", peer.peer, "probe of a peer that failed", {})
            return peer.peer  # type: ignore[return-value]
        return None

    def _trip_if_avoided(self, now: float, peer: _Peer) -> None:
        """Open the breaker of a peer that times out. By cost alone it would be avoided until its timeouts
        are forgotten, five times as long as for errors; the breaker knows when to probe it.
        """
        metrics, breaker = peer.metrics, peer.breaker
        if (
            breaker.closed
            and not metrics.sends
            and now - metrics.failed_at > AVOIDED_FOR
            and metrics.hanging > metrics.failing
        ):
            breaker.trip(now, f"{metrics.row} failures in a row, and no request since")

    def _shift(self, now: float, peer: _Peer) -> float:
        """Return the factor by which the hints of others stretch (to 1.5) or shorten (to 0.5) the wait for
        a probe.
        """
        if not peer.hinted:
            return 1.0
        return 1.0 + 0.5 * self.hints.advice(now, peer.peer)

    def _refresh(self, now: float, peer: _Peer) -> None:
        metrics = peer.metrics
        if metrics.sends:
            metrics.drop_lost(now)
        cost = self.policy.cost(now, metrics, self._pool)
        breaker = peer.breaker
        if peer.hinted:
            cost *= self.hints.factor(now, peer.peer, metrics.trust(now))
        if breaker.closed_at is not None:
            cost /= breaker.slow_start(now)
        peer.bare = cost
        peer.cost = cost if breaker.closed else inf
        peer.stale_at = now + REFRESH
        peer.refreshed = now

    # -- results -----------------------------------------------------------------------------------

    def on_send(self, now: float, peer: P) -> None:
        """Record that a request was sent to `peer`, picked or not."""
        known = self._peers.get(peer)
        if known is None:
            known = self._add(now, peer)
        breaker = known.breaker
        tag = breaker.on_send(now, 1.0 if breaker.closed else self._shift(now, known))
        known.metrics.sends.append((now, tag))
        self._pool.on_send(now)
        known.stale_at = -inf

    def on_result(
        self, now: float, peer: P, latency_s: float, outcome: Outcome, load: Load | None = None
    ) -> None:
        """Record the result of a request.

        Only evidence about the peer's health is an error: a broken transport, a refusal as busy. A
        refusal by the application ("insufficient balance") is "ok": the peer answered.

        Args:
            latency_s: from sending to now; it also identifies the request.
            load: report in the reply: requests in flight, latency and service time (s) of the peer.
        """
        known = self._peers.get(peer)
        if known is None:
            known = self._add(now, peer)
        if not latency_s >= 0.0:  # the clock was set back, or NaN
            latency_s = 0.0
        metrics = known.metrics
        sent = metrics.settle(now - latency_s)
        breaker = known.breaker
        known.stale_at = -inf
        if outcome == "ok":
            metrics.succeeded(now, latency_s, load, self._pool)
            if sent is not None:
                breaker.on_result(now, sent[1], True)
            return
        metrics.failed(now, latency_s, outcome == "timeout", self._pool)
        if sent is not None:
            threshold = None
            if known.hinted:
                advice = self.hints.advice(now, peer) * 0.5 ** metrics.trust(now)
                if advice > 0.0:
                    usual = self._breaker_settings.failure_threshold
                    threshold = max(2, round(usual * (1.0 - 0.5 * advice)))
            breaker.on_result(now, sent[1], False, threshold)

    def on_cancel(self, now: float, peer: P, sent_at: float) -> None:
        """Record that the caller cancelled a request (another attempt won, its own caller left): no
        evidence either way.
        """
        known = self._peers.get(peer)
        if known is not None:
            sent = known.metrics.settle(sent_at)
            if sent is not None:
                known.breaker.on_cancel(sent[1])
            known.stale_at = -inf

    # -- hints ---------------------------------------------------------------------------------------

    def on_hint(
        self,
        now: float,
        origin: str,
        peer: P,
        signal: Signal | str,
        latency_s: float = 0.0,
        error_rate: float = 0.0,
    ) -> bool:
        """Process a hint from `origin`, whose signature the caller has checked. Returns False if it
        is refused.
        """
        signal = Signal(signal)
        taken = self.hints.receive(now, origin, peer, signal)
        known = self._peers.get(peer)
        if taken and known is not None:
            known.hinted = True
            known.stale_at = -inf
        if self.on_event is not None:
            detail: dict[str, object] = {"latency_s": latency_s, "error_rate": error_rate}
            self._notify(
                now,
                "hint",
                peer,
                f"{signal} from {origin}" + ("" if taken else ", refused"),
                detail,
            )
        return taken

    def hints_due(self, now: float) -> list[Hint]:
        """Return own hints to publish now, from first-hand evidence. Call about once a second."""
        for peer in self.hints.sweep(now):
            if peer in self._peers:
                self._peers[peer].hinted = False
        verdicts = {}
        unsure = set()
        for peer, known in self._peers.items():
            m = known.metrics
            if not m.total_calls:
                continue
            if m.failed_at >= m.latency_at:  # no success since
                unsure.add(peer)
            errors, timeouts = m.rates(now, self._pool)
            rate = errors + timeouts
            bad = not known.breaker.closed or (rate >= BAD_RATE and m.calls >= BAD_CALLS)
            signal = DEGRADED if bad else HEALTHY
            why = (
                "breaker is not closed" if not known.breaker.closed else f"{100 * rate:.0f} % fail"
            )
            verdicts[peer] = Hint(peer, signal, m.latency or 0.0, rate, why)
        return self._publisher.due(now, verdicts, unsure)

    # -- inspection
    # --------------------------------------------------------------------------------------

    def metrics(self, peer: P) -> PeerMetrics | None:
        known = self._peers.get(peer)
        return None if known is None else known.metrics

    def breaker_state(self, now: float, peer: P) -> BreakerState:
        """Return the breaker state of a peer; CLOSED if the peer is unknown."""
        known = self._peers.get(peer)
        return BreakerState.CLOSED if known is None else known.breaker.state(now)

    def explain(self, now: float, candidates: Collection[P]) -> list[Explained]:
        """Return the comparison behind a pick, the best candidate first, with reasons. Changes nothing."""
        rows = []
        for p in candidates:
            known = self._peers.get(p)
            if known is None:
                metrics, state, factor, ramp = PeerMetrics(now), BreakerState.CLOSED, 1.0, 1.0
                if p in self.hints:
                    factor = self.hints.factor(now, p, 0.0)
            else:
                metrics, state = known.metrics, known.breaker.state(now)
                factor = self.hints.factor(now, p, metrics.trust(now)) if known.hinted else 1.0
                ramp = known.breaker.slow_start(now)
            cost = self.policy.cost(now, metrics, self._pool) * factor / ramp
            parts = self.policy.explain(now, metrics, self._pool)
            rows.append(
                Explained(
                    p,
                    cost,
                    state,
                    factor,
                    ramp,
                    parts,
                    explanation(parts, state, factor, ramp, metrics),
                )
            )
        rows.sort(key=lambda row: (row.state is not BreakerState.CLOSED, row.cost))
        return rows

    def forget(self, peer: P) -> None:
        """Drop a peer that is gone for good."""
        self._peers.pop(peer, None)
        self._not_closed.pop(peer, None)
        self.hints.forget(peer)

    # -- internals
    # --------------------------------------------------------------------------------------

    def _add(self, now: float, peer: Hashable) -> _Peer:
        if len(self._peers) >= REMEMBERED:
            idle = [k for k in self._peers.values() if not k.metrics.sends]
            for old in sorted(idle, key=lambda k: k.used)[: REMEMBERED // 16]:
                del self._peers[old.peer]
                self._not_closed.pop(old.peer, None)
        breaker = Breaker(self._breaker_settings, rng=self._rng)
        known = _Peer(peer, now, breaker, -1.0 - self._rng.random())
        known.hinted = peer in self.hints
        breaker.on_change = lambda at, old, new, why: self._changed(at, known, old, new, why)
        self._peers[peer] = known
        return known

    def _changed(
        self, now: float, known: _Peer, old: BreakerState, new: BreakerState, reason: str
    ) -> None:
        if new is BreakerState.CLOSED:
            self._not_closed.pop(known.peer, None)
            known.metrics.forgive(now)
        else:
            self._not_closed[known.peer] = known
        known.stale_at = -inf
        if self.on_event is not None:
            detail: dict[str, object] = {"old": str(old), "new": str(new)}
            if new is BreakerState.OPEN:
                detail["retry_in_s"] = known.breaker.until - now
            self._notify(now, "breaker", known.peer, f"{old} to {new}: {reason}", detail)

    def _notify_pick(self, now: float, best: _Peer, looked: Sequence[P]) -> None:
        """Publish a decision with what it was compared with."""
        runner: _Peer | None = None
        shut = 0
        for p in looked:
            peer = self._peers.get(p)
            if peer is None or peer is best:
                continue
            if peer.cost == inf:
                shut += 1
            elif runner is None or peer.cost < runner.cost:
                runner = peer
        out = len(best.metrics.sends)
        reason = f"expected {1e3 * best.bare:.1f} ms with {out} in flight"
        detail: dict[str, object] = {"cost": best.bare, "in_flight": out, "looked_at": len(looked)}
        if best.cost == inf:
            reason += ", too many breakers are open"
        elif runner is None:
            reason += ", no other to ask"
        else:
            than = "next"
            if runner.cost <= best.cost * TIE:
                crowd = self._stays and self._pool.foreign > CROWD
                why = "answered last" if crowd else "longer unused"
                than = f"as good, {why}: next"
            reason += f"; {than} of {len(looked)} {1e3 * runner.bare:.1f} ms"
            detail["next"], detail["next_cost"] = runner.peer, runner.bare
        if shut:
            reason += f"; {shut} behind open breakers"
        self._notify(now, "pick", best.peer, reason, detail)

    def _notify(
        self, now: float, kind: Kind, peer: Hashable, reason: str, detail: dict[str, object]
    ) -> None:
        if self.on_event is not None:
            self.on_event(RoutingEvent(now, kind, peer, reason, detail))


def _several(candidates: Collection[P], exclude: Collection[P]) -> Sequence[P]:
    """Return the candidates as a sequence, without the excluded ones while any other is left."""
    several = candidates if isinstance(candidates, (list, tuple)) else list(candidates)
    if exclude:
        return [p for p in several if p not in exclude] or several
    return several


def _least_used(near: list[_Peer], limit: float) -> _Peer | None:
    """Return the least recently used of the peers whose cost is at most `limit`."""
    # Nearly always one or two peers: comparing with the first is faster than a key function.
    best: _Peer | None = None
    for peer in near:
        if peer.cost <= limit and (best is None or peer.used < best.used):
            best = peer
    return best


def _latest_answered(near: list[_Peer], low: float) -> _Peer | None:
    """Return the peer with the latest answer of those whose cost is near to the lowest, `low`."""
    # Queues of others' calls are known from answers alone, and the newest answer knows best. Each
    # caller so stays with a few peers, and a peer that turns slow or sick costs a call or two of
    # those callers instead of all.
    best: _Peer | None = None
    for peer in near:
        tie = HINTED_TIE if peer.hinted else CROWD_TIE
        if peer.cost <= low * tie and (
            best is None or peer.metrics.latency_at > best.metrics.latency_at
        ):
            best = peer
    return best
