"""Publishing: what is wrong is named with file and line; what is good becomes a bundle."""

from collections.abc import Mapping

import pytest

from emailerctl.templates.base import Bundle, Rendered, decode_bundle
from emailerctl.templates.compiling import compile_template
from emailerctl.templates.folder import STARTERS, read_folders
from emailerctl.templates.plain import to_text
from emailerctl.templates.rendering import build_environment, render

TOML = '[variables.name]\ntype = "string"\nrequired = true\nexample = "Ann"\n'
GOOD = {
    "template.toml": TOML,
    "subject.txt": "Hello {{ name }}",
    "body.html": "<p>{{ name }}</p>",
    "body.txt": "{{ name }}",
}
SIMPLE = "<mjml><mj-body><mj-section><mj-column>{}</mj-column></mj-section></mj-body></mjml>"


def find(
    shared: Mapping[str, str] | None = None, level: str = "error", **files: str | None
) -> dict[str, str]:
    """Return what is said of GOOD with other *files*: by place."""
    given = {**GOOD, **{name.replace("__", "."): text for name, text in files.items()}}
    kept = {name: text for name, text in given.items() if text is not None}
    compiled = compile_template("t", kept, shared or {})
    return {one.place: one.detail for one in compiled.findings if one.level == level}


def make(files: Mapping[str, str], shared: Mapping[str, str] | None = None) -> Bundle:
    compiled = compile_template("t", files, shared or {})
    assert compiled.bundle is not None, compiled.findings
    return decode_bundle(compiled.bundle)


def mail(bundle: Bundle, locale: str = "", **variables: object) -> Rendered:
    return render(bundle, build_environment(bundle), variables, locale)


@pytest.mark.parametrize(
    ("files", "place", "said"),
    [
        ({"subject__txt": None}, "subject.txt", "is missing"),
        ({"body__html": None, "body__txt": None}, "body.html", "is missing"),
        ({"subject__txt": "{{ nme }}"}, "subject.txt:1", "nme is not declared"),
        ({"body__html": "\n\n{{ name | uper }}"}, "body.html:3", "uper"),
        ({"body__html": "\n{% if name is sameas(1) %}{% endif %}"}, "body.html:2", "sameas"),
        ({"body__html": "\n{% for x in %}"}, "body.html:2", ""),
        ({"body__html": "{{ name.upper() }}"}, "body.html:1", "no methods"),
        ({"body__html": "\n{{ 2 ** 3 }}"}, "body.html:2", "**"),
        (
            {"body__html": "{% autoescape false %}{% endautoescape %}"},
            "body.html:1",
            "autoescape",
        ),
        ({"body__html": "{% include name %}"}, "body.html:1", "in quotes"),
        ({"body__html": "{% include 'x.html' %}"}, "body.html:1", "there is no"),
        (
            {"body__html": "(" * 9 + "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}"},
            "body.html",
            "",
        ),
        ({"body__html": "{{ name|date }}"}, "body.html:1", "no date"),
        ({"body__html": "<p>\n{{ name.first }}"}, "body.html:2", "first"),
        ({"subject__txt": "{% if not name %}x{% endif %}"}, "subject.txt", "empty"),
        ({"body__mjml": SIMPLE.format("")}, "body.mjml", "keep one"),
        ({"body__german__txt__html": "x"}, "body.german.txt.html", "no file of a template"),
        ({"body__toolonglanguage__html": "x"}, "body.toolonglanguage.html", "language tag"),
        ({"template__toml": "x = \n"}, "template.toml:1", "not TOML"),
        ({"template__toml": "x = 1"}, "template.toml:1", "unknown"),
        ({"template__toml": f"{TOML}[variables.a]\ntype = 'txt'"}, "template.toml:5", "txt"),
        ({"template__toml": f"{TOML}[variables.'a-b']\n"}, "template.toml:5", "no name"),
        ({"template__toml": f"{TOML}colour = 1"}, "template.toml:1", "colour"),
        (
            {"template__toml": TOML.replace('"Ann"', "5")},
            "template.toml:1",
            "the example of name",
        ),
        ({"template__toml": f"from = 'nobody'\n{TOML}"}, "template.toml:1", "from"),
        ({"template__toml": f"on_unknown = 'x'\n{TOML}"}, "template.toml:1", "on_unknown"),
        ({"template__toml": f"expires_in = '5'\n{TOML}"}, "template.toml:1", "expires_in"),
        ({"template__toml": f"tags = 'x'\n{TOML}"}, "template.toml:1", "tags"),
        ({"template__toml": f"list_unsubscribe = 'x'\n{TOML}"}, "template.toml:1", "unsub"),
        ({"template__toml": f"locale = 'de_AT'\n{TOML}"}, "template.toml:1", "locale"),
        ({"template__toml": f"{TOML}pattern = '('"}, "template.toml:1", "variable name"),
        ({"template__toml": f"{TOML}sensitive = 1"}, "template.toml:1", "sensitive"),
    ],
)
def test_what_can_not_be_published_is_named(
    files: dict[str, str | None], place: str, said: str
) -> None:
    found = find(**files)

    assert place in found, found
    assert said in found[place]


