"""The filters for dates, numbers and money, as the reader's language writes them (CLDR)."""

from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import Any, ClassVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from babel import Locale, UnknownLocaleError
from babel.dates import format_date, format_datetime, format_time
from babel.numbers import (
    format_currency,
    format_decimal,
    format_percent,
    is_currency,
)
from jinja2.exceptions import FilterArgumentError
from markupsafe import Markup, escape

_STYLES = frozenset({"short", "medium", "long", "full"})
_PATTERN_CHARACTERS = 60
_MOST_DIGITS = 40


class Formats:
    """The filters, in one language."""

    NAMES: ClassVar = ("date", "time", "datetime", "number", "currency", "percent", "nl2br")

    def __init__(self) -> None:
        """Begin in English."""
        self.locale = Locale("en")

    def speak(self, tag: str) -> None:
        """Write in the language of *tag*, or of its nearest relative that CLDR has."""
        wanted = tag.replace("-", "_")
        while wanted:
            try:
                self.locale = Locale.parse(wanted)
            except (UnknownLocaleError, ValueError):
                wanted = wanted.rpartition("_")[0]
            else:
                return
        self.locale = Locale("en")

    def date(self, value: Any, style: Any = "medium", tz: Any = "UTC") -> str:
        """Write a date: of a date, or of a moment in *tz*."""
        if isinstance(value, str) and len(value) == len("2026-11-24"):
            try:
                return format_date(date.fromisoformat(value), _style(style), self.locale)
            except ValueError:
                pass
        return format_date(_moment(value, tz).date(), _style(style), self.locale)

    def time(self, value: Any, style: Any = "short", tz: Any = "UTC") -> str:
        """Write the time of day of a moment in *tz*."""
        moment = _moment(value, tz)
        return format_time(moment, _style(style), _zone(tz), self.locale)

    def datetime(self, value: Any, style: Any = "medium", tz: Any = "UTC") -> str:
        """Write a moment in *tz*."""
        moment = _moment(value, tz)
        return format_datetime(moment, _style(style), _zone(tz), self.locale)

    def number(self, value: Any, digits: Any = None) -> str:
        """Write a number, with so many digits after the point."""
        return format_decimal(_decimal(value), _pattern(digits), self.locale)

    def currency(self, value: Any, code: Any) -> str:
        """Write an amount of money; *code* is ISO 4217's: EUR."""
        if not (isinstance(code, str) and is_currency(code)):
            raise FilterArgumentError('currency needs a code of ISO 4217, like "EUR"')
        return format_currency(_decimal(value), code, locale=self.locale)

    def percent(self, value: Any, digits: Any = 0) -> str:
        """Write a share: 0.25 is 25 %."""
        pattern = self.locale.percent_formats[None].pattern
        places = f".{'0' * _digits(digits)}" if _digits(digits) else ""
        return format_percent(
            _decimal(value), pattern.replace("0", f"0{places}", 1), self.locale
        )

    def nl2br(self, value: Any) -> Markup:
        """Write text with its line breaks as they would look in HTML."""
        return Markup("<br>\n").join(escape(str(value)).splitlines())


def _style(style: Any) -> str:
    if style in _STYLES:
        return str(style)
    if isinstance(style, str) and 0 < len(style) <= _PATTERN_CHARACTERS:
        return style
    raise FilterArgumentError('a style is "short", "medium", "long", "full" or like "d MMM y"')


def _zone(tz: Any) -> ZoneInfo:
    try:
        return ZoneInfo(tz)
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError):
        raise FilterArgumentError('tz is a time zone like "Europe/Vienna"') from None


def _moment(value: Any, tz: Any) -> datetime:
    zone = _zone(tz)
    try:
        moment = datetime.fromisoformat(value)
    except (ValueError, TypeError):
        raise FilterArgumentError(
            "is no date or moment; write 2026-11-24 or 2026-11-24T10:00:00Z"
        ) from None
    if moment.tzinfo is None:
        if moment.time() == time() and len(value) <= len("2026-11-24"):
            return moment.replace(tzinfo=zone)
        moment = moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(zone)
    except OverflowError:
        raise FilterArgumentError("is a moment outside the calendar") from None


def _decimal(value: Any) -> Decimal:
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = Decimal(str(value))
        except (InvalidOperation, ValueError):
            number = Decimal("NaN")
        if number.is_finite() and abs(number.adjusted()) < _MOST_DIGITS:
            return number
    raise FilterArgumentError('is no number; write 12.5, or "12.50" in quotes')


def _digits(digits: Any) -> int:
    if isinstance(digits, int) and 0 <= digits <= 20:
        return digits
    raise FilterArgumentError("digits is a number from 0 to 20")


def _pattern(digits: Any) -> str | None:
    if digits is None:
        return None
    places = _digits(digits)
    return f"#,##0.{'0' * places}" if places else "#,##0"


__all__ = ["Formats"]
