"""`emailerctl doctor`: is all well, and what cures what is not?"""

import ctypes
import os
import shutil
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Context, Exit, Option

from emailerctl.cli import output, providers, session
from emailerctl.errors import EmailerError

if TYPE_CHECKING:
    from emailerctl.core.doctor import Finding
    from emailerctl.resolver import Resolver
    from emailerctl.settings import Settings
    from emailerctl.wiring import App

_FAILED = 69
_HOP_S = 20.0
_RECENT = 200  # messages whose From domains are looked at
_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
_TIMEX_BYTES = 512  # more than struct timex has anywhere


@dataclass(frozen=True, slots=True)
class Visit:
    """What a check may use.

    Attributes:
        resolver: None: nothing on the network is asked.
        selectors: of DKIM keys.
    """

    opened: "App"
    resolver: "Resolver | None"
    selectors: Sequence[str]
    domains: Sequence[str]


Check = Callable[[Visit], "AsyncIterator[Finding]"]


def doctor(
    ctx: Context,
    domain: Annotated[
        list[str] | None,
        Option(
            metavar="DOMAIN",
            help="This From domain; else those of the settings and of recent messages.",
        ),
    ] = None,
    selector: Annotated[
        list[str] | None,
        Option(metavar="NAME", help="A selector of DKIM keys; may be repeated."),
    ] = None,
    dns: Annotated[
        str, Option("--dns", metavar="ADDRESS", help="Ask this name server: 192.0.2.1:53.")
    ] = "",
    offline: Annotated[
        bool, Option("--offline", help="Ask neither the DNS nor the next hops.")
    ] = False,
) -> None:
    """Look at store, disk, clock, DNS, next hops and queue; say what cures what is bad.

    Each is pass, warn or fail; exits 69 when something failed.

    Example: emailerctl doctor

    Example: emailerctl doctor --domain example.org --selector mail2026 -o json
    """
    from emailerctl.core.doctor import Finding, Verdict
    from emailerctl.resolver import DnsTrouble, Resolver

    session.require_local(ctx)
    found: list[Finding] = []

    async def work(opened: "App") -> None:
        resolver: Resolver | None = None
        said = opened.settings.dns
        servers, within_s = [dns] if dns else said.servers, said.timeout.total_seconds()
        try:
            resolver = None if offline else Resolver(servers, within_s=within_s)
        except DnsTrouble as error:
            found.append(Finding("dns", Verdict.FAIL, str(error), "see /etc/resolv.conf"))
        visit = Visit(opened, resolver, tuple(selector or ()), tuple(domain or ()))
        for check in CHECKS:
            found.extend([one async for one in _guard(check, visit)])

    try:
        settings = session.load_settings(ctx)
        found.append(Finding("settings", Verdict.PASS, "read"))
        found.extend(_look_at_host(settings))
        session.run(ctx, work)
    except EmailerError as error:
        name = "settings" if not found else "store"
        found.append(Finding(name, Verdict.FAIL, error.detail, error.cure))
    output.listing(
        "Doctor",
        ("looked at", "is", "detail", "cure"),
        found,
        shape=lambda one: {
            "name": one.name,
            "verdict": one.verdict,
            "detail": one.detail,
            "cure": one.cure or None,
        },
        row=lambda one: [one.name, one.verdict, one.detail, one.cure],
        name="name",
    )
    bad = [one.name for one in found if one.verdict is Verdict.FAIL]
    if bad:
        output.error(f"failed: {', '.join(bad)}", hint="the table says what cures it")
        raise Exit(_FAILED)


async def _guard(check: Check, visit: Visit) -> "AsyncIterator[Finding]":
    """Run a check; a refusal on its way is a finding too."""
    from emailerctl.core.doctor import Finding, Verdict
    from emailerctl.resolver import DnsTrouble

    name = check.__name__.removeprefix("check_").replace("_", " ")
    try:
        async for one in check(visit):
            yield one
    except EmailerError as error:
        yield Finding(name, Verdict.FAIL, error.detail, error.cure)
    except DnsTrouble as error:
        yield Finding(name, Verdict.WARN, f"nobody answered: {error}", "see --dns, --offline")


# Without the store


def _look_at_host(settings: "Settings") -> "Iterator[Finding]":
    from emailerctl.core import doctor as judging
    from emailerctl.wiring import describe_library

    version, is_safe = describe_library()
    yield judging.judge_library(version, is_safe=is_safe)
    path = settings.store.path.absolute()
    folder = next(one for one in path.parents if one.is_dir())
    free = shutil.disk_usage(folder).free
    yield judging.judge_disk(free, settings.store.low_water_bytes, str(folder))
    for one in _find_files(path):
        status = one.stat()
        yield judging.judge_mode(
            str(one),
            stat.S_IMODE(status.st_mode),
            is_mine=status.st_uid == os.geteuid(),
            may_write=os.access(one, os.W_OK),
        )


