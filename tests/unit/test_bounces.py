"""Mail that came back, against a real store: what is believed, of whom, and once."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emailerctl.core.bounces import Bounces, Received
from emailerctl.core.reporting import Reporting
from emailerctl.core.returned import Sort
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.lifecycle import Cause, State
from emailerctl.models.verp import Signer, build_return_path
from emailerctl.providers.base import ReportKind
from tests.desk import Desk
from tests.returned_mail import NAMES, fill

SIGNER = Signer(b"the store's key")
FORGER = Signer(b"another key")
BASE = "bounces@example.org"
HARD = ("postfix-failed", "exim-words", "exim-report", "m365-failed", "gmail-failed")
HARD += ("qmail-words", "sendmail-words")
SOFT = ("gmail-full", "sendmail-report")


def path_of(
    message_id: int, n: int | None = 1, attempt: int = 1, signer: Signer = SIGNER
) -> str:
    return build_return_path(BASE, signer.sign(message_id, n=n, attempt=attempt))


def header_of(message_id: int, domain: str = "example.com") -> str:
    return f"{to_public(MESSAGE, message_id)}@{domain}"


async def send(desk: Desk, *addresses: str, **fields: Any) -> int:
    """Have a message handed over."""
    await desk.register()
    message_id = await desk.add(*addresses, **fields)
    claim = await desk.start(message_id)
    await desk.settle(claim, Cause.HANDED_OVER)
    return message_id


async def take(desk: Desk, raw: bytes, **fields: Any) -> Received:
    bounces = Bounces(desk.store, Reporting(desk.store), SIGNER)
    return await bounces.take(raw, now_ms=desk.clock.now_ms(), **fields)


async def states(desk: Desk, message_id: int) -> list[State]:
    view = await desk.store.find_message(message_id)
    assert view is not None
    return [recipient.state for recipient in view.recipients]


async def suppressed(desk: Desk) -> list[tuple[str, str]]:
    page = await desk.store.list_suppressions(service=None, address="", cursor=None, limit=200)
    return [(one.address, one.reason) for one in page.data]


@pytest.mark.parametrize("name", [*HARD, *SOFT])
async def test_a_signed_bounce_bounces_and_a_hard_one_suppresses(desk: Desk, name: str) -> None:
    message_id = await send(desk)

    received = await take(desk, fill(name, path=path_of(message_id)))

    assert received.public_id == to_public(MESSAGE, message_id)
    assert await states(desk, message_id) == [State.BOUNCED]
    assert await suppressed(desk) == ([("ann@example.org", "bounce")] if name in HARD else [])


@pytest.mark.parametrize("name", [*HARD, *SOFT])
async def test_the_message_id_is_evidence_for_whom_it_was_sent_to(
    desk: Desk, name: str
) -> None:
    message_id = await send(desk)

    await take(desk, fill(name, message_id=header_of(message_id)))

    assert await states(desk, message_id) == [State.BOUNCED]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "postfix-two"])
async def test_what_was_never_sent_changes_nothing(desk: Desk, name: str) -> None:
    """T-22: backscatter and forgeries are kept, and that is all."""
    message_id = await send(desk)

    forged = await take(desk, fill(name, path=path_of(message_id, signer=FORGER)))
    foreign = await take(desk, fill(name, message_id="x@example.net"))

    has_path = name != "comcast-complaint"
    assert forged.is_forged == (has_path and forged.sort in {Sort.BOUNCE, Sort.COMPLAINT})
    assert not foreign.is_forged
    for received in (forged, foreign):
        assert received.public_id == ""
        assert {report.kind for report in received.reports} <= {ReportKind.UNKNOWN}
    assert await states(desk, message_id) == [State.SENT]
    assert await suppressed(desk) == []


async def test_a_message_id_proves_nothing_about_others(desk: Desk) -> None:
    """T-22: who has got one message can't suppress those who have not."""
    message_id = await send(desk, "eve@example.org")

    await take(
        desk, fill("postfix-failed", message_id=header_of(message_id), to="ann@example.org")
    )
    await take(desk, fill("postfix-failed", message_id=header_of(message_id, "evil.example")))
    await take(desk, fill("postfix-failed", message_id="msg_" + "Z" * 13 + "@example.com"))
    await take(desk, fill("postfix-failed", message_id="msg_" + "0" * 200 + "@example.com"))

    assert await states(desk, message_id) == [State.SENT]
    assert await suppressed(desk) == []


