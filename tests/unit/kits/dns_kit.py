"""A DNS server on loopback UDP that answers from records given as text."""

from __future__ import annotations

import asyncio

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset


class DnsServer(asyncio.DatagramProtocol):
    """`records`: (name, type) to texts, e.g. ("seed.example", "A"): ["192.0.2.1"]. Others do not exist."""

    def __init__(self, records: dict[tuple[str, str], list[str]], *, ttl: int = 300) -> None:
        self.records = records
        self.ttl = ttl
        self.asked: list[tuple[str, str]] = []
        self.silent = False

    async def start(self) -> tuple[str, int]:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(
            lambda: self, local_addr=("127.0.0.1", 0)
        )
        address: tuple[str, int] = self._transport.get_extra_info("sockname")
        return address

    def close(self) -> None:
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.DatagramTransport)
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True)
        kind = dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, kind))
        if self.silent:
            return
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA
        texts = self.records.get((name, kind))
        if texts:
            answer.answer.append(
                dns.rrset.from_text_list(question.name, self.ttl, "IN", kind, texts)
            )
        elif not any(known == name for known, _ in self.records):
            answer.set_rcode(dns.rcode.NXDOMAIN)
        self._transport.sendto(answer.to_wire(), addr)
