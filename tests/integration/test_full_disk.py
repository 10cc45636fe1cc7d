"""A disk that fills: callers are told, the node stops in order, and goes on when there is room."""

from __future__ import annotations

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
