"""Bells: datagrams that wake consumers on this host after a commit.

Each consumer binds a socket of its own in `<store>.wake/`; whoever commits work sends one byte
to all of them.  A lost datagram costs the poll's interval, nothing else.  The sockets are named
through a descriptor of their folder, since a socket's path must be shorter than 108 bytes.
"""

import asyncio
import contextlib
import os
import socket
import threading
import time
from pathlib import Path

_LISTING_S = 1.0  # how long the list of sockets is believed
_DATAGRAM = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK


class Bell:
    """Sends to every consumer's socket; callable from any thread, never blocks."""

    def __init__(self, folder: Path) -> None:
        """Take the folder of the sockets; it need not exist."""
        self._folder = folder
        self._socket = socket.socket(socket.AF_UNIX, _DATAGRAM)
        self._lock = threading.Lock()
        self._listed_s = 0.0
        self._descriptor: int | None = None
        self._targets: list[str] = []

    def ring(self) -> None:
        """Wake every consumer that listens."""
        with self._lock:
            now_s = time.monotonic()
            if now_s - self._listed_s > _LISTING_S:
                self._listed_s = now_s
                self._targets = self._list()
            for target in self._targets:
                with contextlib.suppress(OSError):  # full, or nobody listens there any more
                    self._socket.sendto(b"!", target)

    def _list(self) -> list[str]:
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self._folder, os.O_DIRECTORY)
            names = os.listdir(self._descriptor)  # noqa: PTH208  (a descriptor has no Path)
        except FileNotFoundError:
            return []
        return [_name(self._descriptor, name) for name in names]

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        if self._descriptor is not None:
            os.close(self._descriptor)


def _name(descriptor: int, name: str) -> str:
    return f"/proc/self/fd/{descriptor}/{name}"


class Listener:
    """A consumer's ear: a datagram socket in the folder, and an event of the loop."""

    def __init__(self, folder: Path, name: str) -> None:
        """Bind the socket; a stale one of the same name is replaced."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = folder / name
        self._path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, _DATAGRAM)
        descriptor = os.open(folder, os.O_DIRECTORY)
        try:
            self._socket.bind(_name(descriptor, name))
        finally:
            os.close(descriptor)
        self._rung = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._socket, self._hear)

    def _hear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._socket.recv(16):
                pass
        self._rung.set()

    def ring(self) -> None:
        """Wake whoever waits, from within this process's loop."""
        self._rung.set()

    async def wait(self, seconds: float) -> None:
        """Wait until the bell rings, at most *seconds*."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._rung.wait(), seconds)

    @property
    def has_rung(self) -> bool:
        """Return whether the bell has rung since it was cleared."""
        return self._rung.is_set()

    def clear(self) -> None:
        """Forget earlier rings: call it before looking, never after."""
        self._rung.clear()

    def close(self) -> None:
        """Take the ear away."""
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        self._path.unlink(missing_ok=True)
