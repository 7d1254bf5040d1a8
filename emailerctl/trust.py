"""Which certificate authorities are trusted.

To read the system's takes 50 ms of a processor and a megabyte, so it is done once for each
protocol, and not for each next hop.  Protocols don't share: clients write what they speak into
the context (ALPN), and a mail server that is offered `http/1.1` may refuse the connection; Exim
does (its specification, `tls_alpn`, read 2026-11-24).
"""

import functools
import ssl
from enum import Enum
from pathlib import Path

from emailerctl.errors import ConfigurationError


class Protocol(Enum):
    """What is spoken inside TLS."""

    HTTP = "http"
    IMAP = "imap"
    SMTP = "smtp"


def trust(ca_file: Path | str | None, *, protocol: Protocol, setting: str) -> ssl.SSLContext:
    """Return a context that trusts what is in *ca_file*, or what the system does without one.

    Args:
        protocol: that its connections are for.
        setting: that names the file, for the error.

    Raises:
        ConfigurationError: *ca_file* can't be used.
    """
    if not ca_file:
        return _trust_system(protocol)
    try:
        return _build(str(ca_file))
    except OSError as error:  # ssl.SSLError too
        raise ConfigurationError(
            f"{setting} {ca_file}: {error.strerror or error}",
            hint="name a readable PEM file with the certificates to trust",
        ) from error


def trust_anybody() -> ssl.SSLContext:
    """Return a context that encrypts and verifies nothing (RFC 7435: better than none)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@functools.cache
def _trust_system(_protocol: Protocol) -> ssl.SSLContext:
    return _build(None)


def _build(ca_file: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
