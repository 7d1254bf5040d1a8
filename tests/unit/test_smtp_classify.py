"""What an SMTP reply means, and how it is read and written: pure functions."""

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emailerctl.models.message import EnvelopeRecipient
from emailerctl.models.outcome import Alarm, Kind, Party, Phase
from emailerctl.providers.base import Outgoing
from emailerctl.providers.smtp import SmtpSettings, build_request, classify
from emailerctl.providers.smtp_reply import (
    MAX_LINE,
    MAX_REPLY,
    Fault,
    Garbled,
    Lack,
    Reply,
    ReplyParser,
    Stage,
    Verdict,
    clean,
)
from emailerctl.providers.smtp_transaction import Dialogue, stuff

OPENING = (Stage.CONNECT, Stage.EHLO, Stage.TLS, Stage.AUTH)
BEFORE_THE_DOT = (*OPENING, Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.BODY)
RAW = b"From: a@example.org\r\nSubject: x\r\n\r\nhello\r\n"


# classify


@pytest.mark.parametrize(
    ("stage", "reply", "kind", "party"),
    [
        # F-SM-01: the next hop is not ready, whatever the digit
        (Stage.CONNECT, "421 4.3.2 no", Kind.TRANSIENT, Party.NEXT_HOP),
        (Stage.CONNECT, "451 later", Kind.TRANSIENT, Party.NEXT_HOP),
        (Stage.CONNECT, "554 5.7.1 go away", Kind.TRANSIENT, Party.NEXT_HOP),
        (Stage.EHLO, "550 no", Kind.TRANSIENT, Party.NEXT_HOP),
        (Stage.MAIL, "421 bye", Kind.TRANSIENT, Party.NEXT_HOP),
        (Stage.RCPT, "421 bye", Kind.TRANSIENT, Party.NEXT_HOP),
        (Stage.DATA, "421 bye", Kind.TRANSIENT, Party.NEXT_HOP),
        (Stage.BODY, "421 bye", Kind.TRANSIENT, Party.NEXT_HOP),
        (Stage.ANSWER, "421 bye", Kind.TRANSIENT, Party.NEXT_HOP),
        # F-SM-03, F-SM-05
        (Stage.TLS, "454 4.7.0 no TLS now", Kind.TRANSIENT, Party.NEXT_HOP),
        (Stage.AUTH, "535 5.7.8 wrong", Kind.TRANSIENT, Party.NEXT_HOP),
        (Stage.AUTH, "454 4.7.0 later", Kind.TRANSIENT, Party.NEXT_HOP),
        (Stage.MAIL, "530 5.7.0 authenticate first", Kind.TRANSIENT, Party.NEXT_HOP),
        # F-SM-06, F-SM-07
        (Stage.MAIL, "451 4.3.0 later", Kind.TRANSIENT, Party.MESSAGE),
        (Stage.MAIL, "550 5.7.1 not that sender", Kind.PERMANENT, Party.MESSAGE),
        (Stage.RCPT, "450 4.2.1 busy", Kind.TRANSIENT, Party.RECIPIENT),
        (Stage.RCPT, "550 5.1.1 nobody", Kind.PERMANENT, Party.RECIPIENT),
        (Stage.RCPT, "552 too many recipients", Kind.TRANSIENT, Party.RECIPIENT),
        (Stage.RCPT, "552 5.2.2 mailbox full", Kind.PERMANENT, Party.RECIPIENT),
        (Stage.RCPT, "354 what", Kind.TRANSIENT, Party.NEXT_HOP),
        (Stage.DATA, "451 4.3.0 later", Kind.TRANSIENT, Party.MESSAGE),
        (Stage.DATA, "554 5.5.0 no", Kind.PERMANENT, Party.MESSAGE),
        (Stage.DATA, "250 what", Kind.TRANSIENT, Party.NEXT_HOP),
        # F-SM-08: before the dot, so definite; a yes is out of place there
        (Stage.BODY, "452 4.3.1 no room", Kind.TRANSIENT, Party.MESSAGE),
        (Stage.BODY, "552 5.3.4 too big", Kind.PERMANENT, Party.MESSAGE),
        (Stage.BODY, "250 2.0.0 already?", Kind.TRANSIENT, Party.NEXT_HOP),
        # F-SM-11
        (Stage.ANSWER, "250 2.0.0 queued", Kind.ACCEPTED, Party.MESSAGE),
        (Stage.ANSWER, "251 forwarded", Kind.ACCEPTED, Party.MESSAGE),
        (Stage.ANSWER, "252 perhaps", Kind.ACCEPTED, Party.MESSAGE),
        (Stage.ANSWER, "299", Kind.ACCEPTED, Party.MESSAGE),
        # F-SM-12: a 5yz to the whole content is a refusal by the receiving side
        (Stage.ANSWER, "451 4.3.0 later", Kind.TRANSIENT, Party.MESSAGE),
        (Stage.ANSWER, "452 4.2.2 full", Kind.TRANSIENT, Party.MESSAGE),
        (Stage.ANSWER, "554 5.7.1 spam", Kind.PERMANENT, Party.RECIPIENT),
        (Stage.ANSWER, "550 5.1.1 nobody", Kind.PERMANENT, Party.RECIPIENT),
        (Stage.ANSWER, "550 5.2.2 full", Kind.PERMANENT, Party.RECIPIENT),
        # F-SM-13: neither yes nor no
        (Stage.ANSWER, "354 go ahead", Kind.UNKNOWN, Party.NEXT_HOP),
        (Stage.ANSWER, "150 hm", Kind.UNKNOWN, Party.NEXT_HOP),
    ],
)
def test_a_reply_means(stage: Stage, reply: str, kind: Kind, party: Party) -> None:
    """F-SM-01 to F-SM-13: the table of delivery.md §3 and §7."""
    code, _, text = reply.partition(" ")

    outcome = classify(Verdict(stage, Reply(int(code), text)))

    assert (outcome.kind, outcome.party) == (kind, party)
    assert outcome.code == int(code)
    assert outcome.reply == reply


