"""What doctor says of what it sees: pass, warn or fail, each bad one with its cure."""

import base64
from collections.abc import Mapping
from dataclasses import replace

import pytest

from emailerctl.core import doctor
from emailerctl.core.brokers import BrokerFacts
from emailerctl.core.doctor import Finding, Verdict
from emailerctl.models.doorbell import QueueCounts, QueueReport, SourceStatus
from emailerctl.providers.base import CheckResult
from emailerctl.store.base import Alert, Consumer, InboxCounts, Pause, QueueStats

NOW = 1_795_514_400_000
STATS = QueueStats(
    ready=1, scheduled=0, retrying=0, waiting=0, sending=0, held=0, unknown=0,
    oldest_due_ms=NOW - 5_000, oldest_unknown_ms=None, pause=None,
)  # fmt: skip
DOUBT = replace(STATS, unknown=1, oldest_unknown_ms=1)
PAUSE = Pause(since_ms=1, until_ms=None, actor="eve", reason="")
ONE = Consumer(
    consumer_id=1, host="h", pid=1, boot_id="b", version="0", started_ms=0,
    heartbeat_ms=NOW - 1_000, lease_until_ms=0,
)  # fmt: skip
NO_JOBS = InboxCounts(waiting=0, rejected=0, oldest_waiting_ms=None, newest_rejected_ms=None)


class Zone:
    """A domain name system of a few records."""

    def __init__(self, texts: Mapping[str, list[str]], mail: bool = True) -> None:
        self.texts = texts
        self.mail = mail
        self.asked: list[str] = []

    async def find_texts(self, name: str) -> list[str]:
        self.asked.append(name)
        return self.texts.get(name, [])

    async def has_mail_servers(self, name: str) -> bool:
        return self.mail


def key(octets: int) -> str:
    return f"v=DKIM1; k=rsa; p={base64.b64encode(b'k' * octets).decode()}"


GOOD = {
    "example.org": ["other", "v=spf1 include:_spf.example.net -all"],
    "_spf.example.net": ["v=spf1 ip4:192.0.2.1 a mx ?all"],
    "s1._domainkey.example.org": [key(294)],
    "_dmarc.example.org": ["v=DMARC1; p=reject; rua=mailto:x@example.org"],
}


async def test_a_domain_that_is_well_passes() -> None:
    found = await doctor.judge_domain(Zone(GOOD), "example.org", ["s1"])

    assert [one.verdict for one in found] == [Verdict.PASS] * 4
    below = await doctor.judge_domain(
        Zone({**GOOD, "mail.example.org": ["v=spf1 -all"]}), "mail.example.org"
    )
    assert [one.verdict for one in below] == [
        "pass",
        "pass",
        "warn",
        "pass",
    ]  # DMARC: its parent's


@pytest.mark.parametrize(
    ("name", "texts", "verdict", "said"),
    [
        ("example.org", [], "fail", "no record"),
        ("example.org", ["v=spf1 -all", "V=SPF1 ~all"], "fail", "2 records"),
        ("example.org", ["v=spf1 +all"], "warn", "anybody may send"),
        ("example.org", ["v=spf1 " + "a:x.example " * 11 + "-all"], "fail", "look-ups"),
        ("example.org", ["v=spf1 include:example.org -all"], "pass", "v=spf1"),
        ("example.org", ["v=spf1 redirect=_spf.example.net"], "pass", "v=spf1"),
        ("s1._domainkey.example.org", [], "fail", "no record at s1._domainkey"),
        ("s1._domainkey.example.org", ["p="], "fail", "revoked"),
        ("s1._domainkey.example.org", ["p=!!"], "fail", "no base64"),
        ("s1._domainkey.example.org", [key(162)], "warn", "short"),
        ("s1._domainkey.example.org", [key(294) + "; t=y"], "warn", "testing"),
        ("s1._domainkey.example.org", ["v=DKIM1; k=ed25519; p=" + "A" * 44], "pass", "ed25519"),
        ("_dmarc.example.org", [], "fail", "no record"),
        ("_dmarc.example.org", ["v=DMARC1; rua=x"], "fail", "no policy"),
        ("_dmarc.example.org", ["v=DMARC1; p=none", "v=DMARC1; p=none"], "fail", "2 records"),
    ],
)
async def test_what_is_wrong_with_a_domain(
    name: str, texts: list[str], verdict: str, said: str
) -> None:
    found = await doctor.judge_domain(Zone({**GOOD, name: texts}), "example.org", ["s1"])

    place = ["example.org", "s1._domainkey.example.org", "_dmarc.example.org"].index(name)
    assert found[place].verdict == verdict
    assert said in found[place].detail
    assert bool(found[place].cure) == (verdict != "pass")


