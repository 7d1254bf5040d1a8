"""What can be told from a template about the inboxes it will meet: `templates lint`."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser

from emailerctl.templates.base import Bundle, Rendered, Variant

# Gmail shows the first 102 kB of a message and a link to the rest (support.google.com/a, and
# every sender's handbook; read 2026-11).
CLIPPED_OCTETS = 102 * 1024
_WIDEST_PX = 600
_LEAST_PX = 12
_BULK = frozenset({"bulk", "newsletter", "marketing", "promotion"})

_PX = re.compile(r"^\s*([0-9]+)(?:px)?\s*$")
_STYLE_WIDTH = re.compile(r"(?<![-\w])(?:min-)?width\s*:\s*([0-9]+)px", re.IGNORECASE)
_FONT_SIZE = re.compile(r"font-size\s*:\s*([0-9]+)px", re.IGNORECASE)
_LAYOUT = re.compile(r"(?:display\s*:\s*(?:flex|grid)|position\s*:\s*(?:absolute|fixed))", re.I)
_SAFE_LINK = ("https://", "mailto:", "tel:", "#", "cid:", "{{", "{%")
_MJ_STYLE = re.compile(r"<mj-style[^>]*>(.*?)</mj-style>", re.DOTALL)
_UNSUBSCRIBE = re.compile(r"unsubscribe|abmelden|abbestellen|désinscri|opt.?out", re.IGNORECASE)

LineFinding = tuple[str, str, int, str]
MailFinding = tuple[str, str, str, str]


def find_html_findings(text: str) -> Iterator[LineFinding]:
    """Yield (level, code, line, sentence) for a source, HTML or MJML."""
    for style in _MJ_STYLE.finditer(text):
        if "&gt;" in style[1]:
            line = text.count("\n", 0, style.start(1) + style[1].index("&gt;")) + 1
            yield (
                "warning",
                "style",
                line,
                "&gt; stays so in a style: write >",
            )
    looker = _Looker()
    looker.feed(text)
    looker.close()
    yield from looker.found


class _Looker(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[LineFinding] = []
        self._is_style = False

    def _say(self, code: str, sentence: str, level: str = "warning") -> None:
        self.found.append((level, code, self.getpos()[0], sentence))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self._is_style = tag in ("style", "mj-style")
        if tag in ("img", "mj-image", "mj-carousel-image"):
            if "alt" not in given:
                self._say("alt", f'<{tag}> has no alt text; write alt="" if it only decorates')
            self._check_link("image", given.get("src", ""))
        if tag in ("a", "mj-button", "mj-navbar-link", "mj-social-element", "mj-image"):
            self._check_link("link", given.get("href", ""))
        self._check_size(tag, given)
        if tag in ("script", "form", "iframe", "object", "embed", "video"):
            self._say("support", f"<{tag}> is removed by mail programs")
        if (
            "background" in given
            or "background-url" in given
            or "background-image" in (given.get("style", ""))
        ):
            self._say("dark-mode", "text on a background image can become unreadable", "note")

    def handle_data(self, data: str) -> None:
        if self._is_style:
            self._check_styles(data)

    def handle_endtag(self, tag: str) -> None:
        self._is_style = False

    def _check_link(self, what: str, target: str) -> None:
        target = target.strip()
        if target and not target.startswith(_SAFE_LINK):
            if target.startswith("http://"):
                self._say("https", f"{what} without https: {target[:80]}")
            elif not target.startswith("data:"):
                self._say("https", f"{what} that leads nowhere in a mail: {target[:80]}")

    def _check_size(self, tag: str, given: dict[str, str]) -> None:
        style = given.get("style", "")
        wide = _PX.match(given.get("width", "")) or _STYLE_WIDTH.search(style)
        if wide and int(wide[1]) > _WIDEST_PX and "max-width" not in style and tag != "mj-body":
            self._say("mobile", f"<{tag}> is {wide[1]} px wide; phones show less than 600")
        small = _FONT_SIZE.search(style) or _PX.match(given.get("font-size", ""))
        if small and 0 < int(small[1]) < _LEAST_PX:
            self._say("mobile", f"<{tag}> has text of {small[1]} px; phones need 12 or more")
        self._check_styles(style)

    def _check_styles(self, css: str) -> None:
        if found := _LAYOUT.search(css):
            self._say("support", f"{found[0]} is not known to Outlook; use tables or MJML")


def find_mail_findings(
    mail: Rendered, variant: Variant, bundle: Bundle
) -> Iterator[MailFinding]:
    """Yield (level, code, file, sentence) for a mail made with the examples."""
    octets = len(mail.html.encode())
    if octets > CLIPPED_OCTETS:
        sentence = f"makes {octets // 1024} kB of HTML; Gmail cuts off what is beyond 102 kB"
        yield "warning", "clipped", variant.html, sentence
    if not variant.text:
        sentence = "no body.txt: the text part is derived from the HTML"
        yield "note", "text", variant.html, sentence
    if not mail.subject:
        yield "error", "subject", variant.subject, "the subject is empty"
    elif len(mail.subject) > 78:
        sentence = f"the subject has {len(mail.subject)} characters; phones show about 40"
        yield "note", "subject", variant.subject, sentence
    defaults = bundle.defaults
    is_bulk = not _BULK.isdisjoint(tag.lower() for tag in defaults.tags)
    has_way_out = defaults.list_unsubscribe or _UNSUBSCRIBE.search(mail.html + mail.text)
    if is_bulk and not has_way_out:
        sentence = "is tagged bulk and has no way to unsubscribe; set list_unsubscribe"
        yield "warning", "unsubscribe", "template.toml", sentence
    if not variant.html:
        return
    head = mail.html.lower()
    if "prefers-color-scheme" not in head and "color-scheme" not in head:
        sentence = (
            "says nothing about dark mode: mail programs will guess; add <meta "
            'name="color-scheme" content="light dark"> and @media (prefers-color-scheme: dark)'
        )
        yield "note", "dark-mode", variant.html, sentence
    if 'name="viewport"' not in head:
        sentence = "has no <meta name=viewport>: phones show it small"
        yield "note", "mobile", variant.html, sentence
