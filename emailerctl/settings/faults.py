"""How a wrong setting is said: where it stands, which one, its value, what would be right."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from pydantic_core import ErrorDetails

from emailerctl.errors import ConfigurationError
from emailerctl.models.text import shorten
from emailerctl.settings.model import RuleSettings
from emailerctl.settings.secret import MASK
from emailerctl.settings.sources import KeyPath, find_place

_RULES = ("routing", "rules")
_SAID = {
    "missing": "is missing",
    "model_type": "should be a table",
    "int_parsing": "should be a whole number",
    "int_type": "should be a whole number",
    "int_from_float": "should be a whole number",
    "float_parsing": "should be a number",
    "bool_parsing": "should be true or false",
    "bool_type": "should be true or false",
    "string_type": "should be text, in quotes",
    "tuple_type": 'should be a list: ["a", "b"]',
}


@dataclass(frozen=True, slots=True)
class SettingFault:
    """One thing wrong with the settings."""

    place: str
    key: str
    detail: str

    def __str__(self) -> str:
        """Return the sentence for people."""
        return f"{self.place}: {self.key}: {self.detail}"


def key_of(error: ErrorDetails) -> KeyPath:
    """Return the path of the setting that the model complains of; rules count from 1."""
    is_rule = error["loc"][:2] == _RULES
    return tuple(
        str(part + 1) if isinstance(part, int) else part
        for place, part in enumerate(error["loc"])
        if part != "[key]" and (isinstance(part, str) or (is_rule and place == len(_RULES)))
    )


def describe(
    error: ErrorDetails,
    key: KeyPath,
    value: object,
    places: Mapping[KeyPath, str],
    *,
    is_secret: bool,
) -> SettingFault:
    """Say an error of the model in our words."""
    said = _SAID.get(error["type"]) or error["msg"].removeprefix("Value error, ")
    said = said.removeprefix("Input ")
    if error["type"] == "extra_forbidden":
        near = get_close_matches(key[-1], RuleSettings.model_fields, 1, 0.5)
        cure = (
            f"did you mean {near[0]}?"
            if near
            else f"it has {', '.join(RuleSettings.model_fields)}"
        )
        said = f"a rule has no such field; {cure}"
    if value is not None and not isinstance(value, list | Mapping):
        shown = MASK if is_secret else shorten(value)
        said = said if shown in said else f"{shown} {said}"
    return SettingFault(find_place(places, key) or "default", ".".join(key), said)


def build_error(faults: Collection[SettingFault]) -> ConfigurationError:
    """Return the error that names them all."""
    said = [str(fault) for fault in faults]
    head = [] if len(said) == 1 else [f"{len(said)} settings are wrong:"]
    return ConfigurationError(
        "\n".join(head + said),
        faults=[
            {"place": fault.place, "key": fault.key, "detail": fault.detail} for fault in faults
        ],
    )
