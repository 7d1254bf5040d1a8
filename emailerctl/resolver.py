"""Asking the DNS: what a domain publishes, or why nobody can tell now."""

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

import dns.asyncresolver
import dns.exception
import dns.nameserver
import dns.resolver

from emailerctl.errors import UsageError

_WITHIN_S = 5.0


class DnsTrouble(Exception):
    """No name server gave an answer: nothing is known of the name."""


class Resolver:
    """Name servers of this host, or those that were named (RFC 1035)."""

    def __init__(self, servers: Sequence[str] = (), *, within_s: float = _WITHIN_S) -> None:
        """Ask *servers* (`192.0.2.1`, `192.0.2.1:5353`, `[2001:db8::1]:53`), else the host's.

        Args:
            servers: asked in turn.
            within_s: for one question, however many servers are asked.

        Raises:
            UsageError: one of *servers* is none.
            DnsTrouble: this host has no name servers set.
        """
        try:
            self._resolver = dns.asyncresolver.Resolver(configure=not servers)
        except dns.exception.DNSException as error:
            raise DnsTrouble(f"this host has no name servers set: {error}") from error
        self._resolver.lifetime = within_s
        self._resolver.retry_servfail = False
        if servers:
            self._resolver.nameservers = [_parse_server(server) for server in servers]

    async def find_texts(self, name: str) -> list[str]:
        """Return the TXT records of *name*, each put together; none where there are none.

        Raises:
            DnsTrouble: nobody answered.
        """
        found = await self._ask(name, "TXT")
        return ["".join(piece.decode("utf-8", "replace") for piece in r.strings) for r in found]

    async def has_mail_servers(self, name: str) -> bool:
        """Return whether mail to *name* can be delivered: MX, or an address (RFC 5321 §5.1).

        A null MX (RFC 7505) says that it can't.

        Raises:
            DnsTrouble: nobody answered.
        """
        exchanges = await self._ask(name, "MX")
        if exchanges:
            return any(str(one.exchange) != "." for one in exchanges)
        return bool(await self._ask(name, "A") or await self._ask(name, "AAAA"))

    async def _ask(self, name: str, kind: str) -> list[Any]:
        try:
            return list(await self._resolver.resolve(name, kind, search=False))
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return []
        except dns.exception.DNSException as error:
            said = str(error) or type(error).__name__
            raise DnsTrouble(f"{kind} of {name}: {said[:200]}") from error


def _parse_server(server: str) -> dns.nameserver.Nameserver:
    host, port = _split(server)
    try:
        return dns.nameserver.Do53Nameserver(str(ip_address(host)), port)
    except ValueError as error:
        raise UsageError(
            f"{server!r} is no name server", hint="write an address: 192.0.2.1:53"
        ) from error


def _split(server: str) -> tuple[str, int]:
    host, _, port = server.rpartition(":")
    if host and port.isdecimal() and (":" not in host or host.startswith("[")):
        return host.strip("[]"), int(port)
    return server.strip("[]"), 53
