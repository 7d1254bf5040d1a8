"""Every F-SM row of delivery.md §7, against a real server with a ground-truth journal.

What matters in each: the outcome never says "not accepted" of a copy that the journal has, nor
"accepted" of one that it has not; where the protocol makes it unknowable it says UNKNOWN.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from emailerctl.models.outcome import Alarm, Kind, Party, Phase
from emailerctl.providers.base import DOT_WITHIN_MS, MarkRefused
from tests.contract.smtp_client import (
    RAW,
    SHA256,
    Marker,
    MovableClock,
    build_next_hop,
    build_outgoing,
    has_said,
    send,
    send_one,
    until,
)
from tests.smtpd.fixture import ROOT, SmtpServer

Start = Callable[..., SmtpServer]


async def test_a_message_arrives_as_it_is(start_smtpd: Start) -> None:
    """Byte for byte, dots and all; the mark is asked for once, with everybody accepted."""
    server = start_smtpd()
    hop = build_next_hop(server)
    mark = Marker()

    sending = await send(hop, "ann", "bob", mark=mark)
    await hop.close()

    assert [o.kind for o in sending.outcomes.values()] == [Kind.ACCEPTED] * 2
    assert mark.asked == [[0, 1]]
    assert [(c["recipient"], c["sha256"], c["sender"]) for c in server.journal()] == [
        ("ann@example.org", SHA256, "bounces@example.org"),
        ("bob@example.org", SHA256, "bounces@example.org"),
    ]
    assert server.journal()[0]["message_id"] == "<1@example.org>"


async def test_the_dot_waits_for_the_mark_and_the_body_does_not(start_smtpd: Start) -> None:
    server = start_smtpd()
    hop = build_next_hop(server)
    seen = []

    async def look() -> None:
        await until(lambda: has_said(server, "354"), "the content to be asked for")
        seen.append((server.copies("ann@example.org"), has_said(server, "and the dot")))

    await send(hop, "ann", mark=Marker(meanwhile=look))
    await hop.close()

    assert seen == [(0, False)]
    assert server.copies("ann@example.org") == 1


@pytest.mark.parametrize("option", ["", "--no-pipelining"])
async def test_an_envelope_is_pipelined_if_announced(start_smtpd: Start, option: str) -> None:
    server = start_smtpd(*filter(None, [option]))
    hop = build_next_hop(server)

    sending = await send(hop, "ann", "bob")
    await hop.close()

    assert [o.kind for o in sending.outcomes.values()] == [Kind.ACCEPTED] * 2
    directions = "".join(line.split(" ")[1] for line in server.transcript())
    together = ">>>><<<<"  # MAIL RCPT RCPT DATA, then their replies
    assert (together in directions) == (option == "")


# F-SM-01


@pytest.mark.parametrize(
    ("options", "phase"),
    [
        (["--refuse"], Phase.CONNECT),
        (["--drop-on-connect"], Phase.CONNECT),
        (["--no-banner"], Phase.CONNECT),
        (["--banner", "451 4.3.0 not now"], Phase.CONNECT),
        (["--banner", "554 5.7.1 not you"], Phase.CONNECT),
        (["--banner", "421 4.3.2 closing"], Phase.CONNECT),
        (["--banner", "hello there"], Phase.CONNECT),
        (["--ehlo", "421"], Phase.CONNECT),
        (["--ehlo", "451"], Phase.CONNECT),
        (["--max-messages", "0"], Phase.ENVELOPE),
    ],
    ids=" ".join,
)
async def test_f_sm_01_a_server_that_is_not_ready(
    start_smtpd: Start, options: list[str], phase: Phase
) -> None:
    server = start_smtpd(*options)
    mark = Marker()

    outcome = await send_one(server, "ann", mark=mark, greeting_timeout="400ms")

    assert (outcome.kind, outcome.party, outcome.phase) == (
        Kind.TRANSIENT,
        Party.NEXT_HOP,
        phase,
    )
    assert outcome.reply
    assert mark.asked == []
    assert server.journal() == []


@pytest.mark.parametrize("option", ["", "--no-pipelining"])
@pytest.mark.parametrize(
    "recipient", ["rcpt-421", "data-421", "early-421", "drop-at-rcpt", "drop-at-data"]
)
async def test_f_sm_01_a_421_or_a_loss_anywhere(
    start_smtpd: Start, recipient: str, option: str
) -> None:
    server = start_smtpd(*filter(None, [option]))

    outcome = await send_one(server, recipient, mark=wait_for_the_end(server))

    assert (outcome.kind, outcome.party) == (Kind.TRANSIENT, Party.NEXT_HOP)
    assert server.journal() == []


async def test_f_sm_01_a_421_to_mail(start_smtpd: Start) -> None:
    server = start_smtpd()
    hop = build_next_hop(server)

    sending = await send(hop, "ann", envelope_sender="mail-421@example.org")
    await hop.close()

    assert (sending.outcomes[0].kind, sending.outcomes[0].party) == (
        Kind.TRANSIENT,
        Party.NEXT_HOP,
    )
    assert sending.outcomes[0].code == 421


async def test_f_sm_01_an_unsolicited_421_after_auth(start_smtpd: Start) -> None:
    server = start_smtpd("--auth", "ann:secret", "--quit-after-auth")

    outcome = await send_one(server, "ann", username="ann", password="secret")

    assert (outcome.kind, outcome.party) == (Kind.TRANSIENT, Party.NEXT_HOP)
    assert outcome.alarm is None
    assert server.journal() == []


async def test_f_sm_01_one_that_can_not_be_found() -> None:
    hop = build_next_hop(25, host="no-such-host.invalid")

    sending = await send(hop, "ann")

    assert sending.outcomes[0].kind is Kind.TRANSIENT
    assert "can't find the host" in sending.outcomes[0].reply


async def test_a_server_without_ehlo_is_greeted_with_helo(start_smtpd: Start) -> None:
    server = start_smtpd("--helo-only")

    outcome = await send_one(server, "ann")

    assert outcome.kind is Kind.ACCEPTED
    assert server.copies("ann@example.org") == 1


# F-SM-06, F-SM-07


@pytest.mark.parametrize("option", ["", "--no-pipelining"])
async def test_f_sm_06_each_recipient_has_its_own_outcome(
    start_smtpd: Start, option: str
) -> None:
    server = start_smtpd(*filter(None, [option]))
    hop = build_next_hop(server)
    mark = Marker()

    sending = await send(hop, "tempfail", "ann", "permfail", "rcpt-251", "rcpt-552", mark=mark)
    await hop.close()

    assert {n: o.kind for n, o in sending.outcomes.items()} == {
        0: Kind.TRANSIENT,
        1: Kind.ACCEPTED,
        2: Kind.PERMANENT,
        3: Kind.ACCEPTED,
        4: Kind.TRANSIENT,
    }
    assert sending.outcomes[0].party is Party.RECIPIENT
    assert sending.outcomes[0].retry_after_ms == 7000
    assert (sending.outcomes[2].enhanced_status, sending.outcomes[2].code) == ("5.1.1", 550)
    assert mark.asked == [[1, 3]]
    assert [c["recipient"] for c in server.journal()] == [
        "ann@example.org",
        "rcpt-251@example.org",
    ]


@pytest.mark.parametrize("option", ["", "--no-pipelining"])
@pytest.mark.parametrize(
    ("code", "kind"), [(451, Kind.TRANSIENT), (552, Kind.PERMANENT), (354, Kind.TRANSIENT)]
)
async def test_f_sm_06_mail_refused(
    start_smtpd: Start, option: str, code: int, kind: Kind
) -> None:
    server = start_smtpd(*filter(None, [option]))
    hop = build_next_hop(server)
    mark = Marker()

    sending = await send(
        hop, "ann", "bob", mark=mark, envelope_sender=f"mail-{code}@example.org"
    )
    again = await send(hop, "ann")
    await hop.close()

    assert [o.kind for o in sending.outcomes.values()] == [kind, kind]
    assert mark.asked == []
    assert again.outcomes[0].kind is Kind.ACCEPTED, "the next message is not affected"
    assert server.copies("ann@example.org") == 1


@pytest.mark.parametrize("option", ["", "--no-pipelining"])
async def test_f_sm_06_a_connection_is_reset_after_a_refusal(
    start_smtpd: Start, option: str
) -> None:
    server = start_smtpd(*filter(None, [option]))
    hop = build_next_hop(server)

    refused = await send(hop, "permfail")
    data = await send(hop, "data-451")
    again = await send(hop, "ann")
    await hop.close()

    assert refused.outcomes[0].kind is Kind.PERMANENT
    assert (data.outcomes[0].kind, data.outcomes[0].party) == (Kind.TRANSIENT, Party.MESSAGE)
    assert again.outcomes[0].kind is Kind.ACCEPTED
    assert {c["connection"] for c in server.journal()} == {1}


async def test_f_sm_07_all_refused_and_yet_354(start_smtpd: Start) -> None:
    server = start_smtpd()
    hop = build_next_hop(server)
    mark = Marker()

    sending = await send(hop, "refused-354", "permfail", mark=mark)
    await until(lambda: has_said(server, "1 - lost"), "the connection to be closed")
    await hop.close()

    assert [o.kind for o in sending.outcomes.values()] == [Kind.PERMANENT] * 2
    assert mark.asked == []
    assert not has_said(server, "and the dot")


async def test_greylisting_ends(start_smtpd: Start) -> None:
    server = start_smtpd()
    hop = build_next_hop(server)

    first = await send(hop, "tempfail-once")
    second = await send(hop, "tempfail-once")
    await hop.close()

    assert first.outcomes[0].kind is Kind.TRANSIENT
    assert second.outcomes[0].kind is Kind.ACCEPTED
    assert server.copies("tempfail-once@example.org") == 1


# F-SM-08


def wait_for_the_end(server: SmtpServer) -> Marker:
    """Grant the mark only once the server has said its early word, or closed."""

    async def look() -> None:
        await until(
            lambda: has_said(server, "stop it") or has_said(server, "- lost"),
            "the early reply",
        )

    return Marker(meanwhile=look)


@pytest.mark.parametrize(
    ("recipient", "kind", "party"),
    [
        ("early-452", Kind.TRANSIENT, Party.MESSAGE),
        ("early-552", Kind.PERMANENT, Party.MESSAGE),
        ("early-421", Kind.TRANSIENT, Party.NEXT_HOP),
        ("early-250", Kind.TRANSIENT, Party.NEXT_HOP),
        ("drop-in-body", Kind.TRANSIENT, Party.NEXT_HOP),
    ],
)
async def test_f_sm_08_an_early_reply_is_read_before_the_dot(
    start_smtpd: Start, recipient: str, kind: Kind, party: Party
) -> None:
    server = start_smtpd()

    outcome = await send_one(server, recipient, mark=wait_for_the_end(server))

    assert (outcome.kind, outcome.party) == (kind, party)
    await until(lambda: has_said(server, "- lost"), "the connection to be closed")
    assert not has_said(server, "and the dot")
    assert server.journal() == []


async def test_f_sm_08_an_early_reply_that_only_the_kernel_has(start_smtpd: Start) -> None:
    """It arrives while the event loop is not looking: read after the mark all the same."""
    server = start_smtpd()

    async def block_the_loop() -> None:
        deadline = time.monotonic() + 5
        while not has_said(server, "stop it") and time.monotonic() < deadline:
            os.sched_yield()

    outcome = await send_one(server, "early-552", mark=Marker(meanwhile=block_the_loop))

    assert (outcome.kind, outcome.code) == (Kind.PERMANENT, 552)
    assert not has_said(server, "and the dot")


async def test_f_sm_08_a_large_body_stops_at_an_early_reply(start_smtpd: Start) -> None:
    server = start_smtpd()
    hop = build_next_hop(server)
    mark = Marker()

    sending = await send(hop, "early-552", mark=mark, raw=RAW + b"x" * 70 * 1024 * 400)
    await hop.close()

    assert sending.outcomes[0].kind is Kind.PERMANENT
    assert mark.asked == []


# F-SM-09 to F-SM-13: after the dot


@pytest.mark.parametrize("accepted", ["", "-accepted"])
@pytest.mark.parametrize(
    "recipient",
    [
        "drop-after-dot",  # F-SM-09
        "reset-after-dot",  # F-SM-09
        "silent-after-dot",  # F-SM-10
        "garbage-after-dot",  # F-SM-13
        "mixed-after-dot",  # F-SM-13
        "endless-after-dot",  # F-SM-13
        "half-reply",  # F-SM-13
        "half-multiline",  # F-SM-13
    ],
)
async def test_f_sm_09_f_sm_10_f_sm_13_no_answer_to_the_dot_is_unknown(
    start_smtpd: Start, recipient: str, accepted: str
) -> None:
    """The two worlds look the same from here: that is why it is called unknown."""
    server = start_smtpd()

    outcome = await send_one(server, recipient + accepted, final_reply="300ms")

    assert (outcome.kind, outcome.party, outcome.phase) == (
        Kind.UNKNOWN,
        Party.NEXT_HOP,
        Phase.ANSWER,
    )
    assert outcome.code is None
    assert len(server.journal()) == (1 if accepted else 0)
    await until(lambda: has_said(server, "- lost"), "the connection to be closed")


async def test_f_sm_10_the_final_reply_is_waited_for(start_smtpd: Start) -> None:
    server = start_smtpd()

    late = await send_one(server, "late-0.3", final_reply="5s")
    too_late = await send_one(server, "late-5", final_reply="300ms")

    assert late.kind is Kind.ACCEPTED
    assert too_late.kind is Kind.UNKNOWN
    assert "no reply to the dot within 0.3 s" in too_late.reply
    assert server.copies("late-5@example.org") == 1


@pytest.mark.parametrize("code", [250, 251, 252, 222, 299])
async def test_f_sm_11_any_2yz_is_accepted(start_smtpd: Start, code: int) -> None:
    server = start_smtpd()

    outcome = await send_one(server, f"dot-{code}")

    assert (outcome.kind, outcome.code) == (Kind.ACCEPTED, code)
    assert server.copies(f"dot-{code}@example.org") == 1


async def test_f_sm_11_a_reply_of_several_lines(start_smtpd: Start) -> None:
    outcome = await send_one(start_smtpd(), "multiline")

    assert outcome.kind is Kind.ACCEPTED
    assert outcome.reply == "250 2.0.0 accepted 2.0.0 and 2.0.0 queued as 4711"


@pytest.mark.parametrize(
    ("recipient", "kind", "party"),
    [
        ("dot-451", Kind.TRANSIENT, Party.MESSAGE),
        ("dot-554", Kind.PERMANENT, Party.RECIPIENT),
        ("dot-421", Kind.TRANSIENT, Party.NEXT_HOP),
        ("late-0.1-451", Kind.TRANSIENT, Party.MESSAGE),
        ("dot-354", Kind.UNKNOWN, Party.NEXT_HOP),
    ],
)
async def test_f_sm_12_a_refusal_after_the_dot(
    start_smtpd: Start, recipient: str, kind: Kind, party: Party
) -> None:
    server = start_smtpd()

    outcome = await send_one(server, recipient)

    assert (outcome.kind, outcome.party) == (kind, party)
    assert server.journal() == []


async def test_f_sm_12_the_connection_goes_on_after_a_refusal(start_smtpd: Start) -> None:
    server = start_smtpd()
    hop = build_next_hop(server)

    await send(hop, "dot-554")
    sending = await send(hop, "ann")
    await hop.close()

    assert sending.outcomes[0].kind is Kind.ACCEPTED
    assert server.journal()[0]["connection"] == 1


async def test_f_sm_13_endless_replies_to_a_command_are_bounded(start_smtpd: Start) -> None:
    outcome = await send_one(start_smtpd(), "endless-rcpt")

    assert (outcome.kind, outcome.party) == (Kind.TRANSIENT, Party.NEXT_HOP)
    assert len(outcome.reply) < 200


# F-SM-14


@pytest.mark.parametrize("recipient", ["tarpit-0.5", "late-0.5"])
async def test_f_sm_14_a_connection_is_not_used_after_a_time_out(
    start_smtpd: Start, recipient: str
) -> None:
    """The late reply to the first message must not count for the second one."""
    server = start_smtpd()
    hop = build_next_hop(server, pool=1, rcpt_timeout="200ms", final_reply="200ms")

    first = await send(hop, recipient)
    second = await send(hop, "dot-554")
    await hop.close()

    assert first.outcomes[0].kind is not Kind.ACCEPTED
    assert second.outcomes[0].kind is Kind.PERMANENT
    assert has_said(server, "2 > MAIL"), "the second message has its own connection"


@pytest.mark.parametrize("recipient", ["stray", "stray-0.1"])
async def test_f_sm_14_a_stray_reply_ends_a_connection(
    start_smtpd: Start, recipient: str
) -> None:
    """A second 250 to one message must not count for the next one."""
    server = start_smtpd()
    hop = build_next_hop(server, pool=1)

    first = await send(hop, recipient)
    await until(lambda: has_said(server, "2.0.0 stray"), "the stray reply")
    second = await send(hop, "dot-554")
    await hop.close()

    assert first.outcomes[0].kind is Kind.ACCEPTED
    assert second.outcomes[0].kind is Kind.PERMANENT
    assert has_said(server, "2 > MAIL")


# F-SM-17


@pytest.mark.parametrize(
    ("options", "fields", "status"),
    [
        (["--size", "100"], {}, "5.3.4"),
        (["--no-smtputf8"], {"needs_smtputf8": True}, "5.6.7"),
        (["--no-8bitmime"], {"raw": "ü\r\n".encode()}, "5.6.3"),
    ],
)
async def test_f_sm_17_what_is_not_announced_is_refused_unsaid(
    start_smtpd: Start, options: list[str], fields: dict[str, object], status: str
) -> None:
    server = start_smtpd(*options)
    hop = build_next_hop(server)

    sending = await send(hop, "ann", **fields)
    again = await send(hop, "ann", raw=b"a\r\n")
    await hop.close()

    assert sending.outcomes[0].kind is Kind.PERMANENT
    assert sending.outcomes[0].enhanced_status == status
    assert again.outcomes[0].kind is Kind.ACCEPTED
    assert len(server.journal()) == 1


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        (["--real-size", "100"], {}),
        (["--lie-smtputf8"], {"needs_smtputf8": True}),
        (["--lie-8bitmime"], {"raw": "ü\r\n".encode()}),
    ],
)
async def test_f_sm_17_a_lie_ends_in_a_definite_refusal(
    start_smtpd: Start, options: list[str], fields: dict[str, object]
) -> None:
    server = start_smtpd(*options)
    hop = build_next_hop(server)

    sending = await send(hop, "ann", **fields)
    await hop.close()

    assert (sending.outcomes[0].kind, sending.outcomes[0].party) == (
        Kind.PERMANENT,
        Party.MESSAGE,
    )
    assert server.journal() == []


async def test_f_sm_17_a_lie_about_size_that_shows_after_the_dot(start_smtpd: Start) -> None:
    server = start_smtpd("--size", "-1", "--real-size", "100")

    outcome = await send_one(server, "ann")

    assert (outcome.kind, outcome.phase, outcome.code) == (Kind.PERMANENT, Phase.ANSWER, 552)


async def test_utf8_travels_where_it_may(start_smtpd: Start) -> None:
    server = start_smtpd()
    hop = build_next_hop(server)

    sending = await send(
        hop, "käthe@example.org", raw="Subject: ü\r\n\r\nü\r\n".encode(), needs_smtputf8=True
    )
    await hop.close()

    assert sending.outcomes[0].kind is Kind.ACCEPTED
    assert server.copies("käthe@example.org") == 1
    assert has_said(server, "BODY=8BITMIME SMTPUTF8")


# F-SM-18


@pytest.mark.parametrize(
    ("options", "recipient"),
    [
        ([], "close-idle"),
        ([], "close-idle-421"),
        (["--idle-close", "0.05"], "ann"),
        (["--idle-close", "0.05", "--idle-421"], "ann"),
    ],
)
async def test_f_sm_18_a_dead_kept_connection_costs_nothing(
    start_smtpd: Start, options: list[str], recipient: str
) -> None:
    server = start_smtpd(*options)
    hop = build_next_hop(server, pool=1)

    first = await send(hop, recipient)
    await until(lambda: has_said(server, "1 - lost"), "the server to close")
    second = await send(hop, "bob")
    await hop.close()

    assert first.outcomes[0].kind is Kind.ACCEPTED
    assert second.outcomes[0].kind is Kind.ACCEPTED
    assert server.copies("bob@example.org") == 1


async def test_f_sm_18_a_connection_that_dies_as_it_is_used(start_smtpd: Start) -> None:
    """The server counts messages: the MAIL that it answers with 421 is said again elsewhere."""
    server = start_smtpd("--max-messages", "1")
    hop = build_next_hop(server, pool=1)
    marks = [Marker() for _ in range(4)]

    sendings = [await send(hop, "ann", mark=mark) for mark in marks]
    await hop.close()

    assert {s.outcomes[0].kind for s in sendings} == {Kind.ACCEPTED}
    assert [mark.asked for mark in marks] == [[[0]]] * 4
    assert [c["connection"] for c in server.journal()] == [1, 2, 3, 4]
    assert "the kept connection was dead" in sendings[1].dialogue


async def test_f_sm_18_the_server_was_restarted(start_smtpd: Start) -> None:
    server = start_smtpd()
    hop = build_next_hop(server, pool=1)
    await send(hop, "ann")
    server.kill()

    down = await send(hop, "bob")
    server.restart()
    up = await send(hop, "bob")
    await hop.close()

    assert (down.outcomes[0].kind, down.outcomes[0].phase) == (Kind.TRANSIENT, Phase.CONNECT)
    assert up.outcomes[0].kind is Kind.ACCEPTED
    assert server.copies("bob@example.org") == 1


async def test_f_sm_18_a_kept_connection_that_is_silent_is_not_charged(
    start_smtpd: Start,
) -> None:
    server = start_smtpd()
    hop = build_next_hop(server, pool=1, mail_timeout="200ms")
    await send(hop, "ann")
    server.pause()

    outcome = (await send(hop, "ann")).outcomes[0]
    server.resume()
    await hop.close()

    assert (outcome.kind, outcome.is_charged) == (Kind.TRANSIENT, False)


# F-CL-04, F-CL-06, F-CL-09 and the mark


async def test_the_mark_refused_writes_no_dot(start_smtpd: Start) -> None:
    server = start_smtpd()
    hop = build_next_hop(server)

    with pytest.raises(MarkRefused):
        await send(hop, "ann", mark=Marker(grants=False))
    await until(lambda: has_said(server, "1 - lost"), "the connection to be closed")
    again = await send(hop, "ann")
    await hop.close()

    assert again.outcomes[0].kind is Kind.ACCEPTED
    assert server.copies("ann@example.org") == 1


async def test_a_mark_that_fails_writes_no_dot(start_smtpd: Start) -> None:
    server = start_smtpd()
    hop = build_next_hop(server, pool=1)

    async def fail() -> None:
        raise RuntimeError("the store is gone")

    with pytest.raises(RuntimeError, match="the store is gone"):
        await send(hop, "ann", mark=Marker(meanwhile=fail))
    again = await send(hop, "ann")
    await hop.close()

    assert again.outcomes[0].kind is Kind.ACCEPTED, "its place in the pool is free again"
    assert server.copies("ann@example.org") == 1


async def test_f_cl_09_a_late_dot_is_not_written(start_smtpd: Start) -> None:
    """Stopped between mark and dot: it wakes and writes nothing."""
    server = start_smtpd()
    clock = MovableClock()
    hop = build_next_hop(server, clock=clock)

    async def sleep_for_hours() -> None:
        clock.moved_ms += DOT_WITHIN_MS + 1

    sending = await send(hop, "ann", mark=Marker(meanwhile=sleep_for_hours))
    await hop.close()
    await until(lambda: has_said(server, "1 - lost"), "the connection to be closed")

    outcome = sending.outcomes[0]
    assert (outcome.kind, outcome.phase) == (Kind.TRANSIENT, Phase.CONTENT)
    assert not outcome.is_charged
    assert not has_said(server, "and the dot")
    assert server.journal() == []


async def test_the_deadline_passes_before_the_mark(start_smtpd: Start) -> None:
    server = start_smtpd()
    clock = MovableClock()
    hop = build_next_hop(server, clock=clock)
    mark = Marker()

    connecting = await send(hop, "tarpit-0.5", mark=mark, within_ms=200)
    waiting = await send(hop, "ann", mark=mark, deadline_boot_ms=clock.boot_ms() - 1)
    await hop.close()

    for outcome in (connecting.outcomes[0], waiting.outcomes[0]):
        assert (outcome.kind, outcome.party) == (Kind.TRANSIENT, Party.NEXT_HOP)
    assert mark.asked == []
    assert server.journal() == []


@pytest.mark.parametrize(
    ("recipient", "copies"), [("silent-after-dot", 0), ("silent-after-dot-accepted", 1)]
)
async def test_f_cl_06_cancelled_after_the_dot_is_unknown(
    start_smtpd: Start, recipient: str, copies: int
) -> None:
    server = start_smtpd()
    hop = build_next_hop(server, final_reply="60s")
    task = asyncio.ensure_future(send(hop, recipient))
    await until(lambda: has_said(server, "and the dot"), "the dot")

    task.cancel()
    sending = await task
    await hop.close()

    assert sending.outcomes[0].kind is Kind.UNKNOWN
    await until(lambda: len(server.journal()) == copies, "the journal")


async def test_f_cl_06_cancelled_while_the_mark_is_asked_for_is_definite(
    start_smtpd: Start,
) -> None:
    server = start_smtpd()
    hop = build_next_hop(server)
    mark = Marker(meanwhile=lambda: asyncio.get_running_loop().create_future())
    task = asyncio.ensure_future(send(hop, "ann", mark=mark))
    await until(lambda: mark.asked, "the mark")

    task.cancel()
    outcome = (await task).outcomes[0]
    await until(lambda: has_said(server, "1 - lost"), "the connection to be closed")

    assert (outcome.kind, outcome.is_charged) == (Kind.TRANSIENT, False)
    assert not has_said(server, "and the dot")


async def test_f_cl_06_cancelled_before_the_mark_passes_through(start_smtpd: Start) -> None:
    server = start_smtpd()
    hop = build_next_hop(server, pool=1)
    task = asyncio.ensure_future(send(hop, "tarpit-1"))
    await until(lambda: has_said(server, "> RCPT"), "the envelope")

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    again = await send(hop, "ann")
    await hop.close()

    assert again.outcomes[0].kind is Kind.ACCEPTED, "its place in the pool is free again"
    assert server.copies("tarpit-1@example.org") == 0


STOPPED = """
import asyncio, sys, uvloop
from tests.contract.smtp_client import build_next_hop, send

