"""`emailerctl templates preview`: a page on this machine that shows the templates of a folder.

A mail is somebody's HTML: it is shown in a frame that may run nothing, from an answer of its
own whose policy lets nothing be fetched (T-20).  Only this machine is answered, and only under
a name of its own, so that no page elsewhere reaches this one through a name that it controls.
"""

import asyncio
import json
import re
import secrets
import signal
from collections import OrderedDict
from pathlib import Path
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, HTTPError, RequestHandler

from emailerctl.cli import output
from emailerctl.core import shapes
from emailerctl.errors import EmailerError, Invalid, UsageError
from emailerctl.settings import Settings
from emailerctl.templates import preview
from emailerctl.templates.base import SHARED, Compiled, Head, Renderer, decode_head
from emailerctl.templates.folder import Folders, read_folders
from emailerctl.wiring import build_renderer

_HOST = "127.0.0.1"
_KEPT = 50
_FILES = {"": "text/html", "page.css": "text/css", "page.js": "text/javascript"}
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_MAIL_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src {images}; font-src {fonts}; "
    "sandbox; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
_SCHEME = re.compile(r"\(\s*prefers-color-scheme\s*:\s*(dark|light)\s*\)", re.IGNORECASE)


def run(settings: Settings, folder: Path, port: int) -> None:
    """Serve the preview until Ctrl-C.

    Raises:
        UsageError: the port is taken.
    """
    asyncio.run(_serve(settings, folder, port))


async def _serve(settings: Settings, folder: Path, port: int) -> None:
    renderer = build_renderer(settings)
    try:
        sockets = bind_sockets(port, _HOST)
    except OSError as error:
        raise UsageError(
            f"port {port} is taken", hint="name another --port, or none"
        ) from error
    bound = sockets[0].getsockname()[1]
    bench = Bench(folder, renderer, {f"{_HOST}:{bound}", f"localhost:{bound}"})
    server = HTTPServer(build_application(bench), max_body_size=2**20)
    server.add_sockets(sockets)
    output.write_text(f"http://{_HOST}:{bound}/")
    output.note("Ctrl-C ends it; what you save in the folder is shown at once.")
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    await stopping.wait()
    server.stop()
    await server.close_all_connections()
    await renderer.close()


class Bench:
    """The folder, and what was made of it."""

    def __init__(self, folder: Path, renderer: Renderer, hosts: set[str]) -> None:
        """Take the folder, and under which names we answer."""
        self.folder = folder
        self.hosts = hosts
        self._renderer = renderer
        self._compiled: dict[str, tuple[str, Compiled]] = {}
        self.mails: OrderedDict[str, str] = OrderedDict()

    def stamp(self) -> str:
        """Return what changes whenever a file does."""
        seen = [
            f"{path.relative_to(self.folder)} {path.stat().st_mtime_ns}"
            for path in sorted(self.folder.glob("*/*"))
            if path.is_file()
        ]
        return str(hash("\n".join(seen)))

    def read(self) -> Folders:
        """Return the files as they are now."""
        return read_folders(self.folder)

    async def compile(self, given: Folders, name: str) -> Compiled:
        """Compile a template, unless nothing has changed."""
        files, shared = given[name], given.get(SHARED, {})
        state = json.dumps([files, shared])
        if self._compiled.get(name, ("",))[0] != state:
            compiled = await self._renderer.compile(name, files, shared)
            self._compiled[name] = state, compiled
        return self._compiled[name][1]

    async def describe(self) -> list[dict[str, object]]:
        """Return every template with its variables; of one in error only its name."""
        given = self.read()
        described = []
        for name in given:
            if name != SHARED:
                bundle = (await self.compile(given, name)).bundle
                described.append(_describe(name, decode_head(bundle) if bundle else Head()))
        return described

    async def render(self, name: str, variables: dict[str, Any], locale: str) -> dict[str, Any]:
        """Render a template; what is wrong with it or its variables is part of the answer."""
        given = self.read()
        if name not in given or name == SHARED:
            raise HTTPError(404)
        compiled = await self.compile(given, name)
        made: dict[str, Any] = {
            "faults": [],
            "findings": [shapes.finding_shape(name, one) for one in compiled.findings],
            "mail": None,
            "octets": "",
        }
        if compiled.bundle is None:
            return made
        try:
            mail = await self._renderer.render(
                compiled.version, compiled.bundle, variables, locale, name
            )
        except Invalid as error:
            made["faults"] = [{"pointer": f.pointer, "detail": f.detail} for f in error.faults]
            return made
        key = secrets.token_urlsafe(12)
        self.mails[key] = mail.html or f"<pre>{_escape(mail.text)}</pre>"
        if len(self.mails) > _KEPT:
            self.mails.popitem(last=False)
        size = f"{len(mail.html.encode()) / 1024:.1f} kB"
        return made | {
            "mail": key,
            "subject": mail.subject,
            "text": mail.text,
            "html": mail.html,
            "octets": size,
        }


