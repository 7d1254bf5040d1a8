"""What a published template is, and what goes between us and the processes that render.

Nothing here knows Jinja: every program imports this, and only the workers render.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import msgspec

SHARED = "_shared"  # the name under which layouts and partials are kept
DEFAULT_LOCALE = "en"


class Finding(msgspec.Struct, frozen=True):
    """What was noticed in a file of a template.

    Attributes:
        level: error (it can't be published), warning or note.
        line: from 1; 0 where no line is meant.
    """

    level: str
    code: str
    file: str
    line: int
    detail: str

    @property
    def place(self) -> str:
        """File and line, for people."""
        return f"{self.file}:{self.line}" if self.line else self.file


class Variant(msgspec.Struct, frozen=True):
    """Which files make a mail in one language; without *text* it comes from the HTML."""

    subject: str
    html: str = ""
    text: str = ""


class Defaults(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a request need not say with this template, as it would say it."""

    header_from: str | None = msgspec.field(name="from", default=None)
    tags: list[str] = []
    on_unknown: str | None = None
    expires_in: str | None = None
    list_unsubscribe: bool | str | None = None


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What acceptance and listings need of a bundle."""

    locale: str = DEFAULT_LOCALE
    defaults: Defaults = Defaults()
    variants: dict[str, Variant] = {}
    schema: dict[str, Any] = {}
    sensitive: list[str] = []
    examples: dict[str, Any] = {}


class Bundle(Head, frozen=True, kw_only=True):
    """A template ready to be rendered; nothing outside it is needed, so a version lasts.

    Attributes:
        sources: Jinja's, by file, MJML already compiled; those of `_shared` that are used too.
        mjml_css: of a compiled file what `mj-style inline` says; other HTML has its own styles
            put into its elements.
        hides_subject: the subject shows a sensitive variable.
    """

    sources: dict[str, str] = {}
    mjml_css: dict[str, str] = {}
    hides_subject: bool = False


class Compiled(NamedTuple):
    """What became of the files of a template.

    Attributes:
        version: the hash of all that went into it.
        bundle: what rendering needs, encoded; None where something is in error.
        uses: the files of `_shared` that it needs.
    """

    version: str
    bundle: bytes | None
    findings: list[Finding]
    uses: list[str]


class Rendered(NamedTuple):
    """A rendered template.

    Attributes:
        shown: the subject as listings and logs may show it: nothing sensitive is in it.
    """

    subject: str
    shown: str
    html: str
    text: str


class RenderJob(msgspec.Struct, tag="render", frozen=True):
    """Render a bundle; *key* names it, so that a worker compiles it once."""

    key: str
    bundle: msgspec.Raw
    variables: dict[str, Any]
    locale: str = ""


class CompileJob(msgspec.Struct, tag="compile", frozen=True):
    """Compile the files of a template, and say what is wrong with them."""

    name: str
    files: dict[str, str]
    shared: dict[str, str]


class Answer(msgspec.Struct, omit_defaults=True):
    """What a worker says.

    Attributes:
        faults: (JSON pointer below the variables, sentence) each.
        limit: what of, where a limit ended the job; after "memory" the worker ends as well.
    """

    faults: list[tuple[str, str]] = []
    limit: str = ""
    rendered: Rendered | None = None
    compiled: Compiled | None = None


class Renderer(Protocol):
    """Who renders and compiles, within limits."""

    async def render(
        self, key: str, bundle: bytes, variables: Mapping[str, object], locale: str, lane: str
    ) -> Rendered:
        """Render a bundle.

        Args:
            lane: what shares the blame if this takes too much: later jobs of the same one are
                then done one at a time.

        Raises:
            Invalid: with every fault of the variables, or the limit that was exceeded; pointers
                are `/variables/…`.
            Overloaded: too many wait already, or it was not finished in time.
        """
        ...

    async def compile(
        self, name: str, files: Mapping[str, str], shared: Mapping[str, str]
    ) -> Compiled:
        """Compile the files of a template; what is wrong with them is among the findings.

        Raises:
            Invalid: a limit was exceeded.
            Overloaded: too many wait already, or it was not finished in time.
        """
        ...

    async def close(self) -> None:
        """End the processes."""
        ...


decode_head = msgspec.json.Decoder(Head).decode
decode_bundle = msgspec.json.Decoder(Bundle).decode
