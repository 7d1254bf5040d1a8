"""A request becomes a submission, or all its faults with their pointers (product.md §3.1)."""

import base64
import copy
import json
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emailerctl.core.fields import Limits, SubmissionBody
from emailerctl.core.headers import parse_header_name
from emailerctl.core.mime import build_raw
from emailerctl.core.strictjson import load_object
from emailerctl.core.submission import (
    Submission,
    TemplateUse,
    parse_submission,
    plan_times,
)
from emailerctl.errors import Invalid, MalformedJson
from emailerctl.models.lifecycle import OnUnknown
from emailerctl.models.message import (
    Attachment,
    Draft,
    Mailbox,
    NewRecipient,
    Priority,
    RecipientKind,
)
from tests import corpora

NOW_MS = 1_795_514_400_000  # 2026-11-24T10:00:00Z
LEAST = {"from": "shop@example.org", "to": "ann@example.org", "text": "Hi"}
PDF = {"filename": "a.pdf", "content": "JVBERg=="}


def parse(fields: dict[str, object], **options: object) -> Submission:
    return parse_submission(fields, Limits(), now_ms=NOW_MS, **options)


def faults(fields: object, **options: object) -> dict[str, str]:
    with pytest.raises(Invalid) as caught:
        parse(fields, **options)
    assert all(fault.detail.isprintable() for fault in caught.value.faults)
    found = {fault.pointer: fault.detail for fault in caught.value.faults}
    assert len(found) == len(caught.value.faults)
    return found


def test_the_least_request_gets_the_defaults() -> None:
    assert parse(LEAST) == Submission(
        draft=Draft(
            header_from=Mailbox("shop@example.org"),
            to=(Mailbox("ann@example.org"),),
            text="Hi",
            headers={"Auto-Submitted": "auto-generated"},
        ),
        recipients=(NewRecipient("ann@example.org", RecipientKind.TO),),
        on_unknown=OnUnknown.ASK,
    )


def test_everything_that_can_be_asked_for_arrives() -> None:
    fields = {
        "from": {"email": "Shop@Example.org", "name": "Größe & Co"},
        "to": ["Ann <ann@example.org>", {"email": "jo@bücher.example"}],
        "cc": "cc@example.org",
        "bcc": ["bcc@example.org"],
        "reply_to": "help@example.org",
        "subject": "Your order 😀",
        "text": "line\nline\x0c",
        "html": "<p>line</p>",
        "headers": {
            "X-Order": " 4711 ",
            "auto-submitted": "no",
            "List-Unsubscribe": "<https://x>",
        },
        "attachments": [
            PDF,
            {"filename": "l.png", "content": "", "content_id": "logo@example.org"},
            {
                "filename": "Übersicht.csv",
                "content": "YQ==",
                "content_type": "text/csv; charset=utf-8",
                "disposition": "inline",
            },
        ],
        "tags": ["orders", "größe", "orders"],
        "metadata": {"order": "4711", "empty": ""},
        "expires_in": "15m",
        "priority": "normal",
        "provider": "relay",
        "on_unknown": "resend",
    }
    given = copy.deepcopy(fields)

    assert parse(fields) == Submission(
        draft=Draft(
            header_from=Mailbox("Shop@example.org", "Größe & Co"),
            to=(Mailbox("ann@example.org", "Ann"), Mailbox("jo@xn--bcher-kva.example")),
            cc=(Mailbox("cc@example.org"),),
            reply_to=(Mailbox("help@example.org"),),
            subject="Your order 😀",
            text="line\nline\x0c",
            html="<p>line</p>",
            headers={
                "X-Order": "4711",
                "auto-submitted": "no",
                "List-Unsubscribe": "<https://x>",
            },
            attachments=(
                Attachment(filename="a.pdf", content_type="application/pdf", content=b"%PDF"),
                Attachment(
                    filename="l.png",
                    content_type="image/png",
                    content=b"",
                    content_id="logo@example.org",
                    is_inline=True,
                ),
                Attachment(
                    filename="Übersicht.csv",
                    content_type="text/csv; charset=utf-8",
                    content=b"a",
                    is_inline=True,
                ),
            ),
        ),
        recipients=(
            NewRecipient("ann@example.org", RecipientKind.TO),
            NewRecipient("jo@xn--bcher-kva.example", RecipientKind.TO),
            NewRecipient("cc@example.org", RecipientKind.CC),
            NewRecipient("bcc@example.org", RecipientKind.BCC),
        ),
        on_unknown=OnUnknown.RESEND,
        provider="relay",
        tags=("orders", "größe"),
        metadata={"order": "4711", "empty": ""},
        expires_in_ms=900_000,
    )
    assert fields == given


