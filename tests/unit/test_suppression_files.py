"""Suppression lists as CSV: ours, and those of providers."""

import contextlib
import csv
import io
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emailerctl.core.suppression_files import (
    COLUMNS,
    LONGEST_LINE,
    BadLine,
    Reading,
    read_suppressions,
    write_suppression,
)
from emailerctl.errors import Invalid
from emailerctl.store.base import Suppression

NOW_MS = 1_795_514_400_000
DAY = 1_736_278_545_000  # 2025-01-07T19:35:45Z


def read(text: str, **fields: Any) -> list[Suppression | BadLine]:
    reading = Reading(**({"actor": "eve", "now_ms": NOW_MS} | fields))
    return list(read_suppressions(io.StringIO(text, newline=""), reading))


def summary(text: str, **fields: Any) -> list[tuple[Any, ...]]:
    return [
        (one.number, one.detail)
        if isinstance(one, BadLine)
        else (one.address, one.reason, one.detail, one.created_ms)
        for one in read(text, **fields)
    ]


LISTS: Mapping[str, tuple[str, dict[str, Any], list[tuple[Any, ...]]]] = {
    "Mailgun, bounces": (
        "address,code,error,created_at\r\n"
        'ann@example.org,550,"5.1.1 no, nobody","Tue, 07 Jan 2025 19:35:45 UTC"\r\n',
        {},
        [("ann@example.org", "bounce", "550 5.1.1 no, nobody", DAY)],
    ),
    "Mailgun, unsubscribes": (
        'address,tags,created_at\nann@example.org,*,"Tue, 07 Jan 2025 19:35:45 GMT"\n',
        {},
        [("ann@example.org", "unsubscribe", "", DAY)],
    ),
    "Mailgun, complaints": (
        "address,created_at\nann@example.org,2025-01-07T19:35:45Z\n",
        {"reason": "complaint"},
        [("ann@example.org", "complaint", "", DAY)],
    ),
    "Postmark": (
        "EmailAddress,SuppressionReason,Origin,CreatedAt\n"
        "a@example.org,HardBounce,Recipient,2025-01-07T14:35:45-05:00\n"
        "b@example.org,SpamComplaint,Recipient,2025-01-07T14:35:45.0000000-05:00\n"
        "c@example.org,ManualSuppression,Recipient,2025-01-07T14:35:45-05:00\n"
        "d@example.org,ManualSuppression,Customer,2025-01-07T14:35:45-05:00\n"
        "e@example.org,Whim,Customer,2025-01-07T14:35:45-05:00\n",
        {},
        [
            ("a@example.org", "bounce", "", DAY),
            ("b@example.org", "complaint", "", DAY),
            ("c@example.org", "unsubscribe", "", DAY),
            ("d@example.org", "manual", "", DAY),
            (
                6,
                'SuppressionReason "whim" is not one of HardBounce, SpamComplaint, '
                "ManualSuppression",
            ),
        ],
    ),
    "Amazon SES": (
        '"Email address","Reason","Last update time"\n'
        '"ann@example.org","BOUNCE","1736278545"\n"bob@example.org","COMPLAINT",""\n',
        {},
        [
            ("ann@example.org", "bounce", "", DAY),
            ("bob@example.org", "complaint", "", NOW_MS),
        ],
    ),
    "SendGrid, bounces": (
        "status,reason,email,created\n5.1.1,550 nobody,ann@example.org,2025-01-07 19:35:45\n",
        {"reason": "bounce"},
        [("ann@example.org", "bounce", "5.1.1 550 nobody", DAY)],
    ),
    "a spreadsheet's semicolons": (
        "Email;Created\nann@example.org;1736278545\n\n;\n",
        {"reason": "manual"},
        [("ann@example.org", "manual", "", DAY)],
    ),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_is_known_by_its_header(name: str) -> None:
    text, fields, expected = LISTS[name]
    assert summary(text, **fields) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no header of a list"),
        ("ann@example.org\n", "is no header of a list"),
        ("name,phone\n", "is no header of a list"),
        ("email,created\nann@example.org,1\n", "give --reason"),
        ("status,reason,email,created\n5.1.1,x,ann@example.org,1\n", "give --reason"),
        ("email,email\n", "names the column email twice"),
        ("x" * LONGEST_LINE, "more than 65536 characters"),
    ],
)
def test_a_header_that_says_too_little(text: str, said: str) -> None:
    with pytest.raises(Invalid, match=said):
        read(text)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nonsense,bounce", "nonsense"),
        (",bounce", "has no address"),
        ("a\ufffd@example.org,bounce", "is not UTF-8"),
        ("ann@example.org,bounce,x", "has 3 cells; the header has 2"),
        ("ann@example.org", 'Reason "" is not one of'),
        ('ann@example.org,"bounce" x', "is no CSV"),
        ("x" * LONGEST_LINE, "more than 65536 characters"),
        ("=cmd|' /C calc'!A0,bounce", "cmd"),
        ("ann@example.org\x00,bounce", "ann@example.org"),
    ],
)
def test_a_bad_line_is_named_and_the_next_is_read(line: str, said: str) -> None:
    bad, good = read(f"EmailAddress,Reason\n{line}\nbob@example.org,BOUNCE\n")
    assert isinstance(bad, BadLine)
    assert bad.number == 2
    assert said in bad.detail
    assert len(bad.detail) < 300
    assert isinstance(good, Suppression)


