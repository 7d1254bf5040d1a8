"""AWS Signature Version 4, in the Authorization header.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
(read 2026-11-24); proved by vectors of the vendor's own test suite (tests/fixtures/ses).
"""

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from urllib.parse import quote

_ALGORITHM = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """Who signs, and for which service of which region.

    Attributes:
        session_token: of temporary credentials; empty: there is none.
    """

    access_key_id: str
    secret_access_key: str
    region: str
    service: str
    session_token: str = ""

    def sign(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str],
        body: bytes = b"",
        now_ms: int,
    ) -> dict[str, str]:
        """Return *headers* and those that sign them; `Host` is among them, for it is signed.

        Args:
            path: as it is sent: percent-encoded.
        """
        moment = f"{datetime.fromtimestamp(now_ms // 1000, UTC):%Y%m%dT%H%M%SZ}"
        signed = {**headers, "X-Amz-Date": moment}
        if self.session_token:
            signed["X-Amz-Security-Token"] = self.session_token
        names, canonical = _canonise(method, path, query, signed, body)
        scope = f"{moment[:8]}/{self.region}/{self.service}/aws4_request"
        digest = sha256(canonical.encode()).hexdigest()
        text = f"{_ALGORITHM}\n{moment}\n{scope}\n{digest}"
        signature = hmac.new(self._derive_key(scope), text.encode(), sha256).hexdigest()
        return {
            **signed,
            "Authorization": (
                f"{_ALGORITHM} Credential={self.access_key_id}/{scope}, "
                f"SignedHeaders={names}, Signature={signature}"
            ),
        }

    def _derive_key(self, scope: str) -> bytes:
        key = f"AWS4{self.secret_access_key}".encode()
        for part in scope.split("/"):
            key = hmac.new(key, part.encode(), sha256).digest()
        return key


def _canonise(
    method: str,
    path: str,
    query: Sequence[tuple[str, str]],
    headers: Mapping[str, str],
    body: bytes,
) -> tuple[str, str]:
    """Return the names of the signed headers, and the request in its canonical form."""
    lines = sorted((name.lower(), " ".join(value.split())) for name, value in headers.items())
    names = ";".join(name for name, _ in lines)
    pairs = sorted((quote(name, safe="-_.~"), quote(v, safe="-_.~")) for name, v in query)
    parts = (
        method,
        quote(path, safe="/-_.~"),  # encoded once more: every service but S3 has it so
        "&".join(f"{name}={value}" for name, value in pairs),
        *(f"{name}:{value}" for name, value in lines),
        "",
        names,
        sha256(body).hexdigest(),
    )
    return names, "\n".join(parts)
