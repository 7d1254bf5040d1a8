"""An API from afar: where it is, and the token that lets us in.

`--url` and `--token`, or EMAILER_URL and EMAILER_TOKEN.
"""

import os
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from emailerctl.errors import UsageError
from emailerctl.models.text import shorten


@dataclass(frozen=True, slots=True)
class Address:
    """Where an API is, and what lets us in."""

    url: str
    token: str


def find_address(url: str | None, token: str | None) -> Address | None:
    """Return the API that options or surroundings name; None: the store here is meant.

    Raises:
        UsageError: it can't be used as it is.
    """
    base = (url or os.environ.get("EMAILER_URL", "")).rstrip("/")
    if not base:
        return None
    parts = urlsplit(base)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
        raise UsageError(
            f"{shorten(base)} is no URL of an API", hint="https://mail.example.org"
        )
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        raise UsageError(
            f"the token would travel in clear to {shorten(base)}",
            hint="use https, or a tunnel: ssh -L 8080:127.0.0.1:8080 HOST",
        )
    known = token or os.environ.get("EMAILER_TOKEN", "")
    if not known:
        raise UsageError("an API needs a token", hint="set EMAILER_TOKEN, or give --token")
    return Address(base, known)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
