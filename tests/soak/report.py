"""Result of a soak, for people and for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass
class Report:
    """`failures` is empty when everything held. Latencies in ms, memory in MB by node."""

    seed: int = 0
    mode: str = ""
    nodes: int = 0
    bots: int = 0
    stormed: float = 0.0  # seconds
    quiet_after: float = 0.0  # seconds from the end of the storm until all nodes agreed
    faults: Counter[str] = field(default_factory=Counter)
    operator: Counter[str] = field(default_factory=Counter)
    apis: dict[str, dict[str, int]] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    latency_ms: dict[str, list[float]] = field(default_factory=dict)  # by API: p50, p99, max
    checked: Counter[str] = field(default_factory=Counter)  # what was looked at, how many
    carried: dict[str, float] = field(default_factory=dict)  # MB over the links, by carrier
    memory_start: list[float] = field(default_factory=list)
    memory_end: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    logs: str = ""  # where they are, if they were kept

    @property
    def ok(self) -> bool:
        return not self.failures

    def document(self) -> dict[str, Any]:
        return {"ok": self.ok, **{each.name: getattr(self, each.name) for each in fields(self)}}

    def lines(self) -> list[str]:
        rows = [
            (
                "storm",
                f"{self.stormed:.0f} s, {self.nodes} nodes ({self.mode}), {self.bots} bots, "
                f"seed {self.seed}",
            ),
            ("faults", f"{self.faults.total()}: {_counts(self.faults)}"),
            ("operators", _counts(self.operator)),
        ]
        for name, counts in sorted(self.apis.items()):
            p50, p99, most = self.latency_ms.get(name, [0.0, 0.0, 0.0])
            rows.append(
                (
                    name,
                    f"{_counts(counts)}; ms to place: p50 {p50:.1f}, p99 {p99:.0f}, max {most:.0f}",
                )
            )
        rows += [
            ("refusals", _counts(self.refused)),
            ("quiet after", f"{self.quiet_after:.1f} s"),
            ("checked", _counts(self.checked)),
            ("MB carried", _counts(self.carried)),
            (
                "memory",
                f"{_megabytes(self.memory_start)} MB, at the end {_megabytes(self.memory_end)} MB",
            ),
        ]
        found = [f"{name + ':':16}{text}" for name, text in rows]
        if self.ok:
            return [*found, "everything held"]
        shown = self.failures[:40]
        more = [f"and {len(self.failures) - 40} more"] if len(self.failures) > 40 else []
        return [*found, f"{len(self.failures)} FAILURES", *("  " + text for text in shown), *more]


def percentiles(values: Sequence[float]) -> list[float]:
    """p50, p99 and the greatest of seconds, in ms."""
    if not values:
        return [0.0, 0.0, 0.0]
    found = sorted(values)
    places = (len(found) // 2, min(len(found) - 1, len(found) * 99 // 100), len(found) - 1)
    return [round(found[place] * 1000, 1) for place in places]


def _counts(counts: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(counts.items())) or "none"


def _megabytes(values: Sequence[float]) -> str:
    return f"{min(values, default=0):.0f} to {max(values, default=0):.0f}"
