"""mDNS between two machines: real multicast over a veth pair, nothing configured."""

import json
import subprocess
import sys
import textwrap
import time

import pytest
from netns import namespace_pair

from p2p.base.identity import Identity

pytestmark = pytest.mark.namespaces

# Prints what it finds and how many are present, one JSON object a line, until its stdin closes.
PROGRAM = textwrap.dedent(
    """
    import asyncio, json, sys
    from p2p.discovery.mdns import MdnsStrategy

    async def main(node_id, host, port):
        def tell(**what):
            print(json.dumps(what), flush=True)

        strategy = MdnsStrategy(node_id, "main", host, int(port), "1.0.0")
        await strategy.start(lambda p: tell(host=p.host, port=p.port, node_id=p.node_id))
        loop = asyncio.get_running_loop()
        closed = loop.run_in_executor(None, sys.stdin.read)
        present = None
        while not closed.done():
            if strategy.present != present:
                present = strategy.present
                tell(present=present)
            await asyncio.sleep(0.05)
        await strategy.stop()

    asyncio.run(main(*sys.argv[1:]))
    """
)


def start(namespace, node_id, host, port):
    return namespace.popen(
        [sys.executable, "-c", PROGRAM, node_id, host, str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def until(process, wanted, seconds=20.0):
    """Read lines until one satisfies `wanted`; returns it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        line = process.stdout.readline()
        assert line, "the program ended"
        told = json.loads(line)
        if wanted(told):
            return told
    raise AssertionError("not told in time")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("host", ["0.0.0.0", "own address"])
def test_nodes_on_two_machines_find_each_other_and_see_each_other_leave(machines, host):
    left, right = machines
    ids = [Identity.generate().node_id for _ in machines]
    a, b = (
        start(end, node_id, end.address if host == "own address" else host, 4000 + n)
        for n, (end, node_id) in enumerate(zip(machines, ids, strict=True))
    )
    seen = until(a, lambda told: told.get("node_id") == ids[1])
    assert (seen["host"], seen["port"]) == (right.address, 4001)
    seen = until(b, lambda told: told.get("node_id") == ids[0])
    assert (seen["host"], seen["port"]) == (left.address, 4000)
    until(a, lambda told: told.get("present") == [ids[1]])
    b.stdin.close()
    assert b.wait(10) == 0
    until(a, lambda told: told.get("present") == [])
    a.stdin.close()
    assert a.wait(10) == 0
    seen = [line for line in a.stdout if "127.0.0.1" in line]
    assert seen == []


@pytest.mark.timeout(60)
@pytest.mark.usefixtures("needs_namespaces")
def test_nothing_is_left_of_the_namespaces_and_their_programs():
    with namespace_pair() as (left, _):
        process = left.popen([sys.executable, "-c", "import time; time.sleep(1000)"])
        listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
        assert left.name in listed
    assert process.returncode is not None
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    assert left.name not in listed
