"""Hard or not: the table, the words, and what must not suppress anybody."""

import pytest

from emailerctl.core.bounce_codes import HARD, choose_status, find_code, find_status, judge
from emailerctl.providers.base import RejectReason


@pytest.mark.parametrize("status", HARD)
def test_what_says_that_there_is_no_mailbox_is_hard(status: str) -> None:
    verdict = judge(status, f"550 {status} no")

    assert (verdict.is_hard, verdict.reason) == (True, RejectReason.INVALID)


@pytest.mark.parametrize(
    ("status", "diagnostic", "reason"),
    [
        ("5.2.2", "552 5.2.2 mailbox full", RejectReason.BOUNCED),
        ("5.2.3", "552 5.2.3 too long", RejectReason.BOUNCED),
        ("5.7.1", "550 5.7.1 user unknown, or so says policy", RejectReason.BLOCKED),
        ("5.7.26", "550 5.7.26 unauthenticated", RejectReason.BLOCKED),
        ("5.4.1", "550 5.4.1 Recipient address rejected: Access denied", RejectReason.BOUNCED),
        ("5.1.8", "553 5.1.8 bad sender", RejectReason.BOUNCED),
        ("5.0.0", "550 rejected", RejectReason.BOUNCED),
        ("", "", RejectReason.BOUNCED),
        ("4.1.1", "450 4.1.1 user unknown in local table", RejectReason.BOUNCED),
        ("4.4.7", "delivery time expired", RejectReason.TIMED_OUT),
        ("4.4.1", "connection timed out", RejectReason.TIMED_OUT),
        ("5.4.7", "expired", RejectReason.TIMED_OUT),
        ("5.2.1", "550 5.2.1 receiving mail at a rate that prevents", RejectReason.BOUNCED),
        ("5.2.1", "550 5.2.1 mailbox is full", RejectReason.BOUNCED),
        ("5.0.0", "450 user unknown", RejectReason.BOUNCED),
        ("", "host not found", RejectReason.BOUNCED),
    ],
)
def test_everything_else_is_not(status: str, diagnostic: str, reason: RejectReason) -> None:
    verdict = judge(status, diagnostic)

    assert (verdict.is_hard, verdict.reason) == (False, reason)


@pytest.mark.parametrize(
    "diagnostic",
    [
        "550 <a@b.example>: Recipient address rejected: User unknown",
        "550 sorry, no mailbox here by that name",
        "554 delivery error: dd This user doesn't have a yahoo.com account",
        "550 Requested action not taken: mailbox a does not exist",
        "553 no such user",
        "551 unknown recipient",
    ],
)
def test_without_a_status_the_words_decide(diagnostic: str) -> None:
    assert judge("5.0.0", diagnostic).is_hard
    assert judge("", diagnostic).is_hard


def test_the_status_that_says_most_counts() -> None:
    assert choose_status("5.0.0", "550 5.1.1 no") == "5.1.1"
    assert choose_status("5.7.1 (policy)", "550 5.1.1 no") == "5.7.1"
    assert choose_status("5.0.0", "no") == "5.0.0"
    assert choose_status("", "(#5.1.1)") == "5.1.1"


@pytest.mark.parametrize("text", ["198.5.1.1", "5.1.1.9", "15.1.1", "5.1", "1.5.1.1"])
def test_an_address_of_a_host_is_no_status(text: str) -> None:
    assert find_status(f"host [{text}] said no") == ""


def test_codes_stand_alone() -> None:
    assert find_code("said: 550-5.1.1 no") == "550"
    assert find_code("id 5501, 2550") == ""
    assert find_status("550 5.1.1.") == "5.1.1"
