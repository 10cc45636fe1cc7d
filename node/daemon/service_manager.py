"""Notifications to a service manager over the socket in NOTIFY_SOCKET (sd_notify(3) of systemd).

The protocol is a datagram of `NAME=value` lines. Without the variable nothing is sent. The watchdog is
fed from the event loop at half the interval that the manager asks for in WATCHDOG_USEC, so a loop that
hangs ends in a restart.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

STATUS_INTERVAL: Final = 5.0  # seconds between updates of the status text


class ServiceManager:
    """Sends the states of a service to its manager."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        watched = environment.get("WATCHDOG_PID", "") in ("", str(os.getpid()))
        microseconds = environment.get("WATCHDOG_USEC", "")
        self.watchdog_s = int(microseconds) / 1e6 if watched and microseconds.isdigit() else 0.0

    @property
    def present(self) -> bool:
        """True if a manager listens."""
        return bool(self._address)

    def notify(self, **state: str) -> None:
        """Send states such as `READY="1"`; a failure is logged and ends nothing."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        message = "\n".join(f"{name}={value}" for name, value in state.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(1.0)
                sender.sendto(message.encode(), address)
        except OSError as error:
            log.warning("cannot notify the service manager at %s: %s", self._address, error)

    async def run(self, status: Callable[[], str]) -> None:
        """Feed the watchdog and refresh the status text until cancelled."""
        if not self._address:
            return
        interval = min(STATUS_INTERVAL, self.watchdog_s / 2 or STATUS_INTERVAL)
        while True:
            beat = {"WATCHDOG": "1"} if self.watchdog_s else {}
            self.notify(**beat, STATUS=status())
            await asyncio.sleep(interval)


def credential(name: str, environment: Mapping[str, str] = os.environ) -> Path | None:
    """A file passed by the manager (`LoadCredential=` of systemd), None without one."""
    directory = environment.get("CREDENTIALS_DIRECTORY")
    path = Path(directory, name) if directory else None
    return path if path is not None and path.is_file() else None
