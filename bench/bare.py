"""`python -m bench.bare PORT`: the least that Tornado can do with a POST.

No parsing, no disk, a fixed answer: the ceiling of any acceptance that is built with it.
"""

import asyncio
import logging
import signal
import sys

import uvloop
from tornado.web import Application, RequestHandler

_ANSWER = (
    b'{"id":"msg_1C6K9Q2M7XW4T","state":"queued","created_at":"2026-11-24T10:00:00.000Z",'
    b'"on_unknown":"ask","test":false,"recipients":[{"address":"ann@example.org","kind":"to",'
    b'"state":"queued"}],"warnings":[]}'
)


class Bare(RequestHandler):
    """Reads the body, since Tornado does, and answers."""

    def compute_etag(self) -> None:
        """Spend nothing on an ETag."""

    def post(self) -> None:
        self.set_status(202)
        self.set_header("Content-Type", "application/json")
        self.finish(_ANSWER)


async def main(port: int) -> None:
    logging.getLogger("tornado.access").disabled = True
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    Application([("/v1/messages", Bare)]).listen(port, "127.0.0.1")
    await stopping.wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
