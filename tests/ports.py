"""Ports for programs that tests start, which no connection of another test takes meanwhile."""

from __future__ import annotations

import itertools
import random
import socket
from typing import Final

from p2p.base.reach import is_other_service

# Below 32768: from there on Linux gives ports to whoever asks for any, so one that was free a moment ago,
# or that a killed node had, may be somebody's before the program listens there. And
# between the ports that Grapes have by default, where some tests expect nobody.
_RANGE: Final = [port for port in range(21_000, 30_000) if not is_other_service(port)]
# By the system's chance: runs beside this one do not try the same ones, whatever tests seed `random` with.
_candidates: Final = itertools.cycle(random.SystemRandom().sample(_RANGE, len(_RANGE)))


def free_port() -> int:
    """A port that was free for both TCP and UDP just now; another one each time."""
    for port in _candidates:
        with (
            socket.socket(type=socket.SOCK_STREAM) as tcp,
            socket.socket(type=socket.SOCK_DGRAM) as udp,
        ):
            try:
                tcp.bind(("0.0.0.0", port))
                udp.bind(("0.0.0.0", port))
            except OSError:
                continue
            return port
    raise AssertionError("there is always a next one")
