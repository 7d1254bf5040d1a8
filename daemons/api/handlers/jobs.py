"""`/v1/jobs/{id}`: what became of a job that a service published into ForestMQ."""

from collections.abc import Mapping
from typing import ClassVar

from daemons.api.handlers.base import READERS, Handler
from daemons.api.openapi import Operation
from daemons.api.schemas import Parse, narrow, parse_query
from emailerctl.core.answers import JobShape
from emailerctl.core.ingest import find_status
from emailerctl.errors import NotFound
from emailerctl.models.text import shorten

_ASKED: Mapping[str, Parse] = {"service": str}


class Job(Handler):
    """`/v1/jobs/{id}`."""

    scopes: ClassVar = {"GET": READERS}
    operations: ClassVar = {"GET": Operation(query=_ASKED, answer=JobShape)}

    async def get(self, job_id: str) -> None:
        """Tell a service whether its job is a message, or why it can't be one."""
        query = parse_query(self.request.query_arguments, _ASKED)
        service = narrow(query, self.caller)["service"] or self.caller.service
        status = await find_status(self.app.store, service=service, job_id=job_id)
        if status is None:
            raise NotFound(
                f"no job {shorten(job_id)} of {service} is known",
                hint="it may be on its way; after a while publish it again with the same id",
            )
        self.reply(status)
