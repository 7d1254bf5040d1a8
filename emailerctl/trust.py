"""Which certificate authorities are trusted.

To read the system's takes 50 ms of a processor and a megabyte, so it is done once a process.
"""

import functools
import ssl
from pathlib import Path

from emailerctl.errors import ConfigurationError


@functools.cache
def trust_system() -> ssl.SSLContext:
    """Return the context of all who trust what this system does; nobody changes it."""
    return _build(None)


def trust(ca_file: Path | str | None, *, setting: str) -> ssl.SSLContext:
    """Return a context that trusts what is in *ca_file*, or what the system does without one.

    Args:
        setting: that names the file, for the error.

    Raises:
        ConfigurationError: *ca_file* can't be used.
    """
    if not ca_file:
        return trust_system()
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


def _build(ca_file: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
