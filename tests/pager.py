"""The operator's URL: a real server that keeps what it is posted, and fails when told to."""

import json
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

TAKEN = 204


class Pager:
    """Listens in the test's own loop.

    Attributes:
        status: what it answers; only with `TAKEN` it has heard.
        posted: what it has heard.
        asked: how often somebody tried.
    """

    def __init__(self) -> None:
        self.status = TAKEN
        self.posted: list[dict[str, Any]] = []
        self.asked = 0
        sockets = bind_sockets(0, "127.0.0.1")
        self.url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}/alerts"
        self._server = HTTPServer(Application([("/alerts", _Post, {"pager": self})]))
        self._server.add_sockets(sockets)

    @property
    def told(self) -> list[tuple[str, str]]:
        return [(one["alert"], one["state"]) for one in self.posted]

    async def close(self) -> None:
        self._server.stop()
        await self._server.close_all_connections()


class _Post(RequestHandler):
    def initialize(self, pager: Pager) -> None:
        self.pager = pager

    def post(self) -> None:
        self.pager.asked += 1
        if self.pager.status == TAKEN:
            assert self.request.headers["Content-Type"] == "application/json"
            self.pager.posted.append(json.loads(self.request.body))
        self.set_status(self.pager.status)
