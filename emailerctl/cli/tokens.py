"""`emailerctl tokens`: make, list, rotate and revoke what the API is called with."""

from typing import TYPE_CHECKING, Annotated

from typer import Argument, Context, Option, Typer

from emailerctl.cli import options, output, session
from emailerctl.cli.completion import complete_token
from emailerctl.cli.output import Cell, Moment
from emailerctl.core import shapes
from emailerctl.store.base import Token

if TYPE_CHECKING:
    from emailerctl.core.tokens import Minted
    from emailerctl.wiring import App

app = Typer(help="API tokens: create, list, rotate, revoke.")

TokenName = Annotated[
    str,
    Argument(
        metavar="NAME",
        help="Name, id, or beginning of an id.",
        autocompletion=complete_token,
    ),
]

_OVERLAP_MS = 86_400_000


@app.command()
def create(
    ctx: Context,
    name: Annotated[
        str, Argument(metavar="NAME", help="a-z, 0-9, _ and -; one live token each.")
    ],
    scope: Annotated[
        list[str],
        Option(
            metavar="SCOPE",
            help="send, read, read:all, content, operate or admin; may be repeated.",
        ),
    ],
    service: Annotated[
        str, Option(metavar="NAME", help="Who owns what it sends; else the token's name.")
    ] = "",
    test: Annotated[
        bool, Option("--test", help="Nothing it sends leaves this host (sandbox).")
    ] = False,
    expires_in_ms: Annotated[
        int | None,
        Option(
            "--expires-in",
            metavar="DURATION",
            parser=options.parse_duration_ms,
            help="Its life: 90d.",
        ),
    ] = None,
    from_domains: Annotated[
        list[str] | None,
        Option("--from-domain", metavar="DOMAIN", help="It sends from this domain only."),
    ] = None,
    recipients: Annotated[
        list[str] | None,
        Option("--recipient", metavar="PATTERN", help="It sends to these only: *@example.org."),
    ] = None,
    fixed_to: Annotated[
        list[str] | None,
        Option(metavar="ADDRESS", help="Its only recipient, whom a request need not name."),
    ] = None,
    recipient_rate: Annotated[
        str | None, Option(metavar="N/TIME", help="Messages for each recipient: 5/1h.")
    ] = None,
    networks: Annotated[
        list[str] | None,
        Option("--network", metavar="CIDR", help="It is used from there only."),
    ] = None,
    templates_only: Annotated[
        bool, Option("--templates-only", help="It sends templates only.")
    ] = False,
    require_key: Annotated[
        bool, Option("--require-key", help="Its requests must have an Idempotency-Key.")
    ] = False,
    reason: options.Reason = None,
) -> None:
    """Make a token, and show it: this once.

    Example: emailerctl tokens create shop --scope send --scope read -o json

    Example: emailerctl tokens create form --scope send --fixed-to office@example.org
    """
    from emailerctl.core import tokens

    limits: dict[str, object] = {
        "from_domains": from_domains,
        "recipients": recipients,
        "fixed_to": fixed_to,
        "recipient_rate": recipient_rate,
        "networks": networks,
        "templates_only": templates_only,
        "requires_key": require_key,
    }

    async def work(opened: "App") -> "Minted":
        ends_ms = None if expires_in_ms is None else opened.clock.now_ms() + expires_in_ms
        return await tokens.create(
            opened.store,
            opened.clock,
            opened.rng,
            name=name,
            scopes=scope,
            service=service,
            is_test=test,
            expires_ms=ends_ms,
            limits={limit: value for limit, value in limits.items() if value},
            actor=session.build_caller().name,
            reason=reason or "",
        )

    _write(session.run(ctx, work))


@app.command()
def rotate(
    ctx: Context,
    name: TokenName,
    overlap_ms: Annotated[
        int | None,
        Option(
            "--overlap",
            metavar="DURATION",
            parser=options.parse_duration_ms,
            help="How long the old one still works; 24h unless given.",
        ),
    ] = None,
    reason: options.Reason = None,
) -> None:
    """Make a successor with the same name, service and limits; the old one ends later.

    Example: emailerctl tokens rotate shop --overlap 2h
    """
    from emailerctl.core import tokens

    async def work(opened: "App") -> "Minted":
        _epoch, known = await opened.store.load_tokens()
        old = tokens.find_token(known, name, now_ms=opened.clock.now_ms())
        return await tokens.rotate(
            opened.store,
            opened.clock,
            opened.rng,
            old,
            overlap_ms=_OVERLAP_MS if overlap_ms is None else overlap_ms,
            actor=session.build_caller().name,
            reason=reason or "",
        )

    _write(session.run(ctx, work))


def _write(minted: "Minted") -> None:
    output.result(minted.text, shapes.new_token_shape(minted.token, minted.text))
    if output.form() is output.Form.TABLE:
        output.note(
            f"the token {minted.token.name}, for the service {minted.token.service}: "
            "it is not shown again"
        )


@app.command("list")
def list_(
    ctx: Context,
    all_: Annotated[bool, Option("--all", help="Those that have ended too.")] = False,
) -> None:
    """List the tokens; what they are called with is never shown again.

    Example: emailerctl tokens list
    """
    from emailerctl.core.tokens import is_live

    async def work(opened: "App") -> tuple[list[Token], int]:
        _epoch, known = await opened.store.load_tokens()
        now_ms = opened.clock.now_ms()
        return [token for token in known if all_ or is_live(token, now_ms)], now_ms

    found, now_ms = session.run(ctx, work)

    def row(token: Token) -> list[Cell]:
        ends = [end for end in (token.expires_ms, token.revoked_ms) if end is not None]
        return [
            shapes.token_shape(token)["id"],  # type: ignore[list-item]
            token.name,
            token.service,
            " ".join(sorted(token.scopes)),
            token.is_test,
            Moment(token.created_ms, now_ms),
            Moment(token.last_used_ms, now_ms),
            Moment(min(ends, default=None), now_ms),
            ", ".join(f"{name} {_show(value)}" for name, value in token.limits.items()),
        ]

    columns = ("id", "name", "service", "scopes", "test", "made", "last used", "ends", "limits")
    output.listing("Tokens", columns, found, shape=shapes.token_shape, row=row)


def _show(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


@app.command()
def revoke(ctx: Context, name: TokenName, reason: options.Reason = None) -> None:
    """End a token now; a name stands for every live token that has it.

    Example: emailerctl tokens revoke shop --yes
    """
    from emailerctl.core import tokens

    output.ask(f"Revoke {name}? Whatever uses it is refused from now on.")

    async def work(opened: "App") -> list[Token]:
        actor = session.build_caller().name
        found = await tokens.revoke(
            opened.store, opened.clock, name, actor=actor, reason=reason or ""
        )
        ended = {token.token_id for token in found}
        _epoch, known = await opened.store.load_tokens()
        return [token for token in known if token.token_id in ended]

    ended = session.run(ctx, work)
    found = [shapes.token_shape(token) for token in ended]
    text = "\n".join(f"revoked {one['id']} ({one['name']})" for one in found)
    output.result(text, found[0] if len(found) == 1 else shapes.listing_shape(found))
