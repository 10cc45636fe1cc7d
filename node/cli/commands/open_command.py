"""`open`: the node's page in a browser."""

from __future__ import annotations

import os
import sys
import webbrowser

import click

from node.cli.client_session import Session, client_options, print_json


def open_in_browser(url: str) -> bool:
    """Open `url` in a browser with a window. Returns False where there is none."""
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        return False
    try:
        return webbrowser.open(url)
    except webbrowser.Error:
        return False


@click.command("open")
@click.option("--print", "only_print", is_flag=True, help="Print the address; open nothing.")
@client_options
def open_page(session: Session, only_print: bool) -> None:
    """Open the node's page in a browser.

    The page shows the market, orders, peers and the node's health, and trades. The address holds no
    key: where the node requires keys, the page asks for one.

    \b
    Examples:
      exchange-node open
      exchange-node open --print
      exchange-node open --data-dir ~/.exchange-node-2
    """
    url = f"{session.find().url}/"
    opened = not only_print and open_in_browser(url)
    if session.as_json:
        print_json({"url": url, "opened": opened})
    elif only_print:
        click.echo(url)
    elif opened:
        click.echo(f"opened {url}")
    else:
        click.echo(f"no browser can be opened from here; open this address in one: {url}")
