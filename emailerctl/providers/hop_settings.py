"""What the table of every kind of next hop has: its breaker and its rates."""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer, field_validator

from emailerctl.models.rate import Rate, parse_rate
from emailerctl.models.text import shorten
from emailerctl.settings import Duration, Section

_DOMAIN = re.compile(r"\*|(?:[a-z0-9_-]{1,63}\.)*[a-z0-9-]{1,63}")


def _read_rate(value: object) -> Rate:
    if isinstance(value, Rate):
        return value
    if isinstance(value, str):
        return parse_rate(value)
    raise ValueError('is no rate: that is text; write for example "100/s"')


RateText = Annotated[Rate, BeforeValidator(_read_rate), PlainSerializer(str)]


class HopSettings(Section):
    """`[providers.NAME]` of any kind."""

    breaker_failures: int = Field(
        default=5, ge=1, description="Connection-level failures in a row that open the breaker."
    )
    breaker_pause: Duration = Field(
        default=timedelta(seconds=30),
        gt=timedelta(0),
        description="How long the breaker stays open at first.",
    )
    rate: RateText | None = Field(
        default=None, description="Messages in a time, of all consumers together: 100/s."
    )
    domain_rates: Mapping[str, RateText] = Field(
        default={}, description="The same by recipient domain; * for each of the others."
    )

    @field_validator("domain_rates")
    @classmethod
    def _are_domains(cls, rates: Mapping[str, Rate]) -> Mapping[str, Rate]:
        for domain in rates:
            if not _DOMAIN.fullmatch(domain):
                raise ValueError(
                    f"{shorten(domain)} is no domain as it is sent to; write for example "
                    '"gmail.com" = "20/s", lower case and ASCII, or "*" for each of the others'
                )
        return rates
