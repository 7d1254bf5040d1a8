"""Amazon SES v2: POST /v2/email/outbound-emails, GET /v2/email/account.

The signature is computed anew from what came over the wire, as AWS does: what was signed and
what was sent must be the same.
"""

import base64
import hmac
import re
from hashlib import sha256
from typing import Any

from tests.providers_server.dialects.base import Asked, Dialect, Reply, Sent

KEY, SECRET, REGION = "AKIAFAKE", "secret-of-the-fake-ses", "eu-west-1"
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>\w+)/"
    r"(?P<scope>(?P<day>\d{8})/[\w-]+/ses/aws4_request), "
    r"SignedHeaders=(?P<names>[a-z0-9;-]+), Signature=(?P<signature>[0-9a-f]{64})"
)


def is_signed(asked: Asked) -> bool:
    found = _AUTHORIZATION.fullmatch(asked.headers.get("authorization", ""))
    if found is None or found["key"] != KEY:
        return False
    names = found["names"].split(";")
    moment = asked.headers["x-amz-date"]
    if not {"host", "x-amz-date"} <= set(names) or not moment.startswith(found["day"]):
        return False
    canonical = "\n".join(
        [
            asked.method,
            f"/ses{asked.path}",
            "",
            *(f"{name}:{asked.headers[name]}" for name in names),
            "",
            found["names"],
            sha256(asked.body).hexdigest(),
        ]
    )
    text = "\n".join(
        ["AWS4-HMAC-SHA256", moment, found["scope"], sha256(canonical.encode()).hexdigest()]
    )
    key = b"AWS4" + SECRET.encode()
    for part in (found["day"], REGION, "ses", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex() == found["signature"]


def read(asked: Asked) -> Sent:
    message = asked.json
    tags = {tag["Name"]: tag["Value"] for tag in message["EmailTags"]}
    raw = base64.b64decode(message["Content"]["Raw"]["Data"], validate=True)
    if b"\nMessage-ID: " not in raw:
        raise ValueError("no message")
    return Sent(
        recipients=message["Destination"]["ToAddresses"],
        public_id=tags["emailer_id"],
        attempt=int(tags["emailer_attempt"]),
    )


def accept(sent: Sent, number: int) -> Reply:
    return Reply(200, {"MessageId": f"0102018fake-{number:012d}-000000"})


def ask(asked: Asked, journal: list[dict[str, Any]]) -> Reply:
    if asked.path != "/v2/email/account":
        return fail(404, "NotFoundException", "Not found")
    return Reply(
        200,
        {
            "ProductionAccessEnabled": True,
            "SendingEnabled": True,
            "EnforcementStatus": "HEALTHY",
            "SendQuota": {
                "Max24HourSend": 50000.0,
                "MaxSendRate": 14.0,
                "SentLast24Hours": 7.0,
            },
        },
    )


def fail(status: int, name: str, message: str) -> Reply:
    kind = {"x-amzn-ErrorType": f"{name}:http://internal.amazon.com/coral/{name}/"}
    return Reply(status, {"message": message}, kind)


DIALECT = Dialect(
    settings={
        "region": REGION,
        "access_key_id": KEY,
        "secret_access_key": SECRET,
        "configuration_set": "events",
    },
    is_send=lambda asked: asked.path == "/v2/email/outbound-emails",
    has_access=is_signed,
    read=read,
    accept=accept,
    refused=fail(400, "MessageRejected", "Transaction failed: invalid content."),
    denied=fail(403, "UnrecognizedClientException", "The security token is invalid."),
    ask=ask,
)
