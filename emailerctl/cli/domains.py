"""`emailerctl domains`: the keys that mail is signed with (DKIM), and their DNS records."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Annotated, TypeVar

from typer import Argument, Context, Exit, Option, Typer

from emailerctl.cli import output, session
from emailerctl.cli.output import Moment
from emailerctl.models.clock import to_text
from emailerctl.models.dkim import DomainKey

if TYPE_CHECKING:
    from emailerctl.core.domains import Domains

Answer = TypeVar("Answer")

app = Typer(help="Domains that sign (DKIM): list, add, dns, verify, rotate, rm.")

_REFUSED = 69

DomainName = Annotated[str, Argument(metavar="DOMAIN", help="Of From addresses: example.org.")]


def _run(ctx: Context, work: "Callable[[Domains], Awaitable[Answer]]") -> tuple[Answer, int]:
    """Let *work* look after the domains; return what came of it, and when."""
    from emailerctl.core.domains import Domains
    from emailerctl.resolver import LookupFailed, Resolver
    from emailerctl.wiring import App

    async def with_app(opened: App) -> tuple[Answer, int]:
        dns = opened.settings.dns
        domains = Domains(
            opened.store,
            opened.key_files,
            Resolver(dns.servers, timeout_s=dns.timeout.total_seconds()),
            clock=opened.clock,
            actor=session.build_caller().name,
            lookup_fault=LookupFailed,
        )
        return await work(domains), opened.clock.now_ms()

    return session.run(ctx, with_app)


@app.command("list")
def list_(ctx: Context) -> None:
    """List the keys: pending ones wait for their record, active ones sign.

    Example: emailerctl domains list
    """
    keys, now_ms = _run(ctx, lambda domains: domains.list_keys())
    output.listing(
        "Keys of domains",
        ("domain", "selector", "algorithm", "state", "since", "by"),
        keys,
        shape=_shape,
        row=lambda key: [
            key.domain,
            key.selector,
            key.algorithm,
            key.state,
            Moment(key.changed_ms, now_ms),
            key.actor,
        ],
        name="domain",
    )


def _shape(key: DomainKey) -> dict[str, object]:
    return {
        "domain": key.domain,
        "selector": key.selector,
        "algorithm": key.algorithm,
        "state": key.state,
        "public": key.public,
        "created_at": to_text(key.created_ms),
        "changed_at": to_text(key.changed_ms),
        "actor": key.actor,
    }


@app.command()
def add(
    ctx: Context,
    domain: DomainName,
    ed25519: Annotated[
        bool,
        Option("--ed25519", help="A second key (RFC 8463) beside rsa-2048: not all know it."),
    ] = False,
) -> None:
    """Make a key for a domain, and say what to publish; it signs once that was seen.

    Example: emailerctl domains add example.org
    """
    from emailerctl.models.dkim import Algorithm

    algorithms = [Algorithm.RSA, *([Algorithm.ED25519] if ed25519 else [])]
    keys, now_ms = _run(ctx, lambda domains: domains.add(domain, algorithms))
    _write_records(keys, now_ms)
    output.note(f"once it is published: emailerctl domains verify {keys[0].domain}")


@app.command()
def dns(ctx: Context, domain: DomainName) -> None:
    """Write the records of a domain's keys, ready to paste into a zone file.

    Example: emailerctl domains dns example.org
    """
    keys, now_ms = _run(ctx, lambda domains: domains.list_keys(domain))
    _write_records(keys, now_ms)


def _write_records(keys: Sequence[DomainKey], now_ms: int) -> None:
    from emailerctl.core.domains import list_records

    records = list_records(keys, now_ms)
    if output.form() is not output.Form.TABLE:
        output.listing(
            "Records",
            ("name",),
            records,
            shape=dict,
            row=lambda one: [one["name"]],
            name="name",
        )
        return
    for record in records:
        output.write_text(f"; {record['selector']}, {record['state']}: {record['todo']}")
        output.write_text(record["line"])


@app.command()
def verify(
    ctx: Context,
    domain: DomainName,
    unchecked: Annotated[
        bool,
        Option("--unchecked", help="Take the keys into use without looking: DNS is elsewhere."),
    ] = False,
) -> None:
    """Look at what a domain publishes, and sign with the keys whose records are right.

    Exits 69 when a key's record is missing or wrong.

    Example: emailerctl domains verify example.org
    """
    checked, _now_ms = _run(ctx, lambda domains: domains.verify(domain, is_trusted=unchecked))
    output.listing(
        f"What {checked.keys[0].domain} publishes",
        ("looked at", "name", "is", "detail", "cure"),
        checked.found,
        shape=lambda one: {
            "what": one.what,
            "name": one.name,
            "is": one.verdict,
            "detail": one.detail,
            "cure": one.cure or None,
        },
        row=lambda one: [
            one.what,
            one.name,
            "BAD" if one.verdict == "bad" else one.verdict,
            one.detail,
            one.cure,
        ],
        name="name",
    )
    for selector in checked.activated:
        output.note(f"{selector} signs from now on")
    for selector in checked.retired:
        output.note(f"{selector} signs no more; keep its record for two weeks")
    bad = [one.name for one in checked.found if one.verdict == "bad"]
    if bad:
        output.error(", ".join(bad), hint="the table says what cures it")
        raise Exit(_REFUSED)


@app.command()
def rotate(ctx: Context, domain: DomainName) -> None:
    """Make new keys; the old ones sign until `verify` has seen the new records.

    Example: emailerctl domains rotate example.org
    """
    keys, now_ms = _run(ctx, lambda domains: domains.rotate(domain))
    _write_records(keys, now_ms)
    output.note(f"once it is published: emailerctl domains verify {keys[0].domain}")


@app.command("rm")
def remove(
    ctx: Context,
    domain: DomainName,
    selectors: Annotated[
        list[str] | None, Argument(metavar="[SELECTOR…]", help="These keys only; else all.")
    ] = None,
) -> None:
    """Forget keys and remove their files: the domain signs with them no more.

    Example: emailerctl domains rm example.org em20261124
    """
    named = ", ".join(selectors or ()) or "every key"
    output.ask(f"Remove {named} of {domain}?")
    gone, _now_ms = _run(ctx, lambda domains: domains.remove(domain, selectors or ()))
    for key in gone:
        output.result(
            f"removed {key.selector} of {key.domain}", _shape(key) | {"id": key.domain}
        )
