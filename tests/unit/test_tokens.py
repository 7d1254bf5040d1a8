"""Tokens: their text, what the store keeps, who is recognised, until when (T-01 to T-03)."""

import string
from random import Random

import pytest

from emailerctl.core import tokens
from emailerctl.core.token_limits import build_limits, parse_limits, parse_scopes
from emailerctl.core.tokens import TokenBook, find_token, parse_token_text
from emailerctl.errors import (
    AmbiguousId,
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    TooManyRequests,
    Unauthorized,
)
from emailerctl.models.caller import Scope
from emailerctl.models.ids import TOKEN, to_public
from emailerctl.wiring import App
from tests.conftest import MakeToken
from tests.fakes import FakeClock

HERE = "192.0.2.1"


@pytest.fixture
def book(app: App) -> TokenBook:
    return TokenBook(app.store, clock=app.clock, most_failures=3, most_requests=5)


async def test_text_has_id_secret_and_check(token: MakeToken) -> None:
    """T-01."""
    minted = await token()
    prefix, token_id, secret, check = minted.text.split("_")

    assert prefix == "emk"
    assert to_public(TOKEN, minted.token.token_id) == f"tok_{token_id}"
    assert len(secret) >= 32
    assert len(check) == 6
    assert set(secret) <= set(string.ascii_letters + string.digits)


async def test_test_tokens_say_so(token: MakeToken) -> None:
    minted = await token(is_test=True)

    assert minted.text.startswith("emk_test_")
    assert parse_token_text(minted.text).is_test  # type: ignore[union-attr]


async def test_store_has_the_hash_and_not_the_secret(app: App, token: MakeToken) -> None:
    minted = await token()
    _epoch, kept = await app.store.load_tokens()
    await app.store.close()
    secret = minted.text.split("_")[2].encode()
    files = [path.read_bytes() for path in app.settings.store.path.parent.glob("emailer.db*")]

    assert kept[0].secret_hash == minted.token.secret_hash
    assert any(kept[0].secret_hash in octets for octets in files)
    assert not any(secret in octets for octets in files)


async def test_every_mangled_character_is_noticed_before_the_store(token: MakeToken) -> None:
    text = (await token()).text

    for at, character in enumerate(text):
        other = "A" if character != "A" else "B"
        assert parse_token_text(text[:at] + other + text[at + 1 :]) is None, at


@pytest.mark.parametrize("text", ["", "emk_", "Bearer x", "emk_a_b_c", "ü" * 40, "x" * 9_000])
def test_what_is_no_token_is_none(text: str) -> None:
    assert parse_token_text(text) is None


async def test_good_token_is_its_service_and_scopes(book: TokenBook, token: MakeToken) -> None:
    minted = await token("web", "send", service="shop", limits={"recipient_rate": "5/1h"})
    caller = await book.authenticate(minted.text, remote=HERE)

    assert (caller.name, caller.service, caller.scopes) == ("web", "shop", {Scope.SEND})
    assert caller.limits.recipient_rate == (5, 3_600_000)


async def test_wrong_secret_of_a_known_id_is_refused(book: TokenBook, token: MakeToken) -> None:
    minted = await token()
    forged = tokens.build_token_text(minted.token.token_id, "A" * 43, is_test=False)

    with pytest.raises(Unauthorized):
        await book.authenticate(forged, remote=HERE)


async def test_live_token_dressed_as_test_token_is_refused(
    book: TokenBook, token: MakeToken
) -> None:
    minted = await token()
    secret = minted.text.split("_")[2]
    dressed = tokens.build_token_text(minted.token.token_id, secret, is_test=True)

    with pytest.raises(Unauthorized):
        await book.authenticate(dressed, remote=HERE)


async def test_all_refusals_read_the_same(
    book: TokenBook, token: MakeToken, clock: FakeClock
) -> None:
    """T-03: nobody learns from a 401 what was wrong."""
    expired = await token("old", expires_ms=clock.now_ms() + 1)
    unknown = tokens.build_token_text(12345, "A" * 43, is_test=False)
    clock.advance(s=1)
    said = set()
    for number, text in enumerate(("", "nonsense", unknown, expired.text)):
        with pytest.raises(Unauthorized) as refusal:
            await book.authenticate(text, remote=f"192.0.2.{number}")
        said.add((refusal.value.detail, refusal.value.cure))

    assert len(said) == 1


async def test_a_token_made_a_moment_ago_is_known(book: TokenBook, token: MakeToken) -> None:
    await book.load()
    minted = await token()

    assert (await book.authenticate(minted.text, remote=HERE)).name == "shop"


async def test_revocation_is_noticed_within_a_quarter_of_a_second(
    app: App, book: TokenBook, token: MakeToken, clock: FakeClock
) -> None:
    minted = await token()
    caller = await book.authenticate(minted.text, remote=HERE)
    await tokens.revoke(app.store, clock, "shop")
    clock.advance(ms=tokens.EPOCH_EVERY_MS)

    assert not await book.is_still_good(caller)
    with pytest.raises(Unauthorized):
        await book.authenticate(minted.text, remote=HERE)


