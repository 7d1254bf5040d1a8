"""The process log: one JSON object a line on standard output.

A line has the names that an event has everywhere (product.md §3.3): `at`, `level`, `type`, …
Whoever logs never waits: a thread writes, and what a stuck pipe leaves no room for is dropped
and counted.  Until `setup`, logging does nothing.

Never logged: subjects, bodies, attachments, tokens, keys.  Addresses obey `[log] addresses`.
"""

import atexit
import hashlib
import json
import logging
import os
import re
import select
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import IO

import msgspec

from emailerctl.models.clock import Clock, SystemClock, to_text

# Beyond this a line is dropped: about 10,000 events.
ROOM_BYTES = 4 * 1024 * 1024
# Writes of this size reach a pipe in one piece, also with other processes writing to it.
_PIECE = select.PIPE_BUF
_EXIT_WITHIN_S = 2.0

_LEVELS = ("debug", "info", "warning", "error")
_WORTH_A_WARNING = frozenset(
    {"recipient.unanswered", "recipient.interrupted", "recipient.fenced", "gap"}
)

_ADDRESS = re.compile(r"(?P<local>[^\s<>()\[\],;:\"'@\\]+)@(?P<domain>[^\s<>()\[\],;:\"'@\\]+)")
# DEL, C1 controls, line separators and bidirectional overrides, as UTF-8: legal in JSON, and
# none of them may reach the terminal of whoever reads the log.
_UNSAFE = re.compile(
    rb"\x7f|\xc2[\x80-\x9f]|\xe2\x80[\x8e\x8f\xa8-\xae]|\xe2\x81[\xa6-\xa9]|\xd8\x9c"
)


class Addresses(StrEnum):
    """How e-mail addresses are written."""

    FULL = "full"
    MASKED = "masked"
    HASHED = "hashed"


class Format(StrEnum):
    """How a line looks; `auto`: for people on a terminal, JSON elsewhere."""

    AUTO = "auto"
    JSON = "json"
    CONSOLE = "console"


