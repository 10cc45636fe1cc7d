"""`worker` beside a running node: attached to it, and to its successor after a restart."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from node.cli.client_session import CommandFailure, Exit, Session
from node.client.node_finder import FoundNode, NoNode, find, is_running

if TYPE_CHECKING:
    from p2p.services.fault_injection import Faults

AGAIN: Final = 1.0  # seconds between attempts to reach a node that has stopped


def running_node(data_dir: Path) -> FoundNode | None:
    """Return the node that runs on the data directory, None without one."""
    try:
        found = find(str(data_dir))
    except NoNode:
        return None
    return found if found.pid is not None and is_running(found.pid) else None


def serve_attached(
    found: FoundNode, service: str, handler: Any, *, workers: int, faults: Faults | None
) -> int:
    """Serve until Ctrl-C; returns the exit code.

    Raises:
        CommandFailure: the node does not take the service.
    """
    from node.client.attached_worker import AttachRefused
    from node.daemon.process import loop_factory, tell

    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(_serve(found, service, handler, workers, faults))
    except AttachRefused as error:
        raise CommandFailure(
            f"cannot serve {service!r}: {error} (--service)", Exit.REFUSED
        ) from None
    except KeyboardInterrupt:
        pass
    tell("stopped")
    return Exit.OK


async def _serve(
    found: FoundNode, service: str, handler: Any, workers: int, faults: Faults | None
) -> None:
    from node.client.attached_worker import WorkerProcess

    process = WorkerProcess(service, handler, workers=workers, faults=faults)
    work = asyncio.create_task(_stay_attached(process, found, service), name="worker")
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(signal_number, work.cancel)
    try:
        await work
    except asyncio.CancelledError:
        pass
    finally:
        await process.close()


async def _stay_attached(process: Any, found: FoundNode, service: str) -> None:
    """Attach, and again whenever the node has been started anew."""
    from node.client.attached_worker import AttachRefused
    from node.client.exchange_client import NodeUnreachable
    from node.daemon.process import tell

    directory = str(found.file.parent) if found.file is not None else None
    trust = Session(False, directory, None)

    lost = False

    def attached(node_id: str) -> None:
        nonlocal lost
        lost = False
        tell(f"node {node_id} offers {service!r}; process {os.getpid()} serves it")
        tell("Ctrl-C ends.")

    while True:
        try:
            await process.run(
                found.url,
                key="operator",
                secret=found.operator_token,
                trust=trust.trust(found),
                attached=attached,
            )
        except NodeUnreachable:
            pass
        except AttachRefused:
            # By a node that was started meanwhile, which has another token?
            again = running_node(Path(directory or "."))
            if again is not None and again.operator_token == found.operator_token:
                raise
        if not lost:
            tell("exchange-node: the node has stopped; waiting for it", sys.stderr)
        lost = True
        while (again := running_node(Path(directory or "."))) is None:  # noqa: ASYNC110
            await asyncio.sleep(AGAIN)
        found = again
        await asyncio.sleep(AGAIN)
