"""HTML to the text part of a mail: lines, lists and links, as a person would write them."""

import re
from html.parser import HTMLParser

_WIDTH = 78
_SKIPPED = frozenset({"head", "style", "script", "title", "noscript", "template"})
VOID = frozenset({"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "wbr"})
_LINES = frozenset({"div", "tr", "table", "tbody", "thead", "section", "article", "header"})
_PARAGRAPHS = frozenset({"p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "blockquote"})
_HIDDEN = re.compile(r"display\s*:\s*none|mso-hide\s*:\s*all", re.IGNORECASE)
_SPACE = re.compile(r"[ \t\n\r\f\u2007]+")
_ZERO_WIDTH = re.compile(r"[\u00ad\u034f\u200b\ufeff]")  # what preheaders are padded with


def to_text(html: str) -> str:
    """Return what *html* says, as plain text: at most 78 characters a line, links in full."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return reader.finish()


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._blocks: list[str] = []  # lines; an empty one parts paragraphs
        self._line = ""
        self._skipped: list[str] = []  # open elements that are not shown
        self._links: list[tuple[str, int]] = []  # where it leads, where its text began
        self._lists: list[int | None] = []  # the last number; None: bullets
        self._cells = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if self._skipped or tag in _SKIPPED or _HIDDEN.search(given.get("style", "")):
            if tag not in VOID:
                self._skipped.append(tag)
            return
        if tag == "br":
            self._end_line()
        elif tag == "hr":
            self._begin_paragraph()
            self._blocks += ["-" * 24, ""]
        elif tag == "img":
            self._add(given.get("alt", ""))
        elif tag == "a":
            self._links.append((given.get("href", ""), len(self._line)))
        else:
            self._begin_block(tag)

    def _begin_block(self, tag: str) -> None:
        if tag in ("td", "th"):
            if self._cells and self._line.strip():
                self._line = f"{self._line.rstrip()}  "
            self._cells += 1
        elif tag == "li":
            self._end_line()
            self._line = self._mark_item()
        elif tag in _PARAGRAPHS:
            self._begin_paragraph()
            if tag in ("ul", "ol"):
                self._lists.append(0 if tag == "ol" else None)
        elif tag in _LINES:
            self._end_line()
            self._cells = 0

    def handle_endtag(self, tag: str) -> None:
        if self._skipped:
            if tag in self._skipped:
                while self._skipped.pop() != tag:
                    pass
            return
        if tag == "a" and self._links:
            self._end_link(*self._links.pop())
        elif tag in _PARAGRAPHS:
            if tag in ("ul", "ol") and self._lists:
                self._lists.pop()
            self._begin_paragraph()
        elif tag in _LINES or tag == "li":
            self._end_line()
            self._cells = 0

    def handle_data(self, data: str) -> None:
        if not self._skipped:
            self._add(data)

    def _add(self, data: str) -> None:
        text = _SPACE.sub(" ", _ZERO_WIDTH.sub("", data))
        if not self._line or self._line.endswith(" "):
            text = text.lstrip(" ")
        self._line += text

    def _end_link(self, href: str, began: int) -> None:
        said = self._line[began:].strip()
        if not href.startswith(("http://", "https://", "mailto:", "tel:")):
            return
        target = href.removeprefix("mailto:").removeprefix("tel:")
        if not said:
            self._add(target)
        elif target.rstrip("/") not in (said, f"https://{said}", f"http://{said}"):
            self._line = f"{self._line.rstrip()}: {target}"

    def _mark_item(self) -> str:
        indent = "  " * max(len(self._lists) - 1, 0)
        if self._lists and self._lists[-1] is not None:
            self._lists[-1] += 1
            return f"{indent}{self._lists[-1]}. "
        return f"{indent}- "

    def _end_line(self) -> None:
        line = self._line.rstrip()
        self._line = ""
        self._links = [(href, 0) for href, _began in self._links]
        if line.strip() not in ("", "-"):
            self._blocks += _fold(line)

    def _begin_paragraph(self) -> None:
        self._end_line()
        if self._blocks and self._blocks[-1]:
            self._blocks.append("")

    def finish(self) -> str:
        self._end_line()
        text = "\n".join(self._blocks).strip("\n")
        return f"{text}\n" if text else ""


def _fold(line: str) -> list[str]:
    """Break *line* at spaces; a long word, such as a URL, stays whole."""
    body = line.lstrip()
    indent = line[: len(line) - len(body)]
    mark = re.match(r"(- |[0-9]+\. )", body)
    hanging = indent + " " * len(mark[0]) if mark else indent
    lines, current = [], indent
    for word in body.split(" "):
        if len(current) + len(word) > _WIDTH and current.strip():
            lines.append(current.rstrip())
            current = hanging
        current += f"{word} "
    return [*lines, current.rstrip()]
