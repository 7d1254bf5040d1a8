"""Webhooks that are not signed: what keeps strangers out is in the URL that the provider calls.

https://USER:PASSWORD@HOST/v1/reports/NAME            Basic credentials
https://HOST/v1/reports/NAME/SECRET                   a secret path
https://USER:PASSWORD@HOST/v1/reports/NAME/SECRET     both
"""

from collections.abc import Mapping

from pydantic import Field, SecretStr

from emailerctl.providers.http import HttpSettings, verify_basic_auth
from emailerctl.settings import Text


class UnsignedSettings(HttpSettings):
    """`[providers.NAME]` of a kind whose webhooks are not signed."""

    report_user: Text = Field(default="emailer", description="User name of its webhooks.")
    report_password: SecretStr = Field(
        default=SecretStr(""),
        description="Password of its webhooks; without it and report_secret, no reports.",
    )
    report_secret: SecretStr = Field(
        default=SecretStr(""),
        description="Last part of the path of its webhooks, /v1/reports/NAME/SECRET.",
    )


class UnsignedReports:
    """The check that its adapters share; the path is compared by whoever calls `verify`."""

    def __init__(self, settings: UnsignedSettings) -> None:
        """Take the credentials."""
        self.path_secret = settings.report_secret.get_secret_value()
        self._user = settings.report_user
        self._password = settings.report_password.get_secret_value()

    def verify(self, headers: Mapping[str, str], body: bytes, *, now_ms: int) -> str:
        """Check the credentials; nothing in a call comes once only."""
        if self._password or not self.path_secret:
            verify_basic_auth(headers, self._user, self._password)
        return ""
