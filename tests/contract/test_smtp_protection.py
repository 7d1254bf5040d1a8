"""TLS and AUTH: F-SM-03, F-SM-05, T-16, against the real server."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from emailerctl.errors import ConfigurationError
from emailerctl.models.outcome import Alarm, Kind, Party, Phase
from tests.contract.smtp_client import (
    RAW,
    Marker,
    build_next_hop,
    has_said,
    send,
    send_one,
)
from tests.smtpd.fixture import SmtpServer

Start = Callable[..., SmtpServer]


@dataclass(frozen=True)
class Certificates:
    ca: str
    good: tuple[str, str]
    other_name: tuple[str, str]
    other_ca: tuple[str, str]


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    ours, theirs = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(folder / "ca.pem")

    def issue(ca: trustme.CA, name: str, file: str) -> tuple[str, str]:
        issued = ca.issue_cert(name)
        paths = folder / f"{file}.pem", folder / f"{file}.key"
        for blob in issued.cert_chain_pems:
            blob.write_to_path(paths[0], append=True)
        issued.private_key_pem.write_to_path(paths[1])
        return str(paths[0]), str(paths[1])

    return Certificates(
        ca=str(folder / "ca.pem"),
        good=issue(ours, "127.0.0.1", "good"),
        other_name=issue(ours, "other.example.org", "other-name"),
        other_ca=issue(theirs, "127.0.0.1", "other-ca"),
    )


CREDENTIALS = {"username": "ann@example.org", "password": "s3cret-pässword"}
USER = "ann@example.org:s3cret-pässword"


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
async def test_a_verified_connection_sends_and_is_kept(
    start_smtpd: Start, certificates: Certificates, tls: str
) -> None:
    options = ["--implicit-tls"] if tls == "implicit" else []
    server = start_smtpd("--tls", *certificates.good, "--auth", USER, *options)
    hop = build_next_hop(server, tls=tls, ca_file=certificates.ca, pool=1, **CREDENTIALS)

    first = await send(hop, "ann")
    second = await send(hop, "bob")
    large = await send(hop, "eve", raw=RAW + b"0123456789abcdef\r\n" * 100_000)
    checked = await hop.check()
    await hop.close()

    for sending in (first, second, large):
        assert sending.outcomes[0].kind is Kind.ACCEPTED
    assert {c["connection"] for c in server.journal()} == {1}
    assert server.journal()[2]["size"] == len(RAW) + 18 * 100_000
    assert "= TLSv1.3" in first.dialogue
    assert "> AUTH PLAIN ********" in first.dialogue
    assert "s3cret" not in first.dialogue
    assert "s3cret" not in str(checked)
    assert [r.name for r in checked if r.is_good][-1] == "quit"


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
@pytest.mark.parametrize(
    ("which", "why"), [("other_name", "mismatch"), ("other_ca", "certificate")]
)
async def test_f_sm_03_a_wrong_certificate_is_not_sent_to(
    start_smtpd: Start, certificates: Certificates, tls: str, which: str, why: str
) -> None:
    options = ["--implicit-tls"] if tls == "implicit" else []
    server = start_smtpd("--tls", *getattr(certificates, which), "--auth", USER, *options)
    mark = Marker()

    outcome = await send_one(
        server, "ann", mark=mark, tls=tls, ca_file=certificates.ca, **CREDENTIALS
    )

    assert (outcome.kind, outcome.party, outcome.phase, outcome.alarm) == (
        Kind.TRANSIENT,
        Party.NEXT_HOP,
        Phase.TLS,
        Alarm.TLS,
    )
    assert why in outcome.reply
    assert mark.asked == []
    assert not has_said(server, "> AUTH")


@pytest.mark.parametrize("options", [[], ["--starttls", "454"], ["--tls-garbage"]], ids=str)
async def test_f_sm_03_without_tls_nothing_is_said(
    start_smtpd: Start, certificates: Certificates, options: list[str]
) -> None:
    """Not offered, refused, or nonsense: credentials never in clear."""
    tls = ["--tls", *certificates.good] if options else []
    server = start_smtpd(*tls, *options, "--auth", USER)

    outcome = await send_one(
        server, "ann", tls="starttls", ca_file=certificates.ca, **CREDENTIALS
    )

    assert (outcome.kind, outcome.party, outcome.alarm) == (
        Kind.TRANSIENT,
        Party.NEXT_HOP,
        Alarm.TLS,
    )
    assert not has_said(server, "> AUTH")
    assert server.journal() == []


async def test_verification_is_switched_off_by_name(
    start_smtpd: Start, certificates: Certificates
) -> None:
    server = start_smtpd("--tls", *certificates.other_ca)

    outcome = await send_one(server, "ann", tls="starttls", tls_verify=False)

    assert outcome.kind is Kind.ACCEPTED


@pytest.mark.parametrize(
    ("options", "is_protected"),
    [
        (["--tls", "GOOD"], True),
        (["--tls", "OTHER"], True),
        ([], False),
        (["--tls", "GOOD", "--starttls", "454"], False),
        (["--tls", "GOOD", "--tls-garbage"], False),
    ],
    ids=str,
)
async def test_opportunistic_tls_takes_what_it_gets(
    start_smtpd: Start, certificates: Certificates, options: list[str], is_protected: bool
) -> None:
    files = {"GOOD": certificates.good, "OTHER": certificates.other_name}
    words = [word for option in options for word in files.get(option, (option,))]
    server = start_smtpd(*words)
    hop = build_next_hop(server, tls="opportunistic")

    sending = await send(hop, "ann")
    await hop.close()

    assert sending.outcomes[0].kind is Kind.ACCEPTED
    assert ("= TLSv1.3" in sending.dialogue) == is_protected
    assert server.copies("ann@example.org") == 1


def test_a_ca_file_that_is_none_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")

    for path in (tmp_path / "ca.pem", tmp_path / "missing.pem"):
        with pytest.raises(ConfigurationError, match=r"\[providers.relay\] ca_file"):
            build_next_hop(25, tls="starttls", ca_file=str(path))


# AUTH


@pytest.mark.parametrize("method", ["plain", "login", "cram-md5", "xoauth2"])
async def test_f_sm_05_every_mechanism(start_smtpd: Start, method: str) -> None:
    server = start_smtpd("--auth", USER, "--auth-methods", method.upper())

    good = await send_one(server, "ann", auth=method, **CREDENTIALS)
    bad = await send_one(
        server, "bob", auth=method, username="ann@example.org", password="guess"
    )

    assert good.kind is Kind.ACCEPTED
    assert (bad.kind, bad.party, bad.phase, bad.code) == (
        Kind.TRANSIENT,
        Party.NEXT_HOP,
        Phase.AUTH,
        535,
    )
    assert (bad.alarm, bad.is_charged) == (Alarm.CREDENTIALS, False)
    assert [c["recipient"] for c in server.journal()] == ["ann@example.org"]


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ("PLAIN LOGIN CRAM-MD5", "CRAM-MD5"),
        ("LOGIN PLAIN", "PLAIN"),
        ("XOAUTH2 LOGIN", "LOGIN"),
    ],
)
async def test_auto_takes_the_best_one_offered(
    start_smtpd: Start, offered: str, chosen: str
) -> None:
    """In clear, which is for this host only, the one that does not say the secret."""
    server = start_smtpd("--auth", USER, "--auth-methods", offered)

    outcome = await send_one(server, "ann", **CREDENTIALS)

    assert outcome.kind is Kind.ACCEPTED
    assert has_said(server, f"> AUTH {chosen}")


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ([], {}),
        (["--auth", USER, "--auth-methods", "GSSAPI XOAUTH2"], {}),
        (["--auth", USER, "--auth-methods", "PLAIN"], {"auth": "cram-md5"}),
    ],
    ids=str,
)
async def test_f_sm_05_a_mechanism_that_is_not_offered(
    start_smtpd: Start, options: list[str], settings: dict[str, str]
) -> None:
    server = start_smtpd(*options)

    outcome = await send_one(server, "ann", **CREDENTIALS, **settings)

    assert (outcome.kind, outcome.alarm, outcome.is_charged) == (
        Kind.TRANSIENT,
        Alarm.CREDENTIALS,
        False,
    )
    assert "offers" in outcome.reply


@pytest.mark.parametrize(
    ("code", "alarm"), [("454", None), ("421", None), ("534", Alarm.CREDENTIALS)]
)
async def test_f_sm_05_what_auth_answers(
    start_smtpd: Start, code: str, alarm: Alarm | None
) -> None:
    server = start_smtpd("--auth", USER, "--auth-reply", code)

    outcome = await send_one(server, "ann", **CREDENTIALS)

    assert (outcome.kind, outcome.party, outcome.alarm) == (
        Kind.TRANSIENT,
        Party.NEXT_HOP,
        alarm,
    )


async def test_f_sm_05_a_server_that_wants_credentials_we_do_not_have(
    start_smtpd: Start,
) -> None:
    server = start_smtpd("--auth", USER)

    outcome = await send_one(server, "ann")

    assert (outcome.kind, outcome.code, outcome.alarm, outcome.is_charged) == (
        Kind.TRANSIENT,
        530,
        Alarm.CREDENTIALS,
        False,
    )