async def test_failures_are_limited_by_address(book: TokenBook, clock: FakeClock) -> None:
    """T-03."""
    for _ in range(3):
        with pytest.raises(Unauthorized):
            await book.authenticate("nonsense", remote=HERE)
    with pytest.raises(TooManyRequests) as refusal:
        await book.authenticate("nonsense", remote=HERE)
    with pytest.raises(Unauthorized):
        await book.authenticate("nonsense", remote="192.0.2.2")

    assert refusal.value.retry_after_s == 61
    clock.advance(m=1)
    with pytest.raises(Unauthorized):
        await book.authenticate("nonsense", remote=HERE)


async def test_one_ipv6_network_is_one_address(book: TokenBook) -> None:
    for number in range(3):
        with pytest.raises(Unauthorized):
            await book.authenticate("", remote=f"2001:db8::{number}")
    with pytest.raises(TooManyRequests):
        await book.authenticate("", remote="2001:db8::ffff")


async def test_what_proved_good_is_not_locked_out_by_its_neighbours(
    book: TokenBook, token: MakeToken
) -> None:
    """Behind one proxy everybody has the same address."""
    minted = await token()
    await book.authenticate(minted.text, remote=HERE)
    for _ in range(3):
        with pytest.raises(Unauthorized):
            await book.authenticate("nonsense", remote=HERE)

    assert (await book.authenticate(minted.text, remote=HERE)).name == "shop"


async def test_requests_of_a_token_are_limited_by_the_second(
    book: TokenBook, token: MakeToken, clock: FakeClock
) -> None:
    minted = await token()
    for _ in range(5):
        await book.authenticate(minted.text, remote=HERE)
    with pytest.raises(TooManyRequests):
        await book.authenticate(minted.text, remote=HERE)
    clock.advance(s=1)

    assert await book.authenticate(minted.text, remote=HERE)


@pytest.mark.parametrize("remote", ["10.1.2.3", "::ffff:10.1.2.3", "2001:db8::7"])
async def test_allowed_addresses_pass(book: TokenBook, token: MakeToken, remote: str) -> None:
    """T-02."""
    minted = await token(limits={"networks": ["10.0.0.0/8", "2001:db8::/32"]})

    assert await book.authenticate(minted.text, remote=remote)


@pytest.mark.parametrize("remote", ["11.1.2.3", "::1", "", "somewhere"])
async def test_other_addresses_are_refused(
    book: TokenBook, token: MakeToken, remote: str
) -> None:
    """T-02."""
    minted = await token(limits={"networks": ["10.0.0.0/8", "2001:db8::/32"]})

    with pytest.raises(Forbidden, match="may not be used from"):
        await book.authenticate(minted.text, remote=remote)


async def test_last_use_is_written_when_flushed(
    app: App, book: TokenBook, token: MakeToken, clock: FakeClock
) -> None:
    minted = await token()
    clock.advance(s=5)
    await book.authenticate(minted.text, remote=HERE)
    await book.flush_used()
    _epoch, kept = await app.store.load_tokens()

    assert kept[0].last_used_ms == clock.now_ms()


async def test_a_limit_of_a_later_version_makes_a_token_useless_here(
    app: App, book: TokenBook, token: MakeToken
) -> None:
    """A limit that is not understood must not be ignored."""
    minted = await token()
    app.driver._connection.execute('UPDATE tokens SET limits = \'{"moon_phase": "full"}\'')

    with pytest.raises(Unauthorized):
        await book.authenticate(minted.text, remote=HERE)


# making, rotating, revoking


async def test_all_faults_of_a_new_token_are_said_at_once(app: App, rng: Random) -> None:
    with pytest.raises(Invalid) as refusal:
        await tokens.create(
            app.store,
            app.clock,
            rng,
            name="Shop!",
            service="a b",
            scopes=["sned"],
            expires_ms=1,
            limits={"recipiens": ["*@example.org"], "recipient_rate": "often"},
        )

    assert {fault.pointer for fault in refusal.value.faults} == {
        "/name",
        "/service",
        "/scopes",
        "/expires_at",
        "/limits/recipiens",
        "/limits/recipient_rate",
    }
    assert 'did you mean "send"?' in str(refusal.value.faults)
    assert 'did you mean "recipients"?' in str(refusal.value.faults)


async def test_a_live_name_is_taken(token: MakeToken) -> None:
    await token("shop")

    with pytest.raises(Conflict, match="shop"):
        await token("shop")


