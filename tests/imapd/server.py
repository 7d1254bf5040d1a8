"""The misbehaving IMAP server: a mailbox is a folder under ROOT, a message a file `N.eml`.

A message's UID is N where the folder's `uidvalidity` is odd, and 1000 - N where it is even: a
UID kept from before a change means another message, or none.

ROOT/misbehave holds one line, `WHAT COMMAND`; it is done once, at that command (`FETCH` is that
of UID FETCH), and the file is then removed.  `banner` and `LOGIN` are commands too.

    drop            closes before anything is done
    drop-after      does it, and closes instead of an answer
    drop-in         closes in the middle of the answer
    no              answers NO
    bad             answers BAD
    silent          never answers
    drip            answers a byte now and then, without end
    garbage         answers what is no IMAP
    endless         never ends its answer
    huge            announces a literal of 10 GB
    gone            has the message taken away by somebody else before
"""

import asyncio
import base64
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

USER, PASSWORD = "bounces", 'pass "word"'
_LITERAL = re.compile(rb"BODY(?:\.PEEK)?\[\](?:<(\d+)\.(\d+)>)?", re.IGNORECASE)
_PLACE = re.compile(r"(\d+):(\d+)")
COMMANDS = frozenset(
    {"CAPABILITY", "LOGIN", "LOGOUT", "CREATE", "SELECT", "SEARCH", "FETCH", "STORE"}
    | {"COPY", "MOVE", "EXPUNGE"}
)
_FOR_ALL = frozenset({"CAPABILITY", "LOGIN", "AUTHENTICATE", "LOGOUT", "STARTTLS"})
_WORD = re.compile(r'"((?:[^"\\]|\\.)*)"|(\S+)')


@dataclass(frozen=True)
class Options:
    root: Path
    has_move: bool
    has_uidplus: bool
    has_plain: bool
    tls: ssl.SSLContext | None
    is_implicit: bool


def unquote(text: str) -> list[str]:
    """Split the arguments of a command."""
    return [
        re.sub(r"\\(.)", r"\1", match[1]) if match[1] is not None else match[2]
        for match in _WORD.finditer(text)
    ]


