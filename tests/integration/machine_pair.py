"""Two machines that take turns as a node and its standby, under load."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from forwarder import Forwarder
from postgres_server import PostgresServer
from processes import SETTINGS, NodeProcess, Nodes, bootstrap_options, eventually, run_cli

from node.client.exchange_client import ClientError
from node.daemon.role_file import machine_identity
from tests.ports import free_port

WITHIN: Final = 10.0  # s from the loss of a machine until the other one trades


def trades(node: NodeProcess) -> bool:
    """Place an order; False while the node refuses."""
    try:
        node.sell(1, 500)
    except ClientError:
        return False
    return True


class MachinePair:
    """Two machines. Their connections to each other and to the lease store pass through forwarders.

    `node` is the one that is the node, `other` its standby. `links` and `stores` are by the name of a machine: the way
    to where it accepts its standby, and its way to the store.
    """

    def __init__(self, nodes: Nodes, store: PostgresServer, **more: str) -> None:
        common = {"JOURNAL_SYNC": "full", **more}
        one, two = (nodes.make(name, **common) for name in ("one", "two"))
        ports = {machine.name: free_port() for machine in (one, two)}
        self.links = {name: Forwarder(port) for name, port in ports.items()}
        self.stores = {name: Forwarder(store.port) for name in ports}
        for machine, other in ((one, two), (two, one)):
            machine.data_dir.mkdir(mode=0o700, exist_ok=True)
            other.data_dir.mkdir(mode=0o700, exist_ok=True)
            port = self.stores[machine.name].port
            machine.settings = {
                **common,
                "STANDBY_LISTEN": f"127.0.0.1:{ports[machine.name]}",
                "STANDBY_ALLOW": machine_identity(other.data_dir).node_id,
                "LEASE_POSTGRES": store.url.replace(f":{store.port}/", f":{port}/"),
            }
        self.node, self.other = one, two
        self.acknowledged: dict[str, str] = {}  # client id of each order that was acknowledged
        self.lost_at = 0.0  # when a machine was lost for good

    def start(self) -> None:
        """Start both, and wait until the standby is in sync."""
        self.node.start()
        self.launch_standby()
        self.wait_until_in_sync()

    def launch_standby(self) -> None:
        """Start the other machine as the standby."""
        of = self.links[self.node.name].port
        self.other.command = ("standby", "--of", f"127.0.0.1:{of}")
        self.other.launch()

    def close(self) -> None:
        """End all connections."""
        for forwarder in (*self.links.values(), *self.stores.values()):
            forwarder.close()

    def wait_until_in_sync(self) -> None:
        def in_sync() -> bool:
            done = run_cli("standby", "status", "--data-dir", str(self.other.data_dir))
            return "in sync    yes" in done.stdout and "connected  yes" in done.stdout

        eventually(in_sync, what=lambda: self.node.log + self.other.log)

    @contextmanager
    def load(self) -> Iterator[None]:
        """Place orders at the machine that is the node now, and note which of them were acknowledged."""
        over, node = threading.Event(), self.node

        def place() -> None:
            while not over.is_set():
                name = f"order-{time.monotonic_ns()}"  # when it was placed
                try:
                    order = node.order("sell", 1, 500, client_id=name)
                except ClientError:
                    over.wait(0.1)
                else:
                    self.acknowledged[name] = order.id

        placing = threading.Thread(target=place)
        placing.start()
        try:
            time.sleep(0.5)
            yield
        finally:
            over.set()
            placing.join()

    def take_over(
        self,
        lose: Callable[[], None],
        find: Callable[[], None],
        meanwhile: Callable[[], object] = lambda: None,
    ) -> float:
        """Lose the node under load, and find it again when the other machine trades. Returns the seconds until then.
        `meanwhile` is called before it is found."""
        with self.load():
            began = time.monotonic()
            lose()
            self.other.ready()
            eventually(lambda: trades(self.other), what=lambda: self.other.log)
            took = time.monotonic() - began
            meanwhile()
            find()
            assert self.node.exit_code(15) != 0
        self.node, self.other = self.other, self.node
        self.check()
        return took

    def check(self) -> None:
        """Check that the node has every order that was acknowledged."""
        for name, number in self.acknowledged.items():
            assert self.node.get_order(number).client_id == name

    def promote_lossy(self, peer: NodeProcess) -> None:
        """Lose the node under load, and make its standby the node as a person does, recovered from a peer."""
        with self.load():
            self.node.kill9()
            self.lost_at = time.monotonic()
            place = ("--data-dir", str(self.other.data_dir))
            done = run_cli("standby", "promote", "--lossy", *place)
            assert done.returncode == 0, done.stderr
            assert self.other.exit_code() == 0
            options = bootstrap_options(peer.p2p_address)
            recovery = ("recover", "--from-peers", "--p2p-port", "0")
            done = run_cli(*recovery, *place, *options, **SETTINGS)
            assert done.returncode == 0, done.stderr
            self.other.command = ("start",)
            self.other.start()
        self.node, self.other = self.other, self.node

    def lost(self) -> list[str]:
        """List the client ids of acknowledged orders that the node does not have."""
        found = []
        for name, number in self.acknowledged.items():
            try:
                self.node.get_order(number)
            except ClientError:
                found.append(name)
        return found

    def make_standby(self) -> None:
        """Make a standby of the machine that was lost."""
        key = (self.other.data_dir / "standby.key").read_bytes()
        shutil.rmtree(self.other.data_dir)
        self.other.data_dir.mkdir(mode=0o700)
        path = self.other.data_dir / "standby.key"
        path.write_bytes(key)
        path.chmod(0o600)
        self.launch_standby()