def _describe(name: str, head: Head) -> dict[str, object]:
    return {
        "name": name,
        "schema": head.schema,
        "examples": head.examples,
        "sensitive": head.sensitive,
        "locale": head.locale,
        "locales": [locale for locale in head.variants if locale],
    }


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


class _Handler(RequestHandler):
    """What all have in common."""

    def initialize(self, bench: Bench) -> None:
        """Take the bench."""
        self.bench = bench

    def prepare(self) -> None:
        """Answer this machine only, and orders of our own page only."""
        if self.request.host not in self.bench.hosts:
            raise HTTPError(421)
        if self.request.method == "POST" and self.request.headers.get("X-Preview") != "1":
            raise HTTPError(403)

    def set_default_headers(self) -> None:
        """Allow nothing by default."""
        self.set_header("Content-Security-Policy", _PAGE_POLICY)
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("Cache-Control", "no-store")

    def check_xsrf_cookie(self) -> None:
        """Leave that to the header that only our own page can send."""


class _Page(_Handler):
    def get(self, name: str) -> None:
        """Send the page, or a part of it."""
        if name not in _FILES:
            raise HTTPError(404)
        self.set_header("Content-Type", f"{_FILES[name]}; charset=utf-8")
        self.write((preview.FOLDER / (name or "page.html")).read_bytes())


class _Templates(_Handler):
    async def get(self) -> None:
        """List the templates of the folder."""
        self.write({"templates": await self.bench.describe(), "stamp": self.bench.stamp()})


class _Stamp(_Handler):
    def get(self) -> None:
        """Say whether anything has changed."""
        self.write({"stamp": self.bench.stamp()})


class _Render(_Handler):
    async def post(self) -> None:
        """Render what the form says."""
        try:
            said = json.loads(self.request.body)
            name, variables, locale = said["name"], said["variables"], said["locale"]
        except (ValueError, KeyError, TypeError):
            raise HTTPError(400) from None
        try:
            self.write(await self.bench.render(str(name), dict(variables), str(locale)))
        except EmailerError as error:  # too busy, or the folder is gone
            faults = [{"pointer": "", "detail": error.detail}]
            self.write({"faults": faults, "findings": [], "mail": None, "octets": ""})


class _Mail(_Handler):
    def get(self, key: str) -> None:
        """Send a mail, for the frame."""
        html = self.bench.mails.get(key)
        if html is None:
            raise HTTPError(404)
        has_images = self.get_argument("images", "0") == "1"
        images = "https: http: data:" if has_images else "data:"
        fonts = "https:" if has_images else "'none'"
        policy = _MAIL_POLICY.format(images=images, fonts=fonts)
        self.set_header("Content-Security-Policy", policy)
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.write(show_scheme(html, self.get_argument("scheme", "light")))


def show_scheme(html: str, scheme: str) -> str:
    """Return *html* as in the light or in the dark, whatever the browser is in."""

    def decide(found: re.Match[str]) -> str:
        return "(min-width: 0)" if found[1].lower() == scheme else "(max-width: 0)"

    has_scheme = "color-scheme" in html
    shown = _SCHEME.sub(decide, html)
    return (
        shown + f"<style>:root{{color-scheme:only {scheme}}}</style>" if has_scheme else shown
    )


def build_application(bench: Bench) -> Application:
    """Return the routes."""
    routes: list[Any] = [
        (r"/templates", _Templates, {"bench": bench}),
        (r"/stamp", _Stamp, {"bench": bench}),
        (r"/render", _Render, {"bench": bench}),
        (r"/mail/([A-Za-z0-9_-]+)", _Mail, {"bench": bench}),
        (r"/([a-z.]*)", _Page, {"bench": bench}),
    ]
    return Application(routes, log_function=lambda _handler: None)
