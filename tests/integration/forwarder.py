"""TCP forwarder whose connections can be held up in either direction, as a network that loses every packet does."""

from __future__ import annotations

import select
import socket
import threading
import time
from contextlib import suppress
from typing import Final

LOOK: Final = 0.02  # s between looks at what is cut
PART: Final = 65536  # bytes


class Forwarder:
    """Forwards a port of its own to another one of this machine.

    `up` is towards the server. What is held up is delivered when it is no longer cut, as TCP sends it again; a
    connection that was closed meanwhile is closed then.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.cut_up = self.cut_down = False
        self.delay = 0.0  # s that each part of the data takes
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def cut(self, *, up: bool = True, down: bool = True) -> None:
        """Hold up what goes to the server, and what comes from it."""
        self.cut_up, self.cut_down = up, down

    def heal(self) -> None:
        """Deliver again."""
        self.cut(up=False, down=False)

    def close(self) -> None:
        """End all connections."""
        self._over.set()
        for thread in list(self._threads):
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._over.is_set():
            if not select.select([self._listener], [], [], LOOK)[0]:
                continue
            client, _ = self._listener.accept()
            thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            while self.cut_up or self.cut_down:  # no handshake either
                if self._over.wait(LOOK):
                    return
            try:
                server = socket.create_connection(("127.0.0.1", self._target), 5)
            except OSError:
                return
            with server, suppress(OSError):
                self._pump(client, server)

    def _pump(self, client: socket.socket, server: socket.socket) -> None:
        while not self._over.is_set():
            readers = [] if self.cut_up else [client]
            readers += [] if self.cut_down else [server]
            if not readers:
                self._over.wait(LOOK)
                continue
            for reader in select.select(readers, [], [], LOOK)[0]:
                data = reader.recv(PART)
                if not data:
                    return
                if self.delay:
                    time.sleep(self.delay)
                (server if reader is client else client).sendall(data)
