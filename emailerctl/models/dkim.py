"""The keys that a domain signs with: what each is, and whether it is in use."""

from dataclasses import dataclass
from enum import StrEnum


class Algorithm(StrEnum):
    """How a signature is made (RFC 6376 3.3, RFC 8463)."""

    RSA = "rsa-sha256"
    ED25519 = "ed25519-sha256"


class KeyState(StrEnum):
    """Whether a key signs."""

    PENDING = "pending"  # made; its record is to be published
    ACTIVE = "active"  # signs
    RETIRED = "retired"  # signs no more; mail under way still needs its record


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainKey:
    """A key of a domain, without its private half, which is in a file.

    Attributes:
        domain: as addresses have it: lower case, A-labels.
        public: what the record publishes: base64.
    """

    domain: str
    selector: str
    algorithm: Algorithm
    state: KeyState
    public: str
    created_ms: int
    changed_ms: int
    actor: str
