"""A line with a delay: frames between two TAP devices, each kept for a time. Takes the place of `netem`.

    line = DelayLine(open_tap("near"), open_tap("far"), delay=0.05)
    ...
    line.close()

TAP devices, since the kernel completes checksums and cuts large segments before it hands frames to a program.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import threading
import time
from collections import deque
from typing import Final

TUNSETIFF: Final = 0x400454CA
IFF_TAP: Final = 0x0002
IFF_NO_PI: Final = 0x1000
MAX_FRAME: Final = 65_536
MAX_WAITING: Final = 20_000  # frames a direction; further ones are lost, as on a narrow line


def open_tap(name: str) -> int:
    """Create a TAP device in the network namespace of the calling thread; returns its descriptor."""
    handle = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.ioctl(handle, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    except OSError:
        os.close(handle)
        raise
    return handle


class DelayLine:
    """Both directions of a line, moved by a thread of its own. `delay`: seconds one way."""

    def __init__(self, near: int, far: int, delay: float) -> None:
        self.frames = 0
        self._delay = delay
        self._other = {near: far, far: near}
        self._waiting: deque[tuple[float, int, bytes]] = deque()  # due, descriptor, frame
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._move, name="delay line", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the line and remove its devices."""
        self._ended.set()
        self._thread.join(5)
        for handle in self._other:
            os.close(handle)

    def _move(self) -> None:
        while not self._ended.is_set():
            wait = 0.05
            if self._waiting:
                wait = min(wait, max(0.0, self._waiting[0][0] - time.monotonic()))
            for handle in select.select([*self._other], [], [], wait)[0]:
                self._read(handle)
            self._deliver()

    def _read(self, handle: int) -> None:
        try:
            frame = os.read(handle, MAX_FRAME)
        except BlockingIOError:
            return
        if len(self._waiting) < MAX_WAITING:
            due = time.monotonic() + self._delay
            self._waiting.append((due, self._other[handle], frame))

    def _deliver(self) -> None:
        """Write the frames that are due; one delay for all of them keeps them in order."""
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            _, handle, frame = self._waiting.popleft()
            try:
                os.write(handle, frame)
            except OSError:
                continue  # the device is down or its queue full: lost
            self.frames += 1
