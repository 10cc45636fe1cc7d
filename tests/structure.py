"""Figures of the code's structure: `python -m tests.structure [--json]`.

Holds the budgets of the structure, which `tests/unit/docs/test_structure.py` asserts: whoever needs more changes the number
in the same commit and says why. Numbers only ever go down otherwise.

Counts modules in each folder, base names and public class names that occur more than once, functions above complexity 15,
lines of product and tests, docstrings that begin with a question word, glossary words without a home,
and the Python calls on the way of an order, a subscription and a service call through real nodes on
loopback. Run it in two checkouts to compare them.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("config", "exchange", "p2p", "node")
RIDDLE = re.compile(
    r'^ *[rR]?"""\s*(What|Whether|Who|Whose|How|Which|When|Where|Why)\b.*', re.MULTILINE
)
CLASS = re.compile(r"^ *class (\w+)[(:\[]", re.MULTILINE)
MARKET = "BTC-USD"
MOST_ARGUMENTS = 6  # of a constructor
EXPERIMENTS = (  # programs that measure
    "benchmarks",
    "simulation/dht",
    "simulation/routing",
    "simulation/scale",
    "simulation/storm",
)

# Lines of the Python modules of each room; folders of a room count with it.
LINES = {
    "config": 1_700,
    "exchange": 50,
    "exchange/engine": 2_290,  # long work in slices; what a journal has set aside; whose presences count
    "exchange/feeds": 3_060,  # checkpoints and snapshots in slices; the clock of presences; feeds that others show; owners that make room
    "exchange/journal": 3_465,  # history in shares; feeds end at a batch set aside
    "exchange/ledger": 2_100,  # credit of all strangers together
    "exchange/market": 1_680,  # shares of the history of trades
    "exchange/model": 1_510,  # types of values of others; how records of earlier journals are read
    "exchange/orders": 2_065,  # which markets have changed; unreliable makers last
    "exchange/takes": 1_460,  # ends of takes, and what makers do with them; credit of strangers; forgotten takers
    "node": 50,
    "node/annexes": 50,
    "node/annexes/backup": 100,
    "node/annexes/bitfinex": 4_200,
    "node/annexes/demos": 1_850,
    "node/annexes/desk": 1_150,  # annexes have their settings
    "node/annexes/export": 3_880,  # every column is named in its row's type and where the row is built; rows set aside
    "node/annexes/grenache": 1_000,
    "node/annexes/learn": 1_850,
    "node/annexes/recovery": 450,  # the wait, with an end
    "node/annexes/standby": 2_100,
    "node/annexes/tracing": 500,
    "node/api": 4_150,
    "node/cli": 6_270,  # whose files are handlers
    "node/client": 2_100,
    "node/daemon": 3_175,  # feeds that others show; warnings about others, which are few and go with their leases
    "node/http": 2_075,  # shares of time for strangers
    "node/operations": 1_100,
    "node/parts": 300,
    "node/service": 4_010,  # long steps in slices; places for statements, and patience with a busy peer
    "node/streams": 2_150,
    "node/views": 1_780,
    "node/virtual": 1_600,
    "p2p": 460,  # what is this machine
    "p2p/adaptive": 2_050,
    "p2p/addresses": 930,  # the budget of first contacts
    "p2p/base": 2_190,  # the slots of all ports, and TLS that takes one first; the reach of addresses; which are of this machine
    "p2p/discovery": 1_650,
    "p2p/flow": 3_000,
    "p2p/grenache": 11_050,  # the connection that only it has
    "p2p/grenache_links": 950,
    "p2p/ground": 650,  # types of texts of peers; files that only their user writes
    "p2p/mesh": 4_150,  # relay places that give way; clocks by network; origins of broadcasts are proven
    "p2p/peers": 2_230,  # newcomers of a full node are tried
    "p2p/reachability": 2_570,  # turns and shares of punches and dial-backs
    "p2p/rpc": 700,
    "p2p/services": 1_750,
    "p2p/wire": 3_175,  # what reading and heartbeats may take
}
WIDE_CONSTRUCTORS = 6  # classes whose constructor takes more than MOST_ARGUMENTS
LATE_BINDINGS = 2  # attributes of another object that a constructor sets
FLOORS = {
    "config": 7,
    "exchange": 6,
    "p2p": 9,
    "node": 7,
}  # longest chain of imports from room to room
CALLS = 175  # rules of an order are functions where the fast path had lines; Python calls of an order by REST, from socket to answer; 145 where the write is done in a thread
MODULES = 52  # modules that it passes


