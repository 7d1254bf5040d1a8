"""Addresses: what is taken and in which form; the fast way and the library agree (T-08)."""

import string

import pytest
from email_validator import SPECIAL_USE_DOMAIN_NAMES, EmailNotValidError, validate_email
from hypothesis import example, given
from hypothesis import strategies as st

from emailerctl.models import address
from emailerctl.models.address import (
    NAME_CHARACTERS,
    AddressInvalid,
    domain_of,
    needs_smtputf8,
    parse_address,
    parse_mailbox,
)
from emailerctl.models.message import Mailbox
from emailerctl.models.text import find_unsafe, shorten
from tests import corpora


def ask_library(text: str) -> str | None:
    try:
        found = validate_email(text, check_deliverability=False, strict=True)
    except EmailNotValidError:
        return None
    return f"{found.local_part}@{found.ascii_domain}"


def ask_us(text: str) -> str | None:
    try:
        return parse_address(text)
    except AddressInvalid:
        return None


ATOM = string.ascii_letters + string.digits + "!#$%&'*+/=?^_`{|}~-"
near_addresses = st.builds(
    "{}@{}".format,
    st.text(st.sampled_from(ATOM + ".."), min_size=1, max_size=70),
    st.one_of(
        st.text(st.sampled_from(string.ascii_lowercase[:3] + "AX01n--.."), max_size=80),
        st.lists(
            st.text(st.sampled_from("abzA09-"), min_size=1, max_size=66), min_size=1, max_size=5
        ).map(".".join),
        st.sampled_from(
            ["x.TEST", "a.local", "localhost", "b.invalid", "xn--bcher-kva.example", "1.2.3.4"]
        ),
    ),
)


@given(st.one_of(near_addresses, st.text(max_size=40), st.emails()))
@example("POSTMASTER@Example.ORG")
@example("a" * 64 + "@example.org")
@example("a" * 65 + "@example.org")
@example("a@" + "b" * 63 + ".org")
@example("a@" + "b" * 64 + ".org")
@example("a@x--y.org")
@example("a@xy--z.org")
@example("a@xn--a.org")
@example("a@" + ".".join(["b" * 61] * 4) + ".org")
@example("a@b.c\n")
@example("a@b.c1")
def test_we_take_what_the_library_takes_in_the_same_form(text: str) -> None:
    assert ask_us(text) == ask_library(text)


@given(st.one_of(near_addresses, st.emails()))
def test_the_wire_form_is_its_own_wire_form(text: str) -> None:
    wire = ask_us(text)
    if wire is not None:
        assert parse_address(wire) == wire


def test_the_fast_way_knows_special_names_by_their_last_label_alone() -> None:
    assert not [name for name in SPECIAL_USE_DOMAIN_NAMES if "." in name]


@pytest.mark.parametrize(
    ("text", "wire"),
    [
        ("Ann@Example.ORG", "Ann@example.org"),
        ("Info@example.org", "info@example.org"),
        ("ann@bücher.example", "ann@xn--bcher-kva.example"),
        ("ann@XN--BCHER-KVA.example", "ann@xn--bcher-kva.example"),
        ("ann@例え。テスト.jp", "ann@xn--r8jz45g.xn--zckzah.jp"),
        ("jörg@example.org", "jörg@example.org"),
        ("jo\u0308rg@example.org", "jörg@example.org"),
        ("o'neil+x@example.org", "o'neil+x@example.org"),
    ],
)
def test_an_address_comes_out_in_wire_form(text: str, wire: str) -> None:
    assert parse_address(text) == wire
    assert domain_of(wire).isascii()
    assert needs_smtputf8(wire) is not wire.isascii()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "@-sign"),
        ("ann", "@-sign"),
        ("ann@example", "period"),
        ("ann@example.org\r\nRCPT TO:<eve@example.org>", "a line break (U+000D)"),
        ("ann\0@example.org", "a control character (U+0000)"),
        ("ann\u202e@example.org", "a bidirectional override (U+202E)"),
        ("ann\ud800@example.org", "half of a surrogate pair (U+D800)"),
        (" ann@example.org", "space around it"),
        ("ann@example.org ", "space around it"),
        ("ann@example.org, bob@example.org", "one address for each item"),
        ("ann@example.org;bob@example.org", "one address for each item"),
        ('"ann b"@example.org', "Quoting"),
        ("ann@[192.0.2.1]", "bracketed IP address"),
        ("ann(home)@example.org", "invalid characters"),
        ("@relay.example,@b.example:ann@example.org", "before the @-sign"),
        ("ann@example.test", "special-use"),
        ("ann@sandbox.test", "only test tokens"),
        ("ann@localhost", "period"),
        ("a" * 300 + "@example.org", "at most 254"),
        ("ann\uff20example.org", "full-width"),
    ],
)
def test_a_refusal_names_the_value_and_the_reason(text: str, said: str) -> None:
    with pytest.raises(AddressInvalid) as caught:
        parse_address(text)

    assert said in str(caught.value)
    assert shorten(text) in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("value", [None, 5, True, [], ["ann@example.org"], {}, 1.5])
def test_an_address_of_another_type_is_refused(value: object) -> None:
    with pytest.raises(AddressInvalid):
        parse_address(value)


def test_sandbox_addresses_are_for_test_tokens() -> None:
    assert parse_address("bounced@Sandbox.test", allow_sandbox=True) == "bounced@sandbox.test"
    for other in ("a@test", "a@x.test", "a@x.sandbox.test", "jörg@x.test", "a@x.local"):
        with pytest.raises(AddressInvalid):
            parse_address(other, allow_sandbox=True)


