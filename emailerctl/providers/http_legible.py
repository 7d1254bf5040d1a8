"""A request as people read it (`send --plan`): secrets masked, what is long in it cut."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from emailerctl.providers.http_client import parse_json

MASK = "********"
_LONG = 160  # characters of one string in JSON
_BODY = 6000  # characters in all
# Whatever is in these is made of secrets (Basic: in base64; SigV4: a signature).
_CREDENTIALS = frozenset({"authorization", "proxy-authorization", "cookie"})


def show_head(headers: Mapping[str, str], mask: Callable[[str], str]) -> tuple[str, ...]:
    """Return the header fields, one a line; of credentials only their scheme."""
    return tuple(f"{name}: {_show_value(name, v, mask)}" for name, v in headers.items())


def _show_value(name: str, value: str, mask: Callable[[str], str]) -> str:
    if name.lower() not in _CREDENTIALS:
        return mask(value)
    scheme, space, _ = value.partition(" ")
    return f"{scheme} {MASK}" if space else MASK


def show_body(body: bytes, mask: Callable[[str], str]) -> str:
    """Return JSON indented, its long strings cut; anything else as text; bounded either way."""
    value = parse_json(body)
    if value is None:
        text = body.decode("utf-8", "replace").replace("\r\n", "\n")
    else:
        text = json.dumps(_cut(value), ensure_ascii=False, indent=2)
    text = mask(text)
    if len(text) <= _BODY:
        return text
    return f"{text[:_BODY]}\n… {len(text) - _BODY} characters more"


def _cut(value: Any) -> Any:
    if isinstance(value, str) and len(value) > _LONG:
        return f"{value[:_LONG]}… ({len(value)} characters)"
    if isinstance(value, list):
        return [_cut(one) for one in value]
    if isinstance(value, dict):
        return {name: _cut(one) for name, one in value.items()}
    return value