@pytest.mark.parametrize("stage", BEFORE_THE_DOT)
@pytest.mark.parametrize("lack", list(Lack))
def test_nothing_is_accepted_before_the_dot_whatever_breaks(stage: Stage, lack: Lack) -> None:
    outcome = classify(Verdict(stage, Fault(lack, "why")))

    assert (outcome.kind, outcome.party) == (Kind.TRANSIENT, Party.NEXT_HOP)


@pytest.mark.parametrize("lack", list(Lack))
def test_without_an_answer_to_the_dot_nobody_knows(lack: Lack) -> None:
    """F-SM-09, F-SM-10, F-SM-13."""
    outcome = classify(Verdict(Stage.ANSWER, Fault(lack, "why")))

    assert (outcome.kind, outcome.phase) == (Kind.UNKNOWN, Phase.ANSWER)


@given(
    stage=st.sampled_from(list(Stage)),
    code=st.integers(100, 599),
    text=st.text(max_size=30),
)
def test_only_a_2yz_after_the_dot_accepts(stage: Stage, code: int, text: str) -> None:
    outcome = classify(Verdict(stage, Reply(code, text)))

    accepted = stage is Stage.ANSWER and code // 100 == 2
    unknown = stage is Stage.ANSWER and code // 100 in (1, 3)
    assert (outcome.kind is Kind.ACCEPTED) == accepted
    assert (outcome.kind is Kind.UNKNOWN) == unknown


