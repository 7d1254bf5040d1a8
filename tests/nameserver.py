"""A name server on a UDP port of its own, in a thread: what a domain publishes, in a test."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset


class NameServer:
    """What it answers.

    Attributes:
        records: TXT records by name, without the dot at the end.
        is_broken: answers SERVFAIL.
    """

    def __init__(self, port: int) -> None:
        self.address = f"127.0.0.1:{port}"
        self.records: dict[str, list[str]] = {}
        self.is_broken = False

    def publish(self, line: str) -> None:
        """Take a line of a zone file as an operator pastes it."""
        name, _, strings = line.partition(". IN TXT ")
        self.records.setdefault(name, []).append(strings.replace('" "', "").strip('"'))

    def answer(self, question: bytes) -> bytes:
        query = dns.message.from_wire(question)
        response = dns.message.make_response(query)
        response.flags |= dns.flags.AA
        asked = query.question[0]
        texts = self.records.get(asked.name.to_text(omit_final_dot=True), [])
        if self.is_broken:
            response.set_rcode(dns.rcode.SERVFAIL)
        elif not texts:
            response.set_rcode(dns.rcode.NXDOMAIN)
        elif asked.rdtype == dns.rdatatype.TXT:
            quoted = [
                " ".join(f'"{text[at : at + 255]}"' for at in range(0, len(text), 255))
                for text in texts
            ]
            response.answer.append(dns.rrset.from_text(asked.name, 60, "IN", "TXT", *quoted))
        return response.to_wire()


@contextmanager
def serve_names() -> Iterator[NameServer]:
    """Answer until the end of the block."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        door.bind(("127.0.0.1", 0))
        server = NameServer(door.getsockname()[1])

        def work() -> None:
            while True:
                question, who = door.recvfrom(4096)
                if not question:
                    return
                door.sendto(server.answer(question), who)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
                last.sendto(b"", door.getsockname())
            thread.join(5)
