"""Jobs: emails that a service publishes straight into ForestMQ, as they look on the wire.

Sealed, the usual form: the body of POST /v1/messages as base64url, so that nothing in it can
reach what breaks ForestMQ (percent signs, decimals, other scripts), signed with the service's
key.  Plain, `"job": {…}`, so that any service with curl works where unsigned jobs are allowed.

This module needs the standard library alone: `emailerctl.publish` is used without the rest.
"""

import base64
import binascii
import hmac
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeGuard

from emailerctl.errors import Fault, Invalid
from emailerctl.models.text import shorten

VERSION = 1
ENCODING = "b64u"
ANONYMOUS = "anonymous"  # the service of unsigned jobs
RESERVED_KEY_IDS = frozenset({ANONYMOUS, "local"})
SECRET_CHARACTERS = 32  # at least
MOST_JOB_BYTES = 3_500  # of the JSON, before base64url

TOPIC = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
JOB_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
KEY_ID = re.compile(r"[a-z0-9_-]{1,64}")

_DATA = re.compile(r"[A-Za-z0-9_-]+={0,2}")
_SIGNATURE = re.compile(r"[0-9a-f]{64}")
_LATEST_S = 253_402_300_799  # the end of the year 9999
_MEMBERS = frozenset({"topic", "v", "id", "enc", "data", "kid", "at", "sig", "job"})
_SEAL = ("kid", "at", "sig")