def test_null_is_the_same_as_leaving_out() -> None:
    nothing = dict.fromkeys(set(SubmissionBody.model_json_schema()["properties"]) - set(LEAST))

    assert parse({**nothing, **LEAST}) == parse(LEAST)
    assert set(faults(dict.fromkeys(nothing))) == {"/from", "/to", "/text"}


def test_an_address_is_one_recipient_of_the_first_kind() -> None:
    fields = {
        **LEAST,
        "to": ["ann@example.org", "Ann <ann@EXAMPLE.org>", "Ann@example.org"],
        "cc": ["bob@example.org", "ann@example.org"],
        "bcc": ["bob@example.org", "eve@example.org"],
    }

    assert [(each.address, each.kind) for each in parse(fields).recipients] == [
        ("ann@example.org", RecipientKind.TO),
        ("Ann@example.org", RecipientKind.TO),  # the local part's case is the host's affair
        ("bob@example.org", RecipientKind.CC),
        ("eve@example.org", RecipientKind.BCC),
    ]


def test_the_settings_defaults_stand_in() -> None:
    fields = {"bcc": "ann@example.org", "html": ""}
    sender = Mailbox("no-reply@example.org", "Example")
    submission = parse(fields, default_from=sender, default_on_unknown=OnUnknown.RESEND)

    assert submission.draft.header_from == sender
    assert submission.on_unknown is OnUnknown.RESEND
    assert parse({**fields, "from": "a@b.org", "on_unknown": "ask"}).on_unknown is OnUnknown.ASK


@pytest.mark.parametrize("kind", ["from", "to", "cc", "bcc", "reply_to"])
def test_addresses_beyond_ascii_need_smtputf8(kind: str) -> None:
    assert not parse(LEAST).needs_smtputf8
    assert parse({**LEAST, kind: "jörg@example.org"}).needs_smtputf8


def test_sandbox_and_local_addresses_are_for_those_who_may() -> None:
    sandbox = {**LEAST, "to": "bounced@sandbox.test"}
    local = {**LEAST, "to": "ann@localhost"}

    assert "only test tokens" in faults(sandbox)["/to"]
    assert "/to" in faults(local)
    assert parse(sandbox, allow_sandbox=True).recipients[0].address == "bounced@sandbox.test"
    assert parse(local, allow_local_domains=True).recipients[0].address == "ann@localhost"


def test_all_faults_come_at_once() -> None:
    fields = {
        "from": "shop@example",
        "to": ["ok@example.org", "bad", {"email": "x@"}, {"name": "x"}, 5, None],
        "cc": "bad",
        "bcc": {"email": "a@b.org", "mail": "x"},
        "subject": "a\r\nBcc: eve@example.org",
        "text": "a\0",
        "html": 5,
        "template": {"nme": 1},
        "send_at": "tomorrow",
        "priority": "urgent",
        "list_unsubscribe": 1,
        "headers": {"Bcc": "x", "X-A": "a\nb", "x-b": "1", "X-B": "2", "a~/b ": "x", "X-C": 5},
        "attachments": [
            {"filename": "a.exe", "content": "A", "disposition": "hidden"},
            {"content": "QQ=="},
            5,
            {**PDF, "content_type": "pdf", "content_id": "<a>", "contnt": ""},
        ],
        "tags": ["a", 5, " ", "x" * 65],
        "metadata": {"a": 5, "": "x", "b": "ok", "k" * 65: "x", "c": "x" * 1001},
        "expires_at": "2020-01-01T00:00:00Z",
        "expires_in": "5m",
        "provider": "My Relay",
        "on_unknown": "maybe",
        "replyTo": "x",
        "idempotency_key": "k",
    }

    assert list(faults(fields)) == [
        "/expires_in",
        "/from",
        "/to/1",
        "/to/2/email",
        "/to/3/email",
        "/to/4",
        "/to/5",
        "/cc",
        "/bcc/mail",
        "/subject",
        "/text",
        "/html",
        "/template/name",
        "/template/nme",
        "/headers/Bcc",
        "/headers/X-A",
        "/headers/X-B",
        "/headers/a~0~1b ",
        "/headers/X-C",
        "/attachments/0/filename",
        "/attachments/0/content",
        "/attachments/0/disposition",
        "/attachments/1/filename",
        "/attachments/2",
        "/attachments/3/content_type",
        "/attachments/3/content_id",
        "/attachments/3/contnt",
        "/tags/1",
        "/tags/2",
        "/tags/3",
        "/metadata/a",
        "/metadata/",
        "/metadata/" + "k" * 65,
        "/metadata/c",
        "/send_at",
        "/priority",
        "/provider",
        "/list_unsubscribe",
        "/on_unknown",
        "/replyTo",
        "/idempotency_key",
        "/expires_at",
    ]


