"""`/u/{link}`: where a recipient unsubscribes, by a mail program's button or ours (RFC 8058).

Only a POST with the form field changes anything: scanners of mail follow every link.
"""

import base64
import hashlib
import html
from http import HTTPStatus
from typing import ClassVar

from tornado import httputil

from daemons.api.handlers.base import Handler
from daemons.api.openapi import Operation
from emailerctl.errors import BadRequest, NotFound
from emailerctl.models.text import shorten

_BODY_BYTES = 16 * 1024
_FIELD, _VALUE = "List-Unsubscribe", b"One-Click"
_HTML = "text/html; charset=utf-8"

_STYLE = (
    ":root{color-scheme:light dark}"
    "body{font:1.125rem/1.5 system-ui,sans-serif;max-width:34rem;margin:15vh auto 0;"
    "padding:0 1.25rem;overflow-wrap:anywhere}"
    "h1{font-size:1.5rem}"
    "button{font:inherit;padding:.7rem 1.4rem;border:2px solid;border-radius:.4rem;"
    "cursor:pointer}"
    "button:focus-visible{outline:3px solid Highlight;outline-offset:3px}"
)
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_PAGE = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>%s</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>%s</h1>
%s
</main>
</body>
</html>
"""
_ASK = f"""<p>%s will get no more messages of this kind. Others, such as receipts and passwords
that you ask for, still come.</p>
<form method="post">
<input type="hidden" name="{_FIELD}" value="{_VALUE.decode()}">
<button type="submit">Unsubscribe</button>
</form>"""
_DONE = "<p>%s gets no more messages of this kind. You can close this page.</p>"
_WRONG = (
    "<p>A part of it may be missing. Open it from the message again, or answer the message "
    "and ask to be unsubscribed.</p>"
)


class Unsubscribe(Handler):
    """`/u/{link}`."""

    operations: ClassVar = {
        "GET": Operation(media_type=_HTML, also={HTTPStatus.NOT_FOUND: None}),
        "POST": Operation(
            body={_FIELD: {"const": _VALUE.decode()}},
            required=(_FIELD,),
            takes="application/x-www-form-urlencoded",
            media_type=_HTML,
            also={HTTPStatus.NOT_FOUND: None},
        ),
    }

    body_limit: ClassVar = _BODY_BYTES

    def build_headers(self) -> dict[str, str]:
        """Forbid whatever a page could load, run, leak or be framed by."""
        return {
            "Content-Security-Policy": (
                f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; "
                "base-uri 'none'; frame-ancestors 'none'"
            ),
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "X-Robots-Tag": "noindex, nofollow",
        }

    async def get(self, link: str) -> None:
        """Show a button, and change nothing."""
        try:
            subject = await self.app.unsubscribing.read(link)
        except NotFound:
            self._show_wrong()
            return
        self._show("Unsubscribe?", _ASK % html.escape(subject.address))

    async def post(self, link: str) -> None:
        """Unsubscribe at once."""
        try:
            await self.app.unsubscribing.read(link)
            self._check_form()
            subject = await self.app.unsubscribing.unsubscribe(link)
        except NotFound:
            self._show_wrong()
            return
        self._show("You are unsubscribed", _DONE % html.escape(subject.address))

    def _check_form(self) -> None:
        """Refuse what is no one-click unsubscribe (RFC 8058 3.2: either kind of form).

        Raises:
            BadRequest: says what is missing.
        """
        arguments: dict[str, list[bytes]] = {}
        declared = self.request.headers.get("Content-Type", "")
        try:
            httputil.parse_body_arguments(declared, self.request.body, arguments, {})
        except httputil.HTTPInputError as error:
            raise BadRequest(f"the form can't be read: {shorten(str(error))}") from error
        if arguments.get(_FIELD) != [_VALUE]:
            raise BadRequest(
                "this is no one-click unsubscribe",
                hint=f"send the form field {_FIELD}={_VALUE.decode()} (RFC 8058)",
            )

    def _show_wrong(self) -> None:
        self._show("This link does not work", _WRONG, HTTPStatus.NOT_FOUND)

    def _show(self, title: str, text: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._write(status, _HTML, (_PAGE % (title, title, text)).encode())
        self.finish()
