"""The mail of all measurements: 1.4 KB, text and HTML; and the requests that ask for it."""

import json
import os

_LINE = "Your order {n} has left our warehouse and will be with you within two working days."
TEXT = "\n".join(
    ["Dear customer,", "", *(_LINE.format(n=1000 + n) for n in range(6)), "", "The shop"]
)
HTML = "".join(
    [
        "<!doctype html><html><body><h1>On its way</h1>",
        *(f"<p>{_LINE.format(n=1000 + n)}</p>" for n in range(9)),
        "<p>The shop</p></body></html>",
    ]
)
SENDER = "shop@example.com"
_MARK = "0" * 12  # where a request differs from the next: its recipient, and its key


def build_fields(address: str) -> dict[str, object]:
    """Return the request's fields."""
    return {
        "from": f"The Shop <{SENDER}>",
        "to": [address],
        "subject": "Your order is on its way",
        "text": TEXT,
        "html": HTML,
        "tags": ["order"],
    }


def build_use(address: str) -> dict[str, object]:
    """Return the fields of a request that names a starter template."""
    variables = {"name": "Ann", "start_url": "https://example.org/start"}
    return {
        "from": f"The Shop <{SENDER}>",
        "to": [address],
        "template": {"name": "welcome", "variables": variables},
    }


class Requests:
    """Requests with an Idempotency-Key and a recipient of their own, joined from two halves."""

    def __init__(self, token: str, port: int, *, has_template: bool = False) -> None:
        build = build_use if has_template else build_fields
        body = json.dumps(build(f"customer{_MARK}@example.org"), separators=(",", ":"))
        head = (
            "POST /v1/messages HTTP/1.1\r\n"
            f"Host: 127.0.0.1:{port}\r\n"
            f"Authorization: Bearer {token}\r\n"
            "Content-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n"
            f"Idempotency-Key: bench-{os.getpid()}-{os.urandom(6).hex()}-{_MARK}\r\n\r\n"
        )
        self._parts = (head + body).encode().split(_MARK.encode())
        self._number = 0

    def build(self) -> bytes:
        """Return the next request."""
        self._number += 1
        return (b"%012d" % self._number).join(self._parts)
