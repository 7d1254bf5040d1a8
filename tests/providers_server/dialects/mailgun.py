"""Mailgun: POST /v3/…/messages.mime, GET /v3/…/events, GET /v4/domains/…"""

from typing import Any

from tests.providers_server.dialects.base import Asked, Dialect, Reply, Sent, has_basic_auth

KEY, DOMAIN = "key-of-the-fake-mailgun", "mg.example.org"


def read(asked: Asked) -> Sent:
    fields = asked.form
    values = dict(fields)
    if "Message-ID" not in values["message"]:
        raise ValueError("no message")
    return Sent(
        recipients=[value for name, value in fields if name == "to"],
        public_id=values["v:emailer_id"],
        attempt=int(values["v:emailer_attempt"]),
    )


def accept(sent: Sent, number: int) -> Reply:
    answer = {"id": f"<{sent.public_id}.{number}@{DOMAIN}>", "message": "Queued. Thank you."}
    return Reply(200, answer)


def ask(asked: Asked, journal: list[dict[str, Any]]) -> Reply:
    if asked.path == f"/v4/domains/{DOMAIN}":
        return Reply(200, {"domain": {"name": DOMAIN, "state": "active"}})
    if asked.path != f"/v3/{DOMAIN}/events":
        return Reply(404, {"message": "not found"})
    if not asked.query.get("begin", "").isdecimal():
        return Reply(400, {"message": "begin is no timestamp"})
    wanted = asked.query.get("message-id", "").partition("@")[0]
    recipient = asked.query.get("recipient", "")
    items = [
        {
            "event": "accepted",
            "id": f"event-{copy['number']}",
            "timestamp": copy["at_ms"] / 1000,
            "recipient": copy["recipient"],
            "user-variables": {
                "emailer_id": copy["public_id"],
                "emailer_attempt": str(copy["attempt"]),
            },
            "message": {"headers": {"message-id": f"{copy['public_id']}@example.org"}},
        }
        for copy in journal
        if copy["recipient"] == recipient or copy["public_id"] == wanted
    ]
    return Reply(200, {"items": items, "paging": {"next": "", "previous": ""}})


DIALECT = Dialect(
    settings={"api_key": KEY, "domain": DOMAIN, "signing_key": "signing-key-of-the-fake"},
    is_send=lambda asked: asked.path == f"/v3/{DOMAIN}/messages.mime",
    has_access=lambda asked: has_basic_auth(asked, "api", KEY),
    read=read,
    accept=accept,
    refused=Reply(400, {"message": "'from' parameter is not a valid address."}),
    denied=Reply(401, b"Forbidden"),
    ask=ask,
)
