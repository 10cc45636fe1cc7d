"""The lines of curl and Python in README and API document, run at a real node."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.cli.client_session import BlockingTransport, run_blocking
from node.client.exchange_client import ExchangeClient
from node.views.account_views import AccountRequest
from tests.documents.examples import ROOT
from tests.documents.typing_person import Typist, typists

NODE = "http://127.0.0.1:8300"
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "api.md")
SECONDS = 3.0  # for streams, which have no end


def blocks(text: str) -> Iterator[str]:
    """Indented blocks; blank lines inside belong to them."""
    for found in re.finditer(r"(?:^    .*\n|^\n(?=    ))+", text, re.MULTILINE):
        yield textwrap.dedent(found.group()).strip("\n")


def curl_lines() -> list[str]:
    joined = [
        block.replace("\\\n", " ")
        for path in DOCUMENTS
        for block in blocks(path.read_text("utf-8"))
    ]
    return [line for block in joined for line in block.splitlines() if line.startswith("curl ")]


def programs() -> list[str]:
    """Parts of programs for the typed clients; whole programs and that for ccxt have tests of their own."""
    found = [block for path in DOCUMENTS for block in blocks(path.read_text("utf-8"))]
    starts = ("async with ", "from node.")
    return [
        block[at:]
        for block in found
        if "asyncio.run(" not in block
        and (at := min((block.find(s) for s in starts if s in block), default=-1)) >= 0
    ]


@pytest.fixture(scope="module")
def typist(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Typist]:
    with typists(["A"], tmp_path_factory.mktemp("snippets"), "") as found:
        yield found["A"]


def key_of(typist: Typist) -> str:
    client = ExchangeClient(typist.api, transport=BlockingTransport(5.0))
    made = run_blocking(client.create_account(AccountRequest(name="alice")))
    key = run_blocking(client.create_key(made.name))
    return f"{key.key}:{key.secret}"


def test_there_are_lines_and_programs() -> None:
    assert len(curl_lines()) >= 3
    assert len(programs()) >= 2


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_every_line_of_curl_is_answered(typist: Typist) -> None:
    key = key_of(typist)
    for line in curl_lines():
        command = line.replace(NODE, typist.api.rstrip("/")).replace("KEY:SECRET", key)
        ran = subprocess.run(
            command.replace("curl ", "curl --fail-with-body -sS --noproxy '*' ", 1),
            shell=True,
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert ran.returncode == 0, f"{line}\n{ran.stdout}{ran.stderr}"


@pytest.mark.parametrize("program", programs(), ids=lambda program: program.split("\n")[0][:40])
def test_every_program_runs(typist: Typist, tmp_path: Path, program: str) -> None:
    body = textwrap.indent(program.replace(NODE, typist.api.rstrip("/")), "    ")
    imports = "import asyncio\nfrom node.client.exchange_client import ExchangeClient\n"
    end = f"try:\n    asyncio.run(asyncio.wait_for(main(), {SECONDS}))\nexcept TimeoutError:\n    pass\n"
    script = tmp_path / "program.py"
    script.write_text(f"{imports}\nasync def main():\n{body}\n\n{end}")
    ran = subprocess.run(
        [sys.executable, str(script)],
        env=typist.environment(),
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert ran.returncode == 0, f"{program}\n{ran.stderr}"
    assert "feed.book" not in program or ran.stdout, "the stream printed nothing"
