"""`python -m tests.bare [RELEASE ...] [--whole]`: the README's lines in a bare Debian.

Makes a minimal root with debootstrap, with the packages that the README names and nothing else, and
an ordinary user. He copies the README's line that starts a node, waits until it answers and presses
Ctrl-C. He pastes the bot of docs/api.md. Then he copies the line of the tests: by default it runs those that need tools, which are
skipped there, and those of the command line; with --whole all of them. Needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.bare.bare_root import BareRoot, bare_root
from tests.bare.machine import mirror, way_to_the_index
from tests.bare.readme_lines import ROOT, ReadmeLines, bot_block, readme_lines

RELEASES: Final = ("bookworm", "trixie")
TOOLS: Final = ("debootstrap", "unshare", "chroot", "git", "tar")
API: Final = ROOT / "docs" / "api.md"
LOGS: Final = ROOT / ".ci" / "log"
STARTED: Final = 300.0  # seconds, with the installation
STOPPED: Final = 30.0
TESTED: Final = 7200.0
COLOUR: Final = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
SHOWN: Final = 60  # last lines of what failed
# Nothing leaves this machine but for the package index.
ALONE: Final = {"P2P_HOST": "127.0.0.1", "DISCOVERY_MDNS": "false"}
# Tests that need jq, curl, shells, man, a terminal, other Pythons' modules.
OF_TOOLS: Final = (
    "tests/documents",
    "tests/integration/test_completion.py",
    "tests/integration/test_first_hour.py",
    "tests/unit/node/cli",
    "tests/unit/node/api/test_openapi.py",
    "tests/unit/docs",
)


class Failed(Exception):
    """A line of the README did not do what the README says."""


def start_a_node(root: BareRoot, line: str, log: Path) -> str:
    """Copy the line, wait for an answer of the node, press Ctrl-C; how long each took."""
    runtime = root.home / ".exchange-node" / "node.json"
    began = time.monotonic()
    with log.open("wb") as output, root.typed(line, output, ALONE) as terminal:
        try:
            if (code := terminal.wait(STARTED, runtime.exists)) is not None:
                raise Failed(f"ended with {code}")
            installed = time.monotonic() - began
            terminal.wait(STOPPED, lambda: answers(runtime))
            answered = time.monotonic() - began
            terminal.interrupt()
            code = terminal.wait(STOPPED)
        except TimeoutError as error:
            raise Failed(str(error)) from None
        if code != 0:
            raise Failed(f"after Ctrl-C it ended with {code}, not 0")
    return f"started after {installed:.1f} s, answered after {answered:.1f} s"


def run_the_bot(root: BareRoot, block: str, log: Path) -> str:
    """Paste the block of docs/api.md after the line that starts a node; the bot prints what it shows."""
    _, printed_there = bot_block(API.read_text("utf-8"))
    with log.open("wb") as output, root.typed(block, output, ALONE) as terminal:
        try:
            code = terminal.wait(STARTED)
        except TimeoutError as error:
            raise Failed(str(error)) from None
    if code != 0 or printed(log)[-2:] != printed_there.splitlines():
        raise Failed(f"ended with {code}, and the bot did not print what docs/api.md shows")
    return f"the bot of docs/api.md printed {printed(log)[-1]!r}"


def answers(runtime: Path) -> bool:
    """Report if the node says that it is ready."""
    with suppress(OSError, ValueError):
        url = json.loads(runtime.read_text("utf-8"))["api_url"]
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{url}/v1/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    return False


def printed(log: Path) -> list[str]:
    """Lines that a command printed, without what colours them."""
    return COLOUR.sub("", log.read_text("utf-8", "replace")).splitlines()


def run_tests(root: BareRoot, line: str, log: Path) -> str:
    """Copy the line of the tests; what pytest says at its end, with the reasons of what was skipped."""
    with log.open("wb") as output, root.typed(line, output) as terminal:
        try:
            code = terminal.wait(TESTED)
        except TimeoutError as error:
            raise Failed(str(error)) from None
    lines = printed(log)
    if code != 0:
        raise Failed(f"ended with {code}")
    return "\n".join([line for line in lines if line.startswith("SKIPPED")] + lines[-1:])


def check(release: str, lines: ReadmeLines, mirror: str, *, whole: bool, keep: bool) -> None:
    """Try both lines in a fresh root of a release."""
    LOGS.mkdir(exist_ok=True)
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{release}, {time.monotonic() - began:5.1f} s: {text}", flush=True)

    with bare_root(release, lines.packages, mirror, way_to_the_index(), keep=keep) as root:
        tests = lines.tests if whole else f"{lines.tests} {' '.join(OF_TOOLS)}"
        say(f"Debian with {' '.join(lines.packages)}, and a user")
        block, _ = bot_block(API.read_text("utf-8"))
        for name, line, run in (
            ("start", lines.start, start_a_node),
            ("bot", f". .venv/bin/activate\n{block}", run_the_bot),
            ("tests", tests, run_tests),
        ):
            first, *more = line.splitlines()
            say(f"$ {first}{' ...' if more else ''}")
            log = LOGS / f"bare-{release}-{name}.log"
            try:
                said = run(root, line, log)
            except Failed as error:
                last = "\n".join(printed(log)[-SHOWN:])
                raise Failed(f"{last}\n{release}: {line}\n{error}; see {log}") from None
            say(said)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bare", description=__doc__)
    parser.add_argument("releases", nargs="*", metavar="RELEASE", help="of Debian; none: all")
    parser.add_argument("--whole", action="store_true", help="run the whole line of the tests")
    parser.add_argument("--keep", action="store_true", help="leave the root there, and say where")
    given = parser.parse_args()
    if unknown := set(given.releases) - set(RELEASES):
        parser.error(f"unknown release {', '.join(sorted(unknown))}; known: {', '.join(RELEASES)}")
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        parser.error(f"needs {', '.join(missing)}: apt-get install debootstrap util-linux git")
    if os.geteuid() != 0:
        parser.error("needs root, to make a root file system and to mount /proc in it")
    if (archive := mirror()) is None:
        parser.error("this machine is no Debian, so its sources of apt name no mirror of one")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a script
        signal.signal(signal.SIGINT, signal.default_int_handler)
    lines = readme_lines((ROOT / "README.md").read_text("utf-8"))
    try:
        for release in given.releases or RELEASES:
            check(release, lines, archive, whole=given.whole, keep=given.keep)
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