@pytest.mark.parametrize(
    ("verdict", "alarm", "is_charged"),
    [
        (Verdict(Stage.AUTH, Reply(535, "no")), Alarm.CREDENTIALS, False),
        (Verdict(Stage.AUTH, Reply(454, "later")), None, True),
        (Verdict(Stage.AUTH, Fault(Lack.NOT_OFFERED, "no AUTH")), Alarm.CREDENTIALS, False),
        (Verdict(Stage.AUTH, Fault(Lack.LOST, "gone")), None, True),
        (Verdict(Stage.MAIL, Reply(530, "authenticate")), Alarm.CREDENTIALS, False),
        (Verdict(Stage.TLS, Fault(Lack.TLS, "bad certificate")), Alarm.TLS, True),
        (Verdict(Stage.TLS, Fault(Lack.NOT_OFFERED, "no STARTTLS")), Alarm.TLS, True),
        (Verdict(Stage.TLS, Reply(454, "no")), Alarm.TLS, True),
        (Verdict(Stage.CONNECT, Fault(Lack.UNREACHABLE, "refused")), None, True),
        (Verdict(Stage.CONNECT, Fault(Lack.BUSY, "all taken")), None, False),
        (Verdict(Stage.BODY, Fault(Lack.LATE, "stopped")), None, False),
        (Verdict(Stage.BODY, Fault(Lack.CANCELLED, "stopping")), None, False),
        (Verdict(Stage.ANSWER, Reply(250, "ok")), None, True),
    ],
)
def test_an_alarm_is_raised_and_the_attempt_charged(
    verdict: Verdict, alarm: Alarm | None, is_charged: bool
) -> None:
    """F-SM-03, F-SM-05: what is not the message's fault is not charged to it."""
    outcome = classify(verdict)

    assert (outcome.alarm, outcome.is_charged) == (alarm, is_charged)


@pytest.mark.parametrize(
    ("text", "wait_ms"),
    [
        ("450 4.7.1 greylisted, try again in 300 seconds", 300_000),
        ("450 4.7.1 Greylisted for 5 minutes", 300_000),
        ("451 4.7.1 retry after 90s", 90_000),
        ("451 4.7.1 come back in 9 hours", 3_600_000),
        ("451 4.7.1 come back later", None),
        ("450 4.2.1 4 seconds", None),
        ("550 5.7.1 try again in 300 seconds", None),
    ],
)
def test_a_named_wait_is_heard(text: str, wait_ms: int | None) -> None:
    code, _, rest = text.partition(" ")

    outcome = classify(Verdict(Stage.RCPT, Reply(int(code), rest)))

    assert outcome.retry_after_ms == wait_ms


def test_the_enhanced_status_is_read_from_the_beginning_only() -> None:
    assert Reply(550, "5.1.1 nobody").enhanced_status == "5.1.1"
    assert Reply(550, "nobody (5.1.1)").enhanced_status == ""
    assert Reply(550, "5.1.1nobody").enhanced_status == ""
    assert Reply(250, "2.0.0").enhanced_status == "2.0.0"


# the parser

LINE = st.text(
    st.characters(exclude_categories=["C", "Z"], include_characters=" -."), max_size=40
).map(str.strip)
REPLY = st.tuples(st.integers(100, 599), st.lists(LINE, min_size=1, max_size=5))


def wire(code: int, lines: list[str]) -> bytes:
    marks = ["-"] * (len(lines) - 1) + [" "]
    said = [f"{code}{mark}{line}\r\n" for mark, line in zip(marks, lines, strict=True)]
    return "".join(said).encode()


@given(replies=st.lists(REPLY, max_size=6), data=st.data())
def test_replies_are_read_however_they_are_cut(
    replies: list[tuple[int, list[str]]], data: st.DataObject
) -> None:
    sent = b"".join(wire(code, lines) for code, lines in replies)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=8)))
    parser = ReplyParser()

    heard: list[Reply] = []
    for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True):
        heard += parser.feed(sent[start:end])

    assert heard == [Reply(code, " ".join(lines).strip()) for code, lines in replies]
    assert parser.is_empty


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_the_parser_survives_anything_within_its_bounds(chunks: list[bytes]) -> None:
    parser = ReplyParser()
    with contextlib.suppress(Garbled):
        for chunk in chunks:
            for reply in parser.feed(chunk):
                assert 100 <= reply.code <= 599
                assert re.search("[\x00-\x1f\x7f-\x9f]", reply.text) is None
                assert len(reply.text) <= 512


