"""Publish an email into ForestMQ, from any Python service.

    from emailerctl.publish import Api, Key, publish

    publish(
        {"to": "ann@example.org", "subject": "Welcome", "text": "Hello Ann"},
        url="http://127.0.0.1:8006",
        key=Key("shop", secret),
        confirm=Api("http://127.0.0.1:8080", token),
    )

ForestMQ keeps nothing when it ends, and acknowledges nothing.  With `confirm` the job is
published again, under the same id, until the API knows that id: at least once from here, and
exactly once in the log, since the id is the idempotency key.  Without it a job may be lost.

Of third parties this needs httpx alone.
"""

import asyncio
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Protocol
from urllib.parse import urlsplit

import httpx

from emailerctl.errors import (
    Fault,
    Forbidden,
    Invalid,
    JobRejected,
    NextHopRefused,
    NotQueued,
    TimedOut,
    Unauthorized,
)
from emailerctl.models.clock import SystemClock
from emailerctl.models.job import Key, build_envelope
from emailerctl.models.text import shorten
from emailerctl.queues.forestmq_client import (
    MOST_BYTES,
    ForestMqClient,
    ForestMqError,
    Trouble,
    Unsendable,
)

__all__ = ["Api", "Key", "Published", "publish", "publish_async"]

TOPIC = "email.job"
_CALL_S = 10.0
_ASK_S = (0.1, 2.0)  # between two questions whether a job is known: at first, and at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A job that was published.

    Attributes:
        job_id: its idempotency key: publishing it again under this id makes no second mail.
        times: how often it was published.
        queue_length: jobs in that ForestMQ just after; None where it never said.
        message_id: of the message that it has become; None where that was not asked.
    """

    job_id: str
    times: int
    queue_length: int | None
    message_id: str | None = None


class Confirm(Protocol):
    """Somebody who knows what became of a job."""

    async def find(self, job_id: str) -> Mapping[str, object] | None:
        """Return its status as of GET /v1/jobs/ID, or None where it is not known (yet)."""
        ...


class Api:
    """The API, asked with a token of the key's service and the scope `read`."""

    def __init__(self, url: str, token: str) -> None:
        """Take where it is; nothing is opened yet."""
        self._url = url.rstrip("/")
        self._token = token

    async def find(self, job_id: str) -> Mapping[str, object] | None:
        """Return what became of a job; None where it is not known, or the API can't say now.

        Raises:
            Unauthorized, Forbidden: the token is not one that may ask.
        """
        headers = {"Authorization": f"Bearer {self._token}"}
        try:
            async with httpx.AsyncClient(trust_env=False, timeout=_CALL_S) as client:
                answer = await client.get(f"{self._url}/v1/jobs/{job_id}", headers=headers)
                found = answer.json()
        except (httpx.HTTPError, ValueError):
            return None
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            raise Unauthorized(f"{self._url} refuses the token", hint="give one that is valid")
        if answer.status_code == httpx.codes.FORBIDDEN:
            raise Forbidden(
                f"{self._url}: the token may not ask", hint="give it the scope read"
            )
        is_good = answer.status_code == httpx.codes.OK and isinstance(found, dict)
        return found if is_good and found.get("id") == job_id else None


