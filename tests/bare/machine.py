"""Borrowings of a bare root from this machine: Debian's mirror, and the way to the package index."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

SOURCES = (Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*")))
ONE_LINE = re.compile(r"^deb\s+(?:\[[^\]]*\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<rest>.+)$")
# Environment variables that lead pip to its index; the rest of the environment stays outside.
PASSED = re.compile(
    r"PIP_(?!CACHE)\w+|\w+_proxy|\w+_PROXY|SSL_CERT_\w+|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE"
)
OF_THE_NETWORK = (Path("/etc/resolv.conf"), Path("/etc/hosts"))
WORD = re.compile(r"file://[^\s'\"]+|/[^\s'\":]+")


def archives(text: str) -> Iterator[tuple[str, str]]:
    """(URI, suite) of each archive with the component `main`, in either format of apt."""
    for line in text.splitlines():
        if (found := ONE_LINE.match(line.strip())) and "main" in found["rest"].split():
            yield found["uri"], found["suite"]
    for stanza in re.split(r"\n\s*\n", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)):
        fields = dict(re.findall(r"^([\w-]+):\s*(.+)$", stanza, re.MULTILINE))
        if "main" in fields.get("Components", "").split():
            for uri in fields.get("URIs", "").split():
                yield from ((uri, suite) for suite in fields.get("Suites", "").split())


def mirror() -> str | None:
    """The mirror of this machine's own release, if it is a Debian."""
    release = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', read("/etc/os-release"), re.MULTILINE))
    if release.get("ID") != "debian":
        return None
    wanted = (release.get("VERSION_CODENAME", "stable"), "stable")
    found = [uri for path in SOURCES for uri, suite in archives(read(path)) if suite in wanted]
    return found[0] if found else None


def read(path: Path | str) -> str:
    path = Path(path)
    return path.read_text("utf-8", "replace") if path.is_file() else ""


@dataclass(frozen=True)
class WayToTheIndex:
    """Settings of pip on this machine, and the files and folders that they name."""

    environment: Mapping[str, str]
    files: tuple[Path, ...]
    folders: tuple[Path, ...]


def way_to_the_index() -> WayToTheIndex:
    """Find pip's settings for all users, in files and in the environment."""
    environment = {k: v for k, v in os.environ.items() if PASSED.fullmatch(k)}
    settings = [p for p in settings_of_pip() if p.is_file()]
    named = {
        path
        for text in (*environment.values(), *(read(p) for p in settings))
        for path in local_paths(text)
        if path.is_absolute() and path.exists() and not Path(sys.prefix).is_relative_to(path)
    }
    files = {*settings, *OF_THE_NETWORK, *(p for p in named if p.is_file())}
    return WayToTheIndex(
        environment,
        tuple(sorted(p for p in files if p.is_file())),
        tuple(sorted(p for p in named if p.is_dir())),
    )


def settings_of_pip() -> list[Path]:
    given = os.environ.get("PIP_CONFIG_FILE")
    shared = os.environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":")
    return [
        Path("/etc/pip.conf"),
        *(Path(folder) / "pip" / "pip.conf" for folder in shared if folder),
        *([Path(given)] if given else []),
    ]


def local_paths(text: str) -> list[Path]:
    """Absolute paths in a value, also those of `file:` URLs."""
    return [
        Path(unquote(urlsplit(word).path)) if word.startswith("file:") else Path(word)
        for word in WORD.findall(re.sub(r"\bhttps?://\S+", "", text))
    ]
