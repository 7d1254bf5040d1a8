"""The DNS, asked for real: a small server over UDP answers as it is told."""

import socket
import threading
from collections.abc import Iterator, Mapping

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from emailerctl.errors import UsageError
from emailerctl.resolver import DnsTrouble, Resolver

Records = Mapping[tuple[str, str], list[str]]

RECORDS: Records = {
    ("example.org.", "TXT"): ['"v=spf1 " "-all"', '"other"'],
    ("example.org.", "MX"): ["10 mx.example.org."],
    ("null.example.org.", "MX"): ["0 ."],
    ("host.example.org.", "A"): ["192.0.2.1"],
    ("_dmarc.example.org.", "TXT"): ['"v=DMARC1; p=reject"'],
}


class DnsServer:
    """A name server of a few records; what it does not know does not exist, or fails."""

    def __init__(self, records: Records) -> None:
        self.records = records
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        while True:
            wire, client = self.socket.recvfrom(4096)
            if wire == b"stop":
                return
            self.socket.sendto(self.answer(dns.message.from_wire(wire)).to_wire(), client)

    def answer(self, query: dns.message.Message) -> dns.message.Message:
        reply = dns.message.make_response(query)
        reply.flags |= dns.flags.RA
        (question,) = query.question
        name, kind = str(question.name).lower(), dns.rdatatype.to_text(question.rdtype)
        found = self.records.get((name, kind))
        if found:
            reply.answer.append(dns.rrset.from_text(name, 60, "IN", kind, *found))
        elif name.startswith("broken."):
            reply.set_rcode(dns.rcode.SERVFAIL)
        elif not any(known == name for known, _kind in self.records):
            reply.set_rcode(dns.rcode.NXDOMAIN)
        return reply

    def close(self) -> None:
        self.socket.sendto(b"stop", self.socket.getsockname())
        self.thread.join()
        self.socket.close()


@pytest.fixture
def name_server() -> Iterator[DnsServer]:
    server = DnsServer(RECORDS)
    yield server
    server.close()


async def test_what_a_domain_publishes(name_server: DnsServer) -> None:
    resolver = Resolver([name_server.address], within_s=10)

    assert sorted(await resolver.find_texts("example.org")) == ["other", "v=spf1 -all"]
    assert await resolver.find_texts("nothing.example.org") == []
    assert await resolver.find_texts("host.example.org") == []
    for name, has in (("example.org", True), ("null.example.org", False)):
        assert await resolver.has_mail_servers(name) is has
    assert await resolver.has_mail_servers("host.example.org")  # its address will do
    assert not await resolver.has_mail_servers("nothing.example.org")


async def test_no_answer_is_no_statement(name_server: DnsServer) -> None:
    with pytest.raises(DnsTrouble, match=r"TXT of broken\.example\.org"):
        await Resolver([name_server.address], within_s=10).find_texts("broken.example.org")


@pytest.mark.parametrize("server", ["nonsense", "300.1.1.1:53", "[::zz]:53"])
def test_a_server_that_is_none(server: str) -> None:
    with pytest.raises(UsageError, match="is no name server"):
        Resolver([server])
