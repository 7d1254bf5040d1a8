"""`python -m tests.smtpd`: run the misbehaving server until SIGTERM."""

import argparse
import asyncio
import signal
from dataclasses import fields
from pathlib import Path

import uvloop

from tests.smtpd import server


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.smtpd", description=server.__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--port", type=int, default=0)
    add("--journal", type=Path, required=True)
    add("--ready-file", type=Path, required=True)
    add("--transcript", type=Path)
    add("--no-fsync", dest="fsync", action="store_false", help="for load tests")
    add("--refuse", action="store_true", help="refuse connections")
    add("--drop-on-connect", action="store_true", help="close without a banner")
    add("--no-banner", action="store_true", help="say nothing at all")
    add("--banner", default="220 smtpd.test ESMTP", help="other than 2yz also closes")
    add("--ehlo", default="", metavar="CODE", help="answer EHLO so")
    add("--helo-only", action="store_true", help="EHLO: 502, HELO: 250")
    add("--tls", nargs=2, default=("", ""), metavar=("CERT", "KEY"), help="offer STARTTLS")
    add("--implicit-tls", action="store_true")
    add("--starttls", default="", metavar="CODE", help="offer STARTTLS, answer it so")
    add("--tls-garbage", action="store_true", help="answer the handshake with nonsense")
    add("--auth", action="append", default=[], metavar="USER:PASS", help="require AUTH")
    add("--auth-methods", default="PLAIN LOGIN CRAM-MD5 XOAUTH2")
    add("--auth-reply", default="", metavar="CODE", help="answer AUTH so")
    add("--quit-after-auth", action="store_true", help="235, then an unsolicited 421")
    add("--no-pipelining", action="store_true")
    add("--no-8bitmime", action="store_true")
    add("--no-smtputf8", action="store_true")
    add("--dsn", action="store_true", help="announce DSN (RFC 3461)")
    add("--lie-8bitmime", action="store_true", help="announced, and refused at MAIL")
    add("--lie-smtputf8", action="store_true", help="announced, and refused at MAIL")
    add("--size", type=int, default=52_428_800, help="announced; -1: not announced")
    add("--real-size", type=int, help="refused above this, whatever was announced")
    add("--max-messages", type=int, metavar="N", help="421 at MAIL after N on a connection")
    add("--idle-close", type=float, metavar="S", help="close after S seconds of idling")
    add("--idle-421", action="store_true", help="with an unsolicited 421 before")
    add("--delay", type=float, default=0, metavar="S", help="every reply takes S seconds")
    add("--only-connection", type=int, metavar="N", help="misbehave on the N-th one only")
    return parser


def parse_options(arguments: argparse.Namespace) -> server.Options:
    given = vars(arguments)
    given["tls_cert"], given["tls_key"] = arguments.tls
    given["auth"] = tuple(arguments.auth)
    given["size"] = None if arguments.size < 0 else arguments.size
    return server.Options(**{f.name: given[f.name] for f in fields(server.Options)})


async def run(arguments: argparse.Namespace) -> None:
    serving = asyncio.ensure_future(
        server.serve(
            parse_options(arguments),
            port=arguments.port,
            journal=arguments.journal,
            ready=arguments.ready_file,
            transcript=arguments.transcript,
        )
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, serving.cancel)
    try:
        await serving
    except asyncio.CancelledError:
        return


if __name__ == "__main__":
    uvloop.run(run(build_parser().parse_args()))