@dataclass(frozen=True, slots=True)
class Key:
    """A service's key: its id, which is the service, and its secret."""

    key_id: str
    secret: str

    def __repr__(self) -> str:
        """Show whose key it is, and never the secret."""
        return f"Key({self.key_id!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What a service published, taken apart; nothing in it has been believed yet.

    Attributes:
        content: the JSON of the job as bytes, or the object of a plain one.
        key_id, at_s, signature: empty, 0 and empty where it is not signed.
        data: what is signed, as it was written.
    """

    topic: str
    job_id: str
    content: bytes | Mapping[str, object]
    key_id: str = ""
    at_s: int = 0
    signature: str = ""
    data: str = ""


def sign(key: Key, *, topic: str, job_id: str, at_s: int, data: str) -> str:
    """Return the signature: HMAC-SHA256 in hex over topic, v, id, at, kid and data.

    One line each, joined by a line feed, which none of them can contain.
    """
    signed = "\n".join((topic, str(VERSION), job_id, str(at_s), key.key_id, data))
    return hmac.digest(key.secret.encode(), signed.encode(), "sha256").hex()


def is_signed_with(envelope: Envelope, key: Key) -> bool:
    """Return whether *key* made the signature; takes the same time whatever is wrong."""
    made = sign(
        key,
        topic=envelope.topic,
        job_id=envelope.job_id,
        at_s=envelope.at_s,
        data=envelope.data,
    )
    return hmac.compare_digest(made, envelope.signature)


def build_envelope(
    fields: Mapping[str, object], *, topic: str, job_id: str, at_s: int, key: Key | None
) -> dict[str, object]:
    """Return the message that carries an email through ForestMQ; unsigned without a *key*.

    Args:
        fields: as for POST /v1/messages.
        at_s: now, in seconds since 1970.

    Raises:
        Invalid: with every fault: a name does not fit, or it is too large.
    """
    faults = list(_find_bad_names(topic, job_id, key))
    try:
        text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        octets = text.encode()
    except (TypeError, ValueError) as error:
        raise Invalid([*faults, Fault("", f"is not JSON: {error}")]) from error
    if len(octets) > MOST_JOB_BYTES:
        detail = (
            f"has {len(octets)} bytes of JSON; at most {MOST_JOB_BYTES} go through ForestMQ: "
            "use a template with variables, or send it to the HTTP API"
        )
        faults.append(Fault("", detail))
    if faults:
        raise Invalid(faults)
    data = base64.urlsafe_b64encode(octets).rstrip(b"=").decode()
    envelope: dict[str, object] = {"topic": topic, "v": VERSION, "id": job_id}
    envelope |= {"enc": ENCODING, "data": data}
    if key:
        signature = sign(key, topic=topic, job_id=job_id, at_s=at_s, data=data)
        envelope |= {"kid": key.key_id, "at": at_s, "sig": signature}
    return envelope


def parse_envelope(message: Mapping[str, object]) -> Envelope:
    """Take apart what a service published.

    Raises:
        Invalid: with every fault.
    """
    faults = list(_find_faults(message))
    if faults:
        raise Invalid(faults)
    data, inner = message.get("data"), message.get("job")
    content: bytes | Mapping[str, object] = inner if _is_object(inner) else _decode(data)
    return Envelope(
        topic=_text(message, "topic"),
        job_id=_text(message, "id"),
        content=content,
        key_id=_text(message, "kid"),
        at_s=at if isinstance(at := message.get("at"), int) else 0,
        signature=_text(message, "sig"),
        data=_text(message, "data"),
    )


def find_names(message: Mapping[str, object]) -> tuple[str, str]:
    """Return the id and the key id that a job claims, as far as they can be such."""
    job_id, key_id = _text(message, "id"), _text(message, "kid")
    return (
        job_id if JOB_ID.fullmatch(job_id) else "",
        key_id if KEY_ID.fullmatch(key_id) else "",
    )


def _find_bad_names(topic: str, job_id: str, key: Key | None) -> Iterator[Fault]:
    if not TOPIC.fullmatch(topic):
        yield Fault("/topic", f"{shorten(topic)} is no topic; write for example email.job")
    if not JOB_ID.fullmatch(job_id):
        yield Fault("/id", f"{shorten(job_id)} is no id; 1 to 128 of A-Z a-z 0-9 . _ : -")
    if key and not KEY_ID.fullmatch(key.key_id):
        yield Fault("/kid", f"{shorten(key.key_id)} is no key id; write a-z, 0-9, _ and -")
    if key and len(key.secret) < SECRET_CHARACTERS:
        yield Fault("/sig", f"the secret is shorter than {SECRET_CHARACTERS} characters")


def _find_faults(message: Mapping[str, object]) -> Iterator[Fault]:
    for name in message:
        if name not in _MEMBERS:
            yield Fault(f"/{name[:64]}", f"is unknown; known: {', '.join(sorted(_MEMBERS))}")
    for name, pattern, cure in (
        ("topic", TOPIC, "a-z 0-9 . _ -, at most 64"),
        ("id", JOB_ID, "1 to 128 of A-Z a-z 0-9 . _ : -, a new one for each email"),
    ):
        yield from _find_bad_text(message, name, pattern, cure)
    version = message.get("v")
    if version != VERSION or isinstance(version, bool):
        yield Fault("/v", f"{shorten(version)} is not {VERSION}, the version that this takes")
    yield from _find_content_faults(message)
    yield from _find_seal_faults(message)


def _find_seal_faults(message: Mapping[str, object]) -> Iterator[Fault]:
    given = [name for name in _SEAL if message.get(name) is not None]
    if not given:
        return
    for name in _SEAL:
        if name not in given:
            yield Fault(f"/{name}", f"is missing; a signed job has {', '.join(_SEAL)}")
    if "kid" in given:
        yield from _find_bad_text(message, "kid", KEY_ID, "a-z 0-9 _ -, at most 64")
    if "sig" in given:
        yield from _find_bad_text(message, "sig", _SIGNATURE, "64 digits of hex, in lower case")
    at = message.get("at")
    if "at" in given and not (_is_whole(at) and 0 < at <= _LATEST_S):
        yield Fault("/at", f"{shorten(at)} is not a moment in whole seconds since 1970")


def _find_content_faults(message: Mapping[str, object]) -> Iterator[Fault]:
    if message.get("job") is not None:
        if message.get("data") is not None:
            yield Fault("/job", "is given together with data; send one of them")
        if any(message.get(name) is not None for name in _SEAL):
            yield Fault("/job", "can't be signed; send the job as data")
        if not _is_object(message["job"]):
            yield Fault("/job", f"{shorten(message['job'])} is not an object")
        return
    if message.get("data") is None:
        yield Fault("/data", "is missing; send the job as data, in base64url")
        return
    if message.get("enc") != ENCODING:
        yield Fault("/enc", f'{shorten(message.get("enc"))} is not "{ENCODING}"')
    try:
        _decode(message["data"])
    except ValueError as error:
        yield Fault("/data", str(error))


def _find_bad_text(
    message: Mapping[str, object], name: str, pattern: re.Pattern[str], cure: str
) -> Iterator[Fault]:
    value = message.get(name)
    if value is None:
        yield Fault(f"/{name}", f"is missing; {cure}")
    elif not isinstance(value, str) or not pattern.fullmatch(value):
        yield Fault(f"/{name}", f"{shorten(value)} does not fit; {cure}")


def _decode(data: object) -> bytes:
    """Return the bytes of base64url text, padded or not.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(data, str) or not _DATA.fullmatch(data):
        raise ValueError(f"{shorten(data)} is not base64url")
    bare = data.rstrip("=")
    try:
        return base64.urlsafe_b64decode(bare + "=" * (-len(bare) % 4))
    except binascii.Error:
        raise ValueError(f"{shorten(data)} is not base64url: a character is missing") from None


def _text(message: Mapping[str, object], name: str) -> str:
    value = message.get(name)
    return value if isinstance(value, str) else ""


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_object(value: object) -> TypeGuard[Mapping[str, object]]:
    return isinstance(value, dict)
