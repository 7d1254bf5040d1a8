"""A job of another service becomes a message, or says why it can't."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emailerctl.core.accept import Acceptance
from emailerctl.core.ingest import (
    MOST_TRIES,
    Accepted,
    Deferred,
    Ingest,
    IngestRules,
    Job,
    Reason,
    Refused,
    Throttle,
    Verdict,
    find_status,
    read_job,
)
from emailerctl.core.render import Templating
from emailerctl.errors import StorageFull
from emailerctl.models.caller import Scope
from emailerctl.models.ids import MESSAGE, to_public
from emailerctl.models.job import Key, build_envelope
from emailerctl.store.base import InboxFilter, InboxJob, Rejection
from emailerctl.templates.pool import Pool, PoolLimits
from tests.corpora import json_documents, naughty_strings
from tests.desk import Desk
from tests.unit.test_accept import FIELDS, RULES

SHOP = Key("shop", "0123456789abcdef0123456789abcdef")
OLD_SHOP = Key("shop", "f" * 32)
NEWS = Key("news", "a" * 32)
STRANGER = Key("stranger", "b" * 32)
TOPIC = "email.job"
NOW_MS = 1_795_514_400_000  # the desk's clock
NOW_S = NOW_MS // 1000
DAY_S = 86_400
SIGNED = IngestRules(
    keys={"shop": (SHOP, OLD_SHOP), "news": (NEWS,)}, max_age_ms=7 * DAY_S * 1000
)
OPEN = IngestRules(unsigned_from=("example.com",), unsigned_per_minute=2, max_age_ms=1)


def envelope(
    fields: Mapping[str, object] = FIELDS,
    *,
    key: Key | None = SHOP,
    job_id: str = "j-1",
    at_s: int = NOW_S,
    **changes: Any,
) -> bytes:
    """Return what ForestMQ gives back of a job; *changes* come after the signature."""
    built = build_envelope(fields, topic=TOPIC, job_id=job_id, at_s=at_s, key=key)
    return json.dumps({n: v for n, v in (built | changes).items() if v is not None}).encode()


def read(raw: bytes, rules: IngestRules = SIGNED) -> Job:
    return read_job(raw, topic=TOPIC, received_ms=NOW_MS, rules=rules)


def refused(raw: bytes, rules: IngestRules = SIGNED) -> Rejection:
    with pytest.raises(Refused) as caught:
        read(raw, rules)
    return caught.value.rejection


# who asks


def test_the_key_id_is_the_service() -> None:
    job = read(envelope())

    assert job.fields == FIELDS
    assert (job.caller.service, job.job_id, job.is_signed) == ("shop", "j-1", True)
    assert job.caller.scopes == {Scope.SEND}


def test_while_a_secret_is_replaced_both_verify() -> None:
    assert read(envelope(key=OLD_SHOP)).caller.service == "shop"


@pytest.mark.parametrize(
    ("raw", "reason", "service"),
    [
        (envelope(sig="0" * 64), Reason.SIGNATURE, ""),
        (envelope(key=NEWS, kid="shop"), Reason.SIGNATURE, ""),
        (envelope(kid="news"), Reason.SIGNATURE, ""),
        (envelope(id="j-2"), Reason.SIGNATURE, ""),
        (envelope(data="e30"), Reason.SIGNATURE, ""),
        (envelope(at_s=NOW_S - 1, at=NOW_S), Reason.SIGNATURE, ""),
        (envelope(key=STRANGER), Reason.UNKNOWN_KEY, ""),
        (envelope(key=None), Reason.UNSIGNED, ""),
        (envelope(kid=None, at=None, sig=None), Reason.UNSIGNED, ""),
        (envelope(sig=None), Reason.ENVELOPE, ""),
        (envelope(at=None), Reason.ENVELOPE, ""),
        (envelope(sig="0"), Reason.ENVELOPE, ""),
        (envelope(at_s=NOW_S - 7 * DAY_S), None, "shop"),
        (envelope(at_s=NOW_S - 7 * DAY_S - 1), Reason.TOO_OLD, "shop"),
        (envelope(at_s=NOW_S + 300), None, "shop"),
        (envelope(at_s=NOW_S + 301), Reason.IN_FUTURE, "shop"),
        (envelope(topic="email.send"), Reason.FOREIGN, ""),
        (envelope(v=2), Reason.ENVELOPE, ""),
    ],
)
def test_a_signature_is_believed_or_not(
    raw: bytes, reason: Reason | None, service: str
) -> None:
    if reason is None:
        assert read(raw).caller.service == service
        return
    rejection = refused(raw)

    assert (rejection.reason, rejection.service) == (reason, service)
    assert rejection.faults
    assert rejection.job_id == ("j-2" if b"j-2" in raw else "j-1")


def test_no_secret_is_ever_said() -> None:
    for raw in (envelope(sig="0" * 64), envelope(key=NEWS, kid="shop")):
        assert SHOP.secret not in str(refused(raw).faults)


def test_anybody_may_use_the_domains_of_unsigned_from_and_nothing_else() -> None:
    plain = {"topic": TOPIC, "v": 1, "id": "j-1", "job": dict(FIELDS)}

    for raw in (envelope(key=None), json.dumps(plain).encode()):
        job = read(raw, OPEN)
        assert (job.caller.service, job.is_signed) == ("anonymous", False)
        assert job.caller.limits.from_domains == ("example.com",)
        assert job.caller.scopes == {Scope.SEND}
    chosen = refused(envelope({**FIELDS, "provider": "backup"}, key=None), OPEN)
    assert (chosen.reason, chosen.faults[0].pointer) == ("forbidden", "/provider")


# what came


def test_whatever_comes_has_a_reason_and_never_ends_the_process() -> None:
    """JSONTestSuite and the big list of naughty strings, whole and in every member."""
    hostile = [octets for prefix in "yni" for _name, octets in json_documents(prefix)]
    hostile += [b"", b"\0" * 70_000, b"[" * 64_000]
    hostile += [f'{{"message": {json.dumps(text)}}}'.encode() for text in naughty_strings()]
    for raw in hostile:
        assert refused(raw).reason in {Reason.MALFORMED, Reason.ENVELOPE}
    for text in naughty_strings():
        for name in ("topic", "v", "id", "enc", "data", "kid", "at", "sig", "job", text):
            message = json.loads(envelope()) | {name: text}
            raw = json.dumps(message).encode("utf-8", "surrogatepass")
            reason = refused(raw).reason
            assert reason in {*Reason}, (name, text)


def test_the_job_inside_is_read_as_strictly_as_a_request() -> None:
    for content in (b"[]", b'{"a":1,"a":2}', b"\xff", b'{"a":NaN}', b""):
        with pytest.raises(Refused) as caught:
            read_job(_signed(content), topic=TOPIC, received_ms=NOW_MS, rules=SIGNED)
        assert caught.value.rejection.reason in {Reason.MALFORMED, Reason.ENVELOPE}


def _signed(content: bytes) -> bytes:
    import base64

    from emailerctl.models.job import sign

    data = base64.urlsafe_b64encode(content).decode()
    signature = sign(SHOP, topic=TOPIC, job_id="j", at_s=NOW_S, data=data)
    return json.dumps(
        {
            "topic": TOPIC,
            "v": 1,
            "id": "j",
            "enc": "b64u",
            "data": data,
            "kid": "shop",
            "at": NOW_S,
            "sig": signature,
        }
    ).encode()


@settings(max_examples=50)
@given(st.binary(max_size=300))
def test_any_bytes_are_refused_with_a_reason(raw: bytes) -> None:
    assert refused(raw).faults


@settings(max_examples=50)
@given(
    st.dictionaries(
        st.sampled_from(["topic", "v", "id", "enc", "data", "kid", "at", "sig", "job", "x"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=20),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.text(max_size=4), inner, max_size=3)
            ),
            max_leaves=6,
        ),
    )
)
def test_any_envelope_is_refused_with_a_reason(message: dict[str, Any]) -> None:
    assert refused(json.dumps(message).encode()).faults


# a message


class Case:
    """An ingest over the store of a desk."""

    def __init__(self, desk: Desk, rules: IngestRules) -> None:
        self.desk = desk
        self.is_storage_low = False
        acceptance = Acceptance(
            desk.store,
            RULES,
            clock=desk.clock,
            rng=desk.rng,
            is_storage_low=lambda: self.is_storage_low,
            backlog=lambda: 0,
            templating=Templating(desk.store, Pool(PoolLimits())),
        )
        self.ingest = Ingest(desk.store, acceptance, rules, clock=desk.clock)
        self._ids = 0

    async def keep(self, raw: bytes, **fields: Any) -> InboxJob:
        self._ids += 1
        now_ms = self.desk.clock.now_ms()
        known: dict[str, Any] = {
            "inbox_id": self._ids,
            "topic": TOPIC,
            "raw": raw,
            "received_ms": now_ms,
            "due_ms": now_ms,
            "changed_ms": now_ms,
        }
        job = InboxJob(**known | fields)
        await self.desk.store.add_job(job)
        return job

    async def process(self, raw: bytes, **fields: Any) -> Verdict:
        return await self.ingest.process(await self.keep(raw, **fields))

    async def inbox(self) -> list[InboxJob]:
        page = await self.desk.store.list_jobs(InboxFilter(), cursor=None, limit=50)
        return list(page.data)

    async def status(self, service: str = "shop", job_id: str = "j-1") -> dict[str, object]:
        found = await find_status(self.desk.store, service=service, job_id=job_id)
        assert found is not None
        return found


@pytest.fixture
def case(desk: Desk) -> Case:
    return Case(desk, SIGNED)


async def test_a_good_job_is_a_message_of_its_service_and_leaves_the_inbox(case: Case) -> None:
    verdict = await case.process(envelope())

    assert isinstance(verdict, Accepted)
    assert await case.inbox() == []
    view = await case.desk.store.find_message(verdict.receipt.message_id)
    assert view is not None
    assert (view.service, view.header_from, view.token_id) == ("shop", "shop@example.com", 0)
    assert await case.status() == {
        "id": "j-1",
        "state": "accepted",
        "message_id": to_public(MESSAGE, verdict.receipt.message_id),
        "code": None,
        "errors": [],
    }


async def test_a_job_that_comes_again_is_the_same_message(case: Case) -> None:
    """Replayed by an attacker, published again by its service, or processed twice after a
    crash between the commit of the message and the end of the job."""
    first = await case.process(envelope())
    job = await case.keep(envelope(at_s=NOW_S - 60))
    second = await case.ingest.process(job)
    third = await case.ingest.process(job)

    ids = {v.receipt.message_id for v in (first, second, third) if isinstance(v, Accepted)}
    assert len(ids) == 1
    assert isinstance(second, Accepted)
    assert second.receipt.is_replay
    assert await case.inbox() == []


async def test_the_same_id_with_another_email_is_rejected(case: Case) -> None:
    await case.process(envelope())

    verdict = await case.process(envelope({**FIELDS, "subject": "Another"}))

    assert isinstance(verdict, Rejection)
    assert verdict.reason == "idempotency_key_reused"
    assert (await case.status())["state"] == "accepted"


async def test_an_id_belongs_to_its_service(case: Case) -> None:
    first = await case.process(envelope())
    second = await case.process(envelope(key=NEWS))

    assert isinstance(first, Accepted)
    assert isinstance(second, Accepted)
    assert first.receipt.message_id != second.receipt.message_id


async def test_the_rules_are_those_of_the_api_and_all_faults_are_kept(case: Case) -> None:
    bad = {"from": "nobody", "to": [], "subject": "a\nb", "colour": "red"}

    verdict = await case.process(envelope(bad))

    assert isinstance(verdict, Rejection)
    (kept,) = await case.inbox()
    assert (kept.reason, kept.service, kept.key_id, kept.job_id) == (
        "invalid",
        "shop",
        "shop",
        "j-1",
    )
    pointers = {fault.pointer for fault in kept.faults}
    assert {"/from", "/to", "/subject", "/colour"} <= pointers
    status = await case.status()
    assert (status["state"], status["code"]) == ("rejected", "invalid")
    assert status["errors"] == [
        {"pointer": fault.pointer, "detail": fault.detail} for fault in kept.faults
    ]


async def test_a_forged_rejection_never_hides_what_became_of_the_real_job(case: Case) -> None:
    await case.process(envelope({**FIELDS, "to": "nobody"}))
    await case.process(envelope(sig="0" * 64))

    assert (await case.status())["code"] == "invalid"
    assert await find_status(case.desk.store, service="news", job_id="j-1") is None


async def test_unsigned_jobs_keep_to_their_domains(desk: Desk) -> None:
    case = Case(desk, OPEN)

    good = await case.process(envelope(key=None))
    foreign = await case.process(
        envelope({**FIELDS, "from": "ceo@example.org"}, key=None, job_id="j-2")
    )

    assert isinstance(good, Accepted)
    assert (good.service, good.is_signed) == ("anonymous", False)
    assert isinstance(foreign, Rejection)
    assert foreign.reason == "forbidden"
    assert (await case.status("anonymous"))["state"] == "accepted"


async def test_unsigned_jobs_wait_for_their_turn_and_signed_ones_do_not(desk: Desk) -> None:
    """Two a minute at once, then one every 30 s; beyond ten minutes of waiting: no more."""
    rules = IngestRules(
        keys=SIGNED.keys,
        unsigned_from=("example.com",),
        unsigned_per_minute=2,
        max_age_ms=SIGNED.max_age_ms,
    )
    case = Case(desk, rules)
    verdicts = [await case.process(envelope(key=None, job_id=f"a-{n}")) for n in range(24)]

    assert [type(v).__name__ for v in verdicts] == (
        ["Accepted"] * 2 + ["Deferred"] * 20 + ["Rejection"] * 2
    )
    assert isinstance(verdicts[2], Deferred)
    assert verdicts[2].due_ms == desk.clock.now_ms() + 30_000
    assert isinstance(verdicts[-1], Rejection)
    assert verdicts[-1].reason == Reason.RATE
    assert isinstance(await case.process(envelope()), Accepted)
    desk.clock.advance(s=30)
    (waited,) = await desk.store.claim_jobs(
        now_ms=desk.clock.now_ms(), again_ms=desk.clock.now_ms() + 5000, limit=9
    )
    assert isinstance(await case.ingest.process(waited), Accepted)


async def test_a_full_disk_makes_a_job_wait(case: Case) -> None:
    case.is_storage_low = True
    job = await case.keep(envelope())

    verdict = await case.ingest.process(job)

    assert isinstance(verdict, Deferred)
    assert verdict.due_ms > case.desk.clock.now_ms()
    with pytest.raises(StorageFull):
        await case.ingest.process(job, by_hand=True)
    case.is_storage_low = False
    assert isinstance(await case.ingest.process(job), Accepted)


async def test_a_job_that_ends_its_consumers_is_rejected_but_not_for_an_operator(
    case: Case,
) -> None:
    verdict = await case.process(envelope(), tries=MOST_TRIES + 1)

    assert isinstance(verdict, Rejection)
    assert verdict.reason == Reason.CRASHED
    (kept,) = await case.inbox()
    assert isinstance(await case.ingest.process(kept, by_hand=True), Accepted)
    assert await case.inbox() == []


async def test_retried_after_a_key_was_added(desk: Desk) -> None:
    """Its age is that at which it came, so that a retry weeks later is good."""
    before, after = Case(desk, OPEN), Case(desk, SIGNED)
    await before.process(envelope())
    desk.clock.advance(h=24 * 20)
    (kept,) = await before.inbox()
    assert kept.reason == Reason.UNKNOWN_KEY

    assert isinstance(await after.ingest.process(kept, by_hand=True), Accepted)


async def test_a_fault_of_ours_is_a_reason_too(case: Case) -> None:
    job = await case.keep(envelope())

    await case.ingest.reject(job, Reason.BUG, "please report it")

    (kept,) = await case.inbox()
    assert (kept.reason, kept.faults[0].detail) == ("bug", "please report it")


def test_the_throttle_is_steady() -> None:
    throttle = Throttle(per_minute=60)

    waits = [throttle.plan("t", 0) for _ in range(662)]

    assert waits[:60] == [0] * 60
    assert waits[60:63] == [1000, 2000, 3000]
    assert waits[-1] is None
    assert throttle.plan("other", 0) == 0
    assert throttle.plan("t", 10_000_000) == 0
