"""Django's mail by way of emailerctl: `EMAIL_BACKEND = "emailerctl.django.EmailBackend"`.

Where the API is, and the token, are Django's settings EMAILER_URL and EMAILER_TOKEN, or the
variables of those names.  Like the client it needs nothing else of emailerctl; Django is looked
for when a backend is made, and not before.

A message may say more in an attribute of its own, with the fields of `POST /v1/messages`:

    message.emailer = {"tags": ["reset"], "expires_in": "15m", "key": "reset-4711"}
"""

import email.utils
import importlib
import mimetypes
from collections.abc import Iterable, Iterator, Mapping, Sequence
from email.message import Message
from typing import Any, Self

from emailerctl.client import Client, EmailerError, Json, NoAnswer, build_attachment, build_key

_KEY = "_emailer_key"  # on a message whose fate is not known: the next try is the same one
_ATTRIBUTE = "emailer"
_PATIENCE_S = 10.0


class EmailBackend:
    """A connection to the API, as Django understands one (`BaseEmailBackend`)."""

    def __init__(
        self,
        fail_silently: bool = False,  # noqa: FBT001, FBT002  (Django's)
        *,
        url: str | None = None,
        token: str | None = None,
        timeout: float | None = None,
        **_more: Any,
    ) -> None:
        """Take where to ask; else Django's settings, else the environment say it.

        *timeout*, else EMAIL_TIMEOUT, is how many seconds one message may take with all its
        tries: somebody may wait for a page meanwhile.
        """
        settings = importlib.import_module("django.conf").settings
        self.fail_silently = fail_silently
        self._url = url or getattr(settings, "EMAILER_URL", None)
        self._token = token or getattr(settings, "EMAILER_TOKEN", None)
        self._patience_s = timeout or getattr(settings, "EMAIL_TIMEOUT", None) or _PATIENCE_S
        self._client: Client | None = None

    def __enter__(self) -> Self:
        """Keep the connection for several messages."""
        self.open()
        return self

    def __exit__(self, *_error: object) -> None:
        """Close it."""
        self.close()

    def open(self) -> bool:
        """Connect; return whether that was needed."""
        if self._client is not None:
            return False
        patience_s = self._patience_s
        self._client = Client(self._url, self._token, patience_s=patience_s, timeout=patience_s)
        return True

    def close(self) -> None:
        """Close the connection."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def send_messages(self, email_messages: Sequence[Any]) -> int:
        """Have messages accepted, one after the other; return how many were.

        Raises:
            EmailerError: one was not, unless that shall be silent.
        """
        if not email_messages:
            return 0
        is_ours = self.open()
        try:
            return sum(self._send(message) for message in email_messages)
        finally:
            if is_ours:
                self.close()

    def _send(self, message: Any) -> bool:
        if not message.recipients() or self._client is None:
            return False
        fields = build_fields(message)
        key = fields.pop("key", None) or getattr(message, _KEY, None) or build_key()
        try:
            self._client.send(fields, key=key)
        except EmailerError as error:
            if isinstance(error, NoAnswer):
                setattr(message, _KEY, key)
            if not self.fail_silently:
                raise
            return False
        setattr(message, _KEY, None)
        return True


def build_fields(message: Any) -> Json:
    """Return a Django message as the fields of `POST /v1/messages`, and perhaps its key.

    Raises:
        ValueError: it has a part that can't be expressed; nothing is left out silently.
    """
    headers = {str(name): str(value) for name, value in message.extra_headers.items()}
    of_django = {name.lower(): name for name in headers}
    sender = headers.pop(of_django["from"]) if "from" in of_django else message.from_email
    reply_to = list(map(str, message.reply_to))
    if "reply-to" in of_django:
        pairs = email.utils.getaddresses([headers.pop(of_django["reply-to"])])
        reply_to = [email.utils.formataddr(pair) for pair in pairs]
    fields: Json = {
        "from": str(sender),
        "to": list(map(str, message.to)),
        "cc": list(map(str, message.cc)),
        "bcc": list(map(str, message.bcc)),
        "reply_to": reply_to,
        "subject": str(message.subject),
        "headers": headers,
        "attachments": list(_build_attachments(message.attachments)),
        **_find_bodies(message),
    }
    more: Mapping[str, Any] = getattr(message, _ATTRIBUTE, None) or {}
    return {name: value for name, value in fields.items() if value} | dict(more)


def _find_bodies(message: Any) -> dict[str, str]:
    """Return text and HTML.

    Raises:
        ValueError: there is an alternative that is neither, or two of a kind.
    """
    kinds = {"text/plain": "text", "text/html": "html"}
    first = f"text/{message.content_subtype}"
    bodies: dict[str, str] = {}
    for content, mimetype in (
        (message.body, first),
        *(tuple(one) for one in getattr(message, "alternatives", ())),
    ):
        name = kinds.get(mimetype)
        if name is None or name in bodies:
            raise ValueError(
                f"a message has one text and one HTML; send {mimetype} as an attachment"
            )
        bodies[name] = str(content)
    if len(bodies) == 2 and not bodies["text"]:
        del bodies["text"]  # Django's way to say that there is HTML alone
    return bodies


def _build_attachments(attachments: Iterable[Any]) -> Iterator[Json]:
    for one in attachments:
        if isinstance(one, Message):
            yield _build_from_part(one)
            continue
        filename, content, mimetype = one
        if hasattr(content, "message"):  # another message of Django's
            content = content.message()
        if isinstance(content, Message):
            content = content.as_bytes()
        name = filename or _make_name(mimetype)
        if isinstance(content, str):
            is_text = mimetype.startswith("text/")
            content = content.encode()
            mimetype = f"{mimetype}; charset=utf-8" if is_text else mimetype
        yield build_attachment(name, bytes(content), mimetype)


def _build_from_part(part: Message) -> Json:
    payload = part.get_payload(decode=True)
    if not isinstance(payload, bytes):
        raise ValueError(  # noqa: TRY004  (what it holds is wrong)
            f"an attachment of {part.get_content_type()} is no single file"
        )
    mimetype = part.get_content_type()
    content_id = str(part.get("Content-ID", "")).strip().strip("<>")
    built = build_attachment(
        part.get_filename() or _make_name(mimetype), payload, mimetype, content_id=content_id
    )
    if part.get_content_disposition() == "inline" and content_id:
        built["disposition"] = "inline"
    return built


def _make_name(mimetype: str) -> str:
    return f"attachment{mimetypes.guess_extension(mimetype) or ''}"
