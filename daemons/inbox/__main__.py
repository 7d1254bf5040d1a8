"""`python -m daemons.inbox`: the inbox by itself, a line of JSON for each mail that arrives."""

import argparse
import asyncio
import signal
import socket
import sys
from pathlib import Path

from daemons.inbox import server
from daemons.inbox.server import ReceivedMail
from emailerctl import log
from emailerctl.models.clock import to_text

_ANSWERS_WITHIN_S = 3.0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m daemons.inbox",
        description="Catch every mail, keep each as a file, and send nothing on.",
        epilog="For trying things: no TLS, no authentication.",
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=1025)
    parser.add_argument("--folder", type=Path, default=Path("inbox"), help="made if missing")
    parser.add_argument("--check", action="store_true", help="does one answer at --port?")
    return parser.parse_args(arguments)


def main() -> int:
    """Run until told to stop; return the exit code."""
    wanted = _parse(sys.argv[1:])
    if wanted.check:
        return _check(wanted.port)
    log.setup(sys.stdout, level="info", addresses="full", format="json", hash_key="")
    wanted.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        asyncio.run(_run(wanted.host, wanted.port, wanted.folder))
    finally:
        log.close()
    return 0


def _check(port: int) -> int:
    try:
        with socket.create_connection(("127.0.0.1", port), _ANSWERS_WITHIN_S) as connection:
            return 0 if connection.recv(3) == b"220" else 75
    except OSError:
        return 75


async def _run(host: str, port: int, folder: Path) -> None:
    loop = asyncio.get_running_loop()
    serving = asyncio.ensure_future(server.run(host, port, folder, _tell, _tell_ready))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, serving.cancel)
    try:
        await serving
    except asyncio.CancelledError:
        log.log("inbox.stopped")


def _tell_ready(port: int) -> None:
    log.log("inbox.started", port=port)


def _tell(mail: ReceivedMail) -> None:
    log.log(
        "inbox.received",
        received_at=to_text(mail.received_ms),
        sender=mail.sender,
        recipients=list(mail.recipients),
        subject=mail.subject,
        path=str(mail.path),
    )


if __name__ == "__main__":
    sys.exit(main())
