"""`python -m tests.providers_server`: run the fake providers until SIGTERM."""

import argparse
import asyncio
import signal
import ssl
from pathlib import Path

from tests.providers_server import server


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.providers_server",
        description=server.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--port", type=int, default=0)
    add("--folder", type=Path, required=True, help="journal.jsonl, transcript.jsonl, ready")
    add("--lag-ms", type=int, default=0, help="look-ups see nothing younger")
    add("--tls", nargs=2, metavar=("CERT", "KEY"))
    return parser


async def run(arguments: argparse.Namespace) -> None:
    folder: Path = arguments.folder
    state = server.Server(
        folder / "journal.jsonl", folder / "transcript.jsonl", lag_ms=arguments.lag_ms
    )
    context = None
    if arguments.tls:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*arguments.tls)
    listening = await asyncio.start_server(
        state.serve, "127.0.0.1", arguments.port, ssl=context, limit=1024 * 1024
    )
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    beginning = folder / "ready.part"
    beginning.write_text(str(listening.sockets[0].getsockname()[1]))
    beginning.rename(folder / "ready")
    await ended.wait()
    listening.close()


if __name__ == "__main__":
    asyncio.run(run(build_parser().parse_args()))
