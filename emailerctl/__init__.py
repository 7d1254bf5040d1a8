"""emailerctl: outbound e-mail that is never lost, never sent twice, and explains itself."""

__version__ = "0.1.0"
