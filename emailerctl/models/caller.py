"""Who asks: the token behind a request, or the local operator."""

from dataclasses import dataclass, field
from enum import StrEnum


class Scope(StrEnum):
    """What a token may do (product.md §6)."""

    SEND = "send"
    READ = "read"  # its own service's messages
    READ_ALL = "read:all"
    CONTENT = "content"  # rendered mail: reset links are credentials
    OPERATE = "operate"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLimits:
    """What narrows a token beyond its scopes; empty fields do not narrow.

    Attributes:
        from_domains: ASCII domains of the From address.
        recipients: patterns such as `*@example.org`; every recipient must match one.
        fixed_to: the only recipients; a message that names none gets these (contact forms).
        recipient_rate: (count, window in ms) for each recipient.
        networks: addresses that requests may come from (CIDR).
    """

    from_domains: tuple[str, ...] = ()
    recipients: tuple[str, ...] = ()
    fixed_to: tuple[str, ...] = ()
    templates_only: bool = False
    recipient_rate: tuple[int, int] | None = None
    requires_key: bool = False
    networks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """An authenticated caller.

    Attributes:
        token_id: 0 for the local operator, whom the operating system has authenticated.
        epoch: of the tokens when it was authenticated; the commit looks again if it has moved.
    """

    token_id: int
    name: str
    service: str
    scopes: frozenset[str]
    is_test: bool = False
    epoch: int = 0
    limits: TokenLimits = field(default_factory=TokenLimits)

    @property
    def sees(self) -> str | None:
        """Return whose messages it may see: its service's, or everyone's (None)."""
        is_all = Scope.READ_ALL in self.scopes or Scope.ADMIN in self.scopes
        return None if is_all else self.service


LOCAL_SERVICE = "local"


def build_local_caller(name: str) -> Caller:
    """Return the operator at the machine itself."""
    return Caller(token_id=0, name=name, service=LOCAL_SERVICE, scopes=frozenset(Scope))