async def main():
    hop = build_next_hop(int(sys.argv[1]), final_reply="1s")
    sending = await send(hop, "late-0.3")
    print(sending.outcomes[0].kind, flush=True)

{"uvloop": uvloop.run, "asyncio": asyncio.run}[sys.argv[2]](main())
"""


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_f_cl_04_stopped_after_the_dot_the_late_reply_testifies(
    start_smtpd: Start, loop: str
) -> None:
    """SIGSTOP past `final_reply`; the 250 is in the socket's buffer when it wakes up."""
    server = start_smtpd()
    command = [sys.executable, "-c", STOPPED, str(server.port), loop]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as child:
        deadline = time.monotonic() + 10
        while not has_said(server, "and the dot") and time.monotonic() < deadline:
            os.sched_yield()
        child.send_signal(signal.SIGSTOP)
        while not has_said(server, "late") and time.monotonic() < deadline:
            os.sched_yield()
        woken = time.monotonic() + 1.2  # past its final_reply
        while time.monotonic() < woken:
            os.sched_yield()
        child.send_signal(signal.SIGCONT)
        said = child.communicate(timeout=10)[0]

    assert said.strip() == b"accepted"
    assert server.copies("late-0.3@example.org") == 1


# the pool


async def test_connections_are_kept_and_at_most_n(start_smtpd: Start) -> None:
    server = start_smtpd()
    hop = build_next_hop(server, pool=3)

    sendings = await asyncio.gather(*(send(hop, f"user{n}") for n in range(20)))
    await hop.close()

    assert {s.outcomes[0].kind for s in sendings} == {Kind.ACCEPTED}
    assert len(server.journal()) == 20
    assert {c["connection"] for c in server.journal()} <= {1, 2, 3}