@pytest.mark.parametrize(
    ("change", "pointer", "said"),
    [
        ({"from": None}, "/from", "[defaults] from"),
        ({"to": []}, "/to", "at least one recipient"),
        ({"to": None}, "/to", "at least one recipient"),
        ({"text": None}, "/text", "at least one of text, html and template"),
        ({"to": ["a@b.org"] * 51}, "/to", "51 mailboxes; send at most 50"),
        ({"cc": ["a@b.org"] * 50}, "/to", "51 recipients; send at most 50"),
        ({"reply_to": ["a@b.org"] * 11}, "/reply_to", "at most 10"),
        ({"to": "a@b.org, c@d.org"}, "/to", "one address for each item"),
        ({"subject": "x" * 999}, "/subject", "999 octets; send at most 998"),
        ({"subject": "ü" * 500}, "/subject", "1000 octets"),
        ({"subject": ["x"]}, "/subject", "a list is not text"),
        ({"text": "a\ud800"}, "/text", "half of a surrogate pair"),
        ({"headers": []}, "/headers", "not an object"),
        (
            {"headers": dict.fromkeys(map("X-{}".format, range(51)), "x")},
            "/headers",
            "at most 50",
        ),
        ({"headers": {"X-A": "x" * 2001}}, "/headers/X-A", "at most 2000"),
        ({"headers": {"X-A": "x" * 901}}, "/headers/X-A", "without a space"),
        ({"headers": {"X-A": " "}}, "/headers/X-A", "leave the header out"),
        ({"headers": {"X-A": None}}, "/headers/X-A", "null is not text"),
        ({"headers": {"Subject": "x"}}, "/headers/Subject", 'use the field "subject"'),
        ({"attachments": {}}, "/attachments", "not a list of attachments"),
        ({"attachments": [PDF] * 51}, "/attachments", "at most 50"),
        ({"attachments": [dict.fromkeys(map(str, range(51)))]}, "/attachments/0", "51 members"),
        (
            {"attachments": [{**PDF, "content_id": "a"}, {**PDF, "content_id": "a"}]},
            "/attachments/1/content_id",
            "earlier attachment",
        ),
        ({"tags": "a"}, "/tags", "not a list of tags"),
        ({"tags": ["a"] * 11}, "/tags", "at most 10"),
        ({"tags": ["a\nb"]}, "/tags/0", "a line break"),
        ({"metadata": {"a": {}}}, "/metadata/a", "an object is not text"),
        ({"metadata": dict.fromkeys(map(str, range(21)), "")}, "/metadata", "at most 20"),
        ({"expires_in": "0s"}, "/expires_in", "30s, 5m, 2h or 3d"),
        ({"expires_in": 60}, "/expires_in", "60 is not a duration"),
        ({"expires_at": "2026-12-01T00:00:00"}, "/expires_at", "with an offset"),
        ({"expires_at": "2026-02-30T00:00:00Z"}, "/expires_at", "not a moment"),
        ({"expires_at": "20261201T000000Z"}, "/expires_at", "not a moment"),
        ({"expires_at": 1}, "/expires_at", "not a moment"),
        ({"provider": "a/b"}, "/provider", "a-z, 0-9"),
        ({"on_unknown": "retry"}, "/on_unknown", '"retry" is not "ask" or "resend"'),
        ({"subjct": "x"}, "/subjct", 'did you mean "subject"?'),
        ({"Text": "x"}, "/Text", 'did you mean "text"?'),
        ({"header_from": "x"}, "/header_from", "is unknown"),
        ({"zzz": "x"}, "/zzz", "leave it out"),
        ({"idempotency_key": "k"}, "/idempotency_key", "Idempotency-Key"),
        ({"k" * 200: 1}, "/" + "k" * 100 + "…", "unknown"),
    ],
)
def test_a_fault_names_its_place_and_the_cure(
    change: dict[str, object], pointer: str, said: str
) -> None:
    found = faults({**LEAST, **change})

    assert list(found) == [pointer]
    assert said in found[pointer]


