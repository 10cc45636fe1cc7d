"""A disk that fills: callers are told, the node stops in order, and goes on when there is room."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from processes import NodeProcess, Nodes

from node.client.exchange_client import ApiError
from node.daemon.process import EXIT_FAILED

LAUNCHER = (str(Path(__file__).with_name("full_disk_node.py")),)


@pytest.fixture
def full(tmp_path: Path) -> Path:
    return tmp_path / "full"


@pytest.fixture
def node(nodes: Nodes, full: Path) -> NodeProcess:
    made = nodes.make("a", FULL_FILE=str(full))
    made.program = LAUNCHER
    return made.start()


def test_orders_in_flight_get_a_503_and_the_node_stops_with_the_space_it_needs(
    node: NodeProcess, full: Path
) -> None:
    kept = node.sell(1, 10, client_id="kept")

    def refused(number: int) -> ApiError:
        with pytest.raises(ApiError) as error:
            node.sell(1, 11, client_id=f"lost-{number}")
        return error.value

    full.touch()
    with ThreadPoolExecutor(4) as threads:
        for told in threads.map(refused, range(4)):
            assert (told.status, told.code) == (503, "storage_failed")
            assert "repeat it with the same client_id" in told.detail
    assert node.exit_code() == EXIT_FAILED
    (line,) = [line for line in node.log.splitlines() if "cannot write the journal" in line]
    assert "No space left on device. Free at least 64 MiB for it and start again" in line
    assert line.endswith("the node has stopped")
    assert not node.runtime_path.exists()
    full.unlink()
    node.start()
    assert [order.id for order in node.orders()] == [kept.id]
    again = node.sell(1, 11, client_id="lost-0")
    assert again.status == "open"


# A disk that is full


class SmallDisk:
    """A file system of its own for a node's journal, in a mount namespace that a process keeps."""

    def __init__(self, directory: Path, mebibytes: int) -> None:
        self.directory = directory
        script = f'mount -t tmpfs -o size={mebibytes}m none "$1" && echo mounted && exec sleep 600'
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", script, "sh", str(directory)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._holder.stdout is not None
        self.mounted = self._holder.stdout.readline() == b"mounted\n"

    @property
    def prefix(self) -> tuple[str, ...]:
        return ("nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", f"--wd={self.directory}")

    @property
    def inside(self) -> Path:
        """The directory as seen from here."""
        return Path(f"/proc/{self._holder.pid}/root{self.directory}")

    def fill(self, but: int) -> None:
        """Leave so many bytes."""
        state = os.statvfs(self.inside)
        with (self.inside / "filler").open("wb") as file:
            file.write(bytes(state.f_bavail * state.f_frsize - but))

    def free(self) -> None:
        (self.inside / "filler").unlink()

    def unmount(self) -> None:
        self._holder.kill()
        self._holder.wait()
        if self._holder.stdout is not None:
            self._holder.stdout.close()


@pytest.fixture
def small_disk(nodes: Nodes) -> Iterator[SmallDisk]:
    if os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("nsenter") is None:
        pytest.skip("mounting a file system needs root, unshare and nsenter")
    directory = nodes.directory / "a" / "journal"
    directory.mkdir(parents=True, mode=0o700)
    disk = SmallDisk(directory, 64)
    try:
        if not disk.mounted:
            pytest.skip("file systems cannot be mounted here")
        yield disk
    finally:
        disk.unmount()


def test_a_disk_that_is_full_stops_the_node_and_loses_nothing(
    nodes: Nodes, small_disk: SmallDisk
) -> None:
    node = nodes.make("a")
    node.prefix = small_disk.prefix
    node.start()
    kept = [node.sell(1, 10, client_id="first").id]
    small_disk.fill(but=16 * 1024)
    error: ApiError | None = None
    for number in range(1000):
        try:
            kept.append(node.sell(1, 11, client_id=f"order-{number}").id)
        except ApiError as refused:
            error = refused
            break
    assert error is not None
    assert (error.status, error.code) == (503, "storage_failed")
    assert node.exit_code() == EXIT_FAILED
    (line,) = [line for line in node.log.splitlines() if "cannot write the journal" in line]
    assert "No space left on device. Free at least 64 MiB for it and start again" in line
    assert "Traceback" not in node.log
    small_disk.free()
    node.start()
    assert {order.id for order in node.orders()} >= {*kept}
    again = node.sell(1, 11, client_id=f"order-{number}")
    assert again.status == "open"
    assert len(node.orders()) == len(kept) + 1
