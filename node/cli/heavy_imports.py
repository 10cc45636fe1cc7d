"""Cheaper imports of a node: no collections meanwhile, no certificates before they are used."""

from __future__ import annotations

import gc
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class LateCertificates(ssl.SSLContext):
    """A context that reads the system's certificates before its first connection, not when it is made."""

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        self._read()
        return self.wrap_bio(*args, **kwargs)

    def wrap_socket(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        self._read()
        return self.wrap_socket(*args, **kwargs)

    def _read(self) -> None:
        self.__class__ = ssl.SSLContext  # type: ignore[assignment]
        self.set_default_verify_paths()


@contextmanager
def heavy_imports() -> Iterator[None]:
    """For imports: what they make stays, so looking for garbage in it is a sixth of a node's start.

    aiohttp makes two contexts for its clients while it is imported, for which the system's certificates are
    read twice. A node that calls no https server never needs them.
    """
    made: list[ssl.SSLContext] = []

    def later(context: ssl.SSLContext) -> None:
        made.append(context)

    collecting = gc.isenabled()
    gc.disable()
    ssl.SSLContext.set_default_verify_paths = later  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        del ssl.SSLContext.set_default_verify_paths  # the one of its base is found again
        for context in made:
            context.__class__ = LateCertificates
        if collecting:
            gc.enable()
