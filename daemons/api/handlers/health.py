"""`/healthz`, `/readyz`: is the process alive; can it accept."""

from http import HTTPStatus
from typing import ClassVar

from daemons.api.handlers.base import Handler
from daemons.api.health import examine
from daemons.api.openapi import Operation
from emailerctl.core.answers import HealthShape, ReadinessShape


class Health(Handler):
    """`/healthz`."""

    operations: ClassVar = {"GET": Operation(answer=HealthShape)}

    async def get(self) -> None:
        """Say that the loop turns."""
        self.reply({"status": "ok"})


class Readiness(Handler):
    """`/readyz`."""

    operations: ClassVar = {
        "GET": Operation(
            answer=ReadinessShape, also={HTTPStatus.SERVICE_UNAVAILABLE: ReadinessShape}
        )
    }

    async def get(self) -> None:
        """Say whether messages can be accepted, and what there is to know."""
        details = await examine(self.app, is_stopping=self.application.is_stopping)
        status = HTTPStatus.OK if details["ready"] else HTTPStatus.SERVICE_UNAVAILABLE
        self.reply(details, status)
