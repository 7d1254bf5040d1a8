"""What `providers check` makes of what an adapter found, and adds for every kind."""

import asyncio

import pytest

from emailerctl.core.check import CURES, check_hop, describe, describe_doubt
from emailerctl.providers.base import Abilities, CheckResult
from emailerctl.store.base import Breaker, BreakerState, HopState, NextHop
from tests.scripted import ScriptedProvider

GOOD = CheckResult("connection", is_good=True, detail="https://api.example")
OPEN = NextHop(name="relay", state=HopState.OPEN)
CLOSED = Breaker(name="relay")


class Checked(ScriptedProvider):
    """Finds what it is given; with `tls` it has that to be looked at apart."""

    def __init__(self, *found: CheckResult, never_ends: bool = False) -> None:
        super().__init__()
        self.found = found
        self.never_ends = never_ends

    async def check(self) -> list[CheckResult]:
        if self.never_ends:
            await asyncio.Event().wait()
        return list(self.found)


class CheckedTls(Checked):
    tls: CheckResult | None = CheckResult("tls", is_good=True, detail="TLSv1.3")

    async def check_tls(self) -> CheckResult | None:
        return self.tls


async def check(
    provider: Checked,
    *,
    abilities: Abilities | None = None,
    standing: NextHop = OPEN,
    breaker: Breaker = CLOSED,
    has_reports: bool = True,
    within_s: float = 5,
) -> dict[str, CheckResult]:
    results = await check_hop(
        provider,
        abilities,
        standing=standing,
        breaker=breaker,
        has_reports=has_reports,
        within_s=within_s,
    )
    assert len({result.name for result in results}) == len(results)
    return {result.name: result for result in results}


async def test_what_holds_for_every_kind_is_added() -> None:
    found = await check(CheckedTls(GOOD), abilities=Abilities(recipients=50, tags=1))

    assert list(found) == [
        "connection", "tls", "carries", "doubt", "reports", "standing", "breaker",
    ]  # fmt: skip
    assert all(result.is_good and not result.cure for result in found.values())
    assert found["reports"].detail == "to POST /v1/reports/relay, once its secret is set"


async def test_where_there_is_no_connection_nothing_is_said_of_tls() -> None:
    provider = CheckedTls(CheckResult("connection", is_good=False, detail="refused"))
    provider.tls = None

    assert "tls" not in await check(provider)


@pytest.mark.parametrize("name", CURES)
async def test_what_is_bad_has_a_cure(name: str) -> None:
    found = await check(Checked(CheckResult(name, is_good=False, detail="no")))

    assert found[name].cure == CURES[name]


async def test_the_cure_of_the_adapter_goes_first() -> None:
    bad = CheckResult("domain", is_good=False, detail="no", cure="do this")
    other = CheckResult("of a new kind", is_good=False, detail="no")
    found = await check(Checked(bad, other))

    assert found["domain"].cure == "do this"
    assert found["of a new kind"].cure


async def test_it_ends() -> None:
    found = await check(Checked(never_ends=True), within_s=0.05)

    assert (found["time"].is_good, found["time"].detail) == (False, "not done in 0.05 s")
    assert found["standing"].is_good


async def test_a_next_hop_that_is_shut_is_bad() -> None:
    paused = NextHop(name="relay", state=HopState.PAUSED, reason="535 no")
    tripped = Breaker(name="relay", state=BreakerState.OPEN, reason="can't connect")
    found = await check(Checked(GOOD), standing=paused, breaker=tripped)

    assert (found["standing"].is_good, found["standing"].detail) == (False, "paused: 535 no")
    assert (found["breaker"].is_good, found["breaker"].detail) == (False, "open: can't connect")
    for name in ("standing", "breaker"):
        assert "emailerctl providers enable relay" in found[name].cure


def test_how_doubt_ends() -> None:
    """As this version does: what reports may be told of it, SMTP is not."""
    assert describe_doubt(None).startswith("an attempt without an answer waits for an operator")
    assert "waits for a report, an operator" in describe_doubt(Abilities())


def test_what_fits_through() -> None:
    assert describe(Abilities(recipients=50, size_bytes=10 * 1024 * 1024, tags=1)) == (
        "50 recipients, 10 MiB, 1 tag, no metadata"
    )
    assert describe(Abilities(has_inline=False, metadata=8)) == (
        "no tags, 8 metadata, no inline images"
    )