class Folder:
    """One mailbox."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def validity(self) -> int:
        file = self.path / "uidvalidity"
        return int(file.read_text()) if file.exists() else 1

    def uids(self) -> list[int]:
        numbers = [int(file.stem) for file in self.path.glob("*.eml")]
        return sorted(n if self.validity % 2 else 1000 - n for n in numbers)

    def file(self, uid: int) -> Path:
        return self.path / f"{uid if self.validity % 2 else 1000 - uid}.eml"

    def flags(self, uid: int) -> set[str]:
        file = self.file(uid).with_suffix(".flags")
        return set(file.read_text().split()) if file.exists() else set()

    def set_flags(self, uid: int, flags: set[str]) -> None:
        self.file(uid).with_suffix(".flags").write_text(" ".join(sorted(flags)))

    def remove(self, uid: int) -> None:
        self.file(uid).unlink(missing_ok=True)
        self.file(uid).with_suffix(".flags").unlink(missing_ok=True)

    def add(self, raw: bytes) -> None:
        number = max((int(file.stem) for file in self.path.glob("*.eml")), default=0) + 1
        (self.path / f"{number}.eml").write_bytes(raw)


class Dropped(Exception):
    """The connection is closed."""


class Connection:
    """One client."""

    def __init__(
        self, options: Options, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.options = options
        self.reader = reader
        self.writer = writer
        self.folder: Folder | None = None
        self.present: list[int] = []  # as this client has been told
        self.is_known = False
        self.behaviour = ""

    async def run(self) -> None:
        try:
            if not await self.misbehave("banner", "*"):
                self.say("* OK ready")
            while line := await self.reader.readline():
                await self.command(line)
                await self.writer.drain()
        except (Dropped, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.writer.close()

    def note(self, line: str) -> None:
        with (self.options.root / "transcript.txt").open("a") as file:
            file.write(line + "\n")

    def say(self, line: str | bytes) -> None:
        self.writer.write((line.encode() if isinstance(line, str) else line) + b"\r\n")

    # misbehaviour

    async def misbehave(self, name: str, tag: str) -> bool:
        """Do what the file says of this command; True where that is all the answer."""
        file = self.options.root / "misbehave"
        self.behaviour = ""
        what, _, command = (
            file.read_text().strip().partition(" ") if file.exists() else ("",) * 3
        )
        if not what or command != name:
            return False
        file.unlink()
        self.note(f"! {what} {name}")
        match what:
            case "drop":
                raise Dropped
            case "no" | "bad":
                self.say(f"{tag} {what.upper()} [TRYLATER] not now")
            case "garbage":
                self.say(b"\x00\xff\xfe what is this\r\n)(* {7}")
            case "silent":
                await self.writer.drain()
                await self.reader.read(1)  # until the client goes
                raise Dropped
            case "drip" | "endless":
                await self.babble(b"*" if what == "drip" else b"* OK and more\r\n" * 500)
            case _:
                self.behaviour = what
                return False
        return True

    async def babble(self, said: bytes) -> NoReturn:
        while True:
            self.writer.write(said)
            await self.writer.drain()
            await asyncio.sleep(0.02)

    # commands

    async def command(self, line: bytes) -> None:
        tag, _, rest = line.decode("utf-8", "replace").rstrip("\r\n").partition(" ")
        name, _, rest = rest.partition(" ")
        name = name.upper()
        if name == "UID":
            name, _, rest = rest.partition(" ")
            name = name.upper()
        shown = "***" if name in {"LOGIN", "AUTHENTICATE"} else rest
        self.note(f"< {name} {shown}".rstrip())
        if await self.misbehave(name, tag):
            return
        if refusal := self.refuse(name):
            self.say(f"{tag} {refusal}")
            return
        answer = await self.carry_out(name, rest, tag)
        if self.behaviour == "drop-after":
            raise Dropped
        if answer:
            self.say(f"{tag} {answer}")
        if name == "LOGOUT":
            await self.writer.drain()
            raise Dropped

    def refuse(self, name: str) -> str:
        if name in _FOR_ALL:
            return ""
        if not self.is_known:
            return "NO log in first"
        is_placed = name in {"SELECT", "CREATE"} or self.folder is not None
        return "" if is_placed else "BAD select first"

    async def carry_out(self, name: str, rest: str, tag: str) -> str:
        if name == "STARTTLS":
            self.say(f"{tag} OK go on")
            await self.writer.drain()
            await self.writer.start_tls(self.options.tls)
            return ""
        if name == "AUTHENTICATE":
            self.say("+ ")
            await self.writer.drain()
            said = base64.b64decode(await self.reader.readline()).decode()
            return self.admit(said == f"\0{USER}\0{PASSWORD}")
        if name not in COMMANDS:
            return "BAD no such command"
        carry_out: Callable[[str], str | None] = getattr(self, name.lower())
        return carry_out(rest) or "OK done"

    def admit(self, is_known: bool) -> str:
        self.is_known = is_known
        return "OK logged in" if is_known else "NO [AUTHENTICATIONFAILED] wrong"

    def capability(self, _rest: str) -> None:
        self.say(f"* CAPABILITY {self.capabilities()}")

    def login(self, rest: str) -> str:
        return self.admit(unquote(rest) == [USER, PASSWORD])

    def logout(self, _rest: str) -> None:
        self.say("* BYE so long")

    def create(self, rest: str) -> None:
        (self.options.root / unquote(rest)[0]).mkdir()

    def capabilities(self) -> str:
        options = self.options
        named = {
            "MOVE": options.has_move,
            "UIDPLUS": options.has_uidplus,
            "AUTH=PLAIN": options.has_plain,
            "STARTTLS": options.tls is not None and not options.is_implicit,
        }
        return " ".join(["IMAP4rev1", *(name for name, is_on in named.items() if is_on)])

    def select(self, rest: str) -> str:
        path = self.options.root / unquote(rest)[0]
        if not path.is_dir():
            return "NO [NONEXISTENT] no such mailbox"
        self.folder = Folder(path)
        self.present = self.folder.uids()
        self.say("* FLAGS (\\Seen \\Deleted)")
        self.say(f"* {len(self.present)} EXISTS")
        self.say("* 0 RECENT")
        self.say(f"* OK [UIDVALIDITY {self.folder.validity}] valid")
        return "OK [READ-WRITE] selected"

    def search(self, rest: str) -> str:
        assert self.folder is not None
        present = self.present
        place = _PLACE.search(rest)
        if place is not None:
            if int(place[2]) > len(present):
                return "BAD no such message"
            present = present[int(place[1]) - 1 : int(place[2])]
        for flag, word in (("\\Seen", "UNSEEN"), ("\\Deleted", "UNDELETED")):
            if word in rest:
                present = [uid for uid in present if flag not in self.folder.flags(uid)]
        self.say(f"* SEARCH {' '.join(map(str, present))}".rstrip())
        return "OK done"

    def fetch(self, rest: str) -> str:
        assert self.folder is not None
        uid = int(rest.split()[0])
        if self.behaviour == "gone":
            self.folder.remove(uid)
        file = self.folder.file(uid)
        if not file.exists():
            return "OK nothing"
        section = _LITERAL.search(rest.encode())
        assert section is not None
        raw = file.read_bytes()
        if section[2]:
            raw = raw[int(section[1]) : int(section[1]) + int(section[2])]
        size = 10_000_000_000 if self.behaviour == "huge" else len(raw)
        head = f"* {self.present.index(uid) + 1} FETCH (UID {uid} BODY[]<0> {{{size}}}"
        if self.behaviour == "drop-in":
            self.say(head)
            self.writer.write(raw[: len(raw) // 2])
            raise Dropped
        self.say("* 1 FETCH (FLAGS (\\Seen))")  # somebody else has just read another one
        self.say(head)
        self.writer.write(raw)
        self.say(")")
        return "OK done"

    def store(self, rest: str) -> str:
        assert self.folder is not None
        uid, _, flags = rest.split(" ", 2)
        if self.folder.file(int(uid)).exists():
            known = self.folder.flags(int(uid))
            self.folder.set_flags(int(uid), known | set(flags.strip("()").split()))
        return "OK done"

    def move(self, rest: str) -> str:
        return self.copy(rest, is_move=True)

    def copy(self, rest: str, *, is_move: bool = False) -> str:
        assert self.folder is not None
        uid, target = unquote(rest)
        path = self.options.root / target
        if not path.is_dir():
            return "NO [TRYCREATE] no such mailbox"
        file = self.folder.file(int(uid))
        if file.exists():
            Folder(path).add(file.read_bytes())
            if is_move:
                self.expunge_one(int(uid))
        return "OK done"

    def expunge(self, rest: str) -> None:
        assert self.folder is not None
        only = int(rest) if rest else None
        for uid in list(self.present):
            if only in (None, uid) and "\\Deleted" in self.folder.flags(uid):
                self.expunge_one(uid)

    def expunge_one(self, uid: int) -> None:
        assert self.folder is not None
        self.folder.remove(uid)
        self.say(f"* {self.present.index(uid) + 1} EXPUNGE")
        self.present.remove(uid)


async def serve(options: Options, ready: Path) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(options, reader, writer)
        connection.note("+ connected")
        await connection.run()

    server = await asyncio.start_server(
        talk, "127.0.0.1", 0, ssl=options.tls if options.is_implicit else None
    )
    port = server.sockets[0].getsockname()[1]
    unfinished = ready.with_suffix(".tmp")
    unfinished.write_text(str(port))
    unfinished.rename(ready)
    async with server:
        await server.serve_forever()
