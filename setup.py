"""The description for an index page: README.md with links that lead somewhere there.

Everything else is declared in pyproject.toml. On an index page a link such as docs/api.md leads nowhere.
With SOURCE_URL, the address of a folder of this version's source (`https://…/blob/v0.2.0`), such links
lead there, and the address is a project URL; without it they become plain text.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from setuptools import setup

LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|mailto:)([^)]+)\)")
PICTURE = re.compile(r"<picture>.*?</picture>\n*", re.DOTALL)


def description(text: str, source: str) -> str:
    """Return README's text with absolute links, or without links and pictures."""
    text = PICTURE.sub("", text)
    if source:
        return LINK.sub(lambda link: f"[{link[1]}]({source.rstrip('/')}/{link[2]})", text)
    return LINK.sub(lambda link: link[1], text)


source = os.environ.get("SOURCE_URL", "")
setup(
    long_description=description(Path(__file__).with_name("README.md").read_text("utf-8"), source),
    long_description_content_type="text/markdown",
    project_urls={"Source": source, "Changelog": f"{source.rstrip('/')}/CHANGELOG.md"}
    if source
    else {},
)