def _find_files(path: Path) -> Iterator[Path]:
    """Yield the files of the store that are there."""
    for suffix in ("", "-wal", "-shm"):
        one = path.with_name(path.name + suffix)
        if one.exists():
            yield one


def _is_synchronised() -> bool | None:
    """Ask the kernel whether something keeps the clock right (adjtimex(2); reads only)."""
    try:
        libc = ctypes.CDLL(None)
        answer = libc.adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (AttributeError, OSError):
        return None
    return None if answer < 0 else answer != _TIME_ERROR


# With the store: what another part of the program adds, goes into CHECKS


async def check_store(visit: Visit) -> "AsyncIterator[Finding]":
    """It is there, of this version, and can be read."""
    from emailerctl.core.doctor import Finding, Verdict

    last = await visit.opened.store.last_seq()
    path = visit.opened.settings.store.path
    yield Finding("store", Verdict.PASS, f"{path}, {last} events so far")


async def check_clock(visit: Visit) -> "AsyncIterator[Finding]":
    """It is right, and not behind what was written."""
    from emailerctl.core.doctor import judge_clock
    from emailerctl.models.page import EventFilter

    store = visit.opened.store
    last = await store.last_seq()
    newest = await store.list_events(EventFilter(), after_seq=max(last - 1, 0), limit=1)
    yield judge_clock(
        visit.opened.clock.now_ms(),
        newest[-1].at_ms if newest else None,
        is_synchronised=_is_synchronised(),
    )


async def check_work(visit: Visit) -> "AsyncIterator[Finding]":
    """The queue moves, and nothing is in doubt."""
    from emailerctl.core import doctor as judging

    opened = visit.opened
    now_ms = opened.clock.now_ms()
    stats = await opened.store.queue_stats(now_ms=now_ms)
    yield judging.judge_consumers(await opened.store.list_consumers(), now_ms)
    for one in judging.judge_queue(stats, now_ms):
        yield one
    yield judging.judge_unknown(stats, now_ms)
    yield judging.judge_alerts(await opened.store.list_alerts())


async def check_next_hops(visit: Visit) -> "AsyncIterator[Finding]":
    """Each of them answers, as `providers check` sees it."""
    from emailerctl.core.doctor import judge_hop
    from emailerctl.core.route import SANDBOX

    if visit.resolver is None:
        return
    for view in await providers.find_hops(visit.opened):
        name = view.hop.name
        if name in visit.opened.tables and name != SANDBOX:
            yield judge_hop(name, await visit.opened.check_hop(view, within_s=_HOP_S))


async def check_broker(visit: Visit) -> "AsyncIterator[Finding]":
    """Every ForestMQ answers."""
    from emailerctl.core.doctor import judge_broker

    broker = await visit.opened.find_broker(asks=visit.resolver is not None)
    for one in judge_broker(broker) if broker is not None else ():
        yield one


async def check_dns(visit: Visit) -> "AsyncIterator[Finding]":
    """What the From domains publish: SPF, DKIM, DMARC, MX."""
    from emailerctl.core.doctor import Finding, Verdict, judge_domain
    from emailerctl.models.dkim import KeyState
    from emailerctl.resolver import DnsTrouble

    if visit.resolver is None:
        return
    signing: dict[str, list[str]] = {}
    for key in await visit.opened.store.list_domain_keys():
        if key.state is KeyState.ACTIVE and key.selector not in visit.selectors:
            signing.setdefault(key.domain, []).append(key.selector)
    for domain in visit.domains or await _find_domains(visit.opened):
        try:
            selectors = [*visit.selectors, *signing.get(domain, ())]
            for one in await judge_domain(visit.resolver, domain, selectors):
                yield one
        except DnsTrouble as error:
            yield Finding(
                f"dns {domain}", Verdict.WARN, f"nobody answered: {error}", "see --dns"
            )


async def _find_domains(opened: "App") -> list[str]:
    """Return the From domains of the settings and of the newest messages."""
    from emailerctl.models.address import domain_of, parse_mailbox
    from emailerctl.models.page import MessageFilter

    addresses = []
    if opened.settings.defaults.header_from:
        local = opened.settings.limits.allow_local_domains
        mailbox = parse_mailbox(opened.settings.defaults.header_from, allow_local_domains=local)
        addresses.append(mailbox.address)
    page = await opened.store.list_messages(MessageFilter(), cursor=None, limit=_RECENT)
    addresses += [view.header_from for view in page.data if not view.is_test]
    return list(dict.fromkeys(domain_of(address) for address in addresses))


CHECKS: Sequence[Check] = (
    check_store,
    check_clock,
    check_work,
    check_broker,
    check_next_hops,
    check_dns,
)