@pytest.mark.parametrize("text", ["a@localhost", "a@mail.local", "a@x.test", "a@host"])
def test_local_domains_are_for_development(text: str) -> None:
    with pytest.raises(AddressInvalid):
        parse_address(text)
    assert parse_address(text, allow_local_domains=True) == text
    with pytest.raises(AddressInvalid):
        parse_address("a@x.invalid", allow_local_domains=True)


@pytest.mark.parametrize(
    ("value", "mailbox"),
    [
        ("ann@example.org", Mailbox("ann@example.org")),
        ("<ann@example.org>", Mailbox("ann@example.org")),
        ("Ann Example <ann@example.org>", Mailbox("ann@example.org", "Ann Example")),
        ("J. Smith<ann@example.org>", Mailbox("ann@example.org", "J. Smith")),
        ('"Example, Inc." <a@b.org>', Mailbox("a@b.org", "Example, Inc.")),
        (r'"a \"b\" \\ c" <a@b.org>', Mailbox("a@b.org", r'a "b" \ c')),
        ('"x <eve@example.org>" <a@b.org>', Mailbox("a@b.org", "x <eve@example.org>")),
        ("Jörg Müller <a@bücher.example>", Mailbox("a@xn--bcher-kva.example", "Jörg Müller")),
        ("山田太郎 <a@b.org>", Mailbox("a@b.org", "山田太郎")),
        ("أحمد \u200f <a@b.org>", Mailbox("a@b.org", "أحمد \u200f")),
        ({"email": "a@b.org"}, Mailbox("a@b.org")),
        ({"email": "a@b.org", "name": None}, Mailbox("a@b.org")),
        ({"email": "a@b.org", "name": ' A "B", <c> '}, Mailbox("a@b.org", 'A "B", <c>')),
    ],
)
def test_a_mailbox_is_an_address_with_a_name(value: object, mailbox: Mailbox) -> None:
    assert parse_mailbox(value) == mailbox


@pytest.mark.parametrize(
    ("value", "member", "said"),
    [
        ("Example, Inc. <a@b.org>", "", "double quotes"),
        ("Ann (Sales) <a@b.org>", "", "double quotes"),
        ("eve@example.org <a@b.org>", "", "double quotes"),
        ("a@b.org <c@d.org> <e@f.org>", "", "double quotes"),
        ('"Ann <a@b.org>', "", "double quotes"),
        ("Group: a@b.org, c@d.org;", "", "one address"),
        ("Ann <a@b.org", "", "end with the >"),
        ("Ann <a@b.org> x", "", "end with the >"),
        ("Ann <Bob <a@b.org>>", "", "double quotes"),
        ("Ann < a@b.org>", "", "space around it"),
        ("Ann\r\nBcc: eve@example.org <a@b.org>", "", "a line break"),
        ("A\u202enn <a@b.org>", "", "bidirectional"),
        ("x" * 257 + " <a@b.org>", "", "at most 256"),
        ("x" * 1000, "", "characters"),
        ({"name": "Ann"}, "email", "missing"),
        ({"email": "a@b.org", "nmae": "Ann"}, "nmae", "email and name"),
        ({"email": "a@b"}, "email", "period"),
        ({"email": "a@b.org", "name": "a\nb"}, "name", "a line break"),
        ({"email": "a@b.org", "name": "\ud800"}, "name", "surrogate"),
        ({"email": "a@b.org", "name": 5}, "name", "not text"),
        (None, "", "not a mailbox"),
        (["a@b.org"], "", "not a mailbox"),
    ],
)
def test_a_bad_mailbox_is_refused_where_it_is_bad(
    value: object, member: str, said: str
) -> None:
    with pytest.raises(AddressInvalid, match=said) as caught:
        parse_mailbox(value)

    assert caught.value.member == member
    assert str(caught.value).isprintable()


def test_the_caches_are_bounded_and_used() -> None:
    address._parse_address.cache_clear()
    parse_address("ann@example.org")
    parse_address("ann@example.org")
    info = address._parse_address.cache_info()

    assert (info.hits, info.misses) == (1, 1)
    assert info.maxsize is not None


# isemail judges syntax as of RFC 5321 and 5322 and then asks the DNS.  Of what it calls valid,
# we refuse what can't be a mailbox on the public internet.
REFUSED_THOUGH_VALID = {
    5: "test@io: a top-level domain alone has no mailboxes (RFC 7085)",
}
# What only its look-up finds wrong is a question for the next hop.
TAKEN = {"ISEMAIL_VALID_CATEGORY", "ISEMAIL_DNSWARN"}
REFUSED_THOUGH_ONLY_DNS_WARNS: dict[int, str] = {}


def test_isemail_addresses_are_judged_by_their_category() -> None:
    """Errors, deprecated forms, comments, folding, literals and quoted local parts: refused."""
    wrong = []
    exceptions = REFUSED_THOUGH_VALID | REFUSED_THOUGH_ONLY_DNS_WARNS
    cases = corpora.isemail()
    for case in cases:
        expected = case.category in TAKEN and case.number not in exceptions
        if (ask_us(case.address) is not None) is not expected:
            wrong.append(case)

    assert len(cases) == 164
    assert wrong == []


def test_naughty_strings_are_no_addresses_and_every_refusal_is_one_safe_line() -> None:
    for text in corpora.naughty_strings():
        with pytest.raises(AddressInvalid) as caught:
            parse_address(text)
        assert str(caught.value).isprintable(), text


def test_naughty_strings_are_names_or_are_refused() -> None:
    for text in corpora.naughty_strings():
        try:
            mailbox = parse_mailbox({"email": "ann@example.org", "name": text})
        except AddressInvalid:
            assert len(text) > NAME_CHARACTERS or find_unsafe(text), text
        else:
            assert mailbox.name == text.strip()