class _Writer:
    """Writes lines to a file descriptor from a thread of its own."""

    def __init__(self, descriptor: int, describe_loss: Callable[[int], bytes]) -> None:
        self._descriptor = descriptor
        self._describe_loss = describe_loss
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._lost = 0
        self._is_closing = False
        self._changed = threading.Condition()
        self.lost_in_all = 0
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def put(self, lines: Sequence[bytes]) -> None:
        """Queue *lines* for writing, or count them as lost."""
        size = sum(map(len, lines))
        with self._changed:
            if self._is_closing or self._waiting_bytes + size > ROOM_BYTES:
                self._lost += len(lines)
                self.lost_in_all += len(lines)
                return
            self._waiting.extend(lines)
            self._waiting_bytes += size
            self._changed.notify()

    def close(self, within_s: float) -> None:
        """Write what waits, but for no longer than that: a stuck pipe holds up no exit."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join(within_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._lost or self._is_closing):
                    self._changed.wait()
                lines, self._waiting = self._waiting, deque()
                lost, self._lost = self._lost, 0
                is_last = self._is_closing
            written = self._write(lines)
            with self._changed:
                self._waiting_bytes -= sum(map(len, lines))
            if lost and written:
                self._write([self._describe_loss(lost)])
            if is_last:
                return

    def _write(self, lines: Iterable[bytes]) -> bool:
        """Write whole lines in pieces that others' lines don't split; False: nobody reads."""
        piece: list[bytes] = []
        size = 0
        for line in lines:
            if piece and size + len(line) > _PIECE:
                if not self._write_piece(b"".join(piece)):
                    return False
                piece, size = [], 0
            piece.append(line)
            size += len(line)
        return self._write_piece(b"".join(piece))

    def _write_piece(self, piece: bytes) -> bool:
        left = memoryview(piece)
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # whoever gave us the descriptor made it non-blocking
                select.select([], [self._descriptor], [])
            except OSError:  # closed at the other end, or a full disk: the log is not the truth
                return False
        return True


class _ProcessLog:
    """What `setup` decided."""

    def __init__(
        self,
        descriptor: int,
        *,
        level: str,
        addresses: Addresses,
        is_console: bool,
        hash_key: str,
        clock: Clock,
    ) -> None:
        self.threshold = _LEVELS.index(level)
        self._addresses = addresses
        self._is_console = is_console
        self._hash_key = hashlib.sha256(hash_key.encode()).digest()
        self._clock = clock
        self._encoder = msgspec.json.Encoder(enc_hook=str)
        self.writer = _Writer(descriptor, self._describe_loss)

    def build_line(self, record: Mapping[str, object], level: str, at: object = None) -> bytes:
        """Return *record* as a line, `at` and `level` in front."""
        line: dict[str, object] = {
            "at": at or record.get("at") or to_text(self._clock.now_ms()),
            "level": level,
        }
        line |= record
        shown = line if self._addresses is Addresses.FULL else self._veil(line)
        if self._is_console:
            return _build_console_line(msgspec.to_builtins(shown, enc_hook=str))
        try:
            return make_safe(self._encoder.encode(shown)) + b"\n"
        except UnicodeEncodeError:  # half of a surrogate pair, in a peer's words for instance
            builtins = msgspec.to_builtins(shown, enc_hook=str)
            return json.dumps(builtins, separators=(",", ":")).encode() + b"\n"

    def _veil(self, value: object) -> object:
        """Return *value* with every address in its texts masked or hashed."""
        if isinstance(value, str):
            return _ADDRESS.sub(self._veil_address, value) if "@" in value else value
        if isinstance(value, Mapping):
            return {key: self._veil(item) for key, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self._veil(item) for item in value]
        return value

    def _veil_address(self, match: re.Match[str]) -> str:
        if self._addresses is Addresses.MASKED:
            return f"{match['local'][0]}***@{match['domain']}"
        digest = hashlib.blake2b(match[0].encode(), key=self._hash_key, digest_size=8)
        return f"hash:{digest.hexdigest()}"

    def _describe_loss(self, count: int) -> bytes:
        return self.build_line({"type": "log.dropped", "lines": count}, "warning")


_current: _ProcessLog | None = None


def setup(
    stream: IO[str] | IO[bytes],
    *,
    level: str = "info",
    addresses: str = "full",
    format: str = "auto",
    hash_key: str = "",
    clock: Clock | None = None,
) -> None:
    """Send the process log to *stream*, and the standard library's logging with it.

    To be called once in each process, after a fork: threads don't survive one.

    Args:
        stream: only its descriptor is used; nothing else should write to it.
        level: least level that is written.
        addresses: how addresses are written: `full`, `masked`, `hashed`.
        format: `auto`, `json`, `console`.
        hash_key: without one, hashed addresses can be guessed.
        clock: where the time of a line comes from.
    """
    global _current
    close()
    stream.flush()
    wanted = Format(format)
    is_console = wanted is Format.CONSOLE or (wanted is Format.AUTO and stream.isatty())
    _current = _ProcessLog(
        stream.fileno(),
        level=level,
        addresses=Addresses(addresses),
        is_console=is_console,
        hash_key=hash_key,
        clock=clock or SystemClock(),
    )
    root = logging.getLogger()
    root.handlers = [_LibraryHandler()]
    root.setLevel(level.upper())
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it has a line for every request
    atexit.register(close)


def close(within_s: float = _EXIT_WITHIN_S) -> None:
    """Write what waits, for at most that long, and stop."""
    global _current
    current, _current = _current, None
    if current:
        current.writer.close(within_s)


def log(type: str, level: str = "info", **fields: object) -> None:
    """Write one line; *type* is `noun.participle`, and fields keep one name everywhere."""
    current = _current
    if current and _LEVELS.index(level) >= current.threshold:
        current.writer.put([current.build_line({"type": type, **fields}, level)])


def write_events(events: Iterable[Mapping[str, object]]) -> None:
    """Write events, in the public shape that they have everywhere, as one group."""
    current = _current
    if current is None:
        return
    lines = []
    for event in events:
        level = "warning" if event.get("type") in _WORTH_A_WARNING else "info"
        if _LEVELS.index(level) >= current.threshold:
            lines.append(current.build_line(event, level))
    if lines:
        current.writer.put(lines)


def count_dropped() -> int:
    """Return how many lines were dropped since `setup`."""
    return _current.writer.lost_in_all if _current else 0


def make_safe(encoded: bytes) -> bytes:
    """Escape in JSON what a terminal would obey; the value stays the same."""
    if not _UNSAFE.search(encoded):
        return encoded
    return _UNSAFE.sub(lambda found: rb"\u%04x" % ord(found[0].decode()), encoded)


def _build_console_line(line: Mapping[str, object]) -> bytes:
    """Return `10:00:00.000 warning recipient.unanswered recipient="b@example.org"`."""
    said = " ".join(
        f"{name}={json.dumps(value)}"  # everything but plain ASCII is escaped: see T-19
        for name, value in line.items()
        if name not in {"at", "level", "type"} and value not in (None, {}, "")
    )
    level = "" if line["level"] == "info" else f"{line['level']} "
    head = ascii(f"{str(line['at'])[11:23]} {level}{line.get('type', '')}")[1:-1]
    return f"{head} {said}".rstrip().encode() + b"\n"


class _LibraryHandler(logging.Handler):
    """What tornado, asyncio and others log, as lines of type `log.message`."""

    def emit(self, record: logging.LogRecord) -> None:
        current = _current
        if current is None:
            return
        try:
            text = record.getMessage()
        except (TypeError, ValueError, KeyError):  # the caller's arguments don't fit
            text = str(record.msg)
        fields: dict[str, object] = {
            "type": "log.message",
            "logger": record.name,
            "text": text,
        }
        if record.exc_info:
            fields["traceback"] = _FORMATTER.formatException(record.exc_info)
        level = record.levelname.lower()
        level = level if level in _LEVELS else "error"
        at = to_text(int(record.created * 1000))
        current.writer.put([current.build_line(fields, level, at)])


_FORMATTER = logging.Formatter()
