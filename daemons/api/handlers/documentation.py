"""`/openapi.json`, `/docs`: what the API says of itself, for programs and for people.

The page is Swagger UI, kept here as its makers publish it (swagger_ui/README.md): it loads
nothing from elsewhere, and its policy would not let it.
"""

import asyncio
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any, ClassVar

from daemons.api.handlers.base import Handler
from daemons.api.openapi import JSON, Operation
from emailerctl.errors import NotFound
from emailerctl.models.text import shorten

_FOLDER = Path(__file__).parents[1] / "swagger_ui"
_HTML = "text/html; charset=utf-8"
_JAVASCRIPT = "text/javascript; charset=utf-8"
_FILES = {
    "swagger-ui.css": "text/css; charset=utf-8",
    "swagger-ui-bundle.js": _JAVASCRIPT,
    "start.js": _JAVASCRIPT,
}
_PAGE = b"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>emailerctl: the API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="api"></div>
<noscript>This page needs JavaScript; <a href="openapi.json">openapi.json</a> says the same.
</noscript>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
# Swagger UI has icons as data: URLs in its style sheet, and asks this API when it is told to.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@cache
def _read(name: str) -> bytes:
    return (_FOLDER / name).read_bytes()


class OpenApi(Handler):
    """`/openapi.json`."""

    operations: ClassVar = {"GET": Operation(answer=dict[str, Any])}

    async def get(self) -> None:
        """Describe the API: OpenAPI 3.1."""
        # The first time it is written, which takes a moment; others have their turn meanwhile.
        document = await asyncio.to_thread(lambda: self.application.document)
        self._write(HTTPStatus.OK, JSON, document)
        self.finish()


class _Documentation(Handler):
    def build_headers(self) -> dict[str, str]:
        """Forbid whatever the page does not need."""
        return {
            "Content-Security-Policy": _POLICY,
            "Cache-Control": "public, max-age=3600",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }


class DocumentationPage(_Documentation):
    """`/docs`."""

    operations: ClassVar = {"GET": Operation(media_type=_HTML)}

    async def get(self) -> None:
        """Show a page for people."""
        self._write(HTTPStatus.OK, _HTML, _PAGE)
        self.finish()


class DocumentationFile(_Documentation):
    """`/docs/{file}`: what the page consists of."""

    operations: ClassVar = {"GET": Operation(media_type="text/*")}

    async def get(self, file: str) -> None:
        """Send a part of the page."""
        if file not in _FILES:
            raise NotFound(f"there is nothing at /docs/{shorten(file)}")
        octets = await asyncio.to_thread(_read, file)
        self._write(HTTPStatus.OK, _FILES[file], octets)
        self.finish()
