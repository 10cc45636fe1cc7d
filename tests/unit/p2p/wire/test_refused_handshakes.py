"""Warnings about nodes with which this one cannot link as both are configured."""

from __future__ import annotations

import logging

import pytest

from p2p.base.errors import Code, HandshakeRefused
from p2p.wire.refused_handshakes import LIFETIME, MOST, RefusedHandshakes


def refusal(code: Code, *, by_us: bool = True, reason: str = "why") -> HandshakeRefused:
    return HandshakeRefused(code, reason, by_us=by_us)


@pytest.mark.parametrize("by_us", [True, False])
@pytest.mark.parametrize(
    ("code", "remedy"), [(Code.WRONG_NETWORK, "P2P_NETWORK"), (Code.WRONG_VERSION, "update")]
)
def test_nodes_that_do_not_fit_are_warned_about_once_an_hour(
    caplog: pytest.LogCaptureFixture, code: Code, remedy: str, by_us: bool
) -> None:
    refused = RefusedHandshakes()
    for second in range(60):
        refused.note("192.0.2.1", refusal(code, by_us=by_us), float(second))
    (line,) = caplog.messages
    assert "192.0.2.1" in line
    assert remedy in line
    assert "why" in line
    assert refused.warnings(60.0) == [line]
    assert refused.counts == {(str(code), "us" if by_us else "peer"): 60}
    assert refused.warnings(LIFETIME + 1) == []
    refused.note("192.0.2.1", refusal(code), LIFETIME + 1)
    assert len(caplog.messages) == 2


@pytest.mark.parametrize(
    ("code", "by_us", "warned"),
    [
        (Code.ABUSE, False, True),
        (Code.ABUSE, True, False),
        (Code.FULL, False, False),
        (Code.DUPLICATE, True, False),
        (Code.SELF, True, False),
        (Code.TIMEOUT, True, False),
        (Code.MALFORMED, True, False),
        (Code.OVERSIZED, True, False),
    ],
)
def test_everyday_refusals_are_only_counted(code: Code, by_us: bool, warned: bool) -> None:
    refused = RefusedHandshakes()
    refused.note("192.0.2.1", refusal(code, by_us=by_us), 0.0)
    assert bool(refused.warnings(0.0)) == warned
    assert sum(refused.counts.values()) == 1


def test_strangers_cannot_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    refused = RefusedHandshakes()
    for number in range(10 * MOST):
        refused.note(f"host{number}", refusal(Code.WRONG_NETWORK, reason="x" * 10_000), 0.0)
    assert len(caplog.messages) == len(refused.warnings(0.0)) == MOST
    assert max(map(len, caplog.messages)) < 700
