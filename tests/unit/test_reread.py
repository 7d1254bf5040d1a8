"""Stored bytes ask for the same message again."""

import base64
from collections.abc import Mapping

import pytest

from emailerctl.core.mime import build_raw
from emailerctl.core.reread import read_fields
from emailerctl.core.submission import Limits, Submission, parse_submission
from emailerctl.models.lifecycle import OnUnknown, State
from emailerctl.models.message import MessageView, Priority, RecipientView

NOW_MS = 1_800_000_000_000
PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(200)).decode()
EVERYTHING: dict[str, object] = {
    "from": {"email": "office@example.org", "name": 'Büro "2", Stock'},
    "to": [
        {"email": "ann@example.org", "name": "Ann Ü. Example-Longname " * 4},
        "b@example.org",
    ],
    "cc": ["cc@bücher.example.org"],
    "bcc": ["eve@example.org"],
    "reply_to": ["Desk <desk@example.org>"],
    "subject": "Grüße  mit  zwei  Leerzeichen 你好 " * 8,
    "text": "First.\n.dot\nFrom here\n" + "long " * 400 + "\n",
    "html": "<p>ü <img src='cid:logo'></p>\n",
    "headers": {"X-Shop": "ä " * 60, "List-Id": "<a.example.org>"},
    "attachments": [
        {"filename": "logo.png", "content": PIXEL, "content_id": "logo"},
        {
            "filename": "Überweisung.csv",
            "content": PIXEL,
            "content_type": "text/csv; header=absent",
        },
    ],
    "tags": ["t"],
    "metadata": {"order": "7"},
    "on_unknown": "resend",
}


def parse(fields: Mapping[str, object]) -> Submission:
    return parse_submission(fields, Limits(), now_ms=NOW_MS)


def view_of(submission: Submission) -> MessageView:
    return MessageView(
        message_id=1,
        service="local",
        token_id=0,
        state=State.SENT,
        created_ms=NOW_MS,
        expires_ms=None,
        priority=Priority.NORMAL,
        on_unknown=submission.on_unknown,
        provider="",
        is_test=False,
        envelope_sender="",
        header_from=submission.draft.header_from.address,
        subject=submission.draft.subject,
        tags=submission.tags,
        metadata=submission.metadata,
        size_bytes=0,
        content_hash=b"",
        has_content=True,
        recipients=tuple(
            RecipientView(n=n, address=r.address, kind=r.kind, state=State.SENT)
            for n, r in enumerate(submission.recipients)
        ),
    )


@pytest.mark.parametrize(
    "left_out",
    [
        (),
        ("html", "attachments"),
        ("text",),
        ("attachments",),
        ("cc", "bcc", "reply_to"),
        ("subject",),
    ],
)
def test_what_is_read_back_is_what_was_asked_for(left_out: tuple[str, ...]) -> None:
    asked = parse({name: v for name, v in EVERYTHING.items() if name not in left_out})
    raw = build_raw(asked.draft, message_id_header="<m@example.org>", date_ms=NOW_MS)

    again = parse(read_fields(raw, view_of(asked)))

    assert again == asked


def test_a_policy_stays_and_what_belongs_to_one_sending_goes() -> None:
    asked = parse({**EVERYTHING, "expires_in": "1h", "provider": "relay"})
    raw = build_raw(asked.draft, message_id_header="<m@example.org>", date_ms=NOW_MS)

    again = parse(read_fields(raw, view_of(asked)))

    assert again.on_unknown is OnUnknown.RESEND
    assert (again.expires_in_ms, again.provider) == (None, "")
