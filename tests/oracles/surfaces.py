"""Surfaces of the product that users and programs see without trading: help, settings, documents, metrics.

Each surface is a text, so that two versions can be compared line by line.
"""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import click

from config import load
from config.settings_docs import env_example, settings_page
from node.cli.main import cli
from node.daemon.library import open_node

DOCUMENTS = {  # of the API: path -> file
    "/openapi.json": "openapi.json",
    "/asyncapi.json": "asyncapi.json",
    "/v1/markets": "markets.json",
}


def help_texts(command: click.Command, context: click.Context) -> Iterator[str]:
    """The help of a command and, below it, of its own commands."""
    yield f"$ {context.command_path} --help\n{command.get_help(context)}\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None:
                with click.Context(below, info_name=name, parent=context) as inner:
                    yield from help_texts(below, inner)


def commands() -> str:
    """Help of all commands."""
    with click.Context(cli, info_name="exchange-node", terminal_width=100) as context:
        return "\n".join(help_texts(cli, context))


def metric_names(exposition: str) -> str:
    """Types and names of metrics, with the names of their labels, without values."""
    found = set()
    for line in exposition.splitlines():
        if line.startswith("# TYPE "):
            found.add(line)
        elif line and not line.startswith("#"):
            name = line.split("{")[0].split(" ")[0]
            labels = sorted(set(re.findall(r'[{,](\w+)="', line)))
            found.add(f"{name} {' '.join(labels)}".rstrip())
    return "\n".join(sorted(found)) + "\n"


async def of_a_node() -> dict[str, str]:
    """Documents and metrics of a node that has just started on loopback."""
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        options = {
            "data_dir": scratch, "p2p_host": "127.0.0.1", "p2p_port": 0, "api_port": 0,
            "discovery_mdns": False,
        }  # fmt: skip
        async with open_node(load(options).settings) as node, aiohttp.ClientSession() as session:
            for path, file in DOCUMENTS.items():
                async with session.get(f"{node.api.url}{path}") as answer:
                    text = (await answer.text()).replace(node.api.url or "", "http://NODE")
                found[file] = json.dumps(json.loads(text), indent=1, ensure_ascii=False) + "\n"
            async with session.get(f"{node.api.url}/metrics") as answer:
                found["metrics.txt"] = metric_names(await answer.text())
    return found


def surfaces() -> dict[str, str]:
    """All surfaces: file name -> text."""
    return {
        "help.txt": commands(),
        "settings.md": settings_page(),
        "env.example": env_example(),
        **asyncio.run(of_a_node()),
    }


def write(directory: Path) -> None:
    """Write each surface to a file of its own."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in surfaces().items():
        (directory / name).write_text(text, "utf-8")
