"""The internet in a machine: public nodes on one bridge, homes behind routers with a NAT of each kind.

    with nat_lab(tmp_path) as lab:
        public = lab.public(1).start()
        home = lab.home("port").start("--bootstrap", public.where)

Each home is a namespace behind a namespace that is its router (nftables). `full`: every port is forwarded.
`port`: ports are kept, and only answers come in. `symmetric`: a random port for each connection. The public nodes have
addresses in different networks (11.N.0.9), since votes are counted by network. Needs root, `ip` and `nft`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from delay_line import DelayLine, open_tap
from netns import Namespace, _ip, why_no_namespaces
from processes import NodeProcess

from node.client.exchange_client import ExchangeClient

T = TypeVar("T")
Nat = Literal["full", "port", "symmetric"]

CLONE_NEWNET = 0x40000000
SETTINGS = {
    "DISCOVERY_MDNS": "false",
    "DISCOVERY_GRENACHE": "false",
    "JOURNAL_SYNC": "normal",
    "LOG_LEVEL": "info",
}


def why_no_lab() -> str | None:
    """Return why the laboratory cannot be built here; None when it can."""
    if shutil.which("nft") is None:
        return "the program `nft` (nftables) is not installed"
    return why_no_namespaces()


@dataclass
class LabNode(NodeProcess):
    """A node in a namespace. Requests to it are made by a thread that has entered the namespace."""

    space: str = ""
    address: str = ""
    router: Namespace | None = None
    mapper: MappingDaemon | None = None
    _thread: ThreadPoolExecutor | None = field(default=None, repr=False)

    @property
    def where(self) -> str:
        """The address of a public node's peer port."""
        return f"{self.address}:{self.p2p_port}"

    def ask(self, work: Callable[[ExchangeClient], Coroutine[Any, Any, T]]) -> T:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, initializer=_enter, initargs=(self.space,))
        return self._thread.submit(super().ask, work).result()

    def cleanup(self) -> None:
        super().cleanup()
        if self._thread is not None:
            self._thread.shutdown()


def _enter(space: str) -> None:
    """Move the calling thread into a network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = os.open(f"/var/run/netns/{space}", os.O_RDONLY)
    try:
        if libc.setns(handle, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(handle)


class MappingDaemon:
    """`miniupnpd` on a home's router: PCP and NAT-PMP, or with `upnp` UPnP alone. A stop and start is a restart of the router:
    all mappings are lost."""

    def __init__(self, router: Namespace, lan: str, where: Path, *, upnp: bool = False) -> None:
        self._router = router
        self._config = where / f"{router.name}.conf"
        self._config.write_text(
            f"ext_ifname=wan\nlistening_ip=lan\nenable_upnp={_yes(upnp)}\n{_PMP}={_yes(not upnp)}\nsystem_uptime=no\n"
            f"secure_mode=yes\nlease_file=\nipv6_disable=yes\n"
            f"allow 1024-65535 {lan}/24 1024-65535\ndeny 0-65535 0.0.0.0/0 0-65535\n"
        )
        self._process: subprocess.Popen[Any] | None = None

    def start(self) -> None:
        run_in(self._router, "nft", "-f", "-", stdin=_MAPPING_RULES)
        log = self._config.with_suffix(".log").open("ab")
        pid_file = str(self._config.with_suffix(".pid"))
        self._process = self._router.popen(
            ["miniupnpd", "-d", "-f", str(self._config), "-P", pid_file], stdout=log, stderr=log
        )
        log.close()

    def allow_ipv6(self) -> None:
        """Answer over IPv6 too, from the next start on: requests for holes in the firewall."""
        text = self._config.read_text().replace("ipv6_disable=yes\n", "")
        self._config.write_text(text)

    def stop(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        run_in(self._router, "nft", "-f", "-", stdin=_MAPPING_RULES)

    @property
    def rules(self) -> str:
        """The router's translations of incoming connections."""
        return run_in(self._router, "nft", "list", "chain", "inet", "filter", _DNAT)


def _yes(on: bool) -> str:
    return "yes" if on else "no"


_PMP = "enable_natpmp"
_DNAT = "prerouting_miniupnpd"
_MAPPING_RULES = f"""
    flush ruleset
    table inet filter {{
      chain miniupnpd {{ }}
      chain {_DNAT} {{ }}
      chain postrouting_miniupnpd {{ }}
      chain forward {{ type filter hook forward priority 0; policy accept; jump miniupnpd
        iifname wan ct state new drop
      }}
      chain prerouting {{ type nat hook prerouting priority -100; policy accept; jump {_DNAT}
      }}
      chain postrouting {{ type nat hook postrouting priority 100; policy accept
        jump postrouting_miniupnpd
        oifname wan meta nfproto ipv4 masquerade
      }}
      chain own {{ type filter hook input priority 0; policy accept; iifname wan ct state new drop
      }}
    }}
"""


