"""Webhooks that are not signed: Basic credentials, a secret path, or both."""

from typing import Any

import pytest

from emailerctl.providers.base import HasSecretPath, NotVerified
from emailerctl.providers.http_client import build_basic_auth
from emailerctl.providers.registry import KINDS
from emailerctl.providers.unsigned_reports import UnsignedSettings
from tests.providers_server.dialects import DIALECTS
from tests.unit.provider_case import NOW_MS

UNSIGNED = sorted(
    name for name, kind in KINDS.items() if issubclass(kind.settings, UnsignedSettings)
)


def build(kind: str, **settings: str) -> Any:
    """Return the reports of *kind* with these settings for them and no others."""
    table = {n: v for n, v in DIALECTS[kind].settings.items() if not n.startswith("report_")}
    reports = KINDS[kind].reports
    assert reports is not None
    return reports(KINDS[kind].settings.model_validate({**table, **settings}))


def test_they_are_these() -> None:
    assert UNSIGNED == ["brevo", "mailjet", "postmark", "sparkpost"]


@pytest.mark.parametrize("kind", UNSIGNED)
def test_f_wi_01_credentials(kind: str) -> None:
    reports = build(kind, report_user="us", report_password="let-us-in")
    good = {"authorization": build_basic_auth("us", "let-us-in")}

    assert reports.verify(good, b"[]", now_ms=NOW_MS) == ""
    assert reports.verify(good, b"[]", now_ms=NOW_MS) == ""  # nothing in it comes once only
    for headers in (
        {},
        {"authorization": build_basic_auth("us", "let-us-out")},
        {"authorization": build_basic_auth("you", "let-us-in")},
        {"authorization": "Basic !"},
        {"authorization": "Bearer let-us-in"},
    ):
        with pytest.raises(NotVerified, match="missing or wrong"):
            reports.verify(headers, b"[]", now_ms=NOW_MS)


@pytest.mark.parametrize("kind", UNSIGNED)
def test_f_wi_01_a_secret_path_can_stand_alone(kind: str) -> None:
    """It is compared before `verify` is called."""
    reports = build(kind, report_secret="p4th")

    assert isinstance(reports, HasSecretPath)
    assert reports.path_secret == "p4th"
    assert reports.verify({}, b"[]", now_ms=NOW_MS) == ""


@pytest.mark.parametrize("kind", UNSIGNED)
def test_f_wi_01_with_both_both_are_asked_for(kind: str) -> None:
    reports = build(kind, report_secret="p4th", report_password="let-us-in")

    with pytest.raises(NotVerified):
        reports.verify({}, b"[]", now_ms=NOW_MS)


@pytest.mark.parametrize("kind", UNSIGNED)
def test_f_wi_01_without_a_secret_nothing_is_believed(kind: str) -> None:
    with pytest.raises(NotVerified, match="no credentials"):
        build(kind).verify(
            {"authorization": build_basic_auth("emailer", "")}, b"[]", now_ms=NOW_MS
        )