async def test_a_bounce_of_nobody_needs_a_signature(desk: Desk) -> None:
    """T-22: with the Message-ID alone it has to name whom it was sent to."""
    message_id = await send(desk)
    raw = fill("postfix-failed", message_id=header_of(message_id))
    nobody = b"\r\n".join(
        line
        for line in raw.split(b"\r\n")
        if not line.startswith((b"Final-Recipient", b"Original-Recipient"))
    )

    await take(desk, nobody)
    assert await states(desk, message_id) == [State.SENT]

    await take(desk, nobody.replace(b"bounces@example.org", path_of(message_id).encode()))
    assert await states(desk, message_id) == [State.BOUNCED]


async def test_a_signed_id_speaks_for_its_own_recipient_alone(desk: Desk) -> None:
    """T-22: whoever has a return path of ours can at most suppress himself."""
    message_id = await send(desk, "eve@example.org", "ann@example.org")

    await take(
        desk, fill("postfix-failed", path=path_of(message_id, n=1), to="ann@example.org")
    )

    assert await states(desk, message_id) == [State.BOUNCED, State.SENT]
    assert await suppressed(desk) == [("eve@example.org", "bounce")]


async def test_without_a_number_the_bounce_says_who(desk: Desk) -> None:
    message_id = await send(desk, "ann@example.org", "bob@example.org", "eve@example.org")

    await take(
        desk, fill("postfix-two", path=path_of(message_id, n=None), to="ANN@EXAMPLE.ORG")
    )

    assert await states(desk, message_id) == [State.BOUNCED, State.BOUNCED, State.SENT]
    assert await suppressed(desk) == [("ann@example.org", "bounce")]


async def test_a_forwarded_copy_bounces_for_who_forwarded_it(desk: Desk) -> None:
    """Under the one address it went to; several, of whom one is gone, don't end it."""
    message_id = await send(desk, "team@example.org")

    await take(desk, fill("postfix-two", path=path_of(message_id), to="ann@example.org"))
    assert await states(desk, message_id) == [State.BOUNCED]
    assert await suppressed(desk) == []

    await take(desk, fill("postfix-failed", path=path_of(message_id, n=None)))
    assert await suppressed(desk) == [("team@example.org", "bounce")]


async def test_the_pipe_may_know_whom_it_came_to(desk: Desk) -> None:
    message_id = await send(desk)

    await take(desk, fill("postfix-failed"), delivered_to=path_of(message_id).upper())

    assert await states(desk, message_id) == [State.BOUNCED]


async def test_the_envelope_id_is_as_good_as_a_return_path(desk: Desk) -> None:
    message_id = await send(desk)
    signed = SIGNER.sign(message_id, n=1, attempt=1)

    await take(desk, fill("postfix-failed", envelope_id=signed))

    assert await states(desk, message_id) == [State.BOUNCED]


async def test_each_is_told_once(desk: Desk) -> None:
    """By whatever way it comes again: another trace header is no other bounce."""
    message_id = await send(desk)
    raw = fill("postfix-failed", path=path_of(message_id))
    again = raw.replace(b"Delivered-To:", b"Received: by mailbox.example.net\r\nDelivered-To:")

    first, second, third = [await take(desk, one) for one in (raw, raw, again)]

    assert (first.repeated, second.repeated, third.repeated) == (0, 1, 1)
    events = [event.type for event in await desk.events(message_id)]
    assert events.count("recipient.bounce_reported") == 1


