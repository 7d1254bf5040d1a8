"""What `doctor` looks at, judged: pass, warn or fail, and what cures it.

Everything here is pure but for `judge_domain`, which asks a `Names`: tests give it answers.
"""

import base64
import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from emailerctl.core.brokers import BrokerFacts
from emailerctl.models.clock import to_text
from emailerctl.providers.base import CheckResult
from emailerctl.store.base import Alert, Consumer, QueueStats

SILENT_MS = 30_000  # a consumer without a heartbeat for so long is none (product.md §7)
_LATE_MS = 120_000  # product.md §7: the oldest due message
_UNKNOWN_MS = 60_000
_AHEAD_MS = 60_000
_MOST_LOOKUPS = 10  # RFC 7208 §4.6.4
_SHORT_KEY_BYTES = 200  # of an RSA-1024 key's DER there are 162, of RSA-2048's 294


class Verdict(StrEnum):
    """How bad it is."""

    PASS = "pass"  # noqa: S105  (no password)
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what: `store`, `dns example.org SPF`.
        cure: what to do or to type; empty where it is well.
    """

    name: str
    verdict: Verdict
    detail: str
    cure: str = ""


class Names(Protocol):
    """Who knows what a domain publishes."""

    async def find_texts(self, name: str) -> list[str]:
        """Return the TXT records of *name*."""
        ...

    async def has_mail_servers(self, name: str) -> bool:
        """Return whether mail to *name* can be delivered."""
        ...


# The host


def judge_library(version: str, *, is_safe: bool) -> Finding:
    """SQLite before 3.51.3 can lose committed data when several processes write."""
    if is_safe:
        return Finding("sqlite", Verdict.PASS, f"SQLite {version}")
    return Finding(
        "sqlite",
        Verdict.WARN,
        f"SQLite {version} can lose committed data when several processes write",
        "install pysqlite3 (x86_64), or a system library of 3.51.3 or newer",
    )


def judge_disk(free_bytes: int, low_water_bytes: int, folder: str) -> Finding:
    """Below the low-water mark nothing more is accepted."""
    free = f"{free_bytes / 1_000_000:.0f} MB free at {folder}"
    cure = "free space, or shorten [retention]: emailerctl store prune --dry-run"
    if free_bytes < low_water_bytes:
        return Finding("disk", Verdict.FAIL, f"{free}: nothing more is accepted", cure)
    if free_bytes < 4 * low_water_bytes:
        said = f"{free}, and below {low_water_bytes / 1_000_000:.0f} MB nothing is accepted"
        return Finding("disk", Verdict.WARN, said, cure)
    return Finding("disk", Verdict.PASS, free)


def judge_mode(path: str, mode: int, *, is_mine: bool, may_write: bool) -> Finding:
    """T-24: what is in the store is for its owner alone."""
    name = f"permissions {path.rpartition('/')[2]}"
    said = f"{path} has mode {mode & 0o777:04o}"
    if not may_write:
        cure = "run as the user of the daemons, or: chown -R THAT_USER the folder"
        return Finding(name, Verdict.FAIL, f"{path} can't be written by this user", cure)
    if mode & 0o077:
        cure = f"chmod go= {path}"
        return Finding(name, Verdict.WARN, f"{said}: others can get at it", cure)
    if not is_mine:
        cure = "operate as the user of the daemons, so that new files are theirs too"
        return Finding(name, Verdict.WARN, f"{path} belongs to another user", cure)
    return Finding(name, Verdict.PASS, said)


def judge_clock(
    now_ms: int, newest_event_ms: int | None, *, is_synchronised: bool | None
) -> Finding:
    """Due and expiry times go by the wall clock; *is_synchronised* None: nobody can tell."""
    cure = "run chrony or systemd-timesyncd; see docs/operations.md, clock_jumped"
    if newest_event_ms is not None and newest_event_ms > now_ms + _AHEAD_MS:
        said = f"the newest event is of {to_text(newest_event_ms)}: this clock is behind it"
        return Finding("clock", Verdict.FAIL, said, cure)
    if is_synchronised is False:
        return Finding(
            "clock", Verdict.WARN, "the kernel says that nothing keeps it right", cure
        )
    told = "is kept right" if is_synchronised else "may be right: the kernel does not say"
    return Finding("clock", Verdict.PASS, f"{to_text(now_ms)}, {told}")


# What is under way


def judge_consumers(consumers: Sequence[Consumer], now_ms: int) -> Finding:
    """Without a consumer, messages are accepted and wait."""
    alive = sum(now_ms - one.heartbeat_ms <= SILENT_MS for one in consumers)
    if alive:
        return Finding("consumers", Verdict.PASS, f"{alive} alive")
    said = f"{len(consumers)} without a recent heartbeat" if consumers else "none"
    return Finding("consumers", Verdict.FAIL, said, "start one: emailerctl consume")


def judge_queue(stats: QueueStats, now_ms: int) -> Iterator[Finding]:
    """Say whether the queue moves."""
    age_ms = 0 if stats.oldest_due_ms is None else max(now_ms - stats.oldest_due_ms, 0)
    said = f"{stats.ready} ready, the oldest due for {age_ms // 1000} s"
    if stats.pause is not None:
        said = f"paused by {stats.pause.actor} since {to_text(stats.pause.since_ms)}; {said}"
        yield Finding("queue", Verdict.WARN, said, "emailerctl queue resume")
    elif age_ms > _LATE_MS:
        cure = "emailerctl status: too few connections, a slow next hop, a consumer that hangs?"
        yield Finding("queue", Verdict.FAIL, said, cure)
    else:
        yield Finding("queue", Verdict.PASS, said)


def judge_unknown(stats: QueueStats, now_ms: int) -> Finding:
    """A doubt waits for somebody."""
    if not stats.unknown:
        return Finding("unknown", Verdict.PASS, "none")
    said = f"{stats.unknown} recipients may or may not have their message"
    age_ms = 0 if stats.oldest_unknown_ms is None else now_ms - stats.oldest_unknown_ms
    verdict = Verdict.FAIL if age_ms > _UNKNOWN_MS else Verdict.WARN
    return Finding("unknown", verdict, said, "emailerctl unknown list, then unknown show ID")


def judge_alerts(alerts: Sequence[Alert]) -> Finding:
    """What the daemons have raised."""
    if not alerts:
        return Finding("alerts", Verdict.PASS, "none")
    said = "; ".join(f"{alert.name}: {alert.detail}" for alert in alerts)
    return Finding("alerts", Verdict.FAIL, said, "docs/operations.md, For every alert")


def judge_hop(name: str, results: Sequence[CheckResult]) -> Finding:
    """Put together what `providers check` found of a next hop."""
    bad = [one for one in results if not one.is_good]
    if not bad:
        return Finding(f"next hop {name}", Verdict.PASS, f"{len(results)} things are good")
    said = "; ".join(f"{one.name}: {one.detail}" for one in bad)
    cures = "; ".join(dict.fromkeys(one.cure for one in bad if one.cure))
    return Finding(f"next hop {name}", Verdict.FAIL, said, cures)


def judge_broker(broker: BrokerFacts) -> list[Finding]:
    """Say how each ForestMQ answers, and whether the consumers do without."""
    found = []
    for source in broker.sources:
        name = f"ForestMQ {source.url}"
        if source.trouble == "host_refused":
            cure = "start it with --hosts and the name that our URL has"
        else:
            cure = "start it; nothing is lost meanwhile: emailerctl queue stats"
        if source.trouble:
            found.append(Finding(name, Verdict.FAIL, source.detail or source.trouble, cure))
        else:
            said = "it answers" if source.length is None else f"{source.length} queued"
            found.append(Finding(name, Verdict.PASS, f"{source.use}: {said}"))
    if broker.is_falling_back:
        detail = "a consumer asks the store instead of the broker"
        found.append(Finding("fallback", Verdict.WARN, detail, "emailerctl queue stats"))
    if broker.counts.lost:
        detail = f"{broker.counts.lost} doorbells were lost in a day, and rung again"
        found.append(Finding("doorbells", Verdict.WARN, detail, "see docs/forestmq.md"))
    if broker.inbox.rejected:
        detail = f"{broker.inbox.rejected} jobs were rejected"
        found.append(Finding("inbox", Verdict.WARN, detail, "emailerctl inbox list"))
    return found


# What a From domain publishes


async def judge_domain(
    names: Names, domain: str, selectors: Sequence[str] = ()
) -> list[Finding]:
    """Look at SPF, DKIM, DMARC and MX of a From domain.

    Args:
        names: who is asked; what it raises, passes.
        domain: of From addresses.
        selectors: of DKIM keys; nobody can find them out from the DNS.
    """
    found = [
        await _judge_spf(names, domain),
        *[await _judge_dkim(names, domain, selector) for selector in selectors],
        await _judge_dmarc(names, domain),
    ]
    if not selectors:
        found.append(
            Finding(
                f"dns {domain} DKIM",
                Verdict.WARN,
                "no selector is known, so that no key could be looked at",
                "name it: emailerctl doctor --selector NAME (the s= of DKIM-Signature)",
            )
        )
    name = f"dns {domain} MX"
    if await names.has_mail_servers(domain):
        found.append(Finding(name, Verdict.PASS, "bounces and answers can come back"))
    else:
        cure = (
            "publish an MX record, or set [defaults] envelope_sender to a domain that has one"
        )
        found.append(Finding(name, Verdict.WARN, "no mail server: bounces get lost", cure))
    return found


async def _judge_spf(names: Names, domain: str) -> Finding:
    name = f"dns {domain} SPF"
    records = _pick_spf(await names.find_texts(domain))
    if not records:
        cure = f'{domain} TXT "v=spf1 include:YOUR_PROVIDER ~all"'
        return Finding(name, Verdict.FAIL, "no record", f"publish {cure}")
    if len(records) > 1:
        said = f"{len(records)} records; receivers take that for none (RFC 7208 §4.5)"
        return Finding(name, Verdict.FAIL, said, "put them together into one")
    record = records[0]
    if re.search(r"(?:^|\s)\+?all(?:\s|$)", record, re.IGNORECASE):
        return Finding(
            name, Verdict.WARN, f"{record}: anybody may send", "end it with ~all or -all"
        )
    count = await _count_lookups(names, domain, record)
    if count > _MOST_LOOKUPS:
        said = f"{record}: takes more than {_MOST_LOOKUPS} look-ups (RFC 7208 §4.6.4)"
        return Finding(name, Verdict.FAIL, said, "remove includes that are not needed")
    return Finding(name, Verdict.PASS, record)


def _pick_spf(texts: Sequence[str]) -> list[str]:
    return [t for t in texts if t.lower() == "v=spf1" or t.lower().startswith("v=spf1 ")]


async def _count_lookups(names: Names, domain: str, record: str) -> int:
    """Count the look-ups of an SPF record and of its includes, a little beyond the limit."""
    count = 0
    seen = {domain}
    waiting = [record]
    while waiting:
        for term in waiting.pop(0).lower().split()[1:]:
            word = re.sub(r"[=/]", ":", term.lstrip("+-~?"), count=1)
            kind, _, target = word.partition(":")
            if kind not in {"include", "a", "mx", "ptr", "exists", "redirect"}:
                continue
            count += 1
            if count > _MOST_LOOKUPS:
                return count
            is_nested = kind in {"include", "redirect"} and target and "%" not in target
            if is_nested and target not in seen:
                seen.add(target)
                waiting += _pick_spf(await names.find_texts(target))[:1]
    return count


async def _judge_dkim(names: Names, domain: str, selector: str) -> Finding:
    name = f"dns {domain} DKIM {selector}"
    at = f"{selector}._domainkey.{domain}"
    texts = await names.find_texts(at)
    if not texts:
        return Finding(name, Verdict.FAIL, f"no record at {at}", "publish the public key there")
    tags = _read_tags(texts[0])
    key = tags.get("p", "")
    try:
        octets = base64.b64decode(re.sub(r"\s", "", key), validate=True)
    except (binascii.Error, ValueError):
        return Finding(name, Verdict.FAIL, "p= is no base64", "publish the key whole, unbroken")
    if not octets:
        return Finding(name, Verdict.FAIL, "the key is revoked (empty p=)", "sign with another")
    if tags.get("k", "rsa") == "rsa" and len(octets) < _SHORT_KEY_BYTES:
        return Finding(
            name, Verdict.WARN, "a short RSA key", "make one of 2048 bits (RFC 8301)"
        )
    said = f"a key of {tags.get('k', 'rsa')}"
    if "y" in tags.get("t", "").split(":"):
        return Finding(name, Verdict.WARN, f"{said}, in testing (t=y)", "remove t=y")
    return Finding(name, Verdict.PASS, said)


async def _judge_dmarc(names: Names, domain: str) -> Finding:
    """A domain without a record has its organisation's (RFC 7489 §6.6.3): walk up to it."""
    name = f"dns {domain} DMARC"
    labels = domain.split(".")
    for depth in range(max(len(labels) - 1, 1)):
        at = ".".join(labels[depth:])
        texts = await names.find_texts(f"_dmarc.{at}")
        records = [text for text in texts if text.lower().startswith("v=dmarc1")]
        if len(records) > 1:
            return Finding(name, Verdict.FAIL, f"{len(records)} records at {at}", "keep one")
        if records:
            policy = _read_tags(records[0]).get("p", "")
            said = f"{records[0]} (at _dmarc.{at})"
            if policy.lower() in {"quarantine", "reject", "none"}:
                return Finding(name, Verdict.PASS, said)
            return Finding(name, Verdict.FAIL, f"{said}: no policy", "add p=none at least")
    cure = f'publish _dmarc.{domain} TXT "v=DMARC1; p=none; rua=mailto:YOU@{domain}"'
    return Finding(name, Verdict.FAIL, "no record; Gmail and Yahoo ask for one", cure)


def _read_tags(record: str) -> Mapping[str, str]:
    pairs = (piece.partition("=") for piece in record.split(";"))
    return {name.strip().lower(): value.strip() for name, found, value in pairs if found}
