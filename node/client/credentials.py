"""API keys as programs are given them, KEY:SECRET, and texts of files that people write.

What a shell, an editor or another system adds on the way is taken off (white space around the key, a byte
order mark of a file) or named. A message never repeats a key or a part of it: messages end up in logs.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from p2p.ground.own_file import read_own
from p2p.ground.text_file import decode_text

_PART: Final = re.compile(r"[!-~]+")  # visible ASCII: nothing else can be in an HTTP header
_QUOTES: Final = "\"'`“”‘’"


class KeyRefused(ValueError):
    """A text is not KEY:SECRET. The message says why, without the text."""


def parse_key(text: str) -> tuple[str, str]:
    """Split KEY:SECRET, without white space around it.

    Raises:
        KeyRefused: it is something else.
    """
    text = text.strip()
    if not text:
        raise KeyRefused("is empty")
    if "\ufeff" in text:
        raise KeyRefused("has a byte order mark in it: save its file as UTF-8 without one")
    if text[0] in _QUOTES or text[-1] in _QUOTES:
        raise KeyRefused("has quotes in it: take them off")
    if len(text.splitlines()) > 1:
        raise KeyRefused("has more than one line")
    key, _, secret = text.partition(":")
    check_key(key, secret)
    return key, secret


def check_key(key: str, secret: str) -> None:
    """Check that a key and its secret can be sent.

    Raises:
        KeyRefused: they cannot.
    """
    if not key or not secret:
        raise KeyRefused("has no key, colon and secret")
    for name, part in (("key", key), ("secret", secret)):
        if re.search(r"\s", part):
            raise KeyRefused(f"has white space in its {name}")
        if not _PART.fullmatch(part):
            raise KeyRefused(f"has a character in its {name} that no key has: copy it again")


def looks_like_key(text: str) -> bool:
    """Report if a text is probably a key with its secret, which must not be shown."""
    return re.fullmatch(r"\s*[A-Za-z0-9_-]{16,}:[A-Za-z0-9_-]{16,}\s*", text) is not None


def has_secret(text: str) -> bool:
    """Report if a text has a key with its secret in it, as nodes make them."""
    return re.search(r"[0-9a-f]{32}:[A-Za-z0-9_-]{40,}", text) is not None


def without_password(url: str) -> str:
    """An address without the user name and password in it."""
    return re.sub(r"^(\s*[A-Za-z]+:/+)?.*@", r"\1***@", url, flags=re.DOTALL)


def read_text(path: Path, most: int) -> str:
    """The text of a file of at most `most` bytes, without a byte order mark, lines ended by \\n.

    Raises:
        ValueError: it is larger, or not text in UTF-8.
        OSError: it cannot be read.
    """
    data = read_own(path, most + 1)
    if len(data) > most:
        raise ValueError(f"is longer than {most} bytes")
    return decode_text(data)
