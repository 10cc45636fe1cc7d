"""Tunnels under every pattern of loss, doubling, delay and reordering, on a virtual clock."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.virtual.server_model import VirtualTime
from p2p.base.limits import DEAD_AFTER
from p2p.grenache_links.tunnel import (
    BUFFER,
    CHUNK,
    CUT_AFTER,
    HOLD,
    LEAST_CHUNK,
    MAX_VAIN,
    VAIN_PAUSE,
    WINDOW,
    AnswerEnd,
    Ask,
    DialEnd,
    TunnelReply,
    TunnelRequest,
    read_reply,
    read_request,
    to_json,
)
from p2p.wire.byte_stream import ByteStreamError

ID = "0123456789abcdef" * 2


class Network(VirtualTime):
    """One tunnel. Messages take `delay` seconds; `loss` and `doubling` are shares of 1."""

    def __init__(
        self,
        seed: int = 0,
        *,
        delay: tuple[float, float] = (0.01, 0.05),
        loss: float = 0.0,
        doubling: float = 0.0,
    ) -> None:
        super().__init__()
        self.rng = random.Random(seed)
        self.delay, self.loss, self.doubling = delay, loss, doubling
        self.dial = DialEnd(ID, 0.0, self.rng)
        self.answer = AnswerEnd(0.0)
        self.held: int | None = None
        self.read = {"dial": bytearray(), "answer": bytearray()}
        self.reads = {"dial": True, "answer": True}  # whether what arrives is read at once
        self.asked: list[tuple[float, Ask]] = []
        self.most_unread = 0

    def ends(self) -> dict[str, DialEnd | AnswerEnd]:
        return {"dial": self.dial, "answer": self.answer}

    def carry(self, call: Callable[[], None]) -> None:
        copies = 0 if self.rng.random() < self.loss else 1 + (self.rng.random() < self.doubling)
        for _ in range(copies):
            self.after(self.rng.uniform(*self.delay), call)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        self.pass_on()
        while self.next_due <= end:
            self.step()
            self.pass_on()
        self.now = end

    def pass_on(self) -> None:
        """Pass bytes on, as the drivers do whenever something has happened."""
        for name, one in self.ends().items():
            self.most_unread = max(self.most_unread, len(one.unread))
            if self.reads[name]:
                self.read[name] += one.unread
                one.consumed(len(one.unread))
        reply = self.answer.release(self.now)
        if reply is not None:
            self.respond(reply)
        for ask in self.dial.asks(self.now):
            self.asked.append((self.now, ask))
            self.carry(lambda ask=ask: self.arrive(ask))
            self.after(ask.timeout, self.time_out, ask.number)
        later = self.dial.next_time(self.now)
        if later is not None and not any(at == later for at, *_ in self._plan):
            self.at(later, lambda: None)

    def arrive(self, ask: Ask) -> None:
        if self.answer.over:
            return self.carry(lambda: self.dial.refused("ERR_TUNNEL_UNKNOWN"))
        request = read_request(to_json(ask.request))
        self.answer.receive(request, self.now)
        self.take("answer")
        newer = request.poll > self.answer.poll
        if newer and self.held is not None:
            self.respond(self.answer.status())
        reply = self.answer.reply(request, self.now)
        if reply is None:
            self.held = ask.number
            self.at(self.answer.next_time(), lambda: None)
        else:
            self.carry(lambda: self.answered(ask.number, reply))
        return None

    def respond(self, reply: TunnelReply) -> None:
        number, self.held = self.held, None
        assert number is not None
        self.carry(lambda: self.answered(number, reply))

    def answered(self, number: int, reply: TunnelReply) -> None:
        self.dial.answered(number, read_reply(to_json(reply)), self.now)

    def time_out(self, number: int) -> None:
        if number == self.dial._data or number in self.dial._polls:
            self.dial.failed(number, self.now)

    def take(self, name: str) -> None:
        one = self.ends()[name]
        self.most_unread = max(self.most_unread, len(one.unread))
        if self.reads[name]:
            self.read[name] += one.unread
            one.consumed(len(one.unread))

    def write(self, name: str, data: bytes) -> int:
        one = self.ends()[name]
        taken = min(one.room, len(data))
        one.write(data[:taken])
        return taken


def transfer(net: Network, up: bytes, down: bytes, *, seconds: float = 200.0) -> None:
    """Send both streams to their ends, in pieces, with readers that stop now and then."""
    rng = random.Random(net.rng.random())
    left = {"dial": up, "answer": down}
    start = net.now
    while net.now - start < seconds and not net.dial.over:
        for name, one in net.ends().items():
            piece = left[name][: rng.choice([1, 100, 5000, 200_000])]
            left[name] = left[name][net.write(name, piece) :]
            if not left[name] and not one.finished:
                one.finish()
            net.reads[name] = rng.random() < 0.8
        net.run(rng.choice([0.0, 0.001, 0.05, 0.5]))
    net.reads = {"dial": True, "answer": True}
    net.pass_on()


class TestWithoutFaults:
    def test_both_sides_read_what_the_other_wrote(self):
        net = Network()
        net.dial.write(b"hello")
        net.run(1.0)
        assert net.read["answer"] == b"hello"
        net.answer.write(b"good day")
        net.run(1.0)
        assert net.read["dial"] == b"good day"

    def test_data_of_the_answering_side_arrives_after_one_trip_not_after_its_hold(self):
        net = Network(delay=(0.01, 0.01))
        net.run(1.0)
        net.answer.write(b"now")
        net.run(0.0101)
        assert net.read["dial"] == b"now"

    def test_an_end_reaches_the_other_side_after_the_last_byte_and_then_both_are_over(self):
        net = Network()
        net.dial.write(b"last words")
        net.dial.finish()
        net.run(1.0)
        assert net.read["answer"] == b"last words"
        assert net.answer.ended
        assert not net.answer.over
        net.answer.write(b"good bye")
        net.answer.finish()
        net.run(1.0)
        assert net.read["dial"] == b"good bye"
        assert net.dial.ended
        assert net.dial.over
        assert net.answer.over
        assert net.dial.broken is net.answer.broken is None
        asked = len(net.asked)
        net.run(60.0)
        assert len(net.asked) == asked

    def test_an_idle_tunnel_polls_once_a_hold(self):
        net = Network()
        net.run(10.0)
        before = len(net.asked)
        net.run(100 * HOLD)
        assert len(net.asked) - before <= 101
        assert net.dial.broken is net.answer.broken is None

    def test_a_chunk_a_round_trip_goes_each_way(self):
        net = Network(delay=(0.05, 0.05))
        sent = {"dial": 0, "answer": 0}
        for _ in range(1000):
            for name in sent:
                sent[name] += net.write(name, bytes(CHUNK))
            net.run(0.01)
        for name, other in (("dial", "answer"), ("answer", "dial")):
            assert len(net.read[other]) > 0.9 * CHUNK * 10.0 / 0.1, name

    def test_a_reader_that_stops_stops_the_writer_and_memory_is_bounded(self):
        for name, other in (("dial", "answer"), ("answer", "dial")):
            net = Network()
            net.reads[other] = False
            sent = 0
            for _ in range(500):
                sent += net.write(name, bytes(100_000))
                net.run(0.1)
            assert len(net.ends()[other].unread) == WINDOW
            assert sent <= WINDOW + BUFFER
            assert net.dial.broken is None
            asked = len(net.asked)
            net.run(10.5 * HOLD)
            assert len(net.asked) - asked <= 2 * 10.5
            net.reads[other] = True
            net.run(0.5)  # no hold is waited for
            assert len(net.read[other]) == sent

    def test_a_reader_that_has_gone_does_not_stop_the_writer(self):
        net = Network()
        net.answer.drop_incoming()
        net.reads["answer"] = False
        for _ in range(100):
            net.write("dial", bytes(100_000))
            net.run(0.1)
        assert net.dial.acknowledged >= 9_000_000
        assert not net.answer.unread


class TestFaults:
    @given(
        st.integers(0, 2**32),
        st.floats(0.0, 0.4),
        st.floats(0.0, 0.5),
        st.sampled_from([0.01, 0.2, 1.0, 4.0]),
        st.integers(0, 300_000),
        st.integers(0, 300_000),
    )
    @settings(max_examples=150, deadline=None)
    def test_the_bytes_arrive_in_order_or_the_tunnel_breaks(
        self, seed, loss, doubling, slowest, up, down
    ):
        net = Network(seed, delay=(0.001, slowest), loss=loss, doubling=doubling)
        content = random.Random(seed)
        sent = {"answer": content.randbytes(up), "dial": content.randbytes(down)}
        transfer(net, sent["answer"], sent["dial"])
        for name, expected in sent.items():
            assert expected.startswith(bytes(net.read[name]))
        if net.dial.broken is None and net.dial.over:
            assert net.read == sent
        assert net.most_unread <= WINDOW
        assert all(len(one._buffer) <= BUFFER for one in net.ends().values())

    @pytest.mark.parametrize("seed", range(30))
    def test_moderate_faults_never_break_it(self, seed):
        net = Network(seed, delay=(0.001, 0.3), loss=0.03, doubling=0.1)
        content = random.Random(seed)
        up, down = content.randbytes(1_500_000), content.randbytes(1_500_000)
        transfer(net, up, down, seconds=600.0)
        assert net.dial.over
        assert net.dial.broken is None
        assert (net.read["answer"], net.read["dial"]) == (up, down)

    def test_requests_are_no_more_than_bytes_time_and_faults_account_for(self):
        net = Network(3, loss=0.2, doubling=0.2)
        net.run(300.0)
        assert len(net.asked) < 3 * 300.0 / HOLD

    def test_an_answer_that_was_lost_is_made_again(self):
        net = Network()
        net.run(1.0)
        net.loss = 1.0
        net.answer.write(b"lost at first")
        net.run(0.5)
        assert net.held is None
        net.loss = 0.0
        net.run(HOLD + 2.0)
        assert net.read["dial"] == b"lost at first"

    def test_two_lost_polls_in_a_row_break_nothing(self):
        net = Network()
        net.run(1.0)
        for _ in range(2):
            asked = len(net.asked)
            net.loss = 1.0
            while len(net.asked) == asked:
                net.run(0.01)
        net.loss = 0.0
        net.run(60.0)
        assert net.dial.broken is None

    def test_silence_breaks_both_sides_in_time(self):
        net = Network()
        net.dial.write(b"hello")
        net.run(1.0)
        net.loss = 1.0
        net.run(DEAD_AFTER + HOLD)
        assert "no answer for 8 s" in net.dial.broken
        assert net.dial.over
        assert net.dial.ended
        assert net.answer.dead(net.now)

    def test_without_answers_requests_come_at_a_bounded_rate(self):
        end = DialEnd(ID, 0.0, random.Random(1))
        end.write(b"hello")
        count, now = 0, 0.0
        while not end.over:
            for ask in end.asks(now):
                count += 1
                end.failed(ask.number, now)  # refused connections fail at once
            now += 0.001
        assert now < DEAD_AFTER + 0.1
        assert count <= 2 * 15 + 1

    def test_failures_make_pieces_smaller_and_successes_larger_again(self):
        end = DialEnd(ID, 0.0, random.Random(1))
        end.allowed = 10**9
        sizes, now = [], 0.0
        for answered in [False] * 6 + [True] * 6:
            end.write(bytes(end.room))
            asks = [ask for ask in end.asks(now) if ask.request.data]
            (ask,) = asks
            sizes.append(len(ask.request.data))
            if answered:
                end.answered(ask.number, TunnelReply(ask.request.seq + sizes[-1], 10**9), now)
            else:
                end.failed(ask.number, now)
                end._heard = now
            now += 2.0
        assert sizes[:6] == [CHUNK, CHUNK // 2, CHUNK // 4, CHUNK // 8, LEAST_CHUNK, LEAST_CHUNK]
        assert sizes[-1] == CHUNK

    def test_a_tunnel_that_the_far_side_does_not_know_is_over_at_once(self):
        end = DialEnd(ID, 0.0, random.Random(1))
        assert end.asks(0.0)
        end.refused("ERR_TUNNEL_UNKNOWN")
        assert end.over
        assert end.broken == "ERR_TUNNEL_UNKNOWN"
        assert end.asks(1.0) == []
        assert end.next_time(1.0) is None

    @pytest.mark.parametrize("side", ["dial", "answer"])
    def test_an_abort_reaches_the_other_side(self, side):
        net = Network()
        net.run(1.0)
        net.ends()[side].abort("the node is stopping")
        net.run(1.0)
        other = {"dial": "answer", "answer": "dial"}[side]
        assert "the node is stopping" in net.ends()[other].broken
        assert net.dial.over
        assert net.answer.over


class TestDishonestPeers:
    def dialling(self) -> tuple[DialEnd, Ask]:
        end = DialEnd(ID, 0.0, random.Random(1))
        (ask,) = end.asks(0.0)
        return end, ask

    def test_polls_that_are_answered_at_once_go_ten_times_a_second(self):
        end, now, count = DialEnd(ID, 0.0, random.Random(1)), 0.0, 0
        while now < 10.0:
            for ask in end.asks(now):
                count += 1
                end.answered(ask.number, TunnelReply(0, 65536), now)
            now += 0.001
        assert count <= 10.0 / VAIN_PAUSE + MAX_VAIN + 2

    def test_a_side_that_accepts_nothing_is_polled_ten_times_a_second(self):
        end, now, count = DialEnd(ID, 0.0, random.Random(1)), 0.0, 0
        end.write(b"hello")
        while now < 10.0:
            for ask in end.asks(now):
                if ask.request.data:
                    count += 1
                    end.answered(ask.number, TunnelReply(0, 1000), now)
            now += 0.001
        assert count <= 10.0 / VAIN_PAUSE + MAX_VAIN + 2

    def test_an_acknowledgement_of_unsent_data_breaks_the_tunnel(self):
        end, ask = self.dialling()
        end.answered(ask.number, TunnelReply(1, 1000), 0.1)
        assert "acknowledged" in end.broken
        with pytest.raises(ByteStreamError, match="acknowledged"):
            AnswerEnd(0.0).receive(TunnelRequest(ID, 5, 1000, 0), 0.1)

    def test_a_copy_of_a_held_poll_and_an_older_one_are_answered_at_once(self):
        end = AnswerEnd(0.0)
        polls = [TunnelRequest(ID, 0, 1000, WINDOW, poll=n, wait=1000) for n in (4, 5)]
        for request, held in ((polls[1], True), (polls[1], False), (polls[0], False)):
            end.receive(request, 0.1)
            assert (end.reply(request, 0.1) is None) == held
        assert end.release(0.5) is None
        end.write(b"for the held one")
        assert end.release(0.5).data == b"for the held one"

    def test_a_peer_with_a_closed_connection_has_a_moment_to_reconnect(self):
        end = AnswerEnd(0.0)
        poll = TunnelRequest(ID, 0, 1000, WINDOW, poll=1, wait=1000)
        end.receive(poll, 0.1)
        assert end.reply(poll, 0.1) is None
        end.cut(0.2)
        assert end.next_time() == pytest.approx(0.2 + CUT_AFTER)
        assert not end.dead(0.1 + CUT_AFTER)
        end.receive(TunnelRequest(ID, 0, 1000, WINDOW, poll=2, wait=1000), 1.0)
        assert not end.dead(0.2 + CUT_AFTER)
        end.cut(2.0)
        assert end.dead(2.0 + CUT_AFTER)

    @pytest.mark.parametrize(
        "payload",
        [
            None,
            "x",
            [],
            {},
            {"tunnel": "short", "ack": 0, "limit": 0, "known": 0},
            {"tunnel": ID, "ack": -1, "limit": 0, "known": 0},
            {"tunnel": ID, "ack": 2**60, "limit": 0, "known": 0},
            {"tunnel": ID, "ack": 0, "limit": 0, "known": 0, "data": "%%%"},
            {"tunnel": ID, "ack": 0, "limit": 0, "known": 0, "data": "A" * (2 * CHUNK)},
            {"tunnel": ID, "ack": 0, "limit": 0, "known": 0, "close": "x" * 1000},
            {"tunnel": ID, "ack": 0.5, "limit": 0, "known": 0},
        ],
    )
    def test_malformed_requests_are_refused(self, payload):
        with pytest.raises(ByteStreamError):
            read_request(payload)

    @given(
        st.lists(
            st.tuples(
                st.integers(0, 200),
                st.integers(0, 2**53),
                st.integers(0, 300),
                st.binary(max_size=50),
                st.booleans(),
                st.integers(0, 5),
                st.sampled_from(["", "", "", "enough"]),
            ),
            max_size=30,
        )
    )
    def test_an_answering_side_answers_or_refuses_every_request(self, requests):
        end, sent = AnswerEnd(0.0), 0
        end.write(bytes(100))
        for now, (ack, limit, seq, data, fin, poll, close) in enumerate(requests):
            request = TunnelRequest(ID, ack, limit, 0, False, seq, data, fin, poll, 1000, close)
            try:
                end.receive(request, now)
            except ByteStreamError:
                assert ack > sent
                return
            reply = end.reply(request, now)
            assert (reply is None) == (end.held_until is not None and request.poll == end.poll)
            if reply is not None:
                sent = max(sent, reply.seq + len(reply.data) + reply.fin)
                read_reply(to_json(reply))
            if end.over:
                return


def test_messages_survive_json():
    request = TunnelRequest(ID, 1, 2, 3, True, 4, b"\x00\xff", True, 5, 6, "enough")
    assert read_request(to_json(request)) == request
    reply = TunnelReply(1, 2, 3, b"\x00\xff", True, "enough")
    assert read_reply(to_json(reply)) == reply
