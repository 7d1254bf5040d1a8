"""DKIM: dkimpy is the oracle; what is not to be seen must not pass."""

import re
from collections.abc import Iterator
from random import Random

import dkim
import pytest

from emailerctl.core.dkim import (
    build_name,
    build_record,
    find_record_fault,
    generate_key,
    load_key,
    sign,
    write_record,
)
from emailerctl.core.mime import build_raw
from emailerctl.models.dkim import Algorithm, DomainKey, KeyState
from emailerctl.models.message import Attachment, Draft, Mailbox

RSA, ED25519 = Algorithm.RSA, Algorithm.ED25519
AT_S = 1_795_514_400


def make_key(algorithm: Algorithm, selector: str = "s1") -> tuple[DomainKey, bytes]:
    pem, public = generate_key(algorithm)
    key = DomainKey(
        domain="example.org",
        selector=selector,
        algorithm=algorithm,
        state=KeyState.ACTIVE,
        public=public,
        created_ms=0,
        changed_ms=0,
        actor="test",
    )
    return key, pem


@pytest.fixture(scope="module")
def keys() -> dict[Algorithm, tuple[DomainKey, bytes]]:
    return {algorithm: make_key(algorithm, algorithm.value[:3]) for algorithm in Algorithm}


class Zone:
    """What a verifier is told about the domain."""

    def __init__(self, *keys: DomainKey) -> None:
        self.records = {f"{build_name(k)}.".encode(): build_record(k).encode() for k in keys}

    def find(self, name: bytes, timeout: int = 5) -> bytes:
        return self.records.get(name, b"")


def verify(raw: bytes, zone: Zone, index: int = 0) -> bool:
    try:
        return bool(dkim.DKIM(raw).verify(idx=index, dnsfunc=zone.find))
    except dkim.DKIMException:
        return False


def find_odd_mails(count: int) -> Iterator[bytes]:
    """Yield mails whose spaces, line ends, words and parts are where signers go wrong."""
    rng = Random(8)
    pieces = (
        *(" ", "  ", "\t", " \t ", "\n", "\n\n\n", " \n", "\t\n", ".", "..\n", "From me\n"),
        *("=", "a" * 1_100, "Grüße", "日本", "\u00a0", "x" * 75, "- -- \n", "<b> </b>"),
    )

    def text(most: int) -> str:
        return "".join(rng.choice(pieces) for _ in range(rng.randrange(most)))

    def line() -> str:
        return re.sub(r"\s", " ", text(9)).strip()[:60] or "x"

    for number in range(count):
        names = rng.sample(
            ["X-Order", "In-Reply-To", "References", "List-Id"], rng.randrange(3)
        )
        draft = Draft(
            header_from=Mailbox(
                "shop@example.org", rng.choice(["", "Shop", "Käse, Öl", 'a "b"'])
            ),
            to=tuple(Mailbox(f"a{n}@example.net", line()) for n in range(rng.randrange(1, 9))),
            cc=tuple(Mailbox(f"c{n}@example.net") for n in range(rng.randrange(2))),
            reply_to=tuple(Mailbox("r@example.org") for _ in range(rng.randrange(2))),
            subject=line() * rng.randrange(3),
            text=text(30) if number % 3 else None,
            html=text(30) if number % 2 else None,
            headers={name: line() for name in names},
            attachments=tuple(
                Attachment(filename=line(), content_type="a/b", content=rng.randbytes(200))
                for _ in range(rng.randrange(2))
            ),
            list_unsubscribe="https://example.org/u?x=1" if number % 5 == 0 else "",
        )
        yield build_raw(
            draft, message_id_header=f"<{number}@example.org>", date_ms=AT_S * 1000 + number
        )


def test_a_thousand_odd_mails_verify(keys: dict[Algorithm, tuple[DomainKey, bytes]]) -> None:
    """RFC 6376, RFC 8463: one with each algorithm, all of them by somebody else's verifier."""
    zone = Zone(*(key for key, _ in keys.values()))
    signers = [load_key(key, pem) for key, pem in keys.values()]
    wrong = []
    for number, raw in enumerate(find_odd_mails(1_000)):
        some = signers if number % 10 == 0 else [signers[number % 2]]
        signed = sign(raw, some, signed_at_s=AT_S) + raw
        assert max(map(len, signed.split(b"\r\n\r\n")[0].split(b"\r\n"))) <= 998
        if not all(verify(signed, zone, index) for index in range(len(some))):
            wrong.append(raw)

    assert wrong == []


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"\r\n", b"\r\n\r\n\r\n", b"  \r\n\t\r\n", b"a", b"a\r\n \r\n\r\n"),
        b"  a  b\tc  \r\n" * 20_000,
        b"\r\n" * 70_000 + b"end",
        b"x\r\n" + b"\r\n" * 70_000,
        b"y" * 200_000,
    ],
    ids=lambda body: f"{len(body)} octets, {body[:6]!r}",
)
def test_bodies_end_where_they_should(
    body: bytes, keys: dict[Algorithm, tuple[DomainKey, bytes]]
) -> None:
    """RFC 6376 3.4.4: empty lines at the end, spaces, no line end; across our pieces too."""
    key, pem = keys[ED25519]
    raw = b"From: a@example.org\r\nSubject:  a \r\n\tb\r\n\r\n" + body
    signed = sign(raw, [load_key(key, pem)], signed_at_s=AT_S) + raw

    assert verify(signed, Zone(key))


