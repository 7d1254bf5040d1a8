"""Mailboxes and addresses: one strict parser, whose result is stored and goes on the wire.

The wire form is the only form (T-08).  The domain is ASCII (IDNA 2008) and in lower case.  The
local part stays as it was written, since its case means something to the receiving host alone
(RFC 5321 2.4); only the role names of RFC 2142 (`postmaster`, `info`, …) become lower case.
One that is not ASCII is in Unicode NFC and needs SMTPUTF8.  So two wire forms name the same
recipient exactly when they are equal.

email-validator is the judge.  Plain ASCII addresses, which are nearly all, take a faster way
that accepts only what it accepts, with the same result; a property test holds the two together.

Never taken, although RFC 5322 or 5321 knows them: quoted local parts (mailers disagree on what
they mean), address literals, comments, folding, routes, groups, and space around an address.
"""

import re
from collections.abc import Mapping
from functools import lru_cache

from email_validator import SPECIAL_USE_DOMAIN_NAMES, EmailNotValidError, validate_email
from email_validator.rfc_constants import CASE_INSENSITIVE_MAILBOX_NAMES

from emailerctl.models.message import Mailbox
from emailerctl.models.text import find_unsafe, shorten

# Where the addresses of the sandbox live; only test tokens may name them (product.md §6).
SANDBOX_DOMAIN = "sandbox.test"

NAME_CHARACTERS = 256
ADDRESS_OCTETS = 254  # RFC 5321 4.5.3.1.3, RFC 3696 erratum 1690
_LOCAL_PART_OCTETS = 64

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"(?!..--)[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"  # Punycode: not the fast way
_PLAIN = re.compile(rf"({_ATOM}(?:\.{_ATOM})*)@((?:{_LABEL}\.)*{_LABEL})")
_SPECIAL_USE = frozenset(SPECIAL_USE_DOMAIN_NAMES)
_LOCAL_USE = frozenset({"local", "localhost", "test"})
_ROLES = frozenset(CASE_INSENSITIVE_MAILBOX_NAMES)

_SPECIALS = re.compile(r'[()<>\[\]:;@\\,"]')  # RFC 5322 3.2.3, but for the dot of "J. Smith"
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_EXAMPLE = 'write it like ann@example.org or "Ann Example <ann@example.org>"'


class AddressInvalid(ValueError):
    """The text is not a mailbox that we take; the sentence names it and the cure.

    Attributes:
        member: the key at fault, where the mailbox was given as an object.
    """

    def __init__(self, detail: str, *, member: str = "") -> None:
        """Say *detail*, which is a whole sentence for the caller."""
        super().__init__(detail)
        self.member = member


def parse_address(
    text: object, *, allow_sandbox: bool = False, allow_local_domains: bool = False
) -> str:
    """Return the wire form of an address without a name.

    Args:
        text: what the caller sent.
        allow_sandbox: take `@sandbox.test` (test tokens).
        allow_local_domains: take names without a dot, `.local`, `.localhost` and `.test`
            (development).

    Raises:
        AddressInvalid: it is not an address, or not one that mail can be sent to.
    """
    if not isinstance(text, str):
        raise AddressInvalid(f"{shorten(text)} is not text; {_EXAMPLE}")
    if len(text) > ADDRESS_OCTETS:  # before anything that costs more the longer it is
        raise AddressInvalid(
            f"{shorten(text)} has {len(text)} characters; an address has at most "
            f"{ADDRESS_OCTETS} (RFC 5321)"
        )
    return _parse_address(
        text, allow_sandbox=allow_sandbox, allow_local_domains=allow_local_domains
    )


def parse_mailbox(
    value: object, *, allow_sandbox: bool = False, allow_local_domains: bool = False
) -> Mailbox:
    """Return a mailbox given as `ann@example.org`, `Ann <ann@example.org>` or an object.

    The object has `email` and, optional, `name`.  In text a name with special characters stands
    in double quotes, with a backslash before a quote or a backslash inside.

    Raises:
        AddressInvalid: neither of these, or the address or the name is not acceptable.
    """
    if isinstance(value, str):
        if len(value) > ADDRESS_OCTETS + 2 * NAME_CHARACTERS:
            raise AddressInvalid(
                f"{shorten(value)} has {len(value)} characters; a name has at most "
                f"{NAME_CHARACTERS}, an address {ADDRESS_OCTETS}"
            )
        return _parse_mailbox(
            value, allow_sandbox=allow_sandbox, allow_local_domains=allow_local_domains
        )
    if not isinstance(value, Mapping):
        raise AddressInvalid(f"{shorten(value)} is not a mailbox; {_EXAMPLE}")
    for key in value:
        if key not in ("email", "name"):
            raise AddressInvalid(
                f"{shorten(key)} is not a member of a mailbox; it has email and name",
                member=key,
            )
    if "email" not in value:
        raise AddressInvalid("is missing; a mailbox object needs it", member="email")
    try:
        address = parse_address(
            value["email"], allow_sandbox=allow_sandbox, allow_local_domains=allow_local_domains
        )
    except AddressInvalid as error:
        raise AddressInvalid(str(error), member="email") from None
    name = value.get("name")
    if name is None:
        return Mailbox(address)
    if not isinstance(name, str):
        raise AddressInvalid(f"{shorten(name)} is not text", member="name")
    return Mailbox(address, _check_name(name, member="name"))


