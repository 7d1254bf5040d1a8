"""Postmark: POST /email, GET /messages/outbound, /server, /message-streams/outbound."""

from typing import Any

from tests.providers_server.dialects.base import Asked, Dialect, Reply, Sent, read_addresses

TOKEN = "token-of-the-fake-postmark"


def read(asked: Asked) -> Sent:
    message = asked.json
    fields = [message.get(name, "") for name in ("To", "Cc", "Bcc")]
    return Sent(
        recipients=read_addresses(*filter(None, fields)),
        public_id=message["Metadata"]["emailer_id"],
        attempt=int(message["Metadata"]["emailer_attempt"]),
    )


def accept(sent: Sent, number: int) -> Reply:
    return Reply(
        200,
        {
            "To": ", ".join(sent.recipients),
            "SubmittedAt": "2026-11-24T10:00:00.0000000-05:00",
            "MessageID": f"00000000-0000-4000-8000-{number:012d}",
            "ErrorCode": 0,
            "Message": "OK",
        },
    )


def ask(asked: Asked, journal: list[dict[str, Any]]) -> Reply:
    if asked.path == "/message-streams/outbound":
        return Reply(200, {"ID": "outbound", "MessageStreamType": "Transactional"})
    if asked.path == "/server":
        return Reply(200, {"ID": 1, "Name": "fake", "DeliveryType": "Live"})
    if asked.path != "/messages/outbound" or not {"count", "offset"} <= asked.query.keys():
        return Reply(422, {"ErrorCode": 600, "Message": "count and offset are required"})
    copies = [
        {
            "MessageID": f"00000000-0000-4000-8000-{copy['number']:012d}",
            "Recipients": [copy["recipient"]],
            "Status": "Sent",
            "Metadata": {
                "emailer_id": copy["public_id"],
                "emailer_attempt": str(copy["attempt"]),
            },
        }
        for copy in journal
        if copy["public_id"] == asked.query["metadata_emailer_id"]
    ]
    return Reply(200, {"TotalCount": len(copies), "Messages": copies})


DIALECT = Dialect(
    settings={"server_token": TOKEN, "report_user": "pm", "report_password": "fake-secret"},
    is_send=lambda asked: asked.path == "/email",
    has_access=lambda asked: asked.headers.get("x-postmark-server-token") == TOKEN,
    read=read,
    accept=accept,
    refused=Reply(422, {"ErrorCode": 400, "Message": "The 'From' address is no signature."}),
    denied=Reply(401, {"ErrorCode": 10, "Message": "No Account or Server API tokens."}),
    ask=ask,
)