@pytest.mark.parametrize(
    "said",
    [
        b"hello\r\n",
        b"25 short\r\n",
        b"650 no such digit\r\n",
        b"250_separator\r\n",
        b"2500 four\r\n",
        b"\r\n",
        b"\x16\x03\x01\x00\r\n",
        b"250-yes\r\n550 no\r\n",
        b"250 a\rb\r\n",
        b"250 " + b"x" * MAX_LINE + b"\r\n",
        b"x" * (MAX_LINE + 1),
        (b"250-" + b"x" * 1000 + b"\r\n") * (MAX_REPLY // 1000 + 1),
    ],
)
def test_what_is_no_reply_is_garbled(said: bytes) -> None:
    """F-SM-13: bounded, too."""
    with pytest.raises(Garbled):
        ReplyParser().feed(said)


def test_replies_before_the_garbage_count() -> None:
    with pytest.raises(Garbled) as caught:
        ReplyParser().feed(b"250 ok\r\ngarbage\r\n")

    assert caught.value.args[1] == [Reply(250, "ok")]


def test_a_bare_code_and_a_bare_line_feed_are_taken() -> None:
    assert ReplyParser().feed(b"250\r\n354 go\n") == [Reply(250, ""), Reply(354, "go")]


def test_lines_that_differ_within_a_digit_make_one_reply() -> None:
    assert ReplyParser().feed(b"250-a\r\n251 b\r\n") == [Reply(251, "a b")]


# the bytes

CONTENT = st.lists(
    st.sampled_from([b".", b"..", b"\r\n", b"a", b". ", b"\r\n.\r\n", b"\r\n.", b"text"])
).map(b"".join)


@given(CONTENT)
def test_dot_stuffing_is_undone_by_the_receiver(raw: bytes) -> None:
    sent = stuff(raw) + b".\r\n"

    # RFC 5321 §4.5.2, by lines, as the receiving side does it
    lines = sent.split(b"\r\n")
    assert lines.index(b".") == len(lines) - 2, "the dot is the first line that is only a dot"
    received = b"".join(line.removeprefix(b".") + b"\r\n" for line in lines[:-2])
    assert received == (raw if raw.endswith(b"\r\n") else raw + b"\r\n")


def test_a_long_dialogue_keeps_both_ends() -> None:
    dialogue = Dialogue()
    dialogue.ours("first")
    for n in range(1000):
        dialogue.ours(f"line {n}")
    dialogue.theirs(Reply(250, "x" * 5000))
    dialogue.theirs(Reply(250, "last"))

    text = str(dialogue)

    assert len(text) <= 4096
    assert text.startswith("> first\n")
    assert text.endswith("\n< 250 last")
    assert "\n= …\n" in text


def test_cleaned_text_is_one_short_line() -> None:
    assert clean("a\r\nb\x1b[31mc\u202ed\x9be") == "a  b [31mc d e"
    assert clean("x" * 600) == "x" * 511 + "…"


# the request


def outgoing(
    *recipients: str,
    raw: bytes = RAW,
    sender: str = "s@example.org",
    utf8: bool = False,
    return_id: str = "",
) -> Outgoing:
    return Outgoing(
        message_id=1,
        public_id="msg_1",
        attempt=1,
        envelope_sender=sender,
        recipients=tuple(EnvelopeRecipient(n, a) for n, a in enumerate(recipients)),
        raw=raw,
        needs_smtputf8=utf8,
        deadline_boot_ms=0,
        return_id=return_id,
    )


SETTINGS = SmtpSettings(host="relay.example.org")
ALL = {"size": "1000", "8bitmime": "", "smtputf8": "", "pipelining": ""}


def test_the_commands_say_what_is_needed_and_no_more() -> None:
    plain = build_request(SETTINGS, outgoing("a@example.org"), ALL).envelope
    bare = build_request(SETTINGS, outgoing("a@example.org", sender=""), {}).envelope
    wide = build_request(
        SETTINGS, outgoing("ä@example.org", raw=RAW + "ü\r\n".encode(), utf8=True), ALL
    ).envelope

    assert plain is not None
    assert plain.mail == f"MAIL FROM:<s@example.org> SIZE={len(RAW)}"
    assert plain.rcpts == {0: "RCPT TO:<a@example.org>"}
    assert bare is not None
    assert bare.mail == "MAIL FROM:<>"
    assert wide is not None
    assert wide.mail == f"MAIL FROM:<s@example.org> SIZE={len(RAW) + 4} BODY=8BITMIME SMTPUTF8"


def test_the_return_path_of_the_next_hop_comes_first() -> None:
    settings = SmtpSettings(host="relay.example.org", return_path="bounces@example.org")

    envelope = build_request(settings, outgoing("a@example.org"), {}).envelope

    assert envelope is not None
    assert envelope.mail == "MAIL FROM:<bounces@example.org>"


def test_a_signed_return_path_names_the_attempt() -> None:
    """And a next hop that reports (RFC 3461) is asked to name what it reports about."""
    settings = SmtpSettings(
        host="relay.example.org", return_path="bounces@example.org", verp=True
    )
    message = outgoing("a+b=c@example.org", return_id="x" * 31)

    plain = build_request(settings, message, {}).envelope
    asking = build_request(settings, message, {"dsn": ""}).envelope

    path = f"MAIL FROM:<bounces+{'x' * 31}@example.org>"
    assert plain is not None
    assert (plain.mail, plain.rcpts[0]) == (path, "RCPT TO:<a+b=c@example.org>")
    assert asking is not None
    assert asking.mail == f"{path} RET=HDRS ENVID={'x' * 31}"
    assert asking.rcpts[0] == (
        "RCPT TO:<a+b=c@example.org> NOTIFY=FAILURE,DELAY ORCPT=rfc822;a+2Bb+3Dc@example.org"
    )


def test_reports_are_asked_for_where_somebody_reads_them() -> None:
    """Without a return path of the next hop they go to the sender, as they always have."""
    message = outgoing("a@example.org", return_id="x" * 31)
    wide = outgoing("ä@example.org", return_id="x" * 31)
    settings = SmtpSettings(host="relay.example.org")
    reading = SmtpSettings(host="relay.example.org", return_path="b@example.org")

    quiet = build_request(settings, message, {"dsn": ""}).envelope
    international = build_request(reading, wide, {"dsn": "", "smtputf8": ""}).envelope

    assert quiet is not None
    assert quiet.mail == "MAIL FROM:<s@example.org>"
    assert quiet.rcpts == {0: "RCPT TO:<a@example.org>"}
    assert international is not None
    assert international.rcpts == {0: "RCPT TO:<ä@example.org> NOTIFY=FAILURE,DELAY"}


@pytest.mark.parametrize(
    "address",
    [
        "a@example.org>\r\nRCPT TO:<evil@example.org",
        "a@example.org, b@example.org",
        "a b@example.org",
        "<a@example.org>",
        "a@example.org\n",
        "a@exam\x00ple.org",
        "a\u0085b@example.org",
        "a\udcffb@example.org",
        "@relay.example.org:a@example.org",
        "a@b@example.org",
        "no-at-sign",
        "",
    ],
)
def test_a_bad_address_never_reaches_the_wire(address: str) -> None:
    """T-05: that recipient is refused, the others are not."""
    request = build_request(SETTINGS, outgoing("good@example.org", address), ALL)

    assert request.envelope is not None
    assert request.envelope.rcpts == {0: "RCPT TO:<good@example.org>"}
    assert request.refused[1].kind is Kind.PERMANENT
    assert request.refused[1].party is Party.RECIPIENT


@pytest.mark.parametrize(
    ("message", "extensions", "status"),
    [
        (outgoing("a@example.org", sender="x y@example.org"), ALL, "5.1.7"),
        (outgoing("a@example.org", raw=b"a\nb\r\n"), ALL, "5.6.0"),
        (outgoing("a@example.org", raw=b"a\rb\r\n"), ALL, "5.6.0"),
        (outgoing("a@example.org", raw=b"a\n\rb\r\n"), ALL, "5.6.0"),
        (outgoing("a@example.org", utf8=True), {}, "5.6.7"),
        (outgoing("a@example.org", sender="ä@example.org"), {}, "5.6.7"),
        (outgoing("a@example.org", raw=b"\xc3\xbc\r\n"), {}, "5.6.3"),
        (outgoing("a@example.org", raw=b"x" * 1000 + b"\r\n"), ALL, "5.3.4"),
    ],
)
def test_what_the_server_can_not_take_is_refused_before_it_is_said(
    message: Outgoing, extensions: dict[str, str], status: str
) -> None:
    """F-SM-17, T-07: nothing is mangled to fit."""
    request = build_request(SETTINGS, message, extensions)

    assert request.envelope is None
    assert request.refused[0].kind is Kind.PERMANENT
    assert request.refused[0].party is Party.MESSAGE
    assert request.refused[0].enhanced_status == status


def test_only_the_recipient_that_needs_smtputf8_is_refused() -> None:
    """F-SM-17."""
    request = build_request(SETTINGS, outgoing("a@example.org", "ä@example.org"), {})

    assert request.envelope is not None
    assert list(request.envelope.rcpts) == [0]
    assert request.refused[1].enhanced_status == "5.6.7"


@pytest.mark.parametrize("limit", ["0", "", "lots", "1000"])
def test_a_size_without_a_limit_refuses_nothing(limit: str) -> None:
    assert build_request(SETTINGS, outgoing("a@example.org"), {"size": limit}).envelope


# the settings


def test_the_port_follows_from_the_protection() -> None:
    ports = {
        tls: SmtpSettings.model_validate({"host": "h.example", "tls": tls}).effective_port
        for tls in ("starttls", "implicit", "opportunistic", "none")
    }

    assert ports == {"starttls": 587, "implicit": 465, "opportunistic": 25, "none": 25}


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({}, "host"),
        ({"host": "a b"}, "no host name"),
        ({"host": "h.example", "hots": "x"}, "hots"),
        ({"host": "h.example", "port": 70_000}, "port"),
        ({"host": "h.example", "tls": "ssl"}, "starttls"),
        ({"host": "h.example", "verp": True}, "verp without return_path"),
        (
            {"host": "h.example", "verp": True, "return_path": "x" * 33 + "@example.org"},
            "33 octets before the @; with verp = true at most 32",
        ),
        ({"host": "h.example", "final_reply": 600}, "unit"),
        ({"host": "h.example", "final_reply": "0s"}, "greater than 0"),
        ({"host": "h.example", "return_path": "a b@example.org"}, "no address"),
        ({"host": "h.example", "local_hostname": "a b"}, "no host name"),
        ({"host": "h.example", "username": "u"}, "without password"),
        ({"host": "h.example", "password": "p"}, "without username"),
        ({"host": "h.example", "username": "u", "password": "p", "tls": "none"}, "listener"),
        (
            {"host": "h.example", "username": "u", "password": "p", "tls": "opportunistic"},
            "listener",
        ),
    ],
)
def test_a_wrong_setting_is_refused(table: dict[str, object], said: str) -> None:
    """F-SM-03: among others, credentials never in clear."""
    with pytest.raises(ValueError, match=said):
        SmtpSettings.model_validate({"kind": "smtp", **table})


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_credentials_in_clear_are_for_this_host_only(host: str) -> None:
    settings = SmtpSettings.model_validate(
        {"host": host, "tls": "none", "username": "u", "password": "p"}
    )

    assert "p" not in repr(settings.password)