class NatLab:
    """Namespaces and nodes; use `nat_lab`."""

    def __init__(self, where: Path, cleanup: contextlib.ExitStack) -> None:
        self._where = where
        self._cleanup = cleanup
        self._run = secrets.token_hex(2)
        self._homes = 0
        self.nodes: list[LabNode] = []
        self.internet = self._space("net", "11.0.0.1")
        _ip("-n", self.internet.name, "link", "add", "br0", "type", "bridge")
        _ip("-n", self.internet.name, "addr", "add", "11.0.0.1/8", "dev", "br0")
        _ip("-n", self.internet.name, "link", "set", "br0", "up")

    def _space(self, name: str, address: str) -> Namespace:
        space = Namespace(f"exn-{self._run}-{name}", "", address)
        _ip("netns", "add", space.name)
        self._cleanup.callback(_ip, "netns", "del", space.name, check=False)
        self._cleanup.callback(space.end_processes)
        _ip("-n", space.name, "link", "set", "lo", "up")
        return space

    def _node(self, name: str, space: Namespace, **settings: str) -> LabNode:
        node = LabNode(
            self._where / name,
            settings={**SETTINGS, **settings},
            prefix=("ip", "netns", "exec", space.name),
            p2p_port=3000,
            api_port=8300,
            plain=True,
            space=space.name,
            address=space.address,
        )
        self._cleanup.callback(node.cleanup)
        self.nodes.append(node)
        return node

    def public(self, number: int, **settings: str) -> LabNode:
        """A node with a public address of its own, in network 11.`number`."""
        space = self._space(f"p{number}", f"11.{number}.0.9")
        self._plug(space, "eth0")
        return self._node(f"public{number}", space, **settings)

    def home(
        self,
        kind: Nat,
        *,
        mapper: bool = False,
        upnp: bool = False,
        delay: float = 0.0,
        **settings: str,
    ) -> LabNode:
        """A node behind a router with this kind of NAT. `mapper`: the router runs `miniupnpd` (port-restricted), with `upnp`
        for UPnP alone.
        `delay`: seconds that the line to the internet takes one way."""
        self._homes += 1
        n = self._homes
        router = self._space(f"r{n}", f"11.100.{n}.1")
        self._plug(router, "wan", delay)
        house = self._space(f"h{n}", f"192.168.{n}.2")
        _ip(
            *("-n", router.name, "link", "add", "lan", "type", "veth"),
            *("peer", "name", "eth0", "netns", house.name),
        )
        _ip("-n", router.name, "addr", "add", f"192.168.{n}.1/24", "dev", "lan")
        _ip("-n", router.name, "link", "set", "lan", "up")
        _ip("-n", house.name, "addr", "add", f"{house.address}/24", "dev", "eth0")
        _ip("-n", house.name, "link", "set", "eth0", "up")
        _ip("-n", house.name, "route", "add", "default", "via", f"192.168.{n}.1")
        run_in(router, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        if not mapper:
            set_nat(router, kind, house.address)
        node = self._node(f"home{n}-{kind}", house, **settings)
        node.router = router
        if mapper:
            node.mapper = MappingDaemon(router, f"192.168.{n}.0", self._where, upnp=upnp)
            node.mapper.start()
        return node

    def _plug(self, space: Namespace, name: str, delay: float = 0.0) -> None:
        """Connect a namespace to the internet by an interface with its address."""
        port = f"p{secrets.token_hex(3)}"
        _ip(
            *("-n", space.name, "link", "add", name, "type", "veth"),
            *("peer", "name", port, "netns", self.internet.name),
        )
        self._join(port, self._line(port, delay) if delay else "br0")
        _ip("-n", space.name, "addr", "add", f"{space.address}/8", "dev", name)
        _ip("-n", space.name, "link", "set", name, "up")

    def _join(self, port: str, bridge: str) -> None:
        _ip("-n", self.internet.name, "link", "set", port, "master", bridge, "up")

    def _line(self, port: str, delay: float) -> str:
        """A line with a delay between the internet and a new bridge, whose name is returned."""
        bridge, near, far = f"{port}b", f"{port}n", f"{port}f"
        _ip("-n", self.internet.name, "link", "add", bridge, "type", "bridge")
        _ip("-n", self.internet.name, "link", "set", bridge, "up")
        with ThreadPoolExecutor(1, initializer=_enter, initargs=(self.internet.name,)) as inside:
            taps = [inside.submit(open_tap, name).result() for name in (near, far)]
        line = DelayLine(*taps, delay)
        self._cleanup.callback(line.close)
        self._join(near, bridge)
        self._join(far, "br0")
        return bridge


def set_nat(router: Namespace, kind: Nat, host: str) -> None:
    """Write the router's rules."""
    source = {
        "full": f"snat to {router.address}",
        "port": "masquerade",
        "symmetric": "masquerade random",
    }[kind]
    forward = f"iifname wan meta l4proto {{tcp,udp}} dnat to {host}" if kind == "full" else ""
    guard = "" if kind == "full" else "iifname wan ct state new drop"
    rules = f"""
        flush ruleset
        table ip nat {{
          chain pre {{ type nat hook prerouting priority -100; {forward}; }}
          chain post {{ type nat hook postrouting priority 100; oifname wan {source}; }}
        }}
        table ip filter {{
          chain through {{ type filter hook forward priority 0; policy accept; {guard}; }}
          chain own {{ type filter hook input priority 0; policy accept; iifname wan ct state new drop; }}
        }}
    """
    run_in(router, "nft", "-f", "-", stdin=rules.replace("; ;", ";"))


def run_in(space: Namespace, *command: str, stdin: str = "") -> str:
    """Run a program to its end inside; returns what it prints.

    Raises:
        RuntimeError: it failed, in its words.
    """
    done = subprocess.run(
        space.command(command), input=stdin, capture_output=True, text=True, timeout=30
    )
    if done.returncode:
        raise RuntimeError(f"`{' '.join(command)}`: {done.stderr.strip()}")
    return done.stdout


@contextlib.contextmanager
def nat_lab(where: Path) -> Iterator[NatLab]:
    """A laboratory; leaving the context ends its nodes and removes its namespaces."""
    with contextlib.ExitStack() as cleanup:
        yield NatLab(where, cleanup)
