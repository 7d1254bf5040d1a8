"""What a template can't do (T-09): each case runs past the checks of publishing, on purpose."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from jinja2 import TemplateSyntaxError

from emailerctl.templates.base import Bundle, Rendered, Variant
from emailerctl.templates.rendering import Faulty, build_environment, render

DATA: dict[str, Any] = {
    "s": "text",
    "n": 7,
    "f": 1.5,
    "l": [1, "two"],
    "d": {"a": {"b": 1}, "items": "mine", "__class__": "data"},
    "none": None,
}
CLASS = ("s", "n", "f", "l", "d", "none", "''", "[]", "()", "{}", "1", "true")
DUNDERS = (
    *("__class__", "__base__", "__mro__", "__subclasses__", "__init__", "__globals__"),
    *("__builtins__", "__dict__", "__reduce_ex__", "__getattribute__", "__doc__", "__code__"),
)
WALKS = (
    "{{ s.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''['__class__']['__base__'] }}",
    "{{ ()['__cl' ~ 'ass__'] }}",
    "{{ [].append.__self__ }}",
    "{{ l.append(1) }}",
    "{{ l.pop }}",
    "{{ d.update({'a': 1}) }}",
    "{{ d.items() }}",
    "{{ s.upper() }}",
    "{{ s.encode('idna') }}",
    "{{ s.join }}",
    "{{ f.hex() }}",
    "{{ n.to_bytes(9) }}",
    "{{ n.real }}",
    "{{ loop }}{{ self }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context }}",
    "{% for x in l %}{{ loop.__class__ }}{% endfor %}",
    "{% for x in l %}{{ loop._iterable }}{% endfor %}",
    "{% for x in l %}{{ loop['__init__'] }}{% endfor %}",
    "{% for x in l %}{{ loop.cycle.__self__ }}{% endfor %}",
    "{% for x in l %}{{ loop.cycle.__func__.__globals__ }}{% endfor %}",
    "{% macro m() %}x{% endmacro %}{{ m._func }}",
    "{% macro m() %}x{% endmacro %}{{ m._environment }}",
    "{% macro m() %}x{% endmacro %}{{ m.__call__.__globals__ }}",
    "{% macro m() %}{{ varargs.__class__ }}{{ kwargs.__class__ }}{% endmacro %}{{ m(1, a=2) }}",
    "{% macro m() %}{{ caller.__init__ }}{% endmacro %}{% call m() %}x{% endcall %}",
    "{% block b %}{{ super.__func__ }}{% endblock %}",
    "{% set x = s.__class__ %}{{ x }}",
    "{% with x = s.mro %}{{ x }}{% endwith %}",
)
FORMATS = (
    "{{ '{0.__class__}'.format(s) }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(s) }}",
    "{{ '{a.__class__}'.format_map({'a': s}) }}",
    "{{ ('{0.__cla' ~ 'ss__}').format(s) }}",
    "{{ s.format }}",
    "{{ s.format_map }}",
    "{{ '%s' % s.__class__ }}",
    "{{ '%(a)s' % {'a': s} }}",
    "{{ '%9d' % n }}",
    "{{ '%c' % 65 }}",
    "{{ '{0.__class__}'|format(s) }}",
    "{{ '%s'|format(s) }}",
    "{{ s.__format__('>9') }}",
    "{{ s.translate({116: '{'}) }}",
)
FILTERS = (
    "{{ s|attr('__class__') }}",
    "{{ s|attr('upper')() }}",
    "{{ [s]|map(attribute='__class__')|list }}",
    "{{ [s]|map('upper')|list }}",
    "{{ [s]|map('attr', '__class__')|list }}",
    "{{ [s]|selectattr('__class__')|list }}",
    "{{ [s]|rejectattr('x')|list }}",
    "{{ [s]|groupby('__class__') }}",
    "{{ s|pprint }}",
    "{{ d|tojson }}",
    "{{ d|xmlattr }}",
    "{{ s|safe }}",
    "{{ s|forceescape }}",
    "{{ s|urlize }}",
    "{{ l|random }}",
    "{{ n|filesizeformat }}",
    "{{ s|center(99) }}",
    "{{ s|wordwrap(1) }}",
    "{{ l|batch(1)|list }}",
    "{{ s is filter }}",
    "{{ s is sameas(s) }}",
    "{{ s is callable }}",
    "{{ s is escaped }}",
    "{% filter safe %}<b>{% endfilter %}",
)
GLOBALS = (
    *(
        "range(9)",
        "dict(a=1)",
        "lipsum()",
        "cycler(1)",
        "joiner()",
        "namespace()",
        "get_flashed",
    ),
    *(
        "config",
        "request",
        "url_for",
        "session",
        "environment",
        "context",
        "open('/etc/passwd')",
    ),
    *("__import__('os')", "__builtins__", "eval('1')", "exec('1')", "getattr(s, 'x')", "os"),
    *(
        "print(1)",
        "type(s)",
        "vars()",
        "help()",
        "input()",
        "exit()",
        "resolve('s')",
        "missing",
    ),
    *(
        "_",
        "gettext('x')",
        "ngettext('x', 'y', 1)",
        "Markup('<b>')",
        "t_1",
        "l_0_s",
        "undefined",
    ),
)
OPERATORS = (
    *("'a' * 9", "9 * 'a'", "[1] * 9", "2 ** 9", "n ** n", "'%s' % 1", "l % 2", "d * 2"),
    *("none * 2", "'a' * none", "true ** 9", "(1, 2) * 2"),
)


@pytest.fixture(autouse=True)
def executed() -> Iterator[list[str]]:
    """Watch what the interpreter does; nothing of it may happen in a template."""
    _SEEN.clear()
    _WATCH.append(True)
    yield _SEEN
    _WATCH.clear()
    assert _SEEN == []


_SEEN: list[str] = []
_WATCH: list[bool] = []
_WATCHED = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "subprocess",
    "socket",
    "ctypes",
)


def _watch(event: str, _arguments: tuple[object, ...]) -> None:
    if _WATCH and event.startswith(_WATCHED):
        _SEEN.append(event)


sys.addaudithook(_watch)


def run(source: str, variables: dict[str, Any] | None = None, **more: str) -> Rendered:
    sources = {"subject.txt": "Hello", "body.html": source, **more}
    bundle = Bundle(variants={"": Variant("subject.txt", "body.html")}, sources=sources)
    return render(bundle, build_environment(bundle), variables or DATA, "")


def refuse(source: str) -> str:
    """Return why *source* is refused, before it printed anything."""
    with pytest.raises((Faulty, TemplateSyntaxError)) as caught:
        run(source)
    return str(caught.value)


@pytest.mark.parametrize("of", CLASS)
def test_no_attribute_of_any_value_is_reached(of: str) -> None:
    """T-09."""
    for name in DUNDERS:
        for source in (f"{{{{ ({of}).{name} }}}}", f"{{{{ ({of})['{name}'] }}}}"):
            if of == "d" and name == "__class__":
                assert "data" in run(source).html  # a member of the data, and nothing else
            else:
                refuse(source)


@pytest.mark.parametrize("source", WALKS)
def test_attributes_lead_nowhere(source: str) -> None:
    """T-09."""
    refuse(source)


@pytest.mark.parametrize("source", FORMATS)
def test_format_strings_reach_nothing(source: str) -> None:
    """T-09."""
    refuse(source)


@pytest.mark.parametrize("source", FILTERS)
def test_only_filters_of_the_list_exist(source: str) -> None:
    """T-09."""
    refuse(source)


@pytest.mark.parametrize("expression", GLOBALS)
def test_there_are_no_globals(expression: str) -> None:
    """T-09."""
    refuse(f"{{{{ {expression} }}}}")


@pytest.mark.parametrize("expression", OPERATORS)
def test_operators_are_for_numbers(expression: str) -> None:
    """T-09, T-10."""
    refuse(f"{{{{ {expression} }}}}")


@pytest.mark.parametrize(
    "source",
    [
        "{% include '/etc/passwd' %}",
        "{% include '../secret' %}",
        "{% extends s %}",
        "{% import 'os' as os %}",
        "{% from 'os' import system %}",
        "{% do s %}",
        "{% debug %}",
        "{% trans %}x{% endtrans %}",
        "{% set d.a = 1 %}",
        "{% set l[0] = 1 %}",
        "{% break %}",
        "{{ s",
        "{% endif %}",
        "{% if %}",
    ],
)
def test_statements_that_do_not_exist(source: str) -> None:
    """T-09."""
    with pytest.raises((Faulty, TemplateSyntaxError)):
        run(source)


def test_what_is_printed_is_escaped_and_callers_data_is_never_a_template() -> None:
    """T-09."""
    found = run(
        "<p title='{{ a }}'>{{ a }}{{ a|nl2br }}{{ [a]|join(a) }}{{ a ~ a }}"
        "{{ a|replace('x', a) }}",
        {"a": "<script>{{ 7 }}'\""},
    )

    assert "<script" not in found.html
    assert "{{ 7 }}" in found.html
    assert "'\"" not in found.html.replace("title='", "")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ d.a.b }}{{ d['a']['b'] }}{{ l[1] }}{{ s[0] }}{{ s[1:3] }}", "11twotex"),
        ("{{ d.items }}", "mine"),
        ("{% for x in l %}{{ loop.index }}{{ loop.cycle('a', 'b') }}{% endfor %}", "1a2b"),
        ("{% for x in l %}{{ loop.changed(x) }}{% endfor %}", "TrueTrue"),
        (
            "{% macro m(a) %}({{ a }}{{ caller() }}){% endmacro %}"
            "{% call m(s) %}in{% endcall %}",
            "(textin)",
        ),
        ("{% for k, v in d.a|dictsort %}{{ k }}={{ v }}{% endfor %}", "b=1"),
        ("{{ n * 2 + n // 2 - n % 4 }} {{ f / 2 }} {{ n > 3 and 'yes' }}", "14 0.75 yes"),
        ("{% if nothing is defined %}a{% else %}b{% endif %}{{ nothing|default('c') }}", "bc"),
        ("{% set x = 1 %}{% for i in l %}{{ x }}{% endfor %}", "11"),
        ("{% include 'part.html' %}", "part text"),
        ("{% import 'macros.html' as p %}{{ p.shout(s) }}", "TEXT!"),
        ("{% extends 'part.html' %}{% block b %}[{{ super() }}]{% endblock %}", "part [text]"),
        ("{% for x in [[1, [2]], [3, []]] recursive %}{{ x[0] }}{% endfor %}", "13"),
    ],
)
def test_what_a_template_is_for_works(source: str, text: str) -> None:
    macros = "{% macro shout(x) %}{{ x|upper }}!{% endmacro %}"
    part = "part {% block b %}{{ s }}{% endblock %}"
    found = run(source, **{"part.html": part, "macros.html": macros})

    assert text in found.html, found.html


def test_a_missing_variable_is_named() -> None:
    for source in ("{{ nme }}", "{% if nme %}{% endif %}", "{{ d.nme }}", "{{ nme|upper }}"):
        assert "nme" in refuse(source)
    assert "nme" in refuse("{{ nme|date }}")


def test_errors_never_quote_a_value() -> None:
    secret = {"secret": "s3cr3t", "l": ["s3cr3t"]}
    for expression in (
        *("secret + 1", "secret|date", "secret|currency('EUR')", "secret|number", "secret.x"),
        *("secret|abs", "secret|round", "l|sum", "1 + secret", "secret < 3", "secret * 3"),
        *("secret|datetime(tz=secret)", "1|currency(secret)", "l|sort|first|date", "l.s3"),
    ):
        with pytest.raises(Faulty) as caught:
            run(f"{{{{ {expression} }}}}", secret)
        assert "s3cr3t" not in str(caught.value), expression
