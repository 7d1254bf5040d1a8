"""Resend: POST /emails, GET /domains.  A known Idempotency-Key gets the first answer again."""

from typing import Any

from tests.providers_server.dialects.base import Asked, Dialect, Reply, Sent, read_addresses

KEY = "re_key_of_the_fake"


def read(asked: Asked) -> Sent:
    message = asked.json
    tags = {tag["name"]: tag["value"] for tag in message["tags"]}
    fields = [field for name in ("to", "cc", "bcc") for field in message.get(name, ())]
    return Sent(
        recipients=read_addresses(*fields),
        public_id=tags["emailer_id"],
        attempt=int(tags["emailer_attempt"]),
        key=asked.headers["idempotency-key"],
    )


def accept(sent: Sent, number: int) -> Reply:
    return Reply(200, {"id": f"00000000-0000-4000-8000-{number:012d}"})


def ask(asked: Asked, journal: list[dict[str, Any]]) -> Reply:
    if asked.path == "/domains":
        return Reply(200, {"data": [{"name": "example.org", "status": "verified"}]})
    return fail(404, "not_found", "The requested endpoint does not exist.")


def fail(status: int, name: str, message: str) -> Reply:
    return Reply(status, {"statusCode": status, "name": name, "message": message})


DIALECT = Dialect(
    settings={"api_key": KEY, "signing_secret": "whsec_ZmFrZS1zZWNyZXQtb2YtYS13ZWJob29r"},
    is_send=lambda asked: asked.path == "/emails",
    has_access=lambda asked: asked.headers.get("authorization") == f"Bearer {KEY}",
    read=read,
    accept=accept,
    refused=fail(422, "invalid_from_address", "Invalid `from` field."),
    denied=fail(403, "invalid_api_key", "API key is invalid"),
    ask=ask,
)
