"""Types of the texts that peers write, for the structs of messages.

They reach logs, terminals, metrics and pages, so a message with another text is malformed, before any handler sees it.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, ValidationError

# Control characters but for tab and line feed, and those that turn the direction of a text.
_UNSAFE: Final = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
PLAIN: Final = rf"^[^\t\n{_UNSAFE}]*\Z"

Name = Annotated[str, Meta(max_length=64)]  # compared with known ones before it is used
Word = Annotated[str, Meta(max_length=100, pattern=r"^[!-~]*\Z")]
Words = Annotated[list[Word], Meta(max_length=256)]
Sentence = Annotated[str, Meta(max_length=2000, pattern=PLAIN)]
Lines = Annotated[str, Meta(pattern=rf"^[^{_UNSAFE}]*\Z")]


def printable(text: str, most: int = 200) -> str:
    """Return a text that may quote a peer, such as an error about its message, without control characters and cut to
    `most` characters.
    """
    return "".join(c if c.isprintable() else "?" for c in text[:most])


def is_earlier_text(error: Exception) -> bool:
    """Report if only a pattern refused a value: versions before 0.3 accept it and pass it on, so the node that brings it is
    not at fault.
    """
    return isinstance(error, ValidationError) and "matching regex" in str(error)
