"""Looking at a next hop, of whatever kind: what works, what does not, and what cures it.

The adapter talks to it (`Provider.check`); what holds for all of them is added here.
"""

import asyncio
from dataclasses import replace

from emailerctl.providers.base import Abilities, CheckResult, Provider, SpeaksTls
from emailerctl.store.base import HopState, NextHop

# What commonly cures what is bad, by the name of what was looked at.
CURES = {
    "connection": "is base_url right, and may this host reach it (DNS, firewall, proxy)?",
    "connect": "are host and port right, and may this host reach them (DNS, firewall)?",
    "ehlo": "the server does not want this host: ask whoever runs it, or set local_hostname",
    "tls": "does the certificate name the host? a private authority goes into ca_file",
    "auth": "set username and password_file anew; auth says which mechanism",
    "credentials": "set the key anew, with the rights that docs/providers.md names",
    "domain": "verify the domain at the provider: its DNS records are listed there",
    "time": "is it reachable at all? see its status page, or raise the time-outs",
}


async def check_hop(
    provider: Provider,
    abilities: Abilities | None,
    *,
    standing: NextHop,
    has_reports: bool,
    within_s: float,
) -> list[CheckResult]:
    """Talk to *provider* without sending, and say what works; bad ones carry their cure.

    Args:
        abilities: None: it takes whatever can be a message.
        has_reports: it tells later what became of a message.
        within_s: for all of it.
    """
    results: list[CheckResult] = []
    try:
        async with asyncio.timeout(within_s):
            results += await provider.check()
            tls = await provider.check_tls() if isinstance(provider, SpeaksTls) else None
            if tls is not None:
                results.insert(1, tls)  # after the connection
    except TimeoutError:
        results.append(CheckResult("time", is_good=False, detail=f"not done in {within_s:g} s"))
    if abilities is not None:
        results.append(CheckResult("carries", is_good=True, detail=describe(abilities)))
    results.append(CheckResult("doubt", is_good=True, detail=describe_doubt(abilities)))
    told = f"to POST /v1/reports/{provider.name}, once its secret is set"
    reports = told if has_reports else "none: nothing is heard after the hand-over"
    results.append(CheckResult("reports", is_good=True, detail=reports))
    results.append(_read_standing(standing))
    return [_add_cure(result) for result in results]


def describe(abilities: Abilities) -> str:
    """Say what fits through."""
    said = []
    if abilities.recipients is not None:
        said.append(f"{abilities.recipients} recipients")
    if abilities.size_bytes is not None:
        said.append(f"{abilities.size_bytes / 1024 / 1024:g} MiB")
    said.append(f"{abilities.tags or 'no'} tag{'s' if abilities.tags != 1 else ''}")
    said.append(f"{abilities.metadata or 'no'} metadata")
    if not abilities.has_inline:
        said.append("no inline images")
    return ", ".join(said)


def describe_doubt(abilities: Abilities | None) -> str:
    """Say how an attempt without an answer ends: over HTTP all kinds report, SMTP does not."""
    waits_for = "a report, an operator" if abilities else "an operator"
    return f"an attempt without an answer waits for {waits_for}, or for the policy resend"


def _read_standing(hop: NextHop) -> CheckResult:
    if hop.state is HopState.OPEN:
        return CheckResult("standing", is_good=True, detail="open")
    detail = f"{hop.state}: {hop.reason}" if hop.reason else str(hop.state)
    cure = f"when the rest is good: emailerctl providers enable {hop.name}"
    return CheckResult("standing", is_good=False, detail=detail, cure=cure)


def _add_cure(result: CheckResult) -> CheckResult:
    if result.is_good or result.cure:
        return result
    return replace(result, cure=CURES.get(result.name, "see docs/providers.md"))