async def test_rotation_keeps_everything_but_the_secret(
    app: App, book: TokenBook, token: MakeToken, clock: FakeClock, rng: Random
) -> None:
    """T-02."""
    old = await token("web", "send", service="shop", limits={"templates_only": True})
    new = await tokens.rotate(app.store, clock, rng, old.token, overlap_ms=60_000)
    before = await book.authenticate(old.text, remote=HERE)
    after = await book.authenticate(new.text, remote=HERE)

    assert new.text != old.text
    assert (before.service, before.scopes, before.limits) == (
        after.service,
        after.scopes,
        after.limits,
    )
    clock.advance(m=1)
    assert await book.authenticate(new.text, remote=HERE)
    with pytest.raises(Unauthorized):
        await book.authenticate(old.text, remote=HERE)


async def test_rotation_gives_the_same_time_anew(
    app: App, token: MakeToken, clock: FakeClock, rng: Random
) -> None:
    old = await token(expires_ms=clock.now_ms() + 3_600_000)
    clock.advance(m=30)
    new = await tokens.rotate(app.store, clock, rng, old.token, overlap_ms=0)

    assert new.token.expires_ms == clock.now_ms() + 3_600_000


async def test_what_has_ended_is_not_rotated(
    app: App, token: MakeToken, clock: FakeClock, rng: Random
) -> None:
    old = await token(expires_ms=clock.now_ms() + 1)
    clock.advance(s=1)

    with pytest.raises(Conflict, match="has ended"):
        await tokens.rotate(app.store, clock, rng, old.token, overlap_ms=0)


async def test_revoking_a_name_ends_what_a_rotation_left(
    app: App, book: TokenBook, token: MakeToken, clock: FakeClock, rng: Random
) -> None:
    old = await token()
    new = await tokens.rotate(app.store, clock, rng, old.token, overlap_ms=3_600_000)
    clock.advance(s=1)
    ended = await tokens.revoke(app.store, clock, "shop")

    assert {one.token_id for one in ended} == {old.token.token_id, new.token.token_id}
    for minted in (old, new):
        with pytest.raises(Unauthorized):
            await book.authenticate(minted.text, remote=HERE)


async def test_revoking_twice_is_said(app: App, token: MakeToken, clock: FakeClock) -> None:
    await token()
    await tokens.revoke(app.store, clock, "shop")

    with pytest.raises(Conflict, match="already"):
        await tokens.revoke(app.store, clock, "shop")


async def test_tokens_are_found_by_name_id_prefix_and_text(
    app: App, token: MakeToken, clock: FakeClock
) -> None:
    web = await token("web")
    clock.advance(h=24 * 365)
    await token("app")
    _epoch, all_ = await app.store.load_tokens()
    public = to_public(TOKEN, web.token.token_id)

    for text in ("web", public, public[4:], public[:8], web.text):
        assert find_token(all_, text, now_ms=clock.now_ms()).name == "web"
    with pytest.raises(AmbiguousId, match="app"):
        find_token(all_, public[:5], now_ms=clock.now_ms())
    with pytest.raises(NotFound):
        find_token(all_, "nobody", now_ms=clock.now_ms())


# scopes and limits


def test_a_token_without_scopes_is_refused() -> None:
    with pytest.raises(Invalid, match="is empty"):
        parse_scopes([])


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        (
            "from_domains",
            ["Example.ORG", "bücher.example"],
            ["example.org", "xn--bcher-kva.example"],
        ),
        ("from_domains", "example.org", ["example.org"]),
        ("recipients", ["*@example.org", "*"], ["*@example.org", "*"]),
        ("fixed_to", ["Ann@example.org"], ["Ann@example.org"]),
        ("templates_only", True, True),
        ("requires_key", True, True),
        ("recipient_rate", "60/3600s", "60/1h"),
        ("networks", ["192.0.2.7/24"], ["192.0.2.0/24"]),
    ],
)
def test_limits_are_kept_in_one_form(name: str, value: object, kept: object) -> None:
    stored = parse_limits({name: value})

    assert stored == {name: kept}
    assert parse_limits(stored) == stored


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("from_domains", ["not a domain"]),
        ("from_domains", 7),
        ("recipients", ["[a-z]@example.org"]),
        ("recipients", [None]),
        ("fixed_to", ["nobody"]),
        ("templates_only", "yes"),
        ("requires_key", 1),
        ("recipient_rate", "0/1h"),
        ("recipient_rate", "5/0s"),
        ("recipient_rate", "5"),
        ("recipient_rate", 5),
        ("networks", ["10.0.0.0/99"]),
    ],
)
def test_wrong_limits_name_the_limit(name: str, value: object) -> None:
    with pytest.raises(Invalid) as refusal:
        parse_limits({name: value})

    assert [fault.pointer for fault in refusal.value.faults] == [f"/limits/{name}"]


def test_what_does_not_narrow_is_left_out() -> None:
    nothing = parse_limits({"templates_only": False, "recipients": []})

    assert nothing == {}
    assert build_limits(nothing) == build_limits({})