class TestTimesAndTemplates:
    def test_the_values_arrive(self) -> None:
        submission = parse(
            {
                "from": "a@b.org",
                "to": "ann@example.org",
                "template": {"name": "welcome", "variables": {"n": [1]}, "locale": "de-AT"},
                "send_in": "10m",
                "expires_in": "1h",
                "priority": "high",
                "list_unsubscribe": "https://example.org/u?id=1",
            }
        )

        assert submission.template == TemplateUse("welcome", {"n": [1]}, "de-AT")
        assert submission.priority is Priority.HIGH
        assert submission.list_unsubscribe == "https://example.org/u?id=1"
        times = plan_times(submission, NOW_MS)
        assert (times.due_ms, times.expires_ms) == (NOW_MS + 600_000, NOW_MS + 3_600_000)

    def test_send_at_is_not_before_and_may_have_passed(self) -> None:
        later = parse({**LEAST, "send_at": "2026-11-24T11:00:00+01:00"})
        assert later.send_at_ms == NOW_MS
        assert plan_times(later, NOW_MS - 5).due_ms == NOW_MS
        assert plan_times(later, NOW_MS + 5).due_ms == NOW_MS + 5

    @pytest.mark.parametrize(
        ("name", "value"), [("send_in", "367d"), ("send_at", "2027-11-26T10:00:00Z")]
    )
    def test_nobody_means_a_time_in_more_than_a_year(self, name: str, value: str) -> None:
        with pytest.raises(Invalid, match="more than a year") as caught:
            plan_times(parse({**LEAST, name: value}), NOW_MS)
        assert [fault.pointer for fault in caught.value.faults] == [f"/{name}"]

    def test_it_can_not_expire_before_it_is_due(self) -> None:
        for name, value in (("expires_in", "10m"), ("expires_at", "2026-11-24T10:10:00Z")):
            submission = parse({**LEAST, "send_in": "10m", name: value})
            with pytest.raises(Invalid) as caught:
                plan_times(submission, NOW_MS)
            assert [fault.pointer for fault in caught.value.faults] == [f"/{name}"]

    @pytest.mark.parametrize(
        ("change", "pointer"),
        [
            ({"template": {}}, "/template/name"),
            ({"template": {"name": "A"}}, "/template/name"),
            ({"template": {"name": "a", "nmae": 1}}, "/template/nmae"),
            ({"template": {"name": "a", "variables": []}}, "/template/variables"),
            ({"template": {"name": "a", "locale": "de_AT"}}, "/template/locale"),
            ({"template": "a"}, "/template"),
            ({"template": dict.fromkeys(map(str, range(51)))}, "/template"),
            ({"send_at": "x"}, "/send_at"),
            ({"send_in": "x"}, "/send_in"),
            ({"send_in": "5m", "send_at": "2027-01-01T00:00:00Z"}, "/send_in"),
            ({"priority": "urgent"}, "/priority"),
            ({"list_unsubscribe": "http://example.org"}, "/list_unsubscribe"),
            (
                {
                    "list_unsubscribe": "https://example.org/u",
                    "headers": {"List-Unsubscribe": "<x>"},
                },
                "/headers/List-Unsubscribe",
            ),
        ],
    )
    def test_their_faults_have_places(self, change: dict[str, object], pointer: str) -> None:
        assert list(faults({**LEAST, **change})) == [pointer]


def test_an_expiry_counts_from_acceptance_and_may_have_passed_in_a_replay() -> None:
    """A repeated request is recognised before the clock is asked: parsing takes it (§6)."""
    relative = parse({**LEAST, "expires_in": "2h"})
    absolute = parse({**LEAST, "expires_at": "2026-11-24T11:00:00.5+01:00"})

    assert plan_times(relative, NOW_MS).expires_ms == NOW_MS + 7_200_000
    assert plan_times(absolute, NOW_MS).expires_ms == NOW_MS + 500
    assert plan_times(parse(LEAST), NOW_MS).expires_ms is None
    with pytest.raises(Invalid, match="has passed") as caught:
        plan_times(absolute, NOW_MS + 500)
    assert [fault.pointer for fault in caught.value.faults] == ["/expires_at"]


