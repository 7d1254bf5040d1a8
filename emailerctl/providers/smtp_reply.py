"""What an SMTP server says, or what happens instead: values and the parser (RFC 5321 §4.2)."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

MAX_LINE = 4096  # RFC 5321 §4.5.3.1.5 says 512; some say more
MAX_REPLY = 32 * 1024
SERVICE_CLOSING = 421
START_INPUT = 354

_TEXT_LIMIT = 512
_LINE = re.compile(rb"([1-5][0-9]{2})(?:([ -])([^\r\n]*))?\r?\n")
_ENHANCED = re.compile(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}(?= |$)")
# C0, DEL, C1, line and paragraph separators, and what reorders a line of text (T-05)
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


class Stage(StrEnum):
    """What was under way."""

    CONNECT = "connect"  # TCP and the banner
    EHLO = "ehlo"
    TLS = "tls"
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    BODY = "body"  # until the dot: nothing is accepted yet
    ANSWER = "answer"  # the dot may have left


class Reply(NamedTuple):
    """What the server said: the code, and the text of all its lines."""

    code: int
    text: str

    def __str__(self) -> str:
        """Return the reply on one line, code first."""
        return f"{self.code} {self.text}" if self.text else str(self.code)

    @property
    def severity(self) -> int:
        """The first digit, which decides: 2 yes, 3 go on, 4 later, 5 no."""
        return self.code // 100

    @property
    def enhanced_status(self) -> str:
        """RFC 3463's "4.2.2" where the text begins with it."""
        match = _ENHANCED.match(self.text)
        return match[0] if match else ""


class Lack(StrEnum):
    """Why there is no reply."""

    LOST = "lost"  # closed or reset
    SILENT = "silent"  # not in time
    GARBLED = "garbled"  # not SMTP, or without end
    UNREACHABLE = "unreachable"  # no connection
    NOT_OFFERED = "not_offered"  # STARTTLS or AUTH
    TLS = "tls"  # handshake or certificate
    BUSY = "busy"  # ours: no connection became free before the deadline
    DEADLINE = "deadline"  # ours: the lease would end
    LATE = "late"  # ours: the dot would have left too long after the mark (F-CL-09)
    CANCELLED = "cancelled"  # ours: the consumer stops


@dataclass(frozen=True, slots=True)
class Fault:
    """What happened instead of a reply."""

    lack: Lack
    detail: str

    def __str__(self) -> str:
        """Return the sentence."""
        return self.detail


Answer = Reply | Fault


class Verdict(NamedTuple):
    """The answer that decides about a recipient, and what it was an answer to."""

    stage: Stage
    answer: Answer


class Garbled(Exception):
    """What the server sent is no reply."""


def clean(text: str, limit: int = _TEXT_LIMIT) -> str:
    """Return *text* on one line, without control characters, and not longer than *limit*."""
    if len(text) <= limit and text.isascii() and text.isprintable():
        return text
    text = _CONTROLS.sub(" ", text[: limit + 1])
    return text if len(text) <= limit else text[: limit - 1] + "…"


class ReplyParser:
    """Bytes in, whole replies out; bounded, whatever the server sends."""

    def __init__(self) -> None:
        self._buffer = b""
        self._lines: list[bytes] = []
        self._code = b""
        self._size = 0

    @property
    def is_empty(self) -> bool:
        """Whether no part of a reply waits for its rest."""
        return not self._buffer and not self._lines

    def feed(self, data: bytes) -> list[Reply]:
        """Return the replies that *data* completes.

        All lines of a reply have one code (RFC 5321 §4.2.1); where they differ, but not in the
        first digit, the last one counts.  A bare LF ends a line too.

        Raises:
            Garbled: no reply line, a reply without end, or one that contradicts itself; with
                `args[1]` the replies that came before.
        """
        if self._buffer:
            data = self._buffer + data
        replies: list[Reply] = []
        start = 0
        while (end := data.find(b"\n", start) + 1) > 0:
            match = _LINE.fullmatch(data, start, end)
            if match is None or end - start > MAX_LINE:
                raise Garbled(f"no SMTP reply: {_show(data[start:end])}", replies)
            start = end
            code, separator, text = match.groups()
            if separator != b"-" and not self._lines:
                replies.append(Reply(int(code), _decode(text or b"")))
            else:
                self._continue(code, separator, text or b"", replies)
        self._buffer = data[start:]
        if len(self._buffer) > MAX_LINE:
            raise Garbled(f"a reply line without end: {_show(self._buffer)}", replies)
        return replies

    def _continue(
        self, code: bytes, separator: bytes | None, text: bytes, replies: list[Reply]
    ) -> None:
        """Take a line of a reply of several."""
        if self._lines and code[:1] != self._code[:1]:
            sentence = f"a reply that says both {self._code.decode()} and {code.decode()}"
            raise Garbled(sentence, replies)
        self._code = code
        self._lines.append(text)
        self._size += len(text) + 6
        if self._size > MAX_REPLY:
            raise Garbled(f"a reply of more than {MAX_REPLY} bytes", replies)
        if separator != b"-":
            replies.append(Reply(int(code), _decode(b" ".join(self._lines))))
            self._lines, self._size = [], 0


def _decode(text: bytes) -> str:
    return clean(text.decode("utf-8", "replace").strip())


def _show(data: bytes) -> str:
    return ascii(data[:60].decode("ascii", "backslashreplace"))
