"""`python -m tests.forestmq`: run the stand-in until SIGTERM, or until it dies."""

import argparse
import asyncio
import contextlib
import resource
import signal
from dataclasses import fields
from pathlib import Path

from tests.forestmq import server

_DEFAULTS = server.Options()


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.forestmq",
        description=server.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--port", type=int, default=0)
    add("--address", default="127.0.0.1", help="0.0.0.0 in a container, as the real one")
    add("--control-port", type=int, metavar="PORT", help="0 takes a free one")
    add("--ready-file", type=Path, help="gets: port control-port")
    add("--log", type=Path, help="what is taken, in clear, as the real one prints it")
    add("--hosts", type=lambda text: tuple(text.split(",")), default=_DEFAULTS.hosts)
    add("--msg-size", type=int, default=_DEFAULTS.msg_size)
    add("--restart-after", type=float, metavar="S")
    add("--kill-every", type=float, default=0, metavar="S")
    add("--stall", type=float, default=0, metavar="S")
    for share in ("drop", "abandon", "unanswered", "error", "mangle", "invent"):
        add(f"--{share}", type=float, default=0, metavar="SHARE")
    add("--repeat", type=int, default=1, metavar="N")
    for flag in ("hang", "reorder", "other-echo", "cost"):
        add(f"--{flag}", action="store_true")
    add("--seed", type=int, default=1)
    return parser


async def run(arguments: argparse.Namespace) -> None:
    given = vars(arguments)
    options = server.Options(**{f.name: given[f.name] for f in fields(server.Options)})
    queue = server.Server(options, log=arguments.log, address=arguments.address)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await queue.listen(arguments.port)
    control_port = 0
    if arguments.control_port is not None:
        control = await asyncio.start_server(queue.control, "127.0.0.1", arguments.control_port)
        control_port = control.sockets[0].getsockname()[1]
    if arguments.ready_file:
        beginning = arguments.ready_file.with_suffix(".part")
        beginning.write_text(f"{queue.port} {control_port}")
        beginning.rename(arguments.ready_file)
    tasks = [asyncio.create_task(queue.run()), asyncio.create_task(queue.be_killed())]
    await asyncio.wait(
        [*tasks, asyncio.create_task(ended.wait())], return_when=asyncio.FIRST_COMPLETED
    )
    for task in tasks:
        if task.done():
            task.result()


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # it is meant to die
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run(build_parser().parse_args()))
