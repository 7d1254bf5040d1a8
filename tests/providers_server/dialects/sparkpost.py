"""SparkPost: POST /api/v1/transmissions, GET …/events/message, …/account, …/sending-domains."""

import re
from typing import Any

from tests.providers_server.dialects.base import Asked, Dialect, Reply, Sent

KEY = "key-of-the-fake-sparkpost"


def read(asked: Asked) -> Sent:
    body = asked.json
    if body["options"]["perform_substitutions"] is not False:
        raise ValueError("{{ would be replaced")
    return Sent(
        recipients=[one["address"]["email"] for one in body["recipients"]],
        public_id=body["metadata"]["emailer_id"],
        attempt=int(body["metadata"]["emailer_attempt"]),
    )


def accept(sent: Sent, number: int) -> Reply:
    results = {
        "total_rejected_recipients": 0,
        "total_accepted_recipients": len(sent.recipients),
        "id": f"1166878748495{number:04d}",
    }
    return Reply(200, {"results": results})


def ask(asked: Asked, journal: list[dict[str, Any]]) -> Reply:
    if asked.path == "/api/v1/account":
        return Reply(200, {"results": {"status": "active", "usage": {}}})
    if asked.path == "/api/v1/sending-domains":
        status = {"ownership_verified": True, "compliance_status": "valid"}
        return Reply(200, {"results": [{"domain": "example.org", "status": status}]})
    if asked.path != "/api/v1/events/message":
        return Reply(404, {"errors": [{"message": "Resource could not be found"}]})
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\dZ", asked.query.get("from", "")):
        return Reply(400, {"errors": [{"message": "invalid params", "code": "1200"}]})
    wanted = asked.query["recipients"].split(",")
    events = [
        {
            "type": "injection",
            "event_id": f"9235692769381{copy['number']}",
            "timestamp": "2026-11-24T10:00:00.000Z",
            "transmission_id": f"1166878748495{copy['number']:04d}",
            "rcpt_to": copy["recipient"].lower(),
            "raw_rcpt_to": copy["recipient"],
            "rcpt_meta": {
                "emailer_id": copy["public_id"],
                "emailer_attempt": str(copy["attempt"]),
            },
        }
        for copy in journal
        if copy["recipient"] in wanted
    ]
    return Reply(200, {"results": events, "total_count": len(events), "links": {}})


DIALECT = Dialect(
    settings={"api_key": KEY, "report_password": "fake-sparkpost-secret"},
    is_send=lambda asked: asked.path == "/api/v1/transmissions",
    has_access=lambda asked: asked.headers.get("authorization") == KEY,
    read=read,
    accept=accept,
    refused=Reply(
        400,
        {
            "errors": [
                {
                    "message": "Invalid domain",
                    "description": "Unconfigured or unverified sending domain.",
                    "code": "7001",
                }
            ]
        },
    ),
    denied=Reply(401, {"errors": [{"message": "Unauthorized."}]}),
    ask=ask,
)
