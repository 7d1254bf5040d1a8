"""Mailjet: POST /v3.1/send, GET /v3/REST/message, /v3/REST/sender."""

import json
from typing import Any

from tests.providers_server.dialects.base import Asked, Dialect, Reply, Sent, has_basic_auth

KEY, SECRET = "key-of-the-fake-mailjet", "secret-of-the-fake-mailjet"


def read(asked: Asked) -> Sent:
    (message,) = asked.json["Messages"]
    ours = json.loads(message["EventPayload"])
    places = [message.get(name, []) for name in ("To", "Cc", "Bcc")]
    sent = Sent(
        recipients=[one["Email"] for place in places for one in place],
        public_id=ours["emailer_id"],
        attempt=int(ours["emailer_attempt"]),
    )
    if message["CustomID"] != f"{sent.public_id}.{sent.attempt}":
        raise ValueError("another CustomID")
    return sent


def accept(sent: Sent, number: int) -> Reply:
    to = [
        {"Email": address, "MessageUUID": f"{number}", "MessageID": 10**15 + number * 100 + n}
        for n, address in enumerate(sent.recipients)
    ]
    message = {"Status": "success", "CustomID": "", "To": to, "Cc": [], "Bcc": []}
    return Reply(200, {"Messages": [message]})


def ask(asked: Asked, journal: list[dict[str, Any]]) -> Reply:
    if asked.path == "/v3/REST/sender":
        data = [{"Email": "*@example.org", "Status": "Active"}]
        return Reply(200, {"Count": 1, "Data": data, "Total": 1})
    if asked.path != "/v3/REST/message" or asked.query.get("ShowContactAlt") != "true":
        return Reply(400, {"ErrorMessage": "Unknown resource", "StatusCode": 400})
    data = [
        {
            "ID": 10**15 + copy["number"] * 100,
            "Status": "sent",
            "ContactAlt": copy["recipient"],
            "CustomID": f"{copy['public_id']}.{copy['attempt']}",
        }
        for copy in journal
        if f"{copy['public_id']}.{copy['attempt']}" == asked.query["CustomID"]
    ]
    return Reply(200, {"Count": len(data), "Data": data, "Total": len(data)})


DIALECT = Dialect(
    settings={"api_key": KEY, "secret_key": SECRET, "report_password": "fake-mailjet-secret"},
    is_send=lambda asked: asked.path == "/v3.1/send",
    has_access=lambda asked: has_basic_auth(asked, KEY, SECRET),
    read=read,
    accept=accept,
    refused=Reply(
        400,
        {
            "Messages": [
                {
                    "Status": "error",
                    "Errors": [
                        {
                            "ErrorIdentifier": "8e28ac9c-1fd7-41ad-825f-1d60bc459189",
                            "ErrorCode": "mj-0004",
                            "StatusCode": 400,
                            "ErrorMessage": "Type mismatch.",
                            "ErrorRelatedTo": ["HTMLPart"],
                        }
                    ],
                }
            ]
        },
    ),
    denied=Reply(
        401,
        {
            "ErrorIdentifier": "06df1144-c6f3-4ca7-8885-7ec5d4344113",
            "ErrorCode": "mj-0015",
            "ErrorMessage": "API key authentication/authorization failure.",
            "StatusCode": 401,
        },
    ),
    ask=ask,
)