async def test_waiting_for_a_connection_ends_at_the_deadline(start_smtpd: Start) -> None:
    server = start_smtpd()
    hop = build_next_hop(server, pool=1, final_reply="5s")
    busy = asyncio.ensure_future(send(hop, "late-1"))
    await until(lambda: has_said(server, "and the dot"), "the connection to be taken")

    outcome = (await send(hop, "ann", within_ms=150)).outcomes[0]
    late = (await busy).outcomes[0]
    await hop.close()

    assert (outcome.kind, outcome.party, outcome.is_charged) == (
        Kind.TRANSIENT,
        Party.NEXT_HOP,
        False,
    )
    assert "no connection became free" in outcome.reply
    assert late.kind is Kind.ACCEPTED


async def test_a_connection_is_closed_after_so_many_messages(start_smtpd: Start) -> None:
    server = start_smtpd()
    hop = build_next_hop(server, pool=1, messages_per_connection=2)

    for _ in range(5):
        await send(hop, "ann")
    await hop.close()

    assert [c["connection"] for c in server.journal()] == [1, 1, 2, 2, 3]
    await until(
        lambda: sum("> QUIT" in line for line in server.transcript()) == 3, "three QUITs"
    )


async def test_an_idle_connection_is_closed_politely(start_smtpd: Start) -> None:
    server = start_smtpd()
    hop = build_next_hop(server, pool=1, idle_limit="100ms")

    await send(hop, "ann")
    await until(lambda: has_said(server, "1 > QUIT"), "the QUIT")
    await send(hop, "ann")
    await hop.close()

    assert [c["connection"] for c in server.journal()] == [1, 2]


