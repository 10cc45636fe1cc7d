"""Limits of requests and answers of the API that its documents name."""

from __future__ import annotations

from typing import Final

DEFAULT_LIMIT: Final = 100  # rows of a list
MAX_LIMIT: Final = 1000
CURSOR_HEADER: Final = "Next-Cursor"  # of an answer, `cursor` of the next request
CURSOR_PATTERN: Final = r"^[0-9]{1,15}\.[0-9]{1,5}$"  # a time in ms, and rows of it
DEFAULT_DEPTH: Final = 25  # levels a side
MAX_DEPTH: Final = 1000
DEFAULT_EVENTS: Final = 50  # of the router
MAX_GROUP: Final = 2**53  # JSON readers hold integers up to here exactly