def test_a_quote_that_never_ends_is_a_bad_line() -> None:
    rest = "bob@example.org,BOUNCE\n" * 10_000
    found = read(f'EmailAddress,Reason\nann@example.org,"BOUNCE\n{rest}')
    assert isinstance(found[0], BadLine)
    assert found[0].number == 2
    assert "is no CSV" in found[0].detail


def test_options_win_over_the_file() -> None:
    (one,) = read(
        "EmailAddress,Reason\nann@example.org,BOUNCE\n", reason="manual", service="shop"
    )
    assert isinstance(one, Suppression)
    assert (one.reason, one.service, one.actor) == ("manual", "shop", "eve")


def write(*ones: Suppression) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([COLUMNS, *map(write_suppression, ones)])
    return text.getvalue()


FORMULAS = ("=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "'=1", "''", "'")


@pytest.mark.parametrize("detail", [*FORMULAS, "550 5.1.1", 'quoted "so"', "a,b;c", "é 日本"])
@pytest.mark.parametrize("address", ["ann@example.org", "=a@example.org", "'=a@example.org"])
def test_ours_comes_back_as_it_was_and_is_no_formula(address: str, detail: str) -> None:
    """T-23: a recipient's name must not run in an operator's spreadsheet."""
    one = Suppression(
        address=address,
        service="shop",
        reason="bounce",
        detail=detail,
        created_ms=NOW_MS - 5,
        expires_ms=NOW_MS + 5,
        actor="eve",
        message_id=42,
        provider="mg",
    )
    text = write(one)

    for cell in next(csv.reader(io.StringIO(text.split("\n", 1)[1], newline=""))):
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    (back,) = read(text)
    assert isinstance(back, Suppression)
    cleaned = detail.replace("\t", " ").replace("\r", " ").strip()
    assert (back.address, back.detail) == (address, cleaned)
    assert (back.service, back.reason, back.provider) == ("shop", "bounce", "mg")
    assert (back.created_ms, back.expires_ms) == (NOW_MS - 5, NOW_MS + 5)
    assert back.message_id == 42


def test_bad_cells_of_ours_are_named() -> None:
    header = ",".join(COLUMNS)
    for line, said in {
        "ann@example.org,,,,,,,,": "reason",
        "ann@example.org,,bounce,,yesterday,,,,": "is no moment",
        "ann@example.org,,bounce,,,99999999999999,,,": "is no moment",
        "ann@example.org,,bounce,,,,,msg_x,": "is no message id",
        f"ann@example.org,{'s' * 65},bounce,,,,,,": "is no name",
    }.items():
        (bad,) = read(f"{header}\n{line}\n")
        assert isinstance(bad, BadLine)
        assert said in bad.detail


@given(st.text(max_size=200))
def test_no_text_is_a_crash(text: str) -> None:
    for header in ("EmailAddress,Reason", "address,code,error,created_at", ",".join(COLUMNS)):
        read(f"{header}\n{text}")
    with contextlib.suppress(Invalid):
        read(text, reason="manual")
