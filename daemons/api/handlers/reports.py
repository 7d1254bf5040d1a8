"""`/v1/reports/{provider}`: what next hops tell later, authenticated each in its own way."""

from http import HTTPStatus
from typing import ClassVar

from daemons.api.handlers.base import Handler
from daemons.api.openapi import Operation
from emailerctl import log
from emailerctl.core.answers import TakenShape
from emailerctl.core.shapes import taken_shape
from emailerctl.errors import EmailerError, TooManyRequests, Unauthorized
from emailerctl.metrics.registry import REPORTS
from emailerctl.providers.base import NotVerified

_BODY_BYTES = 4 * 1024 * 1024  # the largest batches that providers document are below 1 MiB


class Reports(Handler):
    """`/v1/reports/{provider}` and `/v1/reports/{provider}/{secret}`."""

    body_limit: ClassVar = _BODY_BYTES
    challenge: ClassVar = 'Basic realm="reports"'
    operations: ClassVar = {
        "POST": Operation(
            body={},
            takes="*/*",
            answer=TakenShape,
            refusals=(Unauthorized, TooManyRequests),
        )
    }

    async def is_admitted(self) -> bool:
        """Let nobody in who has failed too often, before a long body is read."""
        try:
            self.app.tokens.check_failures(
                self.request.remote_ip or "", realm=_build_realm(self._arguments[0])
            )
        except EmailerError as error:
            self._identity = error
            return False
        return True

    async def head(self, provider: str, _secret: str = "") -> None:
        """Say that there is something here: some providers ask when a URL is entered.

        django-anymail 13 answers 200 for the same reason (`AnymailBaseWebhookView.head`,
        read 2026-11-24).
        """
        self.app.reporting.load_reader(provider)
        self.reply({})

    async def post(self, provider: str, secret: str = "") -> None:
        """Take one call; 2xx also for what was told before."""
        headers = {name.lower(): value for name, value in self.request.headers.get_all()}
        try:
            taken = await self.app.reporting.receive(
                provider,
                headers,
                self.request.body,
                path_secret=secret,
                now_ms=self.app.clock.now_ms(),
            )
        except NotVerified as error:
            raise self._refuse(provider, str(error)) from error
        add = self.app.meter.add
        add(REPORTS, provider, "new", by=taken.new)
        add(REPORTS, provider, "repeated", by=taken.repeated)
        add(REPORTS, provider, "unmatched", by=taken.unmatched)
        add(REPORTS, provider, "replayed", by=taken.is_replay)
        self.reply(taken_shape(taken), HTTPStatus.OK)

    def _refuse(self, provider: str, reason: str) -> Unauthorized:
        """Count and log a call that is not its provider's; the answer helps no forger."""
        self.app.meter.add(REPORTS, provider, "refused")
        self.app.tokens.note_failure(self.request.remote_ip or "", realm=_build_realm(provider))
        log.log(
            "report.refused",
            "warning",
            provider=provider,
            detail=reason,
            remote=self.request.remote_ip,
        )
        return Unauthorized(
            "this report is not authenticated",
            hint="the server's log says why; compare the settings on both sides",
        )


def _build_realm(provider: str) -> str:
    """Count failures for each next hop: providers send everybody's reports from one address."""
    return f"reports/{provider} "
