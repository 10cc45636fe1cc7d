from discovery_conformance import StartFailureConformance
from peer_network import node_id

from p2p.addresses.address import PeerFound
from p2p.discovery.bootstrap import PersistedStrategy

A = node_id("a")


class TestPersistedConformance(StartFailureConformance):
    settle = 0.0

    def make(self):
        self.error = None

        def load():
            if self.error is not None:
                raise self.error
            return [PeerFound("192.0.2.1", 3000, A, "persisted")]

        return PersistedStrategy(load)

    def break_it(self, strategy, monkeypatch):
        monkeypatch.setattr(self, "error", OSError("broken for the test"))


async def test_the_detail_counts_remembered_addresses():
    peers = [
        PeerFound("192.0.2.1", 3000, A, "persisted"),
        PeerFound("192.0.2.1", 3100, A, "persisted", carrier="grenache"),
    ]
    found = []
    strategy = PersistedStrategy(lambda: peers)
    await strategy.start(found.append)
    assert found == peers
    assert strategy.detail == "2 remembered addresses"
    await strategy.stop()
