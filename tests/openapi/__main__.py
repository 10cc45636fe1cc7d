"""Use the OpenAPI document of a real node as other people do, with programs from PyPI in an environment of their own.

    python -m tests.openapi [--examples 100] [--seed 1]

1. openapi-python-client generates a client; the client calls every operation, and each succeeds with
   an answer of the documented type.
2. schemathesis makes requests from the document, right and wrong ones, and runs all its checks.

Exit 1 when an operation was not called, or schemathesis has a finding.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import requests

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent / "integration"))

from processes import NodeProcess, Nodes  # noqa: E402 - its folder comes before

INSTALL_TIMEOUT = 600.0  # seconds
TIMEOUT = 3000.0


def environment(directory: Path) -> Path:
    """Make the environment if there is none; return the directory of its programs."""
    programs = directory / "bin"
    if not (programs / "schemathesis").exists():
        print("installing openapi-python-client and schemathesis ...", flush=True)
        venv.create(directory, with_pip=True)
        subprocess.run(
            [programs / "pip", "install", "-q", "-r", HERE / "requirements.lock"],
            check=True,
            timeout=INSTALL_TIMEOUT,
        )
    return programs


def other_steps(directory: Path) -> Path:
    """The default instruments, with another lot of ETH-BTC."""
    text = (ROOT / "exchange" / "instruments.toml").read_text("utf-8")
    head, table, tail = text.partition("[ETH-BTC]")
    lines = tail.splitlines(keepends=True)
    at = next(number for number, line in enumerate(lines) if line.startswith("lot"))
    lines[at] = 'lot = "0.001"\n'
    path = directory / "instruments.toml"
    path.write_text(head + table + "".join(lines), "utf-8")
    return path


def run(programs: Path, arguments: list[str], directory: Path) -> None:
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"  # the generator formats with ruff
    home = {"HOME": str(directory), "PATH": path, "LANG": "C.UTF-8"}
    subprocess.run(arguments, cwd=directory, env=home, check=True, timeout=TIMEOUT)


def operator_token(node: NodeProcess) -> str:
    token: str = json.loads(node.runtime_path.read_text("utf-8"))["operator_token"]
    return token


def call_everything(programs: Path, directory: Path, nodes: Nodes) -> None:
    """Generate a client from a node's document and call every operation of that node."""
    node = nodes.start("generated", API_RATE_LIMIT="0")
    other = nodes.start("other")
    node.stop()
    desk = directory / "desk.toml"
    own = [
        f'[[node]]\nname = "{each.name}"\ndata_dir = "{each.data_dir}"\n' for each in (node, other)
    ]
    desk.write_text("".join(own), "utf-8")
    node.restart(
        INSTRUMENTS_FILE=str(other_steps(directory)), API_RATE_LIMIT="0", DESK_PROFILE=str(desk)
    )
    document = directory / "openapi.json"
    document.write_bytes(requests.get(f"{node.api_url}/openapi.json", timeout=20).content)
    generator = str(programs / "openapi-python-client")
    options = ["--meta", "none", "--output-path", "client", "--overwrite", "--fail-on-warning"]
    run(programs, [generator, "generate", "--path", "openapi.json", *options], directory)
    script = (HERE / "generated_calls.py").read_text("utf-8")
    (directory / "generated_calls.py").write_text(script, "utf-8")
    about = [node.api_url, operator_token(node), other.node_id, other.p2p_address]
    run(programs, [str(programs / "python"), "generated_calls.py", *about], directory)


def known_names(node: NodeProcess, other: NodeProcess) -> str:
    """Give the node an account with money and orders; return the configuration that has their names."""
    account = {"name": "alice"}
    for path, body in (
        ("accounts", account),
        ("accounts/alice/deposits", {"asset": "USD", "amount": "1000000"}),
        ("accounts/alice/deposits", {"asset": "BTC", "amount": "100"}),
    ):
        requests.post(f"{node.api_url}/v1/{path}", json=body, timeout=20).raise_for_status()
    for price in ("20000", "20001", "20002"):
        node.buy("0.1", price, market="BTC-USD", client_id=f"c{price}")
    names = {
        "account": "alice",
        "market": "BTC-USD",
        "id": "1",
        "client_id": "c20001",
        "peer": other.node_id,
        "node": other.node_id,
        "service": "book",
    }
    lines = [f'"path.{name}" = {json.dumps(value)}' for name, value in names.items()]
    return "\n[parameters]\n" + "\n".join(lines) + "\n"


def check_document(programs: Path, directory: Path, nodes: Nodes, examples: int, seed: int) -> None:
    """Run schemathesis on one of two linked nodes: with names of its own, then with those that are there."""
    node, other = nodes.pair(API_RATE_LIMIT="0", LOG_LEVEL="error")
    given = (HERE / "schemathesis.toml").read_text("utf-8")
    configuration = directory / "schemathesis.toml"
    # Sequences of requests have the names that earlier ones made.
    phases = ("examples,coverage,fuzzing,stateful", "examples,coverage,fuzzing")
    for more, phase in zip(("", known_names(node, other)), phases, strict=True):
        configuration.write_text(given + more, "utf-8")
        arguments = [
            *(str(programs / "schemathesis"), "--config-file", configuration.name),
            *("run", f"{node.api_url}/openapi.json", "--checks", "all"),
            *("--phases", phase, "--max-examples", str(examples), "--seed", str(seed)),
            *("--continue-on-failure", "--no-color"),
        ]
        run(programs, arguments, directory)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.openapi", description=__doc__)
    parser.add_argument(
        "--examples", type=int, default=100, help="for each operation (default 100)"
    )
    parser.add_argument(
        "--seed", type=int, help="of schemathesis; another one each time if left out"
    )
    parser.add_argument(
        "--environment",
        type=Path,
        default=Path(tempfile.gettempdir()) / "exchange-node-openapi",
        help="directory of the programs' environment, made if there is none",
    )
    given = parser.parse_args()
    seed = random.randrange(2**31) if given.seed is None else given.seed
    programs = environment(given.environment)
    with tempfile.TemporaryDirectory(prefix="exchange-node-openapi-") as scratch:
        directory = Path(scratch)
        (directory / "nodes").mkdir()
        nodes = Nodes(directory / "nodes")
        try:
            call_everything(programs, directory, nodes)
            check_document(programs, directory, nodes, given.examples, seed)
        except subprocess.CalledProcessError as error:
            print(f"failed: {Path(str(error.cmd[0])).name} ended with {error.returncode}")
            return 1
        finally:
            nodes.cleanup()
    return 0


if __name__ == "__main__":
    sys.exit(main())