def mjml(inside: str) -> dict[str, str]:
    return find(body__html=None, body__mjml=inside)


@pytest.mark.parametrize(
    ("source", "place", "said"),
    [
        (SIMPLE.format("\n<mj-txt>x</mj-txt>"), "body.mjml:2", "<mj-txt> is no tag"),
        (
            SIMPLE.format("\n<mj-section></mj-section>"),
            "body.mjml:2",
            "can't stand in <mj-column>",
        ),
        (SIMPLE.format("\nhello"), "body.mjml:1", "text stands where MJML drops it"),
        (
            SIMPLE.format("{% if name %}<mj-text>x</mj-text>{% endif %}"),
            "body.mjml:1",
            "<mj-raw>",
        ),
        (SIMPLE.format("<mj-text>x"), "body.mjml:1", "closes nothing"),
        (SIMPLE.format("<mj-text>x</mj-text>")[:-7], "body.mjml:1", "is not closed"),
        ("<p>{{ name }}</p>", "body.mjml:1", "no tag of MJML"),
        (SIMPLE.format("<mj-text>" + "<b>" * 70), "body.mjml:1", "nested more than 64"),
        (SIMPLE.format("<mj-text>" + "<b>" * 4000 + "</b>" * 4000), "body.mjml:1", "nested"),
        ("<mjml>" + "<mj-body>" * 5000, "body.mjml:1", "can't stand"),
        (SIMPLE.format('<mj-include path="no.mjml" />'), "body.mjml:1", "there is no no.mjml"),
        (SIMPLE.format("<mj-image {{ name }} />"), "body.mjml", "MJML drops"),
        (SIMPLE.format("<mj-text>{{ name </mj-text>"), "body.mjml:1", ""),
    ],
)
def test_what_the_mjml_compiler_would_drop_or_die_of_is_named(
    source: str, place: str, said: str
) -> None:
    """The compiler itself says nothing (A10), and is not asked."""
    found = mjml(source)

    assert place in found, found
    assert said in found[place]


def test_mjml_keeps_jinja_includes_and_inline_styles() -> None:
    shared = {
        "head.mjml": "<mj-style inline='inline'>.a { color: #010203 }</mj-style>",
        "part.mjml": "<mj-text css-class='a'>{% if n < 3 and name > 'A' %}few &amp; {{ n }}"
        "{% else %}many{% endif %}</mj-text>",
    }
    body = (
        "<mjml><mj-head><mj-include path='head.mjml' /></mj-head><mj-body>"
        "<mj-section><mj-column>"
        '<mj-include path="part.mjml" /><mj-raw>{% for x in [1, 2] %}</mj-raw><mj-button '
        'href="https://example.org/?a={{ name }}&amp;b={{ x }}">go {{ x }}</mj-button>'
        "<mj-raw>{% endfor %}</mj-raw></mj-column></mj-section></mj-body></mjml>"
    )
    toml = TOML + '[variables.n]\ntype = "integer"\nexample = 1\n'
    files = {"template.toml": toml, "subject.txt": "x", "body.mjml": body}
    bundle = make(files, shared)
    html = mail(bundle, name="A&B", n=2).html

    assert "few &amp; 2" in html
    assert html.count('<a href="https://example.org/?a=A&amp;B&amp;b=') == 2
    assert "color: #010203" in html
    assert "many" in mail(bundle, name="Ann", n=3).html
    assert "fonts.googleapis" not in html
    assert set(compile_template("t", files, shared).uses) == set(shared)
    again = compile_template("t", files, {**shared, "part.mjml": "<mj-text>x</mj-text>"})
    assert again.version != compile_template("t", files, shared).version


