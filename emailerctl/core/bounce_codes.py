"""What a failure says about later mail: pointless (hard), or not.

Only what says "there is no such mailbox, and there will be none" is hard, since a hard bounce
suppresses the address.  A full mailbox empties, a policy or a reputation changes, and a message
that was too large says nothing about the next one.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from emailerctl.providers.base import RejectReason

# IANA's registry of enhanced status codes (updated 2024-12-06), RFC 3463 3.2 and 3.3, RFC 7505.
# Not among them, though about the address: 5.1.0 (Exchange refuses senders with it), 5.1.4
# (ambiguous), 5.1.7 and 5.1.8 (the sender's address), 5.1.9 (not a good place for it).
HARD: Mapping[str, str] = MappingProxyType(
    {
        "5.1.1": "bad destination mailbox address",
        "5.1.2": "bad destination system address: the domain does not exist",
        "5.1.3": "bad destination mailbox address syntax",
        "5.1.6": "mailbox has moved, no forwarding address",
        # RFC 7505: the domain says that it takes no mail.  Exchange Online: recipient not found
        # (learn.microsoft.com, "Email non-delivery reports in Exchange Online", 2026-11).
        "5.1.10": "recipient address has null MX; recipient not found",
        # Disabled, not accepting messages: RFC 3463 says "permanent", and Gmail writes it for
        # accounts that are closed (support.google.com/a/answer/3726730, 2026-11).
        "5.2.1": "mailbox disabled, not accepting messages",
    }
)

# Whose second digit tells why; what is not here was refused by the receiving side somehow.
_REASONS: Mapping[str, RejectReason] = MappingProxyType(
    {
        "5.7": RejectReason.BLOCKED,  # RFC 3463 3.8: security or policy
        "4.7": RejectReason.BLOCKED,
        "4.4": RejectReason.TIMED_OUT,  # network and routing, given up after days
    }
)
_TOO_LONG = frozenset({"4.4.7", "5.4.7"})  # RFC 3463 3.5: delivery time expired

# Gmail answers with 5.2.1 for this too (support.google.com/a/answer/3726730, 2026-11).
_BUSY = re.compile(r"too quickly|at a rate|rate[ -]limit", re.IGNORECASE)
_FULL = re.compile(r"over ?quota|quota exceeded|mailbox (?:is )?full", re.IGNORECASE)
_NOBODY = re.compile(
    r"user unknown|unknown (?:user|recipient|local)|no such (?:user|recipient|mailbox|address)"
    r"|no mailbox here|(?:user|mailbox|recipient|address|account|e-?mail)\b[^.;]{0,60}"
    r"(?:does not exist|doesn'?t exist|doesn'?t have|not found|no longer exists)"
    r"|invalid (?:recipient|mailbox)|couldn't find any host",
    re.IGNORECASE,
)
# Of an enhanced status code; not of an address such as 5.9.1.2.
_STATUS = re.compile(r"(?<![\d.])([245]\.\d{1,3}\.\d{1,3})(?!\.?\d)")
_CODE = re.compile(r"(?<![\d.])([45]\d\d)(?=[ \-:#]|$)")
_SAYS_WHO_IS_WRONG = frozenset({"550", "551", "553", "554"})


class Verdict(NamedTuple):
    """What a failure means.

    Attributes:
        status: the enhanced status code that says most; empty where there is none.
    """

    status: str
    is_hard: bool
    reason: RejectReason


def find_status(text: str) -> str:
    """Return the first enhanced status code in *text*; empty where there is none."""
    match = _STATUS.search(text)
    return match[1] if match else ""


def find_code(text: str) -> str:
    """Return the first reply code of a refusal (4yz, 5yz) in *text*."""
    match = _CODE.search(text)
    return match[1] if match else ""


def choose_status(status: str, diagnostic: str) -> str:
    """Return *status*, or the one in *diagnostic* where *status* says less.

    X.0.0 says nothing; Exim writes it for every refusal and quotes the real one.
    """
    said = find_status(status)
    if said and not said.endswith(".0.0"):
        return said
    return find_status(diagnostic) or said


def judge(status: str, diagnostic: str) -> Verdict:
    """Return what a failure with that status and these words means."""
    best = choose_status(status, diagnostic)
    if best in HARD:
        is_hard = not _BUSY.search(diagnostic) and not _FULL.search(diagnostic)
    else:
        says_little = best == "5.0.0" or not best
        code = find_code(diagnostic)
        refused = code in _SAYS_WHO_IS_WRONG or (not code and best == "5.0.0")
        is_hard = says_little and refused and _NOBODY.search(diagnostic) is not None
    if is_hard:
        return Verdict(best, True, RejectReason.INVALID)  # noqa: FBT003
    if best in _TOO_LONG:
        return Verdict(best, False, RejectReason.TIMED_OUT)  # noqa: FBT003
    reason = _REASONS.get(best.rpartition(".")[0], RejectReason.BOUNCED)
    return Verdict(best, False, reason)  # noqa: FBT003