async def test_a_slow_reader_of_a_large_body_is_waited_for(start_smtpd: Start) -> None:
    """The mark is asked for only once the kernel has the whole body."""
    server = start_smtpd()
    hop = build_next_hop(server, final_reply="8s")
    raw = RAW + b"0123456789abcdef\r\n" * 700_000

    sending = await send(hop, "stall-in-body-0.3", raw=raw)
    await hop.close()

    assert sending.outcomes[0].kind is Kind.ACCEPTED
    assert server.journal()[0]["size"] == len(raw)


async def test_a_reader_that_takes_nothing_is_given_up_before_the_mark(
    start_smtpd: Start,
) -> None:
    server = start_smtpd()
    hop = build_next_hop(server, block_timeout="200ms")
    mark = Marker()

    sending = await send(
        hop, "stall-in-body-5", mark=mark, raw=RAW + b"0123456789abcdef\r\n" * 2_000_000
    )
    await hop.close()

    assert sending.outcomes[0].kind is Kind.TRANSIENT
    assert "no room for more content" in sending.outcomes[0].reply
    assert mark.asked == []


# what is kept, what is checked


async def test_the_kernel_gives_up_after_a_minute(start_smtpd: Start) -> None:
    """TCP_USER_TIMEOUT: after a SIGKILL the kernel goes on sending, but not for long."""
    hop = build_next_hop(start_smtpd(), pool=1)
    await send(hop, "ann")
    sock = hop._pool._idle[0]._transport.get_extra_info("socket")

    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000
    await hop.close()


