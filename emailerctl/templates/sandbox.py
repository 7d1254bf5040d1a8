"""Jinja with next to nothing in it: plain data, a few filters, macros and loops (T-09).

Jinja's own sandbox keeps a list of what is unsafe.  This one, built on it, has a list of what
is possible: a dot or a bracket looks into an object or a list of the variables and never at an
attribute of a Python object; what can be called are macros, `super`, `caller` and two methods
of `loop`.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from jinja2 import BaseLoader, StrictUndefined, Undefined, UndefinedError
from jinja2.environment import TemplateModule
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS
from jinja2.runtime import BlockReference, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS

from emailerctl.templates.formats import Formats

# Of Jinja's own: those that make text of data, and can reach nothing else.  Not among them, for
# example: attr, map, format (they reach into objects or lay out without bound), safe, xmlattr.
_FILTERS = (
    *("abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first"),
    *("float", "indent", "int", "items", "join", "last", "length", "list", "lower", "max"),
    *("min", "replace", "reverse", "round", "sort", "string", "striptags", "sum", "title"),
    *("trim", "truncate", "unique", "upper", "urlencode", "wordcount"),
)
_TESTS = (
    *("boolean", "defined", "divisibleby", "eq", "equalto", "==", "even", "false", "float"),
    *("ge", "greaterthan", "gt", ">", ">=", "in", "integer", "iterable", "le", "lessthan"),
    *("lower", "lt", "<", "<=", "mapping", "ne", "!=", "none", "number", "odd", "sequence"),
    *("string", "true", "undefined", "upper"),
)
_LOOP = frozenset(
    {
        *("index", "index0", "revindex", "revindex0", "first", "last", "length", "depth"),
        *("depth0", "previtem", "nextitem", "cycle", "changed"),
    }
)
_CALLED = frozenset({"cycle", "changed"})
_NOTHING: Any = object()


class Absent(StrictUndefined):
    """A variable that is declared, not required, and not given: false, and nothing to print."""

    __slots__ = ()

    def __bool__(self) -> bool:  # type: ignore[override]
        """Return False, so that `{% if coupon %}` works."""
        return False


class Sandbox(ImmutableSandboxedEnvironment):
    """An environment for the sources of one bundle.

    Attributes:
        formats: in which language dates and numbers are written; set for each rendering.
    """

    # Numbers only: text repeated or laid out costs memory without bound, and `**` time.
    intercepted_binops = frozenset({"*", "%", "**"})

    def __init__(self, loader: BaseLoader | None = None) -> None:
        """Take where included files come from."""
        super().__init__(
            loader=loader,
            undefined=StrictUndefined,
            autoescape=_escapes,
            # Folding would run filters and operators while compiling, in no language.
            optimized=False,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=False,
            cache_size=200,
        )
        self.formats = Formats()
        self.globals = {}
        self.filters = {name: FILTERS[name] for name in _FILTERS}
        self.filters |= {name: _bind(self, name) for name in Formats.NAMES}
        self.tests = {name: TESTS[name] for name in _TESTS}

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return a member of data."""
        return self._find_member(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Return a member of data."""
        return self._find_member(obj, argument)

    def _find_member(self, obj: Any, key: Any) -> Any:
        found = _NOTHING
        if isinstance(obj, Mapping) or (
            isinstance(obj, list | tuple | str) and isinstance(key, int | slice)
        ):
            with suppress(LookupError, TypeError):
                found = obj[key]
        elif isinstance(obj, LoopContext) and key in _LOOP:
            found = getattr(obj, key)
        elif isinstance(obj, TemplateModule) and isinstance(key, str) and key[:1] != "_":
            found = vars(obj).get(key, _NOTHING)
        elif isinstance(obj, Undefined):
            found = obj[key]  # it complains, and says which name is missing
        return self.undefined(obj=_name_kind(obj), name=key) if found is _NOTHING else found

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Return False: no attribute is reached on another way than `getattr` above."""
        return False

    def is_safe_callable(self, obj: Any) -> bool:
        """Return whether *obj* is one of the few things that a template may call."""
        if isinstance(obj, Macro | BlockReference | LoopContext):
            return True
        owner = getattr(obj, "__self__", None)
        return isinstance(owner, LoopContext) and getattr(obj, "__name__", "") in _CALLED

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Multiply and divide numbers."""
        for value in (left, right):
            if isinstance(value, Undefined):
                return super().call_binop(context, operator, left, right)  # it complains
            if not isinstance(value, int | float):
                raise SecurityError(f"{operator} is for numbers, not for text or lists")
        if operator == "**":
            raise SecurityError("** is not possible in a template")
        return super().call_binop(context, operator, left, right)


def _escapes(name: str | None) -> bool:
    return not (name or "").endswith(".txt")


def _name_kind(obj: object) -> object:
    """Return what an error may say of *obj*: its kind, never the value itself."""
    return type(obj)() if isinstance(obj, Mapping | list | str | int | float) else object()


def _bind(environment: Sandbox, name: str) -> Callable[..., Any]:
    def apply(value: Any, *arguments: Any, **named: Any) -> Any:
        if isinstance(value, Undefined):
            return str(value)  # it complains, and says which name is missing
        return getattr(environment.formats, name)(value, *arguments, **named)

    return apply


__all__ = ["Absent", "Sandbox", "SecurityError", "UndefinedError"]
