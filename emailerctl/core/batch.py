"""Batches: many messages in one request and few commits, each accepted or refused by itself.

The rules are those of one message (`Acceptance`).  What is of a batch alone: one key for all of
it or one for each message, all or nothing where that is asked for, and one answer.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from http import HTTPStatus
from typing import NamedTuple

from emailerctl.core.accept import Acceptance, Key, Prepared, name_outcome
from emailerctl.core.shapes import error_shape
from emailerctl.errors import (
    EmailerError,
    Fault,
    IdempotencyKeyInvalid,
    Invalid,
    OutcomeUnknown,
    Overloaded,
)
from emailerctl.models.caller import Caller
from emailerctl.models.clock import Clock
from emailerctl.models.message import NewMessage, Receipt
from emailerctl.models.text import shorten
from emailerctl.store.base import IdTaken, NotAllAdded, Store

MOST_MESSAGES = 1_000
MOST_VALUES = 1_000_000  # of the JSON of one batch
_PER_COMMIT = 100  # more of them share hardly any more of a sync
_AT_ONCE = 16  # batches that wait for their turn in one process
_FIELDS = ("messages", "atomic")
_OWN_KEY = "idempotency_key"

Answer = Receipt | EmailerError


@dataclass(frozen=True, slots=True)
class Batch:
    """What one request asks for.

    Attributes:
        items: JSON values, each to be the fields of a message.
        is_atomic: all or nothing.
    """

    items: Sequence[object]
    is_atomic: bool


class _Read(NamedTuple):
    """A message of a batch, ready to be stored, and where it is in it."""

    place: int
    prepared: Prepared
    key: Key


def parse_batch(fields: Mapping[str, object]) -> Batch:
    """Read the body of `POST /v1/messages/batch`, but for the messages themselves.

    Raises:
        Invalid: with every fault.
    """
    faults = list(_find_faults(fields))
    if faults:
        raise Invalid(faults)
    items = fields["messages"]
    return Batch(items if isinstance(items, list) else (), fields.get("atomic") is True)


def _find_faults(fields: Mapping[str, object]) -> Iterator[Fault]:
    for name in fields:
        if name not in _FIELDS:
            near = get_close_matches(name.lower()[:40], _FIELDS, n=1)
            cure = f'did you mean "{near[0]}"?' if near else "a batch has messages and atomic"
            yield Fault(f"/{name[:64]}", f"is unknown; {cure}")
    items, is_atomic = fields.get("messages"), fields.get("atomic")
    if not isinstance(items, list):
        said = "is missing" if items is None else f"{shorten(items)} is not a list of messages"
        yield Fault("/messages", f"{said}; send 1 to {MOST_MESSAGES}")
    elif not 0 < len(items) <= MOST_MESSAGES:
        yield Fault("/messages", f"has {len(items)} messages; send 1 to {MOST_MESSAGES}")
    if is_atomic is not None and not isinstance(is_atomic, bool):
        yield Fault("/atomic", f"{shorten(is_atomic)} is neither true nor false")


class Batches:
    """What accepts batches, one at a time: a single message never waits for many of them."""

    def __init__(self, acceptance: Acceptance, store: Store, *, clock: Clock) -> None:
        """Take what accepts one message."""
        self._acceptance = acceptance
        self._store = store
        self._clock = clock
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def accept(
        self, batch: Batch, *, caller: Caller, key: str | None = None, keeps: bool = True
    ) -> list[Answer]:
        """Commit the messages of *batch*; return a receipt or an error for each, in order.

        Args:
            key: for all of them; else each may have its own `idempotency_key`.
            keeps: False: say what would come of it, and keep nothing.

        Raises:
            Invalid: none was accepted, or one could not be and all were to be; every fault.
            EmailerError: none was, for a reason that has nothing to do with what was sent.
        """
        if self._waiting >= _AT_ONCE:
            raise Overloaded("too many batches at once", retry_after_s=2)
        self._waiting += 1
        try:
            async with self._turn:
                self._acceptance.check_room()
                answers = await self._accept(batch, caller, key, keeps=keeps)
        finally:
            self._waiting -= 1
        _check_some(answers, is_atomic=batch.is_atomic)
        return answers

    async def _accept(
        self, batch: Batch, caller: Caller, key: str | None, *, keeps: bool
    ) -> list[Answer]:
        answers: dict[int, Answer] = {}
        left: Sequence[int] = range(len(batch.items))
        while left:
            reads = [
                read
                for place in left
                if (read := await self._read(batch, place, caller, key, answers)) is not None
            ]
            if batch.is_atomic and any(isinstance(a, EmailerError) for a in answers.values()):
                keeps = False  # to find the other faults as well
            left = await self._add(reads, answers, is_atomic=batch.is_atomic, keeps=keeps)
        return [answers[place] for place in range(len(batch.items))]

    async def _read(
        self,
        batch: Batch,
        place: int,
        caller: Caller,
        key: str | None,
        answers: dict[int, Answer],
    ) -> _Read | None:
        """Return the message at *place*, or note in *answers* what there is to say instead."""
        await asyncio.sleep(0)  # others have their turn between two messages
        item = batch.items[place]
        try:
            if not isinstance(item, Mapping):
                raise Invalid([Fault("", f"{shorten(item)} is not an object")])
            fields = {name: value for name, value in item.items() if name != _OWN_KEY}
            known = self._read_key(fields, item.get(_OWN_KEY), caller, key, place)
            now_ms = self._clock.now_ms()
            read = await self._acceptance.read(fields, caller, now_ms, known)
        except EmailerError as error:
            answers[place] = error
            return None
        if isinstance(read, Receipt):
            answers[place] = read
            return None
        return _Read(place, read, known)

    def _read_key(
        self,
        fields: Mapping[str, object],
        own: object,
        caller: Caller,
        key: str | None,
        place: int,
    ) -> Key:
        if own is None:
            return self._acceptance.read_key(fields, caller, key, place)
        if key is not None:
            detail = "is given together with the header Idempotency-Key; send one of them"
            raise Invalid([Fault(f"/{_OWN_KEY}", detail)])
        if not isinstance(own, str):
            raise IdempotencyKeyInvalid(f"the key {shorten(own)} is not text")
        return self._acceptance.read_key(fields, caller, own)

    async def _add(
        self,
        reads: Sequence[_Read],
        answers: dict[int, Answer],
        *,
        is_atomic: bool,
        keeps: bool,
    ) -> list[int]:
        """Store *reads* and note what came of it; return the places that must be read anew."""
        now_ms = self._clock.now_ms()
        messages = [read.prepared.message for read in reads]
        results: Sequence[Receipt | EmailerError | IdTaken]
        try:
            if keeps:
                results = await self._keep(messages, now_ms, is_atomic=is_atomic)
            else:
                results = [await self._rehearse(read, now_ms) for read in reads]
        except NotAllAdded as error:
            results = error.results
            if any(isinstance(result, IdTaken) for result in results):
                return [read.place for read in reads]
        again: list[int] = []
        for read, result in zip(reads, results, strict=True):
            if isinstance(result, IdTaken):
                again.append(read.place)
            else:
                answers[read.place] = self._complete(read, result)
        return again

    async def _keep(
        self, messages: Sequence[NewMessage], now_ms: int, *, is_atomic: bool
    ) -> list[Receipt | EmailerError | IdTaken]:
        """Store *messages*: at once where all or none is wanted, else a part at a time.

        While a commit runs nobody else writes, neither a single message nor a consumer with
        its mark: a long one would delay just those that this is not to delay (T-30).
        """
        size = len(messages) if is_atomic else _PER_COMMIT
        results: list[Receipt | EmailerError | IdTaken] = []
        for start in range(0, len(messages), max(size, 1)):
            part = messages[start : start + size]
            stored = await self._store.add_all(part, now_ms=now_ms, is_atomic=is_atomic)
            self._acceptance.announce(stored, part)
            results += stored
        return results

    async def _rehearse(self, read: _Read, now_ms: int) -> Answer:
        try:
            return await self._store.rehearse(read.prepared.message, now_ms=now_ms)
        except EmailerError as error:
            return error

    def _complete(self, read: _Read, result: Answer) -> Answer:
        if isinstance(result, OutcomeUnknown):
            return name_outcome(result, read.prepared.message)
        if isinstance(result, EmailerError):
            return result
        try:
            return self._acceptance.complete(result, read.prepared, read.key)
        except EmailerError as error:
            return error


def _check_some(answers: Sequence[Answer], *, is_atomic: bool) -> None:
    """Refuse the batch as a whole where nothing of it was accepted.

    Raises:
        EmailerError: what is wrong with none of them in particular, if that is all there is.
        Invalid: with every fault of every message.
    """
    refused = [answer for answer in answers if isinstance(answer, EmailerError)]
    if not refused or (not is_atomic and len(refused) < len(answers)):
        return
    data = [
        error_shape(answer)
        if isinstance(answer, EmailerError)
        else {"status": HTTPStatus.FAILED_DEPENDENCY.value, "code": "not_stored"}
        for answer in answers
    ]
    later = [error for error in refused if not _is_about_message(error)]
    error = (
        later[0]
        if later
        else Invalid(
            fault
            for place, answer in enumerate(answers)
            if isinstance(answer, EmailerError)
            for fault in _find_faults_of(place, answer)
        )
    )
    error.members = {**error.members, "data": data}
    raise error


def _is_about_message(error: EmailerError) -> bool:
    """Tell whether another message would fare better: not if the store or the token can't."""
    return error.status < HTTPStatus.INTERNAL_SERVER_ERROR and error.status not in (
        HTTPStatus.UNAUTHORIZED,
    )


def _find_faults_of(place: int, error: EmailerError) -> Iterable[Fault]:
    if isinstance(error, Invalid):
        return [Fault(f"/messages/{place}{f.pointer}", f.detail) for f in error.faults]
    return [Fault(f"/messages/{place}", error.detail)]