def modules(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def lines_of(paths: list[Path]) -> int:
    return sum(len(source(path).splitlines()) for path in paths)


@cache
def source(path: Path) -> str:
    return path.read_text()


def riddles(paths: list[Path]) -> list[str]:
    """Docstrings that begin with a question word: their first lines."""
    return [match[0].strip() for path in paths for match in RIDDLE.finditer(source(path))]


def repeated_classes(paths: list[Path]) -> list[str]:
    """Names of public classes that are defined more than once."""
    defined = (name for path in paths for name in CLASS.findall(source(path)))
    names = Counter(name for name in defined if not name.startswith("_"))
    return sorted(name for name, n in names.items() if n > 1)


def room_of(path: Path) -> str:
    """Folder below a package that a module lies in; annexes and parts of Grenache are rooms of their own."""
    parts = path.relative_to(ROOT).parts[:-1]
    deep = 3 if parts[1:2] == ("annexes",) else 2
    return "/".join(parts[:deep])


def lines_by_room() -> dict[str, int]:
    rooms: Counter[str] = Counter()
    for package in PACKAGES:
        for path in modules(ROOT / package):
            rooms[room_of(path)] += lines_of([path])
    return dict(sorted(rooms.items()))


def stale_contents() -> dict[str, dict[str, list[str]]]:
    """Return the modules that the table of contents of a folder's `__init__` leaves out or names in vain.

    A folder without a table has none.
    """
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("__init__.py")):
            text = ast.get_docstring(ast.parse(path.read_text())) or ""
            listed = set(re.findall(r"^(\w+)  +\S", text, re.MULTILINE))
            there = {each.stem for each in path.parent.glob("*.py")} - {"__init__"}
            there |= {each.parent.name for each in path.parent.glob("*/__init__.py")}
            if listed and listed != there:
                differs = {"named in vain": listed - there, "left out": there - listed}
                found[str(path.relative_to(ROOT))] = {k: sorted(v) for k, v in differs.items()}
    return found


@cache
def constructors() -> list[tuple[str, ast.FunctionDef]]:
    """Every `__init__` with the place of its class."""
    paths = [path for package in PACKAGES for path in modules(ROOT / package)]
    return [
        (f"{path.relative_to(ROOT)}:{node.name}", part)
        for path in paths
        if "def __init__" in source(path)
        for node in ast.walk(ast.parse(source(path)))
        if isinstance(node, ast.ClassDef)
        for part in node.body
        if isinstance(part, ast.FunctionDef) and part.name == "__init__"
    ]


def wide_constructors() -> dict[str, int]:
    """Classes whose constructor takes more than `MOST_ARGUMENTS`, with their number."""
    found = {}
    for place, function in constructors():
        given = function.args
        count = len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs) - 1
        if count > MOST_ARGUMENTS:
            found[place] = count
    return found


def late_bindings() -> list[str]:
    """Attributes of other objects that constructors set: `self.router.defer = ...`."""
    found = []
    for place, function in constructors():
        for node in ast.walk(function):
            targets = node.targets if isinstance(node, ast.Assign) else []
            found += [
                f"{place}: {ast.unparse(target)}"
                for target in targets
                if isinstance(target, ast.Attribute) and ast.unparse(target.value) != "self"
            ]
    return found


def floors() -> dict[str, int]:
    """Longest chain of rooms that import each other, by package."""
    import grimp

    graph = grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True)
    below: dict[str, set[str]] = {}
    for module in graph.modules:
        room = ".".join(module.split(".")[: 3 if module.startswith("node.annexes") else 2])
        for imported in graph.find_modules_directly_imported_by(module):
            other = ".".join(imported.split(".")[: 3 if imported.startswith("node.annexes") else 2])
            if other != room and other.split(".")[0] == room.split(".")[0]:
                below.setdefault(room, set()).add(other)

    @cache
    def height(room: str) -> int:
        return 1 + max((height(other) for other in below.get(room, ())), default=0)

    return {
        package: max(height(room) for room in [*below, package] if room.split(".")[0] == package)
        for package in PACKAGES
    }


def complex_functions() -> list[str]:
    """Functions of the packages whose cyclomatic complexity (ruff's C901) is above 15."""
    command = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--isolated",
        "--select",
        "C901",
        "--ignore-noqa",
    ]
    command += [
        "--config",
        "lint.mccabe.max-complexity=15",
        "--output-format",
        "concise",
        *PACKAGES,
    ]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    return [line.split(" is too")[0] for line in output.splitlines() if "C901" in line]


def words_without_home() -> list[str]:
    """Paths named in docs/glossary.md that do not exist: `folder/module.py` or `module.py:Class`."""
    glossary = ROOT / "docs" / "glossary.md"
    if not glossary.exists():
        return ["docs/glossary.md"]
    missing = []
    for path, _, name in re.findall(
        r"`((?:config|exchange|p2p|node)/[\w/]+\.py)(:(\w+))?`", glossary.read_text()
    ):
        file = ROOT / path
        if not file.exists() or (name and not re.search(rf"\b{name}\b", file.read_text())):
            missing.append(f"{path}:{name}" if name else path)
    return missing


def place_of(frame: FrameType) -> str:
    """Path of a frame's module below the root; empty for other people's code."""
    try:
        place = Path(frame.f_code.co_filename).relative_to(ROOT)
    except ValueError:
        return ""
    return str(place) if place.parts[0] in PACKAGES else ""