@pytest.mark.parametrize("end", ["html", "mjml"])
def test_files_that_include_each_other_are_named(end: str) -> None:
    tag = "{{% include '{}' %}}" if end == "html" else "<mj-include path='{}' />"
    shared = {f"a.{end}": tag.format(f"b.{end}"), f"b.{end}": tag.format(f"a.{end}")}
    body = tag.format(f"a.{end}")
    files = (
        {"body__html": body}
        if end == "html"
        else {
            "body__html": None,
            "body__mjml": SIMPLE.format(body),
        }
    )
    found = find(shared, **files)

    assert "includes itself" in found[f"b.{end}:1"]


def test_languages_fall_back_file_by_file() -> None:
    bundle = make(
        {
            **GOOD,
            "template.toml": f'{TOML}[variables.n]\ntype = "number"\ndefault = 1234.5\n',
            "subject.txt": "en {{ n|number(2) }}",
            "subject.de.txt": "de {{ n|number(2) }}",
            "body.de-AT.html": "<p>Österreich</p>",
            "body.fr.txt": "français {{ n|number(2) }}",
        }
    )
    said = {tag: mail(bundle, tag, name="x") for tag in ("", "de-AT", "de-DE", "fr-CA", "es")}

    assert said[""].subject == said["es"].subject == "en 1,234.50"
    assert said["de-AT"].subject == "de 1.234,50"
    assert said["de-DE"].subject == "de 1.234,50"
    assert said["fr-CA"].subject == "en 1\xa0234,50"
    assert said["de-AT"].text == "Österreich\n"  # not the English text
    assert said["de-DE"].text == "x\n"
    assert (said["fr-CA"].html, said["fr-CA"].text) == ("", "français 1\xa0234,50\n")


def test_dates_numbers_and_money_are_written_as_in_the_language() -> None:
    toml = 'locale = "de-AT"\n[variables.n]\ntype = "number"\nexample = 1\n'
    source = (
        "{{ n|currency('EUR') }} {{ n|number }} {{ 0.256|percent }} {{ 0.256|percent(1) }} "
        "{{ '2026-11-24'|date('long') }} "
        "{{ '2026-11-24T23:30:00Z'|date('short', 'Europe/Vienna') }} "
        "{{ '2026-07-01T10:00:00Z'|time(tz='Europe/Vienna') }} {{ '2026-11-24'|date('EEEE') }}"
    )
    bundle = make({"template.toml": toml, "subject.txt": "x", "body.txt": source})
    text = mail(bundle, n=1234.5).text.replace("\xa0", " ")

    assert text == (
        "€ 1.234,50 1.234,5 26 % 25,6 % 24. November 2026 25.11.26 12:00 Dienstag\n"
    )


def test_what_is_optional_may_be_left_out() -> None:
    toml = '[variables.a]\ntype = "string"\n[variables.b]\ntype = "integer"\ndefault = 7\n'
    body = "{% if a %}{{ a }}{% else %}none{% endif %} {{ b }} {{ a|default('-') }}"
    bundle = make({"template.toml": toml, "subject.txt": "x", "body.txt": body})

    assert mail(bundle).text == "none 7 -\n"
    assert mail(bundle, a="x", b=1).text == "x 1 x\n"


def test_styles_of_plain_html_are_put_into_elements_after_rendering() -> None:
    """A11: before it, the parser would move what stands in a table."""
    body = (
        "<style>td { color: red } @media (max-width: 1px) { td { color: blue } }</style>"
        "<table>{% for x in [1, 2] %}<tr><td>{{ x }}</td></tr>{% endfor %}</table>"
        '<link rel="stylesheet" href="http://127.0.0.1:1/x.css">'
    )
    html = mail(make({"subject.txt": "x", "body.html": body})).html

    assert html.count('<td style="color: red;">') == 2
    assert "@media" in html


