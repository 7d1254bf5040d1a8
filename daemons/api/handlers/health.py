"""`/healthz`, `/readyz`: is the process alive; can it accept."""

from http import HTTPStatus

from daemons.api.handlers.base import Handler
from daemons.api.health import examine


class Health(Handler):
    """`/healthz`."""

    async def get(self) -> None:
        """Say that the loop turns."""
        self.reply({"status": "ok"})


class Readiness(Handler):
    """`/readyz`."""

    async def get(self) -> None:
        """Say whether messages can be accepted, and what there is to know."""
        details = await examine(self.app, is_stopping=self.application.is_stopping)
        status = HTTPStatus.OK if details["ready"] else HTTPStatus.SERVICE_UNAVAILABLE
        self.reply(details, status)
