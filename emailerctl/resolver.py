"""Questions to the domain name system (RFC 1035): of the system's servers, or of others."""

from collections.abc import Sequence

import dns.asyncresolver
import dns.exception
import dns.nameserver
import dns.rdatatype
import dns.resolver

_PORT = 53


class LookupFailed(Exception):
    """There was no answer, or it says that the server failed: nothing is known."""


class Resolver:
    """What asks.

    Args:
        servers: `address` or `address:port`; none: the system's.
        timeout_s: for one question, however many servers are asked.
    """

    def __init__(self, servers: Sequence[str] = (), *, timeout_s: float = 5.0) -> None:
        """Remember whom to ask; nothing is asked yet."""
        self._servers = servers
        self._timeout_s = timeout_s

    async def find_txt(self, name: str) -> list[str]:
        """Return the TXT records of *name*, the strings of each joined; none: an empty list.

        Raises:
            LookupFailed: says why nothing is known.
        """
        try:
            answer = await self._build().resolve(
                name, dns.rdatatype.TXT, lifetime=self._timeout_s
            )
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return []
        except (dns.exception.DNSException, OSError) as error:
            raise LookupFailed(f"{type(error).__name__}: {error}") from error
        return [b"".join(record.strings).decode("utf-8", "replace") for record in answer]

    def _build(self) -> dns.asyncresolver.Resolver:
        resolver = dns.asyncresolver.Resolver(configure=not self._servers)
        if self._servers:
            resolver.nameservers = [_parse_server(server) for server in self._servers]
        resolver.retry_servfail = False
        return resolver


def _parse_server(text: str) -> dns.nameserver.Nameserver:
    if text.count(":") == 1:  # an IPv6 address has more
        host, _, port = text.partition(":")
        return dns.nameserver.Do53Nameserver(host, int(port))
    return dns.nameserver.Do53Nameserver(text, _PORT)
