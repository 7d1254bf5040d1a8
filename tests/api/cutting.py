"""A proxy that breaks connections at random points, in what either side says."""

import socket
import struct
import threading
from contextlib import suppress
from random import Random
from types import TracebackType

_RESET = struct.pack("ii", 1, 0)  # closes with a reset
_MOST_OCTETS = 700  # about a request, or two answers


class CuttingProxy:
    """Stands before a server on this host; most connections through it end too soon."""

    def __init__(
        self, port: int, *, seed: int, chance: float = 0.6, down_octets: int | None = None
    ) -> None:
        """Listen; with *down_octets* so much of an answer comes through, and never more."""
        self._down_octets = down_octets
        self._target = port
        self._rng = Random(seed)
        self._chance = chance
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.port = self._listener.getsockname()[1]
        self.cut = 0
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> "CuttingProxy":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            ends = self._rng.random() < self._chance
            goes_up = self._rng.random() < 0.5
            octets = self._rng.randrange(_MOST_OCTETS) if ends else 1 << 40
            if self._down_octets is not None:
                goes_up, octets = False, self._down_octets
            for source, sink, is_up in ((client, server, True), (server, client, False)):
                left = octets if is_up is goes_up else 1 << 40
                thread = threading.Thread(
                    target=self._pass_on, args=(source, sink, left), daemon=True
                )
                self._threads.append(thread)
                thread.start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, left: int) -> None:
        """Pass on *left* octets, then break both connections."""
        with suppress(OSError):
            while octets := source.recv(65_536):
                sink.sendall(octets[:left])
                left -= len(octets)
                if left <= 0:
                    self.cut += 1
                    for side in (source, sink):
                        side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    break
        for side in (source, sink):
            with suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
            side.close()