async def test_the_dialogue_is_kept(start_smtpd: Start) -> None:
    hop = build_next_hop(start_smtpd())

    sending = await send(hop, "ann", "permfail")
    await hop.close()

    lines = sending.dialogue.splitlines()
    assert lines[0].startswith("= connected to 127.0.0.1 port ")
    assert "> EHLO client.test" in lines
    assert "> RCPT TO:<permfail@example.org>" in lines
    assert "< 550 5.1.1 no such user" in lines
    assert lines[-2:] == ["> .", "< 250 2.0.0 queued"]


async def test_a_check_says_what_works(start_smtpd: Start) -> None:
    server = start_smtpd("--auth", "ann:secret")
    good = build_next_hop(server, username="ann", password="secret")
    bad = build_next_hop(server, username="ann", password="guess")

    works, fails = await good.check(), await bad.check()

    assert [(r.name, r.is_good) for r in works] == [
        ("connect", True),
        ("ehlo", True),
        ("auth", True),
        ("limits", True),
        ("noop", True),
        ("quit", True),
    ]
    assert [(r.name, r.is_good) for r in fails] == [
        ("connect", True),
        ("ehlo", True),
        ("auth", False),
    ]
    assert "535" in fails[-1].detail
    assert server.journal() == []


async def test_two_alarms_are_told_apart(start_smtpd: Start) -> None:
    """F-SM-03, F-SM-05."""
    plain = await send_one(start_smtpd(), "ann", tls="starttls")
    wrong = await send_one(
        start_smtpd("--auth", "ann:secret"), "ann", username="ann", password="guess"
    )

    assert (plain.alarm, wrong.alarm) == (Alarm.TLS, Alarm.CREDENTIALS)


def test_a_message_of_the_test_is_what_it_says() -> None:
    assert build_outgoing("ann").recipients[0].address == "ann@example.org"
