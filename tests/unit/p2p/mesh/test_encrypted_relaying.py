"""Encrypted relaying: messages to nodes without a link in TLS sessions, and in clear where there can be none."""

from __future__ import annotations

import random
from collections import Counter
from functools import cache

import pytest
from router_kit import signed
from virtual_mesh import NOTE, VirtualMesh, identity

from p2p.base.errors import DeliveryError
from p2p.mesh.encrypted_relaying import (
    CAPABLE_FOR,
    FIRST_PAUSE,
    HELD_BYTES,
    LINK_OPENINGS_BURST,
    OPEN_TIMEOUT,
    EncryptedRelaying,
)
from p2p.mesh.routed_messages import RelayEncryption
from p2p.wire import tls
from p2p.wire.messages import RelaySegment, pack


@cache
def contexts(number: int):
    return tls.client_context(identity(number)), tls.server_context(identity(number))


def encrypt(mesh: VirtualMesh, number: int, life: int = 0) -> EncryptedRelaying:
    """Replace a node by one that encrypts."""
    random_bytes = random.Random(f"{number} {life}").randbytes
    mesh.encryption[number] = RelayEncryption(*contexts(number), random_bytes)
    mesh.routers[number] = mesh._make_router(number)
    found = mesh.routers[number].delivery.encrypted
    assert found is not None
    return found


def chain(n: int, *able: int, seed: int = 0) -> VirtualMesh:
    """Nodes in a row that know of each other; the `able` ones encrypt."""
    mesh = VirtualMesh(n, seed=seed)
    for number in able:
        encrypt(mesh, number)
    mesh.chain()
    acquaint(mesh)
    return mesh


def acquaint(mesh: VirtualMesh) -> None:
    """Broadcasts teach the routes."""
    for number in range(len(mesh.ids)):
        mesh.broadcast(number, pack(f"I am {number} at {mesh.now}"))
    mesh.run(1.0)


def restart(mesh: VirtualMesh, number: int) -> None:
    pairs = [pair for pair in mesh.links if number in pair]
    for pair in pairs:
        mesh.unlink(*pair)
    encrypt(mesh, number, life=int(mesh.now))
    mesh.link_all(pairs)
    acquaint(mesh)


def got(mesh: VirtualMesh, number: int) -> list[bytes]:
    return [note.payload for note in mesh.notes[number]]


def encrypted(mesh: VirtualMesh, a: int, b: int) -> bool | None:
    path = mesh.routers[a].delivery.path(mesh.now, mesh.ids[b])
    return None if path is None else path[1]


SECRET = pack("take 17 of BTC-USD at 64,001.5")


