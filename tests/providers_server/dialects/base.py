"""The shape of a dialect: how one provider's requests are read and its answers written.

A new provider is a file beside this one with a `DIALECT`, and a line in `__init__`; the
contract tests then run over it.
"""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.utils import getaddresses
from typing import Any
from urllib.parse import parse_qsl


@dataclass(frozen=True)
class Asked:
    """One request, whole.  `path` is without the dialect's prefix and the query."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]  # by lower-case name
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def form(self) -> list[tuple[str, str]]:
        """The fields of a form, urlencoded or multipart; files too, as text."""
        kind = self.headers["content-type"]
        if kind.startswith("application/x-www-form-urlencoded"):
            return parse_qsl(self.body.decode(), strict_parsing=True)
        head = f"Content-Type: {kind}\r\n\r\n".encode()
        parts = message_from_bytes(head + self.body, policy=policy.HTTP).iter_parts()
        return [
            (str(part.get_param("name", header="content-disposition")), read_part(part))
            for part in parts
        ]


def read_part(part: Any) -> str:
    """Return a part's content; a message is one too, and not decoded."""
    if part.get_content_maintype() in {"message", "multipart"}:
        return part.get_payload()[0].as_string() if part.is_multipart() else ""
    return part.get_payload(decode=True).decode("utf-8", "replace")


@dataclass(frozen=True)
class Sent:
    """What a request to send asks for.

    Attributes:
        public_id, attempt: ours, as they came along.
        key: of idempotency; empty where the provider has none.
    """

    recipients: Sequence[str]
    public_id: str
    attempt: int
    key: str = ""


@dataclass(frozen=True)
class Reply:
    """An answer: JSON from `body`, or the bytes it is."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def encode(self) -> bytes:
        if isinstance(self.body, bytes):
            return self.body
        return b"" if self.body is None else json.dumps(self.body).encode()


@dataclass(frozen=True)
class Dialect:
    """How one provider speaks.

    Attributes:
        settings: of an adapter that this server lets in; `base_url` is added.
        is_send: whether a request asks to send.
        has_access: whether the credentials of `settings` came along.
        read: a request to send; raises anything where it is not one.
        accept: the answer to a request that was taken, with the number of its copy.
        refused: the answer to what is for good not taken, about the message.
        denied: the answer to wrong credentials.
        ask: the answer to everything else (look-ups, checks), from the journal.
        repeated: the answer to a key that was used; None: the first answer again.
    """

    settings: Mapping[str, Any]
    is_send: Callable[[Asked], bool]
    has_access: Callable[[Asked], bool]
    read: Callable[[Asked], Sent]
    accept: Callable[[Sent, int], Reply]
    refused: Reply
    denied: Reply
    ask: Callable[[Asked, list[dict[str, Any]]], Reply]
    repeated: Reply | None = None


def has_basic_auth(asked: Asked, user: str, password: str) -> bool:
    expected = base64.b64encode(f"{user}:{password}".encode()).decode()
    return asked.headers.get("authorization") == f"Basic {expected}"


def read_addresses(*fields: str) -> list[str]:
    """Return the addresses of header-like fields: `"A" <a@b>, c@d`."""
    return [address for _, address in getaddresses(fields) if address]
