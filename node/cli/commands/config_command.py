"""`config`: every setting, its value and where it came from."""

from __future__ import annotations

from dataclasses import asdict

import click

from node.cli.client_session import print_json
from node.cli.commands.start_command import load_settings
from node.cli.table_layout import Cell, Column, table
from node.cli.tables import echo


@click.command()
@click.option("--data-dir", metavar="DIR", help="As for start.")
@click.option("--config", "config_file", metavar="FILE", help="As for start.")
@click.option("--changed", is_flag=True, help="Only settings that are not at their defaults.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def config(data_dir: str | None, config_file: str | None, changed: bool, as_json: bool) -> None:
    """Show every setting, its value and where it came from.

    Values come from the command line, else the environment, else .env, else the config file, else
    the default. This shows what 'start' would use from here, not what a running node uses.

    \b
    Examples:
      exchange-node config
      P2P_PORT=4000 exchange-node config --changed
      exchange-node config --json
    """
    from config import describe

    loaded = load_settings(config_file, data_dir=data_dir)
    views = [view for view in describe(loaded) if not (changed and loaded.is_default(view.key))]
    if as_json:
        print_json(
            {
                "settings": [asdict(view) for view in views],
                "config_file": None if loaded.config_file is None else str(loaded.config_file),
                "warnings": list(loaded.warnings),
            }
        )
        return
    section = None
    rows: list[list[Cell]] = []
    for view in views:
        if view.section != section:
            if section is not None:
                rows.append([])
            section = view.section
            rows.append([(section, "bold")])
        style = "dim" if loaded.is_default(view.key) else ""
        rows.append([view.name, view.value or "(empty)", (str(view.origin), style)])
    if rows:
        echo(table([Column("setting"), Column("value"), Column("from")], rows))
    else:
        click.echo("every setting has its default")
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}", err=True)