def test_nobody_changes_or_adds_what_readers_trust(
    keys: dict[Algorithm, tuple[DomainKey, bytes]],
) -> None:
    """RFC 6376 8.15, RFC 8058 4: also a field that was not there."""
    key, pem = keys[RSA]
    draft = Draft(
        header_from=Mailbox("shop@example.org"),
        to=(Mailbox("ann@example.net"),),
        subject="Hello",
        text="Hi",
        list_unsubscribe="https://example.org/u?x=1",
    )
    raw = build_raw(draft, message_id_header="<1@example.org>", date_ms=AT_S * 1000)
    signed = sign(raw, [load_key(key, pem)], signed_at_s=AT_S) + raw
    zone = Zone(key)

    assert verify(signed, zone)
    assert verify(b"Received: from a relay\r\nX-Spam: no\r\n" + signed, zone)
    for field in (
        b"From: eve@example.com",
        b"Subject: Else",
        b"To: eve@example.com",
        b"Cc: eve@example.com",
        b"Reply-To: eve@example.com",
        b"Date: Tue, 24 Nov 2026 10:00:00 +0000",
        b"Content-Type: text/html",
        b"List-Unsubscribe: <https://example.com/eve>",
        b"List-Unsubscribe-Post: List-Unsubscribe=One-Click",
    ):
        assert not verify(field + b"\r\n" + signed, zone), field
    assert not verify(signed.replace(b"Hi", b"Ho"), zone)
    assert not verify(signed.replace(b"u?x=1", b"u?x=2"), zone)


def test_the_same_again_is_the_same(keys: dict[Algorithm, tuple[DomainKey, bytes]]) -> None:
    """delivery.md §5: every attempt shows the same bytes, and nothing is kept for that."""
    raw = next(find_odd_mails(1))
    signers = [load_key(key, pem) for key, pem in keys.values()]

    assert sign(raw, signers, signed_at_s=AT_S) == sign(raw, signers, signed_at_s=AT_S)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda record: [record], ""),
        (lambda record: [record.replace("; ", " ;\t"), "v=spf1 -all"], ""),
        (lambda record: [record.removeprefix("v=DKIM1; ")], ""),
        (lambda _: [], "there is no record"),
        (lambda record: [record, record], "there are 2 records"),
        (lambda record: [record.replace("DKIM1", "DKIM2")], "DKIM2"),
        (lambda _: ["v=DKIM1; p="], "revokes"),
        (lambda record: [record.replace("k=rsa", "k=ed25519")], "not rsa"),
        (lambda record: [record[:-4] + "AAAA"], "another key"),
        (lambda record: [f"{record}; h=sha1"], "sha256"),
        (lambda record: [f"{record}; t=s:y"], "t=y"),
    ],
)
def test_what_is_wrong_with_a_record(
    change: "object", said: str, keys: dict[Algorithm, tuple[DomainKey, bytes]]
) -> None:
    key, _pem = keys[RSA]
    fault = find_record_fault(key, change(build_record(key)))  # type: ignore[operator]

    assert (said in fault) if said else fault == ""


def test_a_record_is_ready_to_paste(keys: dict[Algorithm, tuple[DomainKey, bytes]]) -> None:
    """RFC 1035 3.3: in strings of 255."""
    key, _pem = keys[RSA]
    line = write_record(build_name(key), build_record(key))

    pieces = re.findall(r'"([^"]*)"', line)
    assert line.startswith('rsa._domainkey.example.org. IN TXT "v=DKIM1; k=rsa; p=')
    assert "".join(pieces) == build_record(key)
    assert max(map(len, pieces)) <= 255


def test_a_key_is_one_of_its_kind(keys: dict[Algorithm, tuple[DomainKey, bytes]]) -> None:
    (rsa, rsa_pem), (ed25519, _) = keys[RSA], keys[ED25519]
    for key, pem, said in (
        (ed25519, rsa_pem, "is no key for ed25519"),
        (rsa, b"nothing", "no private key in PEM"),
        (rsa, b"", "no private key in PEM"),
    ):
        with pytest.raises(ValueError, match=said):
            load_key(key, pem)