@pytest.mark.parametrize(
    ("files", "place", "said"),
    [
        (
            {"body__html": "<p>{{ name }}</p>\n<img src='https://x.org/a.png'>"},
            "body.html:2",
            "alt",
        ),
        ({"body__html": "{{ name }}<a href='http://x.org'>x</a>"}, "body.html:1", "https"),
        ({"body__html": "{{ name }}<a href='/start'>x</a>"}, "body.html:1", "leads nowhere"),
        ({"body__html": "{{ name }}<table width='900'></table>"}, "body.html:1", "900 px wide"),
        ({"body__html": "{{ name }}<p style='font-size: 9px'>x</p>"}, "body.html:1", "9 px"),
        ({"body__html": "{{ name }}<p style='display:flex'>x</p>"}, "body.html:1", "Outlook"),
        ({"body__html": "{{ name }}<script>1</script>"}, "body.html:1", "<script>"),
        (
            {"body__html": "{{ name }}" + "<p>xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx</p>" * 3_000},
            "body.html",
            "102 kB",
        ),
        ({"template__toml": f"tags = ['bulk']\n{TOML}"}, "template.toml", "unsubscribe"),
        (
            {"template__toml": TOML.replace('example = "Ann"', "")},
            "template.toml",
            "no example",
        ),
        (
            {"body__html": "x", "body__txt": "x", "subject__txt": "x"},
            "template.toml",
            "never used",
        ),
    ],
)
def test_what_inboxes_will_not_like_is_a_warning(
    files: dict[str, str], place: str, said: str
) -> None:
    found = find(level="warning", **files)

    assert place in found, found
    assert said in found[place]
    assert find(**files) == {}


def test_notes_tell_what_could_be_better() -> None:
    assert find(level="warning") == {}
    found = find(level="note", body__txt=None)
    assert "derived" in " ".join(found.values())
    compiled = compile_template("t", {**GOOD}, {})
    assert {one.code for one in compiled.findings} == {"dark-mode", "mobile"}


def test_the_starters_are_without_fault() -> None:
    folders = read_folders(STARTERS)
    shared = folders.pop("_shared")

    assert set(folders) == {
        *("welcome", "verify-email", "password-reset", "invoice", "contact-form", "alert"),
    }
    for name, files in folders.items():
        compiled = compile_template(name, files, shared)
        assert compiled.findings == [], name
        assert compiled.bundle


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>One</p><p>Two<br>lines</p>", "One\n\nTwo\nlines"),
        ("<h1>Title</h1><p>a <b>bold</b>\n word</p>", "Title\n\na bold word"),
        ("<ul><li>a</li><li>b<ul><li>c</li></ul></li></ul>", "- a\n- b\n\n  - c"),
        ("<ol><li>a</li><li>b</li></ol>", "1. a\n2. b"),
        ("<a href='https://x.org/a'>click</a> now", "click: https://x.org/a now"),
        ("<a href='https://x.org/'>x.org</a>", "x.org"),
        ("<a href='mailto:a@x.org'>a@x.org</a>", "a@x.org"),
        ("<a href='#top'>top</a><a href='https://x.org'><img alt='Logo'></a>", ""),
        ("<table><tr><td>a</td><td>b</td></tr><tr><td>c</td></tr></table>", "a  b\nc"),
        ("<style>p{}</style><title>x</title><p style='display:none'>no</p>yes", "yes"),
        ("<div style='display:none'>a<br>b<div>c</div></div><div>d</div>", "d"),
        ("&lt;b&gt; &amp; &euro;\u200b\xad", "<b> & €"),
        ("x" * 90 + " y", "x" * 90 + "\ny"),
        ("<p>" + "word " * 30 + "</p>", "\n".join(["word " * 14 + "word"] * 2)),
        ("<p>a</p><hr><p>b</p>", "a\n\n" + "-" * 24 + "\n\nb"),
        ("", ""),
        ("</p></ul></x><p>", ""),
    ],
)
def test_text_is_derived_from_html(html: str, text: str) -> None:
    found = to_text(html)

    assert text in found if "Logo" in html else found == (f"{text}\n" if text else "")
