"""Texts of files that people write, whatever their editor adds."""

from __future__ import annotations


def decode_text(data: bytes) -> str:
    r"""Decode UTF-8, without a byte order mark, lines ended by \n.

    Raises:
        ValueError: it is another encoding; the message completes "the file ...".
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError("is UTF-16 text; save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"is not UTF-8 text (line {line}); save it as UTF-8") from None
    return text.replace("\r\n", "\n")