def test_a_passed_expiry_is_named_with_the_other_faults() -> None:
    found = faults({**LEAST, "expires_at": "2026-11-24T09:00:00Z", "subjct": "x"})

    assert list(found) == ["/subjct", "/expires_at"]
    assert "2026-11-24T09:00:00.000Z has passed" in found["/expires_at"]


@pytest.mark.parametrize(
    "name",
    [
        "Date",
        "DATE",
        "message-id",
        "Sender",
        "Return-Path",
        "Received",
        "Received-SPF",
        "Bcc",
        "MIME-Version",
        "Content-Type",
        "content-x",
        "DKIM-Signature",
        "ARC-Seal",
        "Resent-To",
        "Authentication-Results",
        "X-Emailer-Id",
        "Reply-To",
        "Cc",
        "To",
        "From",
        "Subject",
        "Delivered-To",
        "X A",
        "X:A",
        "X\r\nA",
        "",
        "Ä",
        "X" * 77,
    ],
)
def test_structure_trace_and_what_is_no_name_are_no_callers_headers(name: str) -> None:
    with pytest.raises(ValueError, match=r"[;,] "):
        parse_header_name(name)
    assert len(faults({**LEAST, "headers": {name: "x"}})) == 1


@pytest.mark.parametrize(
    "name", ["X-A", "In-Reply-To", "References", "List-Id", "Precedence", "Importance", "!~"]
)
def test_other_headers_are_the_callers(name: str) -> None:
    assert parse({**LEAST, "headers": {name: "x"}}).draft.headers[name] == "x"


def attach(**members: object) -> dict[str, str]:
    return faults({**LEAST, "attachments": [{**PDF, **members}]})


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "...",
        "a/b.pdf",
        "..\\a.pdf",
        "/etc/passwd",
        "a.pdf ",
        "a.pdf.",
        " a.pdf",
        "a\nb.pdf",
        "a\x00.pdf",
        "a\u202efdp.exe",
        "x" * 256,
        "ü" * 128,
        5,
        "..a",
        "a.exe",
        "A.EXE",
        "a.pdf.scr",
        "a.js",
        "a.\uff45\uff58\uff45",
        "a.lnk",
        "run.bat",
    ],
)
def test_a_file_name_is_safe_to_save_under(name: object) -> None:
    assert list(attach(filename=name)) == ["/attachments/0/filename"]


@pytest.mark.parametrize(
    "name",
    ["a", ".profile", "a b (1).pdf", "Grüße.pdf", 'say "hi".txt', "a;b=c.csv", "x" * 255],
)
def test_a_usual_file_name_is_taken(name: str) -> None:
    fields = {**LEAST, "attachments": [{**PDF, "filename": name}]}

    assert parse(fields).draft.attachments[0].filename == name


@pytest.mark.parametrize(
    "content",
    ["A", "AAA", "AA=", "AA==AA==", "AAAA=", "AA AA", "AAAA\r\n", "AA-_", "====", "ÄAAA", 5],
)
def test_base64_is_strict(content: object) -> None:
    assert list(attach(content=content)) == ["/attachments/0/content"]


@given(st.binary(max_size=100))
def test_base64_of_anything_is_read(content: bytes) -> None:
    text = base64.b64encode(content).decode()
    fields = {**LEAST, "attachments": [{**PDF, "content": text}]}

    assert parse(fields).draft.attachments[0].content == content


@pytest.mark.parametrize(
    "content_type",
    [
        "pdf",
        "a/b/c",
        "text/plain;",
        "text/plain; charset",
        "text/plain\r\nX: y",
        "ü/x",
        "",
        5,
        "multipart/mixed",
        "message/rfc822",
        "application/x-msdownload",
        "text/javascript",
        "text/plain; name=a.exe",
        "text/plain;boundary=x",
        'a/b; c="\n"',
        "a/" + "b" * 200,
        "text/plain; filename*=x",
    ],
)
def test_a_content_type_is_a_media_type_that_a_file_can_have(content_type: object) -> None:
    assert list(attach(content_type=content_type)) == ["/attachments/0/content_type"]


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("a.PDF", "application/pdf"),
        ("a.png", "image/png"),
        ("noext", "application/octet-stream"),
        ("a.unknown-ext", "application/octet-stream"),
        ("forwarded.eml", "application/octet-stream"),
    ],
)
def test_a_content_type_is_guessed_from_the_name(name: str, content_type: str) -> None:
    fields = {**LEAST, "attachments": [{**PDF, "filename": name}]}

    assert parse(fields).draft.attachments[0].content_type == content_type