async def test_an_spf_record_without_end_asks_a_bounded_number_of_times() -> None:
    deep = {f"n{n}.example": [f"v=spf1 include:n{n + 1}.example -all"] for n in range(100)}
    zone = Zone({**deep, "example.org": ["v=spf1 include:n0.example -all"]}, mail=False)

    spf, *_rest, mail = await doctor.judge_domain(zone, "example.org")

    assert spf.verdict is Verdict.FAIL
    assert len(zone.asked) < 15
    assert (mail.name, mail.verdict) == ("dns example.org MX", Verdict.WARN)


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (doctor.judge_library("3.53.4", is_safe=True), "pass"),
        (doctor.judge_library("3.40.1", is_safe=False), "warn"),
        (doctor.judge_disk(1000, 10, "/x"), "pass"),
        (doctor.judge_disk(30, 10, "/x"), "warn"),
        (doctor.judge_disk(9, 10, "/x"), "fail"),
        (doctor.judge_mode("/x/e.db", 0o600, is_mine=True, may_write=True), "pass"),
        (doctor.judge_mode("/x/e.db", 0o640, is_mine=True, may_write=True), "warn"),
        (doctor.judge_mode("/x/e.db", 0o600, is_mine=False, may_write=True), "warn"),
        (doctor.judge_mode("/x/e.db", 0o600, is_mine=False, may_write=False), "fail"),
        (doctor.judge_clock(NOW, NOW, is_synchronised=True), "pass"),
        (doctor.judge_clock(NOW, None, is_synchronised=None), "pass"),
        (doctor.judge_clock(NOW, NOW, is_synchronised=False), "warn"),
        (doctor.judge_clock(NOW, NOW + 100_000, is_synchronised=True), "fail"),
        (doctor.judge_consumers([ONE], NOW), "pass"),
        (doctor.judge_consumers([replace(ONE, heartbeat_ms=0)], NOW), "fail"),
        (doctor.judge_consumers([], NOW), "fail"),
        (*doctor.judge_queue(STATS, NOW), "pass"),
        (*doctor.judge_queue(replace(STATS, oldest_due_ms=NOW - 200_000), NOW), "fail"),
        (
            *doctor.judge_queue(
                replace(STATS, pause=Pause(since_ms=1, until_ms=None, actor="e", reason="")),
                NOW,
            ),
            "warn",
        ),
        (doctor.judge_unknown(STATS, NOW), "pass"),
        (
            doctor.judge_unknown(replace(STATS, unknown=1, oldest_unknown_ms=NOW - 9), NOW),
            "warn",
        ),
        (doctor.judge_unknown(replace(STATS, unknown=1, oldest_unknown_ms=1), NOW), "fail"),
        (doctor.judge_alerts([]), "pass"),
        (doctor.judge_alerts([Alert(name="disk_low", detail="x", since_ms=1)]), "fail"),
        (doctor.judge_hop("relay", [CheckResult("ehlo", True, "250")]), "pass"),
        (doctor.judge_hop("relay", [CheckResult("auth", False, "535", "set it anew")]), "fail"),
    ],
)
def test_each_thing_has_its_verdict_and_its_cure(found: Finding, verdict: str) -> None:
    assert found.verdict == verdict
    assert bool(found.cure) == (verdict != "pass")


def test_a_broker_that_is_well_passes_and_others_say_the_cure() -> None:
    well = BrokerFacts(
        kind="forestmq",
        sources=[SourceStatus("http://q:8005", ("email",), length=2)],
        alive=[],
        counts=QueueCounts(),
        foreign=0,
        inbox=NO_JOBS,
    )
    (one,) = doctor.judge_broker(well)
    assert (one.verdict, one.detail) == (Verdict.PASS, "doorbells: 2 queued")

    refused = SourceStatus("http://q:8005", ("email",), "host_refused", "403: no such host")
    falling_back = QueueReport(
        reporter="c", kind="forestmq", sources=[], counts=QueueCounts(), is_falling_back=True
    )
    bad = replace(
        well,
        sources=[refused],
        alive=[(1, falling_back)],
        counts=QueueCounts(lost=3),
        inbox=replace(NO_JOBS, rejected=1),
    )
    found = doctor.judge_broker(bad)
    assert [one.verdict for one in found] == [Verdict.FAIL, *[Verdict.WARN] * 3]
    assert "--hosts" in found[0].cure
    assert all(one.cure for one in found)
