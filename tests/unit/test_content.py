"""A message taken apart: what `core.mime` built comes back; who is named where."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emailerctl.core.mime import build_raw
from emailerctl.models.message import Attachment, Draft, Mailbox
from emailerctl.providers.content import address, parse_content, write_mailbox
from tests.unit.provider_case import (
    MESSAGE_ID_HEADER,
    NOW_MS,
    build_draft,
    build_outgoing,
    recipients,
)

# One line of what a person may write; the C0, C1 and format characters are refused earlier.
LINES = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=40)
TEXTS = st.text(
    st.characters(exclude_categories=("C", "Z"), include_characters="\n "), max_size=200
)
NAMES = st.lists(LINES, max_size=3).map(" ".join)


def parse(draft: Draft) -> Draft:
    """Build, take apart, and return it as a draft again."""
    raw = build_raw(draft, message_id_header=MESSAGE_ID_HEADER, date_ms=NOW_MS)
    content = parse_content(raw)
    assert content.message_id_header == MESSAGE_ID_HEADER
    return Draft(
        header_from=content.header_from,
        to=content.to,
        cc=content.cc,
        reply_to=content.reply_to,
        subject=content.subject,
        text=content.text,
        html=content.html,
        headers=dict(content.headers),
        attachments=content.attachments,
    )


def test_everything_comes_back() -> None:
    draft = build_draft()
    files = sorted(draft.attachments, key=lambda file: not file.content_id)  # tree order

    assert parse(draft) == replace(draft, attachments=tuple(files))


@pytest.mark.parametrize(
    "fields",
    [
        {"html": None},
        {"text": None},
        {"attachments": ()},
        {"html": None, "attachments": ()},
        {"text": None, "attachments": ()},
        {"cc": (), "reply_to": (), "headers": {}},
    ],
    ids=str,
)
def test_what_is_not_there_does_not_come_back(fields: dict[str, object]) -> None:
    came = parse(build_draft(**fields))

    for name, value in fields.items():
        if name != "attachments":
            assert getattr(came, name) == value


def test_an_attached_text_is_no_body() -> None:
    file = Attachment(filename="a.txt", content_type="text/plain", content=b"not the body")
    came = parse(build_draft(text="the body\n", html=None, attachments=(file,)))

    assert (came.text, came.attachments) == ("the body\n", (file,))


@given(subject=NAMES, name=NAMES, text=TEXTS, html=TEXTS, header=LINES, filename=LINES)
def test_any_text_comes_back(
    subject: str, name: str, text: str, html: str, header: str, filename: str
) -> None:
    draft = Draft(
        header_from=Mailbox("ann@example.org", name),
        to=(Mailbox("bob@example.org", name),),
        subject=subject,
        text=text,
        html=html,
        headers={"X-Any": header},
        attachments=(
            Attachment(filename=filename, content_type="image/png", content=text.encode()),
        ),
    )
    came = parse(draft)

    def ended(text: str) -> str:
        return text if text.endswith("\n") else text + "\n"

    assert came == replace(draft, text=ended(text), html=ended(html))


def test_addresses_outside_ascii_come_back() -> None:
    draft = build_draft(to=(Mailbox("büro@example.org", "Büro"),))

    assert parse(draft).to == draft.to


# Who is named where


@pytest.mark.parametrize(
    ("due", "to", "cc", "bcc", "later"),
    [
        (["bob", "cleo", "dan"], ["bob", "cleo"], ["dan"], [], []),
        (["bob"], ["bob"], [], [], []),  # a retry: the others have it
        (["cleo", "dan", "eve"], ["cleo"], ["dan"], ["eve"], []),
        (["dan", "eve"], ["dan"], [], ["eve"], []),  # somebody must be in To
        (["eve"], ["eve"], [], [], []),
        (["eve", "fay", "gil"], ["eve"], [], [], ["fay", "gil"]),  # must not see each other
    ],
    ids=str,
)
def test_only_those_are_named_whom_the_attempt_is_for(
    due: list[str], to: list[str], cc: list[str], bcc: list[str], later: list[str]
) -> None:
    outgoing = build_outgoing(build_draft(), *(f"{name}@example.org" for name in due))
    addressed = address(parse_content(outgoing.raw), outgoing.recipients)

    def names(mailboxes: object) -> list[str]:
        return [m.address.partition("@")[0] for m in mailboxes]  # type: ignore[attr-defined]

    assert (names(addressed.to), names(addressed.cc)) == (to, cc)
    assert (names(addressed.bcc), names(addressed.later)) == (bcc, later)
    carried = {*addressed.carried}
    assert carried | {*addressed.later} == {*outgoing.recipients}
    assert not carried & {*addressed.later}


def test_a_name_stays_with_its_address() -> None:
    content = parse_content(build_outgoing().raw)
    addressed = address(content, recipients("BOB@example.org", "dan@example.org"))

    assert addressed.to == (Mailbox("BOB@example.org", "Bob"),)
    assert addressed.cc == (Mailbox("dan@example.org", "Dän, Esq."),)


@pytest.mark.parametrize(
    ("mailbox", "written"),
    [
        (Mailbox("a@b.example"), "a@b.example"),
        (Mailbox("a@b.example", "Ann"), '"Ann" <a@b.example>'),
        (Mailbox("a@b.example", 'A "\\" B'), '"A \\"\\\\\\" B" <a@b.example>'),
        (Mailbox("a@b.example", "x, <c@d.example>"), '"x, <c@d.example>" <a@b.example>'),
    ],
)
def test_a_name_can_not_become_an_address(mailbox: Mailbox, written: str) -> None:
    assert write_mailbox(mailbox) == written


def test_traits() -> None:
    outgoing = build_outgoing()
    traits = parse_content(outgoing.raw).find_traits(outgoing)

    assert (traits.recipients, traits.size_bytes) == (3, len(outgoing.raw))
    assert sorted(traits.files) == ["logo.png", "ümlaut.pdf"]
    assert (traits.has_inline, traits.reply_to) == (True, 1)
    assert traits.headers == ("X-Ticket", "List-Unsubscribe")
