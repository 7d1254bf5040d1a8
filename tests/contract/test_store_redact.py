"""Redaction: the person is gone from every table and page, and all that proves stays."""

import json
from pathlib import Path

from emailerctl.core import redact as redacting
from emailerctl.core.bulk import walk_messages
from emailerctl.models.clock import Clock
from emailerctl.models.lifecycle import Cause, State
from emailerctl.models.page import MessageFilter
from emailerctl.store.base import Deed, DeedFilter, NewReport, Verb
from tests.contract.test_store_acceptance import suppression
from tests.desk import Desk

ANN = "ann.unmistakable@example.org"
DEED = Deed("eve", "message.redact", "", "asked for it")


async def redact(desk: Desk, address: str = ANN) -> redacting.Redacted:
    clock: Clock = desk.clock
    ids = await redacting.find_messages(desk.store, address, now_ms=clock.now_ms())
    return await redacting.redact(
        desk.store, clock, ids, address, deed=DEED, show=lambda _done, _total: None
    )


def find_needle(path: Path, needle: str) -> list[str]:
    """Return the files of the store that still have it, whatever its case."""
    return [
        one.name
        for one in path.parent.glob(f"{path.name}*")
        if needle.lower().encode() in one.read_bytes().lower()
    ]


async def fill(desk: Desk) -> int:
    """Leave traces of ann wherever there can be some."""
    await desk.register()
    message_id = await desk.add(
        ANN.upper().replace("EXAMPLE.ORG", "example.org"), "bob@example.org",
        subject="Dear unmistakable", metadata={"user": ANN}, tags=("news",),
        raw=f"To: {ANN}\r\n\r\nDear unmistakable\r\n".encode() * 200,
    )  # fmt: skip
    await desk.store.index(limit=10)
    claim = await desk.start(message_id)
    await desk.settle(
        claim, {1: Cause.REFUSED, 2: Cause.HANDED_OVER}, marked=[1, 2],
        dialogue=f"> RCPT TO:<{ANN}>",
    )  # fmt: skip
    now_ms = desk.clock.now_ms()
    await desk.store.record(
        "complaint.reported", now_ms=now_ms, message_id=message_id, n=1,
        reply=f"<{ANN}> said no", data={"about": ANN},
    )  # fmt: skip
    report = NewReport("e1", "complaint", now_ms, recipient=ANN, reply=ANN, data={"who": ANN})
    await desk.store.take_reports(
        "relay", [report], raw=json.dumps({"who": ANN}).encode(), now_ms=now_ms
    )
    trace = Deed("eve", "suppression.remove", ANN, f"{ANN} called", data={"who": ANN})
    await desk.store.note_deed(trace, now_ms=now_ms)
    return message_id


async def test_nothing_is_left_of_the_person_and_every_invariant_holds(desk: Desk) -> None:
    """T-28; the rest of the file's pages too: what is deleted is overwritten."""
    message_id = await fill(desk)
    assert find_needle(desk.path, "unmistakable")

    done = await redact(desk)

    assert (done.done, done.left) == (1, [])
    await desk.store.driver.checkpoint()  # type: ignore[attr-defined]
    assert find_needle(desk.path, "unmistakable") == []
    assert await desk.audit() == []
    view = await desk.load(message_id)
    assert [r.address for r in view.recipients] == [
        "redacted-1@redacted.invalid",
        "bob@example.org",
    ]
    assert await desk.states(message_id) == [State.BOUNCED, State.SENT]
    assert (view.subject, dict(view.metadata), view.has_content) == ("", {}, False)
    assert view.tags == ("news",)  # documented: they stay
    assert [a.outcome for a in view.attempts] == ["accepted"]
    found = walk_messages(desk.store, MessageFilter(recipient=ANN), now_ms=0)
    assert [one async for one in found] == []
    found = walk_messages(desk.store, MessageFilter(recipient="bob@example.org"), now_ms=0)
    assert [one.message_id async for one in found] == [message_id]
    (deed, *_rest) = (await desk.store.list_deeds(_ALL, cursor=None, limit=9)).data
    assert (deed.deed.actor, deed.deed.reason) == ("eve", "asked for it")


async def test_what_may_still_be_sent_is_left_alone_and_named(desk: Desk) -> None:
    await desk.register()
    waiting, doubtful, done = [await desk.add(ANN) for _ in range(3)]
    await desk.deliver(doubtful, Cause.UNANSWERED)
    await desk.deliver(done)

    came = await redact(desk)

    assert (came.done, sorted(came.left)) == (1, sorted([waiting, doubtful]))
    assert (await desk.load(waiting)).has_content
    await desk.order(Verb.CANCEL, waiting)
    assert (await redact(desk)).left == [doubtful]


async def test_a_suppression_stays_and_strangers_are_untouched(desk: Desk) -> None:
    await desk.register()
    await desk.store.suppress(suppression(ANN))
    other = await desk.add("bob@example.org", subject="Hello bob")
    await desk.deliver(other)

    assert (await redact(desk)).done == 0

    assert await desk.store.find_suppressed([ANN], service="shop", now_ms=0) == {ANN}
    assert (await desk.load(other)).subject == "Hello bob"


async def test_the_key_of_a_redacted_message_still_sends_nothing_twice(desk: Desk) -> None:
    """P4: what was asked for is forgotten, that it was asked is not."""
    await desk.register()
    key, prints = b"k" * 16, b"f" * 16
    message_id = await desk.add(ANN, key_hash=key, fingerprint=prints)
    await desk.deliver(message_id)
    await redact(desk)

    again = await desk.receive(ANN, key_hash=key, fingerprint=prints)

    assert (again.message_id, again.is_replay, again.fingerprint) == (message_id, True, None)


_ALL = DeedFilter()
