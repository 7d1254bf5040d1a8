"""`/metrics`: figures for Prometheus."""

from http import HTTPStatus
from typing import ClassVar

from daemons.api.handlers.base import Handler
from daemons.api.openapi import Operation
from daemons.figures import admit, read_store
from emailerctl.errors import Forbidden, TooManyRequests, Unauthorized
from emailerctl.metrics.meter import CONTENT_TYPE


class Metrics(Handler):
    """`/metrics`."""

    operations: ClassVar = {
        "GET": Operation(
            media_type=CONTENT_TYPE, refusals=(Unauthorized, Forbidden, TooManyRequests)
        )
    }

    async def get(self) -> None:
        """Say the figures of all processes of this daemon, and those of the store."""
        await admit(self.app, self.request)
        body = self.app.meter.render(await read_store(self.app))
        self._write(HTTPStatus.OK, CONTENT_TYPE, body)
        self.finish()
