"""MJML: checked, includes put in, Jinja kept out of the compiler's sight, compiled.

The compiler (mrml) drops what it does not know without a word, takes what an include brings for
something else, and ends the process where a document is nested some thousand deep.  So all that
is looked at here before it gets anything, and it runs in a worker at the time of publishing.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser

from jinja2 import Environment, TemplateSyntaxError
from mjml import mjml2html

from emailerctl.templates.plain import VOID

DEEPEST = 64
_MOST_INCLUDES = 100

_CONTAINERS: Mapping[str, frozenset[str]] = {
    "mjml": frozenset({"mj-head", "mj-body"}),
    "mj-head": frozenset(
        {
            *("mj-attributes", "mj-breakpoint", "mj-font", "mj-html-attributes", "mj-preview"),
            *("mj-style", "mj-title", "mj-raw"),
        }
    ),
    "mj-body": frozenset({"mj-section", "mj-wrapper", "mj-hero", "mj-raw"}),
    "mj-wrapper": frozenset({"mj-section", "mj-hero", "mj-raw"}),
    "mj-section": frozenset({"mj-column", "mj-group", "mj-raw"}),
    "mj-group": frozenset({"mj-column", "mj-raw"}),
    "mj-hero": frozenset(),  # filled below: what stands in a column
    "mj-column": frozenset(
        {
            *("mj-accordion", "mj-button", "mj-carousel", "mj-divider", "mj-image"),
            *("mj-navbar", "mj-raw", "mj-social", "mj-spacer", "mj-table", "mj-text"),
        }
    ),
    "mj-accordion": frozenset({"mj-accordion-element", "mj-raw"}),
    "mj-accordion-element": frozenset({"mj-accordion-title", "mj-accordion-text", "mj-raw"}),
    "mj-carousel": frozenset({"mj-carousel-image"}),
    "mj-navbar": frozenset({"mj-navbar-link", "mj-raw"}),
    "mj-social": frozenset({"mj-social-element", "mj-raw"}),
}
_CONTENT = {**_CONTAINERS, "mj-hero": _CONTAINERS["mj-column"]}
# What holds HTML or text, which is not looked into; and what is empty.
_ENDING = frozenset(
    {
        *(
            "mj-accordion-text",
            "mj-accordion-title",
            "mj-button",
            "mj-navbar-link",
            "mj-preview",
        ),
        *("mj-raw", "mj-social-element", "mj-style", "mj-table", "mj-text", "mj-title"),
    }
)
_EMPTY = frozenset(
    {
        *("mj-breakpoint", "mj-carousel-image", "mj-divider", "mj-font", "mj-image"),
        "mj-spacer",
    }
)
_FREE = frozenset({"mj-attributes", "mj-html-attributes"})  # anything may stand below
_KNOWN = frozenset(_CONTENT) | _ENDING | _EMPTY | _FREE | {"mj-include"}
_INCLUDE = re.compile(
    r"<mj-include\s+path\s*=\s*(?:\"([^\"]*)\"|'([^']*)')\s*(?:/>|>\s*</mj-include>)"
)
_INLINE_STYLE = re.compile(
    r"<mj-style\s[^>]*\binline\s*=\s*[\"']inline[\"'][^>]*>(.*?)</mj-style>", re.DOTALL
)
_STATEMENT = frozenset({"block_begin", "comment_begin"})
_ENDS = {"block_begin": "block_end", "comment_begin": "comment_end", "raw_begin": "raw_end"}
_ENDS["variable_begin"] = "variable_end"
_LEXER = Environment()  # noqa: S701  (it renders nothing)


@dataclass(slots=True)
class Document:
    """An MJML file with its includes and what stands for its Jinja.

    Attributes:
        html: compiled, Jinja back in its place.
        css: what `mj-style inline` says.
        uses: the included files.
        faults: (file, line, code, sentence) each.
    """

    html: str = ""
    css: str = ""
    uses: list[str] = field(default_factory=list)
    faults: list[tuple[str, int, str, str]] = field(default_factory=list)


def compile_mjml(name: str, source: str, partials: Mapping[str, str]) -> Document:
    """Compile *source*; *partials* are what it can include."""
    document = Document()
    tokens: list[str] = []
    text = _expand(document, name, source, partials, tokens, path=(name,))
    if document.faults:
        return document
    checker = _Checker(name, is_whole=True)
    checker.run(text)
    if checker.faults:  # between files: a part that an included file opens or leaves open
        document.faults += checker.faults
        return document
    document.css = "\n".join(found[1] for found in _INLINE_STYLE.finditer(text))
    text = _INLINE_STYLE.sub("", text)
    try:
        html = mjml2html(text, fonts={})  # no font of a third party that nobody asked for
    except ValueError as error:
        document.faults.append((name, 0, "mjml", f"can't be compiled: {error}"))
        return document
    lost = sum(
        f"jx{n}x" not in html and f"jx{n}x" not in document.css for n in range(len(tokens))
    )
    if lost:
        said = next(t for n, t in enumerate(tokens) if f"jx{n}x" not in html)
        document.faults.append(
            (name, 0, "mjml", f"{said.strip()[:60]} stands where MJML drops it; use <mj-raw>")
        )
        return document
    if document.css:  # alone what it says is put into elements
        html = html.replace("<style", '<style data-css-inline="ignore"')
    document.css = re.sub(r"jx[0-9]+x", "", document.css)
    document.html = re.sub(r"jx([0-9]+)x", lambda found: tokens[int(found[1])], html)
    return document


def _expand(
    document: Document,
    name: str,
    source: str,
    partials: Mapping[str, str],
    tokens: list[str],
    *,
    path: tuple[str, ...],
) -> str:
    """Return *source* with its Jinja replaced and its includes put in, checked file by file."""
    try:
        text, pieces = _hide(source, tokens)
    except TemplateSyntaxError as error:
        document.faults.append((name, error.lineno, "syntax", error.message or "bad syntax"))
        return ""
    checker = _Checker(name, is_whole=len(path) == 1, pieces=pieces)
    checker.run(text)
    document.faults += checker.faults
    if checker.faults:
        return ""

    def put_in(found: re.Match[str]) -> str:
        wanted = (found[1] or found[2] or "").removeprefix("./").removeprefix("../_shared/")
        line = text.count("\n", 0, found.start()) + 1
        if wanted in path:
            sentence = f"{wanted} includes itself: {' → '.join((*path, wanted))}"
        elif wanted not in partials:
            known = ", ".join(sorted(partials)) or "none"
            sentence = f"there is no {wanted[:60]} to include; there are: {known}"
        elif len(document.uses) >= _MOST_INCLUDES:
            sentence = f"includes more than {_MOST_INCLUDES} files"
        else:
            document.uses.append(wanted)
            inner = (*path, wanted)
            return _expand(document, wanted, partials[wanted], partials, tokens, path=inner)
        document.faults.append((name, line, "include", sentence))
        return ""

    return _INCLUDE.sub(put_in, text)


def _hide(source: str, tokens: list[str]) -> tuple[str, dict[str, str]]:
    """Return *source* with a word for each tag of Jinja, which is kept in *tokens*.

    What XML takes amiss (`{% if a < b %}`) never meets the compiler so.
    """
    pieces: dict[str, str] = {}
    text, open_, kind = "", "", ""
    for _line, token, value in _LEXER.lex(source):
        if not kind and token in _ENDS:
            kind, open_ = token, ""
        if not kind:
            text += value
            continue
        open_ += value
        if token == _ENDS[kind]:
            word = f"jx{len(tokens)}x"
            tokens.append(open_)
            pieces[word] = "statement" if kind in _STATEMENT else "value"
            # Lines stay as they are, for the sentences about them.
            text += word + "\n" * open_.count("\n")
            kind = ""
    return text, pieces


class _Checker(HTMLParser):
    """Looks at the structure: known tags, in places where MJML does not drop them."""

    def __init__(
        self, name: str, *, is_whole: bool, pieces: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(convert_charrefs=False)
        self.faults: list[tuple[str, int, str, str]] = []
        self._name = name
        self._is_whole = is_whole
        self._pieces = pieces or {}
        self._open: list[str] = []
        self._depth = 0

    def run(self, text: str) -> None:
        self.feed(text)
        self.close()
        if self._open and not self.faults:
            self._blame("mjml", f"<{self._open[-1]}> is not closed")
        if self._is_whole and not self.faults and "<mjml" not in text:
            self._blame("mjml", "has no <mjml>")

    def _blame(self, code: str, sentence: str) -> None:
        self.faults.append((self._name, self.getpos()[0], code, sentence))

    @property
    def _is_inside(self) -> bool:
        """Whether this is the content of something that holds HTML."""
        return bool(self._open) and (
            self._open[-1] in _ENDING or not _FREE.isdisjoint(self._open)
        )

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._depth += tag not in VOID
        if self._depth > DEEPEST:
            if self._depth == DEEPEST + 1:
                self._blame("depth", f"is nested more than {DEEPEST} deep")
            return
        if self._is_inside and not tag.startswith("mj"):
            return
        if not (self._is_inside and not _FREE.isdisjoint(self._open)):
            self._check_place(tag)
        self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if not self._is_inside:
            self._check_place(tag)

    def _check_place(self, tag: str) -> None:
        if tag not in _KNOWN:
            self._blame("unknown-tag", f"<{tag}> is no tag of MJML")
            return
        if tag == "mj-include":
            return
        parent = self._open[-1] if self._open else ""
        if not parent:
            if self._is_whole and tag != "mjml":
                self._blame("place", f"<{tag}> stands outside <mjml>")
        elif tag not in _CONTENT.get(parent, frozenset()):
            self._blame("place", f"<{tag}> can't stand in <{parent}>: MJML would drop it")

    def handle_endtag(self, tag: str) -> None:
        self._depth = max(self._depth - (tag not in VOID), 0)
        if self._open and self._open[-1] == tag:
            self._open.pop()
        elif tag.startswith("mj") and not self.faults:
            said = f"; <{self._open[-1]}> is open" if self._open else ""
            self._blame("mjml", f"</{tag}> closes nothing{said}")

    def handle_data(self, data: str) -> None:
        if self._is_inside or not data.strip():
            return
        self._blame("place", f"text stands where MJML drops it: {_shown(data, self._pieces)}")


def _shown(data: str, pieces: Mapping[str, str]) -> str:
    text = " ".join(data.split())
    return "Jinja, which belongs into <mj-raw> here" if text in pieces else f'"{text[:40]}"'