@pytest.mark.parametrize("content_id", ["<a>", "a b", "a\n", "", "ü", "a@", "x" * 121, 5])
def test_a_content_id_is_one_without_brackets(content_id: object) -> None:
    assert list(attach(content_id=content_id)) == ["/attachments/0/content_id"]


def test_sizes_are_limited_in_all() -> None:
    limits = Limits(attachments_octets=10, body_octets=5)
    fields = {**LEAST, "text": "üüü", "html": "12345", "attachments": [PDF, PDF, PDF]}
    with pytest.raises(Invalid) as caught:
        parse_submission(fields, limits, now_ms=NOW_MS)

    assert {fault.pointer: fault.detail for fault in caught.value.faults} == {
        "/text": "has 6 octets; send at most 5",
        "/attachments": "has 12 octets of files in all; send at most 10",
    }


def test_a_flood_of_fields_costs_nothing() -> None:
    flood = {f"subjec{n}": n for n in range(1000)}
    started = time.process_time()

    assert list(faults({**LEAST, **flood})) == [""]
    assert list(faults({**LEAST, "attachments": [flood] * 50})) == ["/attachments/0"]
    assert list(faults({**LEAST, "to": [flood] * 1000})) == ["/to"]
    assert time.process_time() - started < 0.5


def test_the_fields_are_read_with_the_rules_or_not_at_all() -> None:
    with pytest.raises(TypeError, match="parse_submission"):
        SubmissionBody.model_validate(LEAST)


def test_the_contract_has_a_schema() -> None:
    schema = SubmissionBody.model_json_schema()

    assert schema["additionalProperties"] is False
    assert {"from", "to", "template", "list_unsubscribe", "on_unknown"} <= set(
        schema["properties"]
    )
    assert "header_from" not in schema["properties"]


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=6,
)
field_names = st.sampled_from(sorted(SubmissionBody.model_json_schema()["properties"]))


@settings(max_examples=60)
@given(st.dictionaries(field_names | st.text(max_size=9), json_values, max_size=6))
def test_any_json_is_a_submission_or_has_faults(fields: dict[str, object]) -> None:
    merged = {**LEAST, **fields}
    try:
        submission = parse(merged)
    except Invalid as error:
        pointers = [fault.pointer for fault in error.faults]
        json.dumps(error.members).encode()
        assert pointers
    else:
        build_raw(submission.draft, message_id_header="<a@b.org>", date_ms=NOW_MS)


def test_json_documents_of_the_suite_in_any_field_never_surprise() -> None:
    documents = corpora.json_documents("")
    names = sorted(SubmissionBody.model_json_schema()["properties"])
    read = 0
    for _, document in documents:
        name = names[read % len(names)]
        try:
            fields = load_object(b'{"%b":%b}' % (name.encode(), document))
        except MalformedJson:
            continue
        read += 1
        for each in names:
            if each != "text" or not isinstance(fields[name], str):
                faults({each: fields[name], "nothing": 1})

    assert read > 80


def test_naughty_strings_in_every_field_are_sent_or_refused() -> None:
    texts = list(corpora.naughty_strings())
    random.Random(1).shuffle(texts)
    everywhere = 0
    for text in texts:
        fields = {
            **LEAST,
            "subject": text,
            "text": text,
            "html": text,
            "headers": {"X-A": text},
            "tags": [text],
            "metadata": {"a": text},
            "reply_to": {"email": "a@b.org", "name": text},
            "attachments": [{**PDF, "filename": text}],
        }
        try:
            submission = parse(fields)
        except Invalid as error:
            refused = {fault.pointer for fault in error.faults}
        else:
            refused = set()
            everywhere += 1
            assert submission.draft.text == text
            build_raw(submission.draft, message_id_header="<a@b.org>", date_ms=NOW_MS)
        assert refused.isdisjoint(("/text", "/html"))

    assert everywhere > 100