class TestSessions:
    def test_relays_carry_the_message_and_cannot_read_it(self) -> None:
        mesh = chain(4, 0, 1, 2, 3)
        frames: list[bytes] = []
        mesh.tap = lambda a, b, packed: frames.append(packed)
        assert mesh.send(0, 3, SECRET) == "relayed"
        mesh.run(1.0)
        [note] = mesh.notes[3]
        assert (note.origin, note.payload, note.broadcast) == (mesh.ids[0], SECRET, False)
        mesh.send(3, 0, SECRET)
        mesh.run(1.0)
        assert got(mesh, 0) == [SECRET]
        assert len(frames) > 10
        assert not any(SECRET in frame or NOTE.encode() in frame for frame in frames)
        assert encrypted(mesh, 0, 3) is encrypted(mesh, 3, 0) is True
        assert mesh.routers[0].counters["sent_encrypted"] == 1

    def test_without_it_a_relay_reads_the_same_message(self) -> None:
        mesh = chain(3, 0)
        frames: list[bytes] = []
        mesh.tap = lambda a, b, packed: frames.append(packed)
        mesh.send(0, 2, SECRET)
        mesh.run(OPEN_TIMEOUT + 1.0)
        assert got(mesh, 2) == [SECRET]
        assert any(SECRET in frame for frame in frames)
        assert encrypted(mesh, 0, 2) is False

    def test_two_that_open_at_once_get_one_session(self) -> None:
        mesh = chain(3, 0, 1, 2)
        for a, b in ((0, 2), (2, 0)):
            mesh.send(a, b, pack([a, b]))
        mesh.run(2.0)
        assert got(mesh, 2) == [pack([0, 2])]
        assert got(mesh, 0) == [pack([2, 0])]
        routers = [mesh.routers[0], mesh.routers[2]]
        assert [r.delivery.encrypted and r.delivery.encrypted.sessions for r in routers] == [1, 1]

    @pytest.mark.parametrize("seed", range(6))
    def test_messages_arrive_once_although_one_in_ten_is_lost(self, seed: int) -> None:
        mesh = chain(4, 0, 1, 2, 3, seed=seed)
        mesh.loss = 0.1
        said = [pack([number, b"x" * mesh.rng.randrange(30_000)]) for number in range(60)]
        for payload in said:
            mesh.send(0, 3, payload)
            mesh.run(0.05)
        mesh.loss = 0.0
        acquaint(mesh)
        mesh.run(30.0)
        assert got(mesh, 3) == said

    def test_a_message_of_the_largest_size_arrives(self) -> None:
        mesh = chain(3, 0, 1, 2)
        large = pack(b"x" * 900_000)
        mesh.send(0, 2, large)
        mesh.run(5.0)
        assert got(mesh, 2) == [large]

    def test_the_relay_may_change(self) -> None:
        mesh = VirtualMesh(4)
        for number in range(4):
            encrypt(mesh, number)
        mesh.link_all([(0, 1), (1, 3), (0, 2), (2, 3)])
        acquaint(mesh)
        said = [pack(number) for number in range(200)]
        for number, payload in enumerate(said):
            mesh.send(0, 3, payload)
            mesh.run(0.02)
            if number == 100:
                path = mesh.routers[0].delivery.path(mesh.now, mesh.ids[3])
                assert path is not None
                relay = mesh.number[path[0]]
                mesh.unlink(0, relay)
                mesh.unlink(relay, 3)
                acquaint(mesh)
        mesh.run(10.0)
        assert got(mesh, 3) == said
        router = mesh.routers[0].delivery.encrypted
        assert router is not None
        assert router.counters["established"] == 1

    def test_a_link_in_its_place_neither_loses_nor_repeats(self) -> None:
        """A punched link comes up while messages are under way both ways."""
        for seed in range(10):
            mesh = chain(3, 0, 1, 2, seed=seed)
            said = [pack(number) for number in range(300)]
            for number, payload in enumerate(said):
                if number == 5 + 29 * seed:
                    mesh.link(0, 2)
                if number == 295:
                    mesh.unlink(0, 1)
                mesh.send(0, 2, payload)
                mesh.send(2, 0, payload)
                if number % 3 == 0:
                    mesh.run(0.004)
            mesh.run(10.0)
            for node in (0, 2):
                assert Counter(got(mesh, node)) == Counter(said)

    def test_the_session_goes_on_when_that_link_is_gone(self) -> None:
        mesh = chain(3, 0, 1, 2)
        mesh.send(0, 2, pack(1))
        mesh.run(1.0)
        mesh.link(0, 2)
        mesh.send(0, 2, pack(2))
        mesh.run(1.0)
        mesh.unlink(0, 2)
        acquaint(mesh)
        mesh.send(0, 2, pack(3))
        mesh.run(1.0)
        assert got(mesh, 2) == [pack(1), pack(2), pack(3)]
        sessions = mesh.routers[0].delivery.encrypted
        assert sessions is not None
        assert sessions.counters["opened"] == 1


class TestRestarts:
    @pytest.mark.parametrize("speaker", [0, 2])
    def test_a_node_that_restarted_gets_a_new_session_and_each_message_once(
        self, speaker: int
    ) -> None:
        mesh = chain(3, 0, 1, 2)
        mesh.send(0, 2, pack("before"))
        mesh.send(2, 0, pack("before"))
        mesh.run(2.0)
        restart(mesh, 2)
        mesh.send(speaker, 2 - speaker, pack("after"))
        mesh.run(5.0)
        mesh.send(2 - speaker, speaker, pack("answer"))
        mesh.run(5.0)
        assert got(mesh, 2 - speaker) == [pack("before"), pack("after")]
        assert got(mesh, speaker) == [pack("before"), pack("answer")]
        assert encrypted(mesh, 0, 2) is True

    def test_an_old_opening_that_is_played_again_changes_nothing(self) -> None:
        mesh = chain(3, 0, 1, 2)
        openings = []
        mesh.tap = lambda a, b, packed: openings.append((a, b, packed))
        mesh.send(0, 2, pack("before"))
        mesh.run(1.0)
        mesh.tap = None
        restart(mesh, 0)
        mesh.send(0, 2, pack("after"))
        mesh.run(2.0)
        session = mesh.routers[2].delivery.encrypted
        assert session is not None
        mesh.run(400.0)  # longer than a copy is remembered
        acquaint(mesh)
        for a, b, packed in openings:
            mesh.inject(a, b, mesh.codec.decode(packed))
        mesh.run(2.0)
        mesh.send(2, 0, pack("still"))
        mesh.send(0, 2, pack("here"))
        mesh.run(2.0)
        assert got(mesh, 0) == [pack("still")]
        assert got(mesh, 2) == [pack("before"), pack("after"), pack("here")]
        assert session.counters["established"] == 2


