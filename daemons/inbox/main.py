"""The inbox as `emailerctl dev` runs it: until cancelled, with an event for "it listens"."""

import asyncio
from pathlib import Path

from daemons.inbox import server
from daemons.inbox.server import OnMail
from daemons.inbox.server import ReceivedMail as Arrival

__all__ = ["Arrival", "run"]


async def run(
    host: str, port: int, folder: Path, on_mail: OnMail, ready: asyncio.Event
) -> None:
    """Catch every mail at *host* and *port* in *folder*; set *ready* once it listens."""
    await server.run(host, port, folder, on_mail, lambda _port: ready.set())
