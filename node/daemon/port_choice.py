"""Choice of listening ports: a configured port is required, a default port is a preference."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Sequence

PORT_FALLBACKS = 20  # consecutive ports tried when the default one is taken and none was configured


def wanted_ports(port: int, is_default: bool) -> list[int]:
    """Return the ports to try, in order; 0 stands for any free port."""
    return [port, *range(port + 1, port + PORT_FALLBACKS), 0] if is_default else [port]


class PortTaken(Exception):
    """Something of Grenache cannot listen; the text says what, where, and what to do."""


async def first_free(ports: Sequence[int], listen: Callable[[int], Awaitable[object]]) -> None:
    """Listen on the first of `ports` that is free.

    Raises:
        OSError: none is, or another reason.
    """
    for port in ports:
        try:
            await listen(port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or port == ports[-1]:
                raise
        else:
            return
