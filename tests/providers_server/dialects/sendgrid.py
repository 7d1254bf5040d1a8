"""SendGrid: POST /v3/mail/send, GET /v3/scopes.  Its 202 has no body: the id is a header."""

from typing import Any

from tests.providers_server.dialects.base import Asked, Dialect, Reply, Sent

KEY = "SG.key-of-the-fake"


def read(asked: Asked) -> Sent:
    message = asked.json
    (envelope,) = message["personalizations"]
    custom_args = message["custom_args"]
    if any(not part["value"] for part in message["content"]):
        raise ValueError("an empty part")
    return Sent(
        recipients=[
            one["email"] for who in ("to", "cc", "bcc") for one in envelope.get(who, ())
        ],
        public_id=custom_args["emailer_id"],
        attempt=int(custom_args["emailer_attempt"]),
    )


def accept(sent: Sent, number: int) -> Reply:
    return Reply(202, None, {"X-Message-Id": f"fake-message-{number}"})


def ask(asked: Asked, journal: list[dict[str, Any]]) -> Reply:
    if asked.path == "/v3/scopes":
        return Reply(200, {"scopes": ["mail.send", "2fa_required"]})
    return fail(404, "Not Found", None)


def fail(status: int, message: str, field: str | None) -> Reply:
    return Reply(status, {"errors": [{"message": message, "field": field, "help": None}]})


DIALECT = Dialect(
    settings={"api_key": KEY},
    is_send=lambda asked: asked.path == "/v3/mail/send",
    has_access=lambda asked: asked.headers.get("authorization") == f"Bearer {KEY}",
    read=read,
    accept=accept,
    refused=fail(400, "The subject is required.", "subject"),
    denied=fail(401, "The provided authorization grant is invalid, expired, or revoked", None),
    ask=ask,
)