async def test_a_bounce_of_an_earlier_attempt_stops_nothing(desk: Desk) -> None:
    """Negative evidence steps only for the newest marked attempt (delivery.md §2)."""
    await desk.register()
    message_id = await desk.add()
    for _ in range(2):
        claim = await desk.start(message_id)
        await desk.settle(claim, Cause.DEFERRED)
        desk.clock.advance(m=10)
    claim = await desk.start(message_id)
    await desk.settle(claim, Cause.HANDED_OVER)

    await take(desk, fill("gmail-full", path=path_of(message_id, attempt=1)))

    assert await states(desk, message_id) == [State.SENT]


@pytest.mark.parametrize(
    ("name", "state", "event"),
    [
        ("postfix-delivered", State.DELIVERED, "recipient.delivery_reported"),
        ("postfix-relayed", State.SENT, None),
        ("postfix-delayed", State.SENT, "delay.reported"),
        ("exim-delayed", State.SENT, "delay.reported"),
    ],
)
async def test_what_is_no_failure(
    desk: Desk, name: str, state: State, event: str | None
) -> None:
    message_id = await send(desk)

    await take(desk, fill(name, path=path_of(message_id)))

    assert await states(desk, message_id) == [state]
    types = [one.type for one in await desk.events(message_id)]
    assert types[-1] == (event or "recipient.handed_over")


async def test_a_report_ends_a_doubt(desk: Desk) -> None:
    """F-WI-02, delivery.md §4: who relays it has it."""
    await desk.register()
    message_id = await desk.add()
    await desk.settle(await desk.start(message_id), Cause.UNANSWERED)

    await take(desk, fill("postfix-relayed", path=path_of(message_id)))

    assert await states(desk, message_id) == [State.SENT]


@pytest.mark.parametrize("name", ["yahoo-complaint", "comcast-complaint", "fraud-complaint"])
async def test_a_complaint_keeps_lists_back(desk: Desk, name: str) -> None:
    """Also where the reporter keeps back who complains: the message had one recipient."""
    message_id = await send(desk)

    await take(desk, fill(name, message_id=header_of(message_id)))

    assert await states(desk, message_id) == [State.SENT]
    assert await suppressed(desk) == [("ann@example.org", "complaint")]


async def test_a_complaint_about_one_of_several_needs_a_name(desk: Desk) -> None:
    message_id = await send(desk, "ann@example.org", "bob@example.org")

    await take(desk, fill("comcast-complaint", message_id=header_of(message_id)))
    assert await suppressed(desk) == []

    await take(desk, fill("yahoo-complaint", message_id=header_of(message_id)))
    assert await suppressed(desk) == [("ann@example.org", "complaint")]


@pytest.mark.parametrize("name", ["not-spam", "vacation", "exchange-away", "receipt", "person"])
async def test_what_is_neither_bounce_nor_complaint_changes_nothing(
    desk: Desk, name: str
) -> None:
    message_id = await send(desk)

    await take(desk, fill(name, path=path_of(message_id), message_id=header_of(message_id)))

    assert await states(desk, message_id) == [State.SENT]
    assert await suppressed(desk) == []


async def test_a_message_that_retention_took_is_nobody_s(desk: Desk) -> None:
    received = await take(desk, fill("postfix-failed", path=path_of(4711)))

    assert (received.public_id, received.is_forged) == ("", False)
    assert [report.recipient for report in received.reports] == ["ann@example.org"]
    assert await suppressed(desk) == []


async def test_a_bounce_that_says_nothing_is_kept(desk: Desk) -> None:
    received = await take(desk, b"From: MAILER-DAEMON\r\n\r\nSomething went wrong.\r\n")

    assert (received.sort, received.reports) == (Sort.BOUNCE, ())
    kept = desk.rows("SELECT raw, fault FROM report_calls")
    assert [row[0] for row in kept] == [b"From: MAILER-DAEMON\r\n\r\nSomething went wrong.\r\n"]
    assert "says of nobody" in kept[0][1]


@given(st.binary(max_size=300), st.sampled_from(NAMES), st.integers(0, 1500))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_no_bytes_make_it_fail(desk: Desk, noise: bytes, name: str, at: int) -> None:
    raw = fill(name)

    await take(desk, raw[:at] + noise + raw[at:])