def needs_smtputf8(address: str) -> bool:
    """Tell whether *address*, in wire form, can only travel with SMTPUTF8 (RFC 6531)."""
    return not address.isascii()


def domain_of(address: str) -> str:
    """Return the domain of *address*, which is in wire form."""
    return address.rpartition("@")[2]


@lru_cache(maxsize=8192)
def _parse_address(text: str, *, allow_sandbox: bool, allow_local_domains: bool) -> str:
    plain = _PLAIN.fullmatch(text)
    if plain is not None:
        local, domain = plain[1], plain[2].lower()
        if len(local) <= _LOCAL_PART_OCTETS and _is_usable(
            domain, allow_sandbox=allow_sandbox, allow_local_domains=allow_local_domains
        ):
            lower = local.lower()
            return f"{lower if lower in _ROLES else local}@{domain}"
    return _parse_by_library(text, allow_sandbox=allow_sandbox)


def _is_usable(domain: str, *, allow_sandbox: bool, allow_local_domains: bool) -> bool:
    top = domain.rpartition(".")[2]
    if not top[-1].isalpha():
        return False
    if "." in domain and top not in _SPECIAL_USE:
        return True
    if allow_local_domains and ("." not in domain or top in _LOCAL_USE):
        return True
    return allow_sandbox and domain == SANDBOX_DOMAIN


def _parse_by_library(text: str, *, allow_sandbox: bool) -> str:
    """Let email-validator judge: the sentence about what is wrong is mostly its own."""
    unsafe = find_unsafe(text)
    if unsafe:
        raise AddressInvalid(f"{shorten(text)} contains {unsafe}; remove it")
    if text != text.strip():
        raise AddressInvalid(f"{shorten(text)} has space around it; remove it")
    try:
        found = validate_email(
            text, check_deliverability=False, strict=True, test_environment=allow_sandbox
        )
    except EmailNotValidError as error:
        raise AddressInvalid(_explain(text, str(error))) from None
    domain = found.ascii_domain
    if domain.rpartition(".")[2] in _SPECIAL_USE and domain != SANDBOX_DOMAIN:
        raise AddressInvalid(_explain(text, f"test tokens reach @{SANDBOX_DOMAIN} only"))
    return f"{found.local_part}@{domain}"


def _explain(text: str, reason: str) -> str:
    cure = _EXAMPLE
    if text.lower().endswith(f"@{SANDBOX_DOMAIN}"):
        cure = f"only test tokens may use @{SANDBOX_DOMAIN}"
    elif text.count("@") > 1 or "," in text or ";" in text:
        cure = "one address for each item of the list"
    return f"{shorten(text)} is not an address that we take: {reason.rstrip('.')}; {cure}"


@lru_cache(maxsize=8192)
def _parse_mailbox(text: str, *, allow_sandbox: bool, allow_local_domains: bool) -> Mailbox:
    if "<" not in text and ">" not in text:
        return Mailbox(
            parse_address(
                text, allow_sandbox=allow_sandbox, allow_local_domains=allow_local_domains
            )
        )
    unsafe = find_unsafe(text)
    if unsafe:
        raise AddressInvalid(f"{shorten(text)} contains {unsafe}; remove it")
    before, _, rest = text.rpartition("<")
    if not rest.endswith(">"):
        raise AddressInvalid(
            f"{shorten(text)} does not end with the > of its address; {_EXAMPLE}"
        )
    name = before.strip(" ")
    quoted = _QUOTED.fullmatch(name)
    if quoted is not None:
        name = re.sub(r"\\(.)", r"\1", quoted[1])
    else:
        special = _SPECIALS.search(name)
        if special is not None:
            raise AddressInvalid(
                f"{shorten(text)} has {special[0]} in its name; put the name in double quotes: "
                '"Example, Inc." <ann@example.org>, or send an object with email and name'
            )
    address = parse_address(
        rest[:-1], allow_sandbox=allow_sandbox, allow_local_domains=allow_local_domains
    )
    return Mailbox(address, _check_name(name))


def _check_name(name: str, *, member: str = "") -> str:
    unsafe = find_unsafe(name)
    if unsafe:
        raise AddressInvalid(f"{shorten(name)} contains {unsafe}; remove it", member=member)
    if len(name) > NAME_CHARACTERS:
        raise AddressInvalid(
            f"{shorten(name)} has {len(name)} characters; a name has at most {NAME_CHARACTERS}",
            member=member,
        )
    return name.strip()
