"""One visit to a mailbox over IMAP (RFC 3501): find, fetch, finish with what was read.

Synchronous, for a thread of its own.  Nothing is remembered between visits: what is to be read
is what the server says is there, so that neither renumbering (UIDVALIDITY) nor a crash can make
a UID mean another message than the one that was read.
"""

import imaplib
import re
import socket
import ssl
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from emailerctl.core.dissect import LARGEST
from emailerctl.models.text import shorten
from emailerctl.settings.model import ImapSettings
from emailerctl.trust import Protocol, trust

_LOOKED_AT_ONCE = 1_000  # messages: the server's list of them is one line, which has its limit
_LITERAL_AT_MOST = LARGEST + 64 * 1024
_LINES_AT_MOST = 10_000  # of an answer to one command


class ImapTrouble(Exception):
    """The mailbox can't be read now; the sentence says why."""


OnSocket = Callable[[socket.socket], None]


class _Bounded:
    """What keeps a server from filling our memory, and shows its socket from the first."""

    _lines_left = _LINES_AT_MOST

    def __init__(self, on_socket: OnSocket, *where: Any, **how: Any) -> None:
        """Connect; *on_socket* is told before anything is read."""
        self._on_socket = on_socket
        super().__init__(*where, **how)

    def _create_socket(self, timeout: float | None) -> socket.socket:
        made: socket.socket = super()._create_socket(timeout)  # type: ignore[misc]
        self._on_socket(made)
        return made

    def read(self, size: int) -> bytes:
        """Read a literal, unless it is larger than anything that we ask for."""
        if size > _LITERAL_AT_MOST:
            raise imaplib.IMAP4.abort(f"a literal of {size} octets, which we did not ask for")
        return super().read(size)  # type: ignore[misc,no-any-return]

    def readline(self) -> bytes:
        """Read a line, unless there are more than an answer has."""
        self._lines_left -= 1
        if self._lines_left < 0:
            raise imaplib.IMAP4.abort("an answer without end")
        return super().readline()  # type: ignore[misc,no-any-return]

    def begin_answer(self) -> None:
        """Say that another answer begins."""
        self._lines_left = _LINES_AT_MOST


class _Plain(_Bounded, imaplib.IMAP4):
    """In clear, or until STARTTLS."""


class _Tls(_Bounded, imaplib.IMAP4_SSL):
    """TLS from the first byte."""


def build_context(settings: ImapSettings) -> ssl.SSLContext | None:
    """Return how the server's certificate is verified.

    Raises:
        ConfigurationError: `ca_file` can't be used.
    """
    if settings.tls == "none":
        return None
    return trust(settings.ca_file, protocol=Protocol.IMAP, setting="bounces.imap.ca_file")


