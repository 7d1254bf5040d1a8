"""Who is trusted, and that what one protocol says in a handshake is never said in another's."""

import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from emailerctl.errors import ConfigurationError
from emailerctl.models.clock import SystemClock
from emailerctl.providers.registry import KINDS
from emailerctl.providers.smtp_connect import Tls
from tests.contract.http_client import build_message
from tests.contract.http_client import build_next_hop as build_http
from tests.contract.smtp_client import Marker, send_one


@dataclass
class Listener:
    """Takes the first bytes of each connection, and ends it."""

    port: int
    heard: list[bytes] = field(default_factory=list)


@pytest.fixture
def listener() -> Iterator[Listener]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        listener = Listener(server.getsockname()[1])

        def take() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:  # the end of the test
                    return
                with connection:
                    listener.heard.append(connection.recv(4096))

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        yield listener
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


async def test_a_mail_server_is_offered_no_http(listener: Listener) -> None:
    """RFC 7301, 3.2: a server that knows none of what is offered ends the handshake."""
    over_http = build_http("postmark", f"https://127.0.0.1:{listener.port}")
    await over_http.send(build_message("ok"), Marker())
    await over_http.close()
    await send_one(listener.port, "ok", tls="implicit")

    first, last = listener.heard[0], listener.heard[-1]
    assert len(listener.heard) >= 2
    assert first[:1] == last[:1] == b"\x16"  # a handshake
    assert b"http/1.1" in first
    assert b"http/1.1" not in last


@pytest.mark.parametrize("tls", [tls for tls in Tls if tls is not Tls.NONE])
def test_a_file_that_can_not_be_read_is_said_though_nothing_is_verified(tls: Tls) -> None:
    table = {"kind": "smtp", "host": "127.0.0.1", "tls": tls, "ca_file": "/nowhere/ca.pem"}
    kind = KINDS["smtp"]

    with pytest.raises(
        ConfigurationError, match=r"\[providers\.hop\] ca_file /nowhere/ca\.pem"
    ):
        kind.build("hop", kind.settings.model_validate(table), 1, SystemClock())
