"""`python -m tests.imapd`: run the misbehaving server until SIGTERM."""

import argparse
import asyncio
import signal
import ssl
from pathlib import Path

from tests.imapd import server


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.imapd", description=server.__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--root", type=Path, required=True)
    add("--ready-file", type=Path, required=True)
    add("--no-move", action="store_true")
    add("--no-uidplus", action="store_true")
    add("--plain", action="store_true", help="offer AUTH=PLAIN")
    add("--tls", nargs=2, metavar=("CERT", "KEY"), help="offer STARTTLS")
    add("--implicit-tls", action="store_true")
    return parser


async def run(arguments: argparse.Namespace) -> None:
    tls = None
    if arguments.tls:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(*arguments.tls)
    options = server.Options(
        root=arguments.root,
        has_move=not arguments.no_move,
        has_uidplus=not arguments.no_uidplus,
        has_plain=arguments.plain,
        tls=tls,
        is_implicit=arguments.implicit_tls,
    )
    serving = asyncio.ensure_future(server.serve(options, arguments.ready_file))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, serving.cancel)
    try:
        await serving
    except asyncio.CancelledError:
        return


if __name__ == "__main__":
    asyncio.run(run(build_parser().parse_args()))
