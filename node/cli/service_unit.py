"""`service print`: the systemd unit that runs a node, for the system or for one user."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import click

from node.cli.client_session import CommandFailure, Exit
from node.cli.command_groups import Group

_HARDENING: Final = """\
# What a node does not need. `systemd-analyze security exchange-node` rates the result.
AmbientCapabilities=
CapabilityBoundingSet=
NoNewPrivileges=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
PrivateDevices=yes
PrivateTmp=yes
PrivateUsers=yes
ProcSubset=pid
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProtectSystem=strict
RemoveIPC=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
UMask=0077
"""


# Directories that the unit hides from the service, by ProtectHome and PrivateTmp.
_HOMES: Final = ("/home", "/root", "/run/user")
_HIDDEN: Final = (*_HOMES, "/tmp", "/var/tmp")  # noqa: S108 - not used, only compared


def _within(path: str | Path, parents: Iterable[str]) -> bool:
    return any(Path(path).is_relative_to(parent) for parent in parents)


def hidden_parts(paths: Iterable[Path]) -> list[Path]:
    """Return the directories of `paths` that the service needs and would not see, outermost ones only."""
    found = sorted({path for path in paths if _within(path, _HIDDEN)})
    return [path for path in found if not _within(path, [str(p) for p in found if p != path])]


def _quoted(path: str | Path) -> str:
    """Return a path as systemd reads it in a list."""
    text = str(path).replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"' if re.search(r"[\s\"']", text) else text


def unit(program: str, *, user: bool, parts: Sequence[Path] = ()) -> str:
    """Return the text of the unit file. `program` is the path of `exchange-node`; `parts` are directories with
    parts of it that the unit would hide: it shows them, read-only, and nothing else that is beside them."""
    data = "%h/.exchange-node" if user else "/var/lib/exchange-node"
    identity = (
        "" if user else "DynamicUser=yes\nStateDirectory=exchange-node\nStateDirectoryMode=0700\n"
    )
    key = (
        ""
        if user
        else "# The node's key can be kept apart from its data, encrypted if you like:\n"
        "#LoadCredential=node.key:/etc/exchange-node/node.key\n"
    )
    hardening = "NoNewPrivileges=yes\nUMask=0077\n" if user else _HARDENING
    if parts and not user:
        shown = " ".join(_quoted(str(part).replace(":", "\\:")) for part in parts)
        hardening = hardening.replace(
            "ProtectHome=yes\n",
            f"ProtectHome={'tmpfs' if any(_within(part, _HOMES) for part in parts) else 'yes'}\n"
            "# The program lies in a directory that is hidden from services: it alone is shown.\n"
            f"BindReadOnlyPaths={shown}\n",
        )
    target = "default.target" if user else "multi-user.target"
    return f"""\
# {"~/.config/systemd/user" if user else "/etc/systemd/system"}/exchange-node.service
[Unit]
Description=exchange-node, a node of a peer-to-peer exchange
Documentation=man:exchange-node(1)
{"" if user else "Wants=network-online.target" + chr(10) + "After=network-online.target" + chr(10)}
[Service]
Type=notify
NotifyAccess=main
ExecStart={_quoted(program)} start
Environment=DATA_DIR={data}
{"" if user else "EnvironmentFile=-/etc/exchange-node/environment" + chr(10)}WatchdogSec=30
Restart=on-failure
RestartSec=2
# 2 is a wrong setting: a restart does not mend it.
RestartPreventExitStatus=2
TimeoutStopSec=30
LimitNOFILE=16384
{identity}{key}
{hardening}
[Install]
WantedBy={target}
"""


@click.group(
    cls=Group, invoke_without_command=True, short_help="Run a node as a service of systemd."
)
@click.pass_context
def service(ctx: click.Context) -> None:
    """Run a node as a service of systemd.

    \b
    Examples:
      exchange-node service print | sudo tee /etc/systemd/system/exchange-node.service
      exchange-node service print --user > ~/.config/systemd/user/exchange-node.service
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@service.command("print")
@click.option("--user", is_flag=True, help="A unit of your own session instead of the system's.")
def print_unit(user: bool) -> None:
    """Print the unit file.

    Where the program lies in a home directory, as after pipx and uv, the unit shows that part of it to the
    service, and nothing else of the home.

    \b
    Install it for the system:
      exchange-node service print | sudo tee /etc/systemd/system/exchange-node.service
      sudo systemctl daemon-reload && sudo systemctl enable --now exchange-node
    """
    found = shutil.which("exchange-node")
    beside = Path(sys.executable).with_name("exchange-node")
    program = str(
        beside if beside.exists() else Path(found or "/usr/local/bin/exchange-node").resolve()
    )
    parts = [] if user else hidden_parts(_parts())
    for part in parts:
        if part.stat().st_mode & 0o005 != 0o005:
            raise CommandFailure(
                f"the service, which has a user of its own, cannot read {part}: install the program for all "
                "users ('sudo pipx install --global', or a virtual environment in /opt), or run it as your own "
                "user: exchange-node service print --user",
                Exit.USAGE,
            )
    click.echo(unit(program, user=user, parts=parts), nl=False)


def _parts() -> Iterator[Path]:
    """Yield the directories that the program is in: its environment, its Python, and sources elsewhere."""
    yield Path(sys.prefix)
    yield Path(sys.base_prefix)
    yield Path(sys.executable).resolve().parent
    source = Path(__file__).parents[2]
    if not (source.is_relative_to(sys.prefix) or source.is_relative_to(sys.base_prefix)):
        yield source