class TestClear:
    def test_a_node_of_an_earlier_version_gets_its_messages_after_a_moment_then_at_once(
        self,
    ) -> None:
        mesh = chain(3, 0, 1)
        assert mesh.send(0, 2, pack(1)) == "relayed"
        mesh.run(OPEN_TIMEOUT - 0.1)
        assert got(mesh, 2) == []
        assert encrypted(mesh, 0, 2) is None
        mesh.run(0.3)
        assert got(mesh, 2) == [pack(1)]
        mesh.send(0, 2, pack(2))
        mesh.send(2, 0, pack(3))
        mesh.run(0.3)
        assert (got(mesh, 2), got(mesh, 0)) == ([pack(1), pack(2)], [pack(3)])
        assert encrypted(mesh, 0, 2) is False

    def test_after_its_upgrade_it_gets_a_session(self) -> None:
        mesh = chain(3, 0, 1)
        mesh.send(0, 2, pack(1))
        mesh.run(OPEN_TIMEOUT + FIRST_PAUSE + 1.0)
        restart(mesh, 2)
        mesh.send(0, 2, pack(2))
        mesh.run(1.0)
        mesh.send(0, 2, pack(3))
        mesh.run(1.0)
        assert got(mesh, 2) == [pack(1), pack(2), pack(3)]
        assert encrypted(mesh, 0, 2) is True

    def test_a_relay_of_an_earlier_version_never_gets_a_segment(self) -> None:
        mesh = VirtualMesh(3)
        mesh.segments = False
        for number in (0, 2):
            encrypt(mesh, number)
        mesh.chain()
        acquaint(mesh)
        mesh.send(0, 2, pack(1))
        mesh.run(0.3)
        assert got(mesh, 2) == [pack(1)]
        assert mesh.sent["relay_stream"] == 0
        assert encrypted(mesh, 0, 2) is False

    def test_nothing_goes_in_clear_to_a_node_that_had_a_session(self) -> None:
        mesh = chain(3, 0, 1, 2)
        mesh.send(0, 2, pack(1))
        mesh.run(1.0)
        restart(mesh, 2)
        frames: list[bytes] = []
        mesh.tap = lambda a, b, packed: frames.append(packed)
        relay = mesh.routers[1]
        relay.delivery._carriers.clear()  # it drops segments without a word
        mesh.send(0, 2, SECRET)
        for _ in range(5):
            mesh.run(20.0)
            acquaint(mesh)
        assert got(mesh, 2) == [pack(1)]
        assert not any(SECRET in frame for frame in frames)
        mesh.now += CAPABLE_FOR
        acquaint(mesh)
        mesh.send(0, 2, pack(3))
        mesh.run(OPEN_TIMEOUT + 1.0)
        assert got(mesh, 2) == [pack(1), pack(3)]

    def test_messages_waiting_for_a_session_are_bounded_and_refused_with_the_reason(self) -> None:
        mesh = chain(3, 0, 1)
        large = pack(b"x" * (HELD_BYTES // 3))
        for _ in range(2):
            mesh.send(0, 2, large)
        with pytest.raises(DeliveryError, match="wait for an encrypted session"):
            mesh.send(0, 2, large)


class TestStrangers:
    def test_a_segment_that_makes_no_sense_is_answered_by_a_reset_or_ignored(self) -> None:
        mesh = chain(3, 0, 1, 2)
        mesh.send(0, 2, pack(1))
        mesh.run(1.0)
        rng = random.Random(5)
        for number in range(300):
            segment = RelaySegment(
                rng.randbytes(rng.choice([0, 7, 8])),
                rng.randbytes(rng.choice([0, 8])),
                seq=rng.choice([0, 5, -1, 2**40]),
                data=rng.randbytes(rng.choice([0, 10, 700])),
                ack=rng.choice([0, 1, -7]),
                reset=number % 5 == 0,
            )
            mesh.routers[2].delivery.send_segment(mesh.now, mesh.ids[0], segment)
            mesh.collect()
            mesh.run(0.05)
        mesh.run(60.0)
        acquaint(mesh)
        mesh.send(0, 2, pack(2))
        mesh.send(2, 0, pack(3))
        mesh.run(3.0)
        assert got(mesh, 2) == [pack(1), pack(2)]
        assert got(mesh, 0) == [pack(3)]

    def test_a_flood_of_openings_over_one_link_keeps_no_other_node_out(self) -> None:
        mesh = chain(3, 0, 1, 2)
        mesh.routers[2].link_up(mesh.now, identity(90).node_id)
        opened = mesh.routers[2].delivery.encrypted
        assert opened is not None
        for number in range(100, 400):
            payload = pack(RelaySegment(number.to_bytes(8, "big"), data=b"\x16\x03\x01"))
            flood = signed(number, 2, payload, kind="relay_stream", number=number)
            mesh.routers[2].receive(mesh.now, identity(90).node_id, flood)
        mesh.routers[2].link_down(mesh.now, identity(90).node_id)
        mesh.routers[2].take_outgoing()  # answers to the flood
        assert opened.counters["refused"] == 300 - LINK_OPENINGS_BURST
        mesh.send(0, 2, SECRET)
        mesh.run(1.0)
        assert got(mesh, 2) == [SECRET]
        assert encrypted(mesh, 0, 2) is True


class TestSeveralRelays:
    def mesh(self, relays: int = 3) -> VirtualMesh:
        """Nodes 0 and 1, and relays that are linked to both."""
        mesh = VirtualMesh(2 + relays)
        for number in range(2 + relays):
            encrypt(mesh, number)
        mesh.link_all([(end, relay) for relay in range(2, 2 + relays) for end in (0, 1)])
        for _ in range(5):
            acquaint(mesh)
        return mesh

    def used(self, mesh: VirtualMesh, seconds: float = 0.0) -> Counter[int]:
        """Segments that node 0 gives to each relay while it sends a message every 50 ms."""
        given: Counter[int] = Counter()

        def tap(a: int, b: int, packed: bytes) -> None:
            if a == 0 and mesh.codec.decode(packed).type == "relay_stream":
                given[b] += 1

        mesh.tap = tap
        for number in range(int(seconds / 0.05)):
            mesh.send(0, 1, pack(number))
            mesh.run(0.05)
            if number % 100 == 0:
                acquaint(mesh)
        mesh.tap = None
        return given

    def test_each_of_them_is_known(self) -> None:
        mesh = self.mesh()
        relays = set(mesh.ids)
        found = mesh.routers[0].delivery.routes.candidates(mesh.now, mesh.ids[1], relays)
        assert {mesh.number[relay] for relay in found} == {2, 3, 4}

    def test_a_relay_that_drops_everything_is_left_for_another(self) -> None:
        mesh = self.mesh()
        self.used(mesh, 2.0)
        [(first, _)] = self.used(mesh, 1.0).most_common(1)
        mesh.routers[first].delivery._carriers.clear()  # it drops what is relayed, without a word
        self.used(mesh, 4.0)
        after = self.used(mesh, 10.0)
        assert after[first] < 0.1 * after.total()
        mesh.run(10.0)
        assert len(got(mesh, 1)) == 2 * 20 + 20 + 4 * 20 + 10 * 20

    def test_a_slow_relay_is_left_for_a_quick_one(self) -> None:
        mesh = self.mesh()
        [(first, _)] = self.used(mesh, 3.0).most_common(1)
        put = mesh._put

        def slow(a: int, b: int, packed: bytes) -> None:
            before = mesh.latency
            if first in (a, b):
                mesh.latency = (0.15, 0.2)
            put(a, b, packed)
            mesh.latency = before

        mesh._put = slow  # type: ignore[method-assign]
        self.used(mesh, 20.0)
        after = self.used(mesh, 20.0)
        assert after[first] < 0.25 * after.total()

    def test_relays_that_refuse_are_left_at_once(self) -> None:
        mesh = VirtualMesh(4)
        mesh.notices, mesh.relay_rates[2] = True, 0
        mesh.routers[2] = mesh._make_router(2)
        for number in (0, 1, 3):
            encrypt(mesh, number)
        mesh.link_all([(end, relay) for relay in (2, 3) for end in (0, 1)])
        for _ in range(5):
            acquaint(mesh)
        self.used(mesh, 5.0)
        after = self.used(mesh, 10.0)
        assert after[3] > 0.9 * after.total()
        mesh.run(10.0)
        assert len(got(mesh, 1)) == 300