def callers(frame: FrameType | None) -> Iterator[FrameType]:
    """Frames of this project from `frame` outwards, up to the event loop."""
    while frame is not None:
        if place_of(frame):
            yield frame
        frame = frame.f_back


class Way:
    """Counts the Python calls of this project's functions while something is done."""

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        self.to_book: list[str] = []  # the chain of calls that puts the order into its book

    def _see(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or code.co_name.startswith("<") or not (place := place_of(frame)):
            return
        chain = list(callers(frame))
        if any(caller.f_code.co_name == "_tick" for caller in chain):
            return  # a timer of the node, due at the same moment
        self.calls[place, code.co_qualname] += 1
        if not self.to_book and code.co_qualname in ("OrderBook.append", "Book.append"):
            self.to_book = [caller.f_code.co_qualname for caller in reversed(chain)]

    async def of(self, action: Callable[[], Awaitable[object]], times: int = 5) -> dict[str, Any]:
        """Calls, functions and modules that one `action` passes; a first one goes before, uncounted. Of several tries
        the one with the fewest calls counts: the others met work of the node that was due just then."""
        await action()
        tries: list[Counter[tuple[str, str]]] = []
        for _ in range(times):
            await asyncio.sleep(0.2)
            self.calls = Counter()
            sys.setprofile(self._see)
            try:
                await action()
            finally:
                sys.setprofile(None)
            tries.append(self.calls)
        calls = min(tries, key=Counter.total)
        counted: dict[str, Any] = {
            "calls": calls.total(),
            "functions": len(calls),
            "modules": len({module for module, _ in calls}),
        }
        if self.to_book:  # the handler's own task begins below the route
            counted["from route to order book"] = self.to_book
        return counted


async def ways(*wanted: str) -> dict[str, dict[str, Any]]:
    """An order by REST, a stream subscription, and a service call, each as server and caller pass it; or some of them."""
    import aiohttp

    from config import load

    try:
        from node.daemon.library import open_node
    except ImportError:  # a checkout before the folders
        from node.library import open_node  # type: ignore[import-not-found,no-redef]

    order = {"market": MARKET, "side": "buy", "quantity": "0.1", "price": "100"}

    async def echo(payload: object) -> object:
        return payload

    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory())
        options = {
            "p2p_host": "127.0.0.1", "p2p_port": 0, "api_port": 0, "discovery_mdns": False,
            "journal_sync": "normal",
        }  # fmt: skip
        first = load(options | {"data_dir": f"{scratch}/1"}).settings
        async with open_node(first) as node, aiohttp.ClientSession() as session:
            url = node.api.url
            node.serve("echo", echo)
            await asyncio.sleep(0.5)

            async def place() -> None:
                async with session.post(f"{url}/v1/orders", json=order) as answer:
                    assert answer.status == 201, await answer.text()

            async def subscribe() -> None:
                async with session.ws_connect(f"{url}/v1/stream") as socket:
                    await socket.send_json({"op": "subscribe", "channel": "book", "market": MARKET})
                    await socket.receive(timeout=5)

            async def call() -> None:
                await node.call("echo", {"n": 1}, timeout=5)

            actions: dict[str, Callable[[], Awaitable[object]]] = {
                "order by REST": place, "stream subscription": subscribe, "service call": call,
            }  # fmt: skip
            return {name: await Way().of(actions[name]) for name in wanted or actions}


def figures() -> dict[str, Any]:
    product = [path for package in PACKAGES for path in modules(ROOT / package)]
    named = [path for path in product if path.stem != "__init__"]
    folders = Counter(str(path.parent.relative_to(ROOT)) for path in named)
    names = Counter(path.stem for path in named)
    experiments = sum(lines_of(modules(ROOT / "tests" / name)) for name in EXPERIMENTS)
    return {
        "modules": len(named),
        "modules in the largest folders": dict(folders.most_common(6)),
        "modules under 25 lines": sum(lines_of([path]) < 25 for path in named),
        "repeated base names": {name: n for name, n in names.items() if n > 1},
        "repeated names of public classes": repeated_classes(product),
        "functions above complexity 15": complex_functions(),
        "lines of product": lines_of(product),
        "lines of tests": lines_of(modules(ROOT / "tests")) - experiments,
        "lines of experiments": experiments,
        "lines by room": lines_by_room(),
        "floors": floors(),
        "constructors with more than six arguments": wide_constructors(),
        "attributes set from outside": late_bindings(),
        "docstrings that begin with a question word": len(riddles(product)),
        "glossary words without a home": words_without_home(),
        "calls on the way": asyncio.run(ways()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.structure", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON document")
    arguments = parser.parse_args()
    found = figures()
    if arguments.json:
        print(json.dumps(found, indent=1))
        return 0
    for name, value in found.items():
        print(f"{name}: {value if not isinstance(value, dict | list) or value else 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