def publish(
    fields: Mapping[str, object],
    *,
    url: str,
    key: Key | None = None,
    topic: str = TOPIC,
    job_id: str | None = None,
    confirm: Confirm | None = None,
    timeout_s: float = 60.0,
    again_after_s: float = 10.0,
) -> Published:
    """Publish an email; see `publish_async`, which is for code that runs in an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise RuntimeError("publish() would stop this event loop: await publish_async() here")
    return asyncio.run(
        publish_async(
            fields,
            url=url,
            key=key,
            topic=topic,
            job_id=job_id,
            confirm=confirm,
            timeout_s=timeout_s,
            again_after_s=again_after_s,
        )
    )


async def publish_async(
    fields: Mapping[str, object],
    *,
    url: str,
    key: Key | None = None,
    topic: str = TOPIC,
    job_id: str | None = None,
    confirm: Confirm | None = None,
    timeout_s: float = 60.0,
    again_after_s: float = 10.0,
) -> Published:
    """Publish an email into the ForestMQ at *url*, and return under which id.

    Args:
        fields: as the body of POST /v1/messages; at most 3,500 bytes of JSON.
        key: signs it; without one it is taken only where unsigned jobs are allowed.
        job_id: its idempotency key, A-Z a-z 0-9 . _ : -; a new one unless given.
        confirm: whom to ask until the job is known; None: it is published once.
        timeout_s: how long to publish and ask, with *confirm*.
        again_after_s: not known so long after it was published: it is published again.

    Raises:
        Invalid: with every fault; nothing was sent.
        NotQueued: it was published once, and is not known to be queued.
        NextHopRefused: ForestMQ refuses our name for it (`--hosts`).
        JobRejected: it came, and can't become a message; says why.
        TimedOut: nobody knew it in time; it may still come.
        Unauthorized, Forbidden: of whom was asked.
    """
    publisher = _Publisher(fields, url, key, topic, job_id or str(uuid.uuid4()))
    try:
        if confirm is None:
            await publisher.put()
            return publisher.tell(None)
        return await _repeat(publisher, confirm, timeout_s, again_after_s)
    finally:
        await publisher.close()


async def _repeat(
    publisher: "_Publisher", confirm: Confirm, timeout_s: float, again_after_s: float
) -> Published:
    """Publish and ask until the job is known."""
    end_s = time.monotonic() + timeout_s
    said = "nothing is wrong that can be seen from here"
    while True:
        rest_s = again_after_s
        try:
            await publisher.put()
        except NotQueued as error:
            said = error.detail
            rest_s = publisher.rest_s
        until_s = min(time.monotonic() + rest_s, end_s)
        wait_s = _ASK_S[0]
        while True:
            status = await confirm.find(publisher.job_id)
            if status is not None:
                return publisher.tell(_read_status(publisher.job_id, status))
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                break
            await asyncio.sleep(min(wait_s, left_s))
            wait_s = min(wait_s * 2, _ASK_S[1])
        if time.monotonic() >= end_s:
            raise TimedOut(
                f"job {publisher.job_id} was published {publisher.times} times in "
                f"{timeout_s:g} s, and is not known yet: {said}",
                hint="publish it again with the same id; does a consumer run with this topic?",
            )


def _read_status(job_id: str, status: Mapping[str, object]) -> str:
    """Return the id of the message that the job is now.

    Raises:
        JobRejected: it can't become one.
    """
    if status.get("state") == "accepted":
        return str(status.get("message_id"))
    errors = status.get("errors")
    said = [
        f"{error.get('pointer') or '/'}: {error.get('detail')}"
        for error in (errors if isinstance(errors, list) else ())
        if isinstance(error, dict)
    ]
    code = status.get("code")
    raise JobRejected(
        f"job {job_id} was rejected ({code}): {'; '.join(said)}", reason=code, errors=errors
    )


class _Publisher:
    """One job on its way into one ForestMQ."""

    def __init__(
        self, fields: Mapping[str, object], url: str, key: Key | None, topic: str, job_id: str
    ) -> None:
        self.job_id = job_id
        self.times = 0
        self._fields = dict(fields)
        self._key = key
        self._topic = topic
        self._length: int | None = None
        _check_url(url)
        self._client = ForestMqClient(
            url,
            clock=SystemClock(),
            rng=Random(),  # noqa: S311  (jitter)
            timeout_s=_CALL_S,
        )

    @property
    def rest_s(self) -> float:
        """How long to leave it alone after a fault."""
        return self._client.breaker.rest_s + 0.01

    async def put(self) -> None:
        """Publish it, signed anew.

        Raises:
            Invalid, NotQueued, NextHopRefused.
        """
        envelope = build_envelope(
            self._fields,
            topic=self._topic,
            job_id=self.job_id,
            at_s=int(time.time()),
            key=self._key,
        )
        self.times += 1
        try:
            self._length = await self._client.put(envelope, most_bytes=MOST_BYTES)
        except Unsendable as error:
            raise Invalid([Fault("", str(error))]) from error
        except ForestMqError as error:
            if error.trouble is Trouble.HOST_REFUSED:
                raise NextHopRefused(
                    error.detail, hint="start it with --hosts naming the host of that URL"
                ) from error
            raise NotQueued(
                f"job {self.job_id} is not known to be queued: {error.detail}",
                job_id=self.job_id,
            ) from error

    def tell(self, message_id: str | None) -> Published:
        """Return what came of it."""
        return Published(
            job_id=self.job_id,
            times=self.times,
            queue_length=self._length,
            message_id=message_id,
        )

    async def close(self) -> None:
        """Close the connection."""
        await self._client.close()


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        is_good = False
    if not is_good:
        raise Invalid([Fault("/url", f"{shorten(url)} is no URL; write http://HOST:PORT")])
