"""Brevo: POST /v3/smtp/email, GET /v3/smtp/statistics/events, /v3/account, …/domains."""

import json
from typing import Any

from tests.providers_server.dialects.base import Asked, Dialect, Reply, Sent

KEY = "key-of-the-fake-brevo"


def read(asked: Asked) -> Sent:
    message = asked.json
    ours = json.loads(message["headers"]["X-Mailin-custom"])
    places = [message.get(name, []) for name in ("to", "cc", "bcc")]
    return Sent(
        recipients=[one["email"] for place in places for one in place],
        public_id=ours["emailer_id"],
        attempt=int(ours["emailer_attempt"]),
        key=message["headers"]["idempotencyKey"],
    )


def accept(sent: Sent, number: int) -> Reply:
    return Reply(201, {"messageId": f"<20261124.{number}@smtp-relay.mailin.fr>"})


def ask(asked: Asked, journal: list[dict[str, Any]]) -> Reply:
    if asked.path == "/v3/account":
        plan = [{"type": "free", "creditsType": "sendLimit", "credits": 300}]
        relay = {"enabled": True}
        return Reply(200, {"email": "ann@example.org", "plan": plan, "relay": relay})
    if asked.path == "/v3/senders/domains":
        return Reply(200, {"domains": [{"domain_name": "example.org", "authenticated": True}]})
    if asked.path != "/v3/smtp/statistics/events":
        return Reply(404, {"code": "document_not_found", "message": "no such endpoint"})
    events = [
        {
            "email": copy["recipient"],
            "date": "2026-11-24T10:00:00.000Z",
            "event": "requests",
            "messageId": f"<20261124.{copy['number']}@smtp-relay.mailin.fr>",
            "tag": f"{copy['public_id']}.{copy['attempt']}",
        }
        for copy in journal
        if f"{copy['public_id']}.{copy['attempt']}" == asked.query.get("tags")
    ]
    return Reply(200, {"events": events} if events else {})


DIALECT = Dialect(
    settings={"api_key": KEY, "report_password": "fake-brevo-secret"},
    is_send=lambda asked: asked.path == "/v3/smtp/email",
    has_access=lambda asked: asked.headers.get("api-key") == KEY,
    read=read,
    accept=accept,
    refused=Reply(400, {"code": "invalid_parameter", "message": "subject is not valid"}),
    denied=Reply(401, {"code": "unauthorized", "message": "Key not found"}),
    ask=ask,
    repeated=Reply(400, {"code": "duplicate_parameter", "message": "idempotencyKey was used"}),
)
