"""Two homes behind routers and one public node: set up from README's lines alone, and the change of path counted."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from nat_lab import NatLab
from processes import ROOT, environment, eventually

from tests.documents.examples import Example, agrees, examples
from tests.documents.typing_person import TERMINAL

pytestmark = [pytest.mark.namespaces, pytest.mark.long]
README = (ROOT / "README.md").read_text()
SECTION = README[README.index("## Two machines") : README.index("## Accounts and bots")]


class Person:
    """Somebody at a machine: a namespace, a home directory, and what README says."""

    def __init__(self, space: str, home: Path) -> None:
        home.mkdir()
        self._prefix = ("ip", "netns", "exec", space)
        self._environment = environment(HOME=str(home), **TERMINAL)
        self._node: subprocess.Popen[str] | None = None
        self.log = home / "terminal.txt"

    def _command(self, line: str) -> list[str]:
        program, *words = shlex.split(line)
        assert program == "exchange-node"
        return [*self._prefix, sys.executable, "-m", "node.cli.main", *words]

    def start(self, line: str) -> None:
        with self.log.open("w") as log:
            self._node = subprocess.Popen(
                self._command(line), stdout=log, stderr=log, text=True, env=self._environment
            )
        eventually(lambda: "Ctrl-C stops the node" in self.log.read_text(), 30)

    def type(self, line: str) -> str:
        """Type a command at a terminal; returns what it shows."""
        command = ["script", "-qec", shlex.join(self._command(line)), "/dev/null"]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, env=self._environment
        )
        assert done.returncode == 0, (line, done.stdout)
        return done.stdout.replace("\r", "")

    def stop(self) -> None:
        if self._node is not None:
            self._node.terminate()
            self._node.wait(20)


def lines() -> tuple[str, str]:
    """README's two lines that start a node: the first machine's, and that of all others."""
    alone, other = re.findall(
        r"^    (exchange-node start(?: --bootstrap \S+)?)$", SECTION, re.MULTILINE
    )
    return alone, other


@pytest.mark.timeout(180)
def test_readme_makes_two_homes_trade_over_a_link_of_their_own(lab: NatLab, tmp_path: Path) -> None:
    alone, other = lines()
    public = lab.public(1)
    homes = {name: lab.home("port") for name in "AB"}
    people = {name: Person(home.space, tmp_path / name) for name, home in homes.items()}
    server = Person(public.space, tmp_path / "server")
    try:
        server.start(alone)
        for person in people.values():
            person.start(other.replace("192.0.2.10:3000", f"{public.address}:3000"))
        eventually(lambda: "punched" in people["A"].type("exchange-node peers"), 60)
        typed: list[Example] = examples(SECTION)
        assert len(typed) > 4
        for example in typed:
            person = people[example.node]
            if example.command.startswith("exchange-node order buy"):
                eventually(lambda: "30000" in people["B"].type("exchange-node book BTC-USD"))
            if example.command == "exchange-node orders":
                eventually(lambda: "0.2  open" in people["A"].type("exchange-node orders"))
            printed = person.type(example.command)
            assert agrees(example.shown, printed), (example.command, printed)
        assert "nat" in people["B"].type("exchange-node status").lower()
    finally:
        for each in (*people.values(), server):
            each.stop()
    assert "Traceback" not in server.log.read_text() + "".join(
        p.log.read_text() for p in people.values()
    )


@pytest.mark.timeout(240)
@pytest.mark.parametrize("delay", [0.02, 0.15])
def test_the_change_from_relay_to_link_loses_and_repeats_nothing(lab: NatLab, delay: float) -> None:
    public = lab.public(1).start()
    homes = [lab.home("port", delay=delay).launch("--bootstrap", public.where) for _ in (1, 2)]
    a, b = (node.ready() for node in homes)
    eventually(lambda: [p for p in a.peers() if p.node_id == b.node_id and p.path])
    paths: list[str] = []
    placed = 0
    while paths.count("punched") < 12:
        assert placed < 400, "the homes have not punched a link"
        # Several at a time, so that messages of both directions are under way whenever the path changes.
        placed += 4
        for n in range(4):
            a.sell(1, 100 + n)
        eventually(lambda: len(b.asks()) == 4)
        bought = [b.buy(1, 100 + n) for n in range(4)]
        (path,) = [p.path for p in a.peers() if p.node_id == b.node_id]
        paths.append(str(path))
        eventually(
            lambda bought=bought: all(b.get_order(each.id).status == "filled" for each in bought)  # type: ignore[misc]
        )
        eventually(lambda: not b.asks())
    assert set(paths) == {"relayed", "punched"}
    eventually(lambda: len(a.fills()) == len(b.fills()) == placed)
    assert {(f.price, f.quantity) for f in a.fills()} == {(f.price, f.quantity) for f in b.fills()}
    assert a.orders() == b.orders() == []
    takes = [{fill.id for fill in node.fills()} for node in (a, b)]
    assert len(takes[0]) == len(takes[1]) == placed
    assert "Traceback" not in a.log + b.log + public.log
