"""The HTTP server: its sockets, limits and time-outs (T-13), and how it stops."""

import asyncio
import contextlib
import errno
import socket
from collections import Counter
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream
from tornado.netutil import bind_sockets

from daemons.api.app import Api
from emailerctl.errors import ConfigurationError

_NO_LIMIT = 2**62  # the exchange counts body bytes itself, and answers
_CLOSE_S = 1.0  # for what was answered to leave
_TOO_MANY = b'{"title":"Overloaded","status":503,"code":"overloaded","detail":"%b"}' % (
    b"too many connections from this address"
)
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\n"
    b"Retry-After: 1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
) % (len(_TOO_MANY), _TOO_MANY)


def listen(
    host: str, port: int, *, setting: str = "[api] port or host (--port, --host)"
) -> list[socket.socket]:
    """Bind the port, so that a second daemon can't do so silently.

    Raises:
        ConfigurationError: it is taken, or not ours to take; says what to change.
    """
    try:
        return bind_sockets(port, address=host)
    except OSError as error:
        reasons = {
            errno.EADDRINUSE: "is taken, perhaps by another emailerctl serve",
            errno.EACCES: "needs privileges; take one above 1023",
            errno.EADDRNOTAVAIL: "is on an address that this host does not have",
        }
        reason = reasons.get(error.errno or 0, f"can't be listened on: {error.strerror}")
        raise ConfigurationError(
            f"port {port} of {host} {reason}", hint=f"change {setting}"
        ) from error


class Server(HTTPServer):
    """Serves an API within the limits of its settings."""

    def initialize(self, api: Api) -> None:  # type: ignore[override]
        """Take the limits from the settings."""
        settings = api.app.settings.api
        super().initialize(
            api,
            max_header_size=settings.header_limit_bytes,
            max_body_size=_NO_LIMIT,
        )
        # The exchange has the time-outs: one for both a request's head and the pause before it.
        self.conn_params.header_timeout = None
        self.api = api
        self._most_connections = settings.max_connections
        self._by_address: Counter[str] = Counter()

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        """Serve a connection, unless its address has too many."""
        host = str(address[0]) if address else ""
        if self._by_address[host] >= self._most_connections:
            stream.write(_BUSY)
            stream.close()
            return
        self._by_address[host] += 1
        super().handle_stream(stream, address)

    def on_close(self, server_conn: Any) -> None:
        """Forget a connection."""
        host = server_conn.context.remote_ip
        self._by_address[host] -= 1
        if not self._by_address[host]:
            del self._by_address[host]
        super().on_close(server_conn)

    async def drain(self, within_s: float) -> None:
        """Accept nothing more, end the streams, finish the requests under way, and close."""
        self.api.is_stopping = True
        self.stop()
        self.api.feed.close()
        if self.api.running:
            await asyncio.wait(self.api.running, timeout=within_s)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._flush(), _CLOSE_S)
        await self.close_all_connections()

    async def _flush(self) -> None:
        for connection in list(self._connections):
            while connection.stream.writing():  # noqa: ASYNC110  (streams have no such event)
                await asyncio.sleep(0.01)
