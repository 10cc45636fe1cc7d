"""`service print`: the systemd unit that runs a node, for the system or for one user."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Final

import click

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


def unit(program: str, *, user: bool) -> str:
    """Return the text of the unit file; `program` is the path of `exchange-node`."""
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
ExecStart={program} start
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


@click.group(invoke_without_command=True, short_help="Run a node as a service of systemd.")
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

    \b
    Install it for the system:
      exchange-node service print | sudo tee /etc/systemd/system/exchange-node.service
      sudo systemctl daemon-reload && sudo systemctl enable --now exchange-node
    """
    found = shutil.which("exchange-node")
    beside = Path(sys.executable).with_name("exchange-node")
    program = str(beside if beside.exists() else found or "/usr/local/bin/exchange-node")
    click.echo(unit(program, user=user), nl=False)
