"""Scopes and limits of tokens: from what an operator writes to what acceptance checks."""

import re
from collections.abc import Collection, Iterable, Mapping
from datetime import timedelta
from difflib import get_close_matches
from ipaddress import ip_network
from typing import Any

from emailerctl.errors import Fault, Invalid
from emailerctl.models.address import parse_address
from emailerctl.models.caller import Scope, TokenLimits
from emailerctl.models.clock import duration_to_text, parse_duration, to_ms
from emailerctl.models.text import shorten

_LONGEST_WINDOW = timedelta(days=30)  # what was counted is kept so long
_RATE = re.compile(r"(?P<count>[0-9]{1,9})/(?P<window>[0-9]+(?:ms|[smhd]))")
_PATTERN = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+(?:@[A-Za-z0-9.*?-]+)?")


def parse_scopes(scopes: Iterable[str]) -> frozenset[str]:
    """Return *scopes* if all of them exist.

    Raises:
        Invalid: with every one that does not, or none is given.
    """
    wanted = list(dict.fromkeys(scopes))
    known = [scope.value for scope in Scope]
    faults = [
        Fault("/scopes", f"{shorten(scope)} is no scope; {_suggest(scope, known)}")
        for scope in wanted
        if scope not in known
    ]
    if not wanted:
        faults = [Fault("/scopes", f"is empty; choose from {', '.join(known)}")]
    if faults:
        raise Invalid(faults)
    return frozenset(wanted)


def parse_limits(limits: Mapping[str, object], *, is_test: bool = False) -> dict[str, object]:
    """Return the limits of a token as they are stored; what does not narrow is left out.

    Args:
        limits: `from_domains`, `recipients`, `fixed_to`, `networks` (lists of text),
            `templates_only`, `requires_key` (true or false), `recipient_rate` (`"5/1h"`).
        is_test: addresses of the sandbox are taken.

    Raises:
        Invalid: with every fault.
    """
    faults: list[Fault] = []
    stored: dict[str, object] = {}
    for name, value in limits.items():
        parse = _LIMITS.get(name)
        if parse is None:
            detail = f"is no limit; {_suggest(name, _LIMITS)}"
            faults.append(Fault(f"/limits/{name[:64]}", detail))
            continue
        try:
            parsed = parse(value, is_test=is_test)
        except ValueError as error:
            faults.append(Fault(f"/limits/{name}", str(error)))
        else:
            if parsed:
                stored[name] = parsed
    if faults:
        raise Invalid(faults)
    return stored


def build_limits(stored: Mapping[str, object]) -> TokenLimits:
    """Return what `parse_limits` made, ready for use.

    Raises:
        Invalid: a limit that this version does not know, which must not be ignored.
    """
    known: Any = parse_limits(stored, is_test=True)
    rate = None
    if "recipient_rate" in known:
        count, _, window = known["recipient_rate"].partition("/")
        rate = (int(count), to_ms(parse_duration(window)))
    return TokenLimits(
        from_domains=tuple(known.get("from_domains", ())),
        recipients=tuple(known.get("recipients", ())),
        fixed_to=tuple(known.get("fixed_to", ())),
        templates_only=known.get("templates_only", False),
        recipient_rate=rate,
        requires_key=known.get("requires_key", False),
        networks=tuple(known.get("networks", ())),
    )


def _words(value: object, what: str) -> list[str]:
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
        raise ValueError(f"{shorten(value)} is not a list of {what}")
    return list(words)


def _parse_domains(value: object, *, is_test: bool) -> list[str]:
    domains = []
    for word in _words(value, "domains"):
        address = parse_address(f"x@{word}", allow_sandbox=is_test, allow_local_domains=True)
        domains.append(address.partition("@")[2])
    return domains


def _parse_patterns(value: object, *, is_test: bool) -> list[str]:
    patterns = _words(value, "patterns")
    for pattern in patterns:
        if not _PATTERN.fullmatch(pattern):
            raise ValueError(
                f"{shorten(pattern)} is no pattern; write for example *@example.org"
            )
    return patterns


def _parse_addresses(value: object, *, is_test: bool) -> list[str]:
    return [
        parse_address(word, allow_sandbox=is_test, allow_local_domains=True)
        for word in _words(value, "addresses")
    ]


def _parse_networks(value: object, *, is_test: bool) -> list[str]:
    networks = []
    for word in _words(value, "networks"):
        try:
            networks.append(str(ip_network(word, strict=False)))
        except ValueError:
            raise ValueError(
                f"{shorten(word)} is no network; write for example 10.0.0.0/8"
            ) from None
    return networks


def _parse_flag(value: object, *, is_test: bool) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{shorten(value)} is neither true nor false")  # noqa: TRY004
    return value


def _parse_rate(value: object, *, is_test: bool) -> str:
    found = _RATE.fullmatch(value) if isinstance(value, str) else None
    if not found or int(found["count"]) < 1 or not to_ms(parse_duration(found["window"])):
        raise ValueError(f"{shorten(value)} is no rate; write for example 5/1h")
    if parse_duration(found["window"]) > _LONGEST_WINDOW:
        raise ValueError(f"{shorten(value)} counts over too long a time; 30d at the most")
    return f"{int(found['count'])}/{duration_to_text(parse_duration(found['window']))}"


_LIMITS = {
    "from_domains": _parse_domains,
    "recipients": _parse_patterns,
    "fixed_to": _parse_addresses,
    "templates_only": _parse_flag,
    "recipient_rate": _parse_rate,
    "requires_key": _parse_flag,
    "networks": _parse_networks,
}


def _suggest(word: str, known: Collection[str]) -> str:
    near = get_close_matches(str(word).lower()[:40], list(known), n=1)
    return f'did you mean "{near[0]}"?' if near else f"there are {', '.join(known)}"