class Visit:
    """One visit.

    Every method raises ImapTrouble when the server can't or won't; the visit is over then.
    """

    def __init__(self, settings: ImapSettings, context: ssl.SSLContext | None) -> None:
        """Prepare; `begin` connects."""
        self._settings = settings
        self._context = context
        self._has_made_folder = False
        self._socket: socket.socket | None = None
        self._connected: _Plain | _Tls | None = None

    @property
    def _imap(self) -> _Plain | _Tls:
        if self._connected is None:
            raise ImapTrouble("the visit has not begun")
        return self._connected

    def begin(self) -> None:
        """Connect and log in."""
        settings = self._settings
        where = (settings.host, settings.effective_port)
        seconds = settings.timeout.total_seconds()
        with _explained(f"{settings.host}:{settings.effective_port}"):
            if settings.tls == "implicit":
                self._connected = _Tls(
                    self._note, *where, ssl_context=self._context, timeout=seconds
                )
            else:
                self._connected = _Plain(self._note, *where, timeout=seconds)
            if settings.tls == "starttls":
                self._connected.starttls(self._context)
                self._note(self._connected.socket())
        self._log_in(settings.username, settings.password.get_secret_value())

    def _note(self, connected: socket.socket) -> None:
        self._socket = connected

    def _log_in(self, username: str, password: str) -> None:
        if "AUTH=PLAIN" in self._imap.capabilities:
            with _explained("AUTHENTICATE PLAIN"):
                self._imap.authenticate(
                    "PLAIN", lambda _challenge: f"\0{username}\0{password}".encode()
                )
            return
        if not (username + password).isascii():
            raise ImapTrouble("LOGIN: takes ASCII alone, and the server offers no AUTH=PLAIN")
        with _explained("LOGIN"):
            self._imap.login(_quote(username), password)

    def find(self, passed: Collection[str] = ()) -> list[str]:
        """Return the UIDs of messages to be read, oldest first, some of them if there are many.

        They mean something until the next call.  *passed* are left out.
        """
        wanted = "UNSEEN UNDELETED" if self._settings.done == "seen" else "UNDELETED"
        name = _quote(self._settings.mailbox)
        with _explained(f"opening {self._settings.mailbox}"):
            self._imap.begin_answer()
            count = _read_count(_expect_ok(self._imap.select(name)))
        for first in range(1, count + 1, _LOOKED_AT_ONCE):
            last = min(first + _LOOKED_AT_ONCE - 1, count)
            (found, *_) = self._uid("SEARCH", f"{first}:{last}", wanted) or [b""]
            uids = re.findall(r"\d{1,10}", (found or b"").decode("ascii", "replace"))
            uids = [uid for uid in uids[:_LOOKED_AT_ONCE] if uid not in passed]
            if uids:
                return uids
        return []

    def fetch(self, uid: str) -> bytes | None:
        """Return a message, cut off where it is huge; None: somebody has taken it away."""
        data = self._uid("FETCH", uid, f"(BODY.PEEK[]<0.{LARGEST}>)")
        for item in data:
            if isinstance(item, tuple) and b"BODY[]" in item[0]:
                return bytes(item[1])
        return None

    def finish(self, uid: str) -> None:
        """Do with a message that was read what the settings say."""
        if self._settings.done == "seen":
            self._uid("STORE", uid, "+FLAGS.SILENT", r"(\Seen)")
        elif self._settings.done == "delete":
            self._remove(uid)
        elif "MOVE" in self._imap.capabilities:  # RFC 6851
            self._put("MOVE", uid)
        else:
            self._put("COPY", uid)
            self._remove(uid)

    def end(self) -> None:
        """Log out; a server that says no more does not matter."""
        with suppress(imaplib.IMAP4.error, OSError):
            self._imap.logout()

    def abort(self) -> None:
        """End what another thread is waiting for."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close what is open."""
        if self._connected is not None:
            with suppress(OSError):
                self._connected.shutdown()

    def _put(self, command: str, uid: str) -> None:
        """Move or copy into the folder, which is made when it is missing (RFC 3501 7.1)."""
        folder = _quote(self._settings.folder)
        try:
            self._uid(command, uid, folder)
        except ImapTrouble as error:
            if "[TRYCREATE]" not in str(error) or self._has_made_folder:
                raise
            with _explained(f"CREATE {self._settings.folder}"):
                _expect_ok(self._imap.create(folder))
            self._has_made_folder = True
            self._uid(command, uid, folder)

    def _remove(self, uid: str) -> None:
        self._uid("STORE", uid, "+FLAGS.SILENT", r"(\Deleted)")
        if "UIDPLUS" in self._imap.capabilities:  # RFC 4315: that one alone
            self._uid("EXPUNGE", uid)
            return
        with _explained("EXPUNGE"):
            _expect_ok(self._imap.expunge())

    def _uid(self, command: str, *arguments: str) -> list[Any]:
        with _explained(f"UID {command}"):
            self._imap.begin_answer()
            return _expect_ok(self._imap.uid(command, *arguments))


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn whatever goes wrong into a sentence."""
    try:
        yield
    except imaplib.IMAP4.error as error:
        raise ImapTrouble(f"{what}: {shorten(str(error))}") from error
    except OSError as error:  # time-outs and TLS too
        raise ImapTrouble(f"{what}: {error.strerror or error}") from error
    except (ValueError, IndexError, TypeError) as error:  # imaplib on what is no IMAP
        raise ImapTrouble(f"{what}: the server does not speak IMAP: {error}") from error


def _expect_ok(answer: tuple[str, list[Any]]) -> list[Any]:
    kind, data = answer
    if kind != "OK":
        said = data[0] if data else b""
        text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
        raise imaplib.IMAP4.error(f"{kind} {text}")
    return data


def _read_count(data: list[Any]) -> int:
    """Return how many messages SELECT says there are."""
    return int(data[0]) if data and data[0] is not None else 0


def _quote(name: str) -> str:
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
