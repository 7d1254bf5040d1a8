"""DKIM signatures (RFC 6376, RFC 8463): relaxed/relaxed, over OpenSSL, with keys that are kept.

The same bytes, key and moment give the same signature (PKCS #1 v1.5 and Ed25519 both do), so
that nothing is to be kept for a second attempt.  Every field that a reader trusts is signed
once more than it is there: nobody can put another one on top (section 8.15).
"""

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key

from emailerctl.models.dkim import Algorithm, DomainKey
from emailerctl.models.text import shorten

# Signed whether they are there or not: none can be added.
_ALWAYS = (
    b"from",
    b"to",
    b"cc",
    b"reply-to",
    b"subject",
    b"date",
    b"message-id",
    b"mime-version",
    b"content-type",
    b"content-transfer-encoding",
)
# Signed where they are there; one-click unsubscribe counts only if it is (RFC 8058 4).
_WHEN_THERE = (
    b"sender",
    b"in-reply-to",
    b"references",
    b"auto-submitted",
    b"list-id",
    b"list-unsubscribe",
    b"list-unsubscribe-post",
)

_RSA_BITS = 2048
_LEAST_RSA_BITS = 1024  # RFC 8301 3.2
_SPACES = re.compile(rb"[ \t]+")
_FOLD = re.compile(rb"\r\n(?=[ \t])")
_CHUNK = 65_536  # of the body: others have their turn between two
_LINE = 70
_RECORD_PIECE = 255  # RFC 1035 3.3: of one string of a TXT record
_KINDS = {Algorithm.RSA: "rsa", Algorithm.ED25519: "ed25519"}


class _Private(Protocol):
    def sign(self, data: bytes) -> bytes: ...


@dataclass(frozen=True, slots=True)
class _Rsa:
    key: RSAPrivateKey

    def sign(self, data: bytes) -> bytes:
        return self.key.sign(data, padding.PKCS1v15(), hashes.SHA256())


@dataclass(frozen=True, slots=True)
class _Ed25519:
    key: Ed25519PrivateKey

    def sign(self, data: bytes) -> bytes:
        return self.key.sign(hashlib.sha256(data).digest())  # RFC 8463 3: over the hash


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key and where its public half is found: `<selector>._domainkey.<domain>`."""

    domain: str
    selector: str
    algorithm: Algorithm
    private: _Private


def generate_key(algorithm: Algorithm) -> tuple[bytes, str]:
    """Return a new private key (PEM, PKCS #8) and its public half as records publish it."""
    key: RSAPrivateKey | Ed25519PrivateKey
    if algorithm is Algorithm.ED25519:
        key = Ed25519PrivateKey.generate()
        public = key.public_key().public_bytes_raw()
    else:
        key = generate_private_key(public_exponent=65537, key_size=_RSA_BITS)
        public = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return pem, base64.b64encode(public).decode()


def load_key(key: DomainKey, pem: bytes) -> SigningKey:
    """Return the private half of *key*.

    Raises:
        ValueError: *pem* is no key, or not one of its algorithm.
    """
    try:
        found = serialization.load_pem_private_key(pem, None)
    except (TypeError, ValueError, UnsupportedAlgorithm):
        raise ValueError("is no private key in PEM, without a password") from None
    private: _Private
    if key.algorithm is Algorithm.RSA and isinstance(found, RSAPrivateKey):
        if found.key_size < _LEAST_RSA_BITS:
            raise ValueError(f"has {found.key_size} bits; verifiers want {_RSA_BITS}")
        private = _Rsa(found)
    elif key.algorithm is Algorithm.ED25519 and isinstance(found, Ed25519PrivateKey):
        private = _Ed25519(found)
    else:
        raise ValueError(f"is no key for {key.algorithm}")
    return SigningKey(key.domain, key.selector, key.algorithm, private)


def sign(raw: bytes, keys: Sequence[SigningKey], *, signed_at_s: int) -> bytes:
    """Return the DKIM-Signature fields to put before *raw*, one for each of *keys*."""
    head, _, body = raw.partition(b"\r\n\r\n")
    fields = _parse_fields(head)
    names = list(_choose_names([name for name, _ in fields]))
    signed = b"".join(_take_fields(fields, names))
    body_hash = _hash_body(body)
    return b"".join(_sign_with(key, names, signed, body_hash, signed_at_s) for key in keys)


def _sign_with(
    key: SigningKey, names: Sequence[bytes], signed: bytes, body_hash: bytes, signed_at_s: int
) -> bytes:
    tags = [
        f"v=1; a={key.algorithm}; c=relaxed/relaxed; d={key.domain};",
        f"s={key.selector}; t={signed_at_s};",
        *_fold_names(names),
        f"bh={body_hash.decode()};",
        "b=",
    ]
    field = f"DKIM-Signature: {tags[0]}\r\n " + "\r\n ".join(tags[1:])
    last = _relax(b"dkim-signature", field.encode().partition(b":")[2])
    signature = base64.b64encode(key.private.sign(signed + last.removesuffix(b"\r\n"))).decode()
    pieces = [signature[at : at + _LINE] for at in range(0, len(signature), _LINE)]
    return (field + "\r\n ".join(pieces) + "\r\n").encode()


def _fold_names(names: Sequence[bytes]) -> Iterator[str]:
    line = "h="
    for place, name in enumerate(names):
        word = name.decode() + (";" if place == len(names) - 1 else ":")
        if len(line) + len(word) > _LINE:
            yield line
            line = ""
        line += word
    yield line


# Canonical forms (RFC 6376 3.4.2, 3.4.4)


def _parse_fields(head: bytes) -> list[tuple[bytes, bytes]]:
    """Return the header's fields in order: name in lower case, canonical form of the whole."""
    fields = []
    for line in _FOLD.sub(b"", head).split(b"\r\n"):
        name, _, value = line.partition(b":")
        name = name.strip(b" \t").lower()
        fields.append((name, _relax(name, value)))
    return fields


def _relax(name: bytes, value: bytes) -> bytes:
    value = _SPACES.sub(b" ", value.replace(b"\r\n", b"")).strip(b" ")
    return b"%b:%b\r\n" % (name, value)


def _choose_names(there: Sequence[bytes]) -> Iterator[bytes]:
    for name in _ALWAYS:
        yield from (name,) * (there.count(name) + 1)
    for name in _WHEN_THERE:
        if name in there:
            yield from (name,) * (there.count(name) + 1)


def _take_fields(
    fields: Sequence[tuple[bytes, bytes]], names: Sequence[bytes]
) -> Iterator[bytes]:
    """Yield what *names* stand for: of several fields the lowest first (section 5.4.2)."""
    left: dict[bytes, list[bytes]] = {}
    for name, whole in fields:
        left.setdefault(name, []).append(whole)
    for name in names:
        if left.get(name):
            yield left[name].pop()


def _hash_body(body: bytes) -> bytes:
    digest = hashlib.sha256()
    for piece in _relax_body(body):
        digest.update(piece)
    return base64.b64encode(digest.digest())


def _relax_body(body: bytes) -> Iterator[bytes]:
    """Yield the canonical form of *body* in pieces that begin and end with lines."""
    start, is_empty = 0, True
    kept = b""  # line ends that count only if something follows
    while start < len(body):
        end = body.find(b"\r\n", start + _CHUNK)
        end = len(body) if end < 0 else end + 2
        piece = _SPACES.sub(b" ", body[start:end]).replace(b" \r\n", b"\r\n")
        if end == len(body):
            piece = piece.removesuffix(b" ")
        filled = piece.rstrip(b"\r\n")
        if filled:
            yield kept + filled
            kept, is_empty = piece[len(filled) :], False
        else:
            kept += piece
        start = end
    if not is_empty:
        yield b"\r\n"


# Records


def build_record(key: DomainKey) -> str:
    """Return what the TXT record of a key says."""
    return f"v=DKIM1; k={_KINDS[key.algorithm]}; p={key.public}"


def build_name(key: DomainKey) -> str:
    """Return where the TXT record of a key is."""
    return f"{key.selector}._domainkey.{key.domain}"


def write_record(name: str, text: str) -> str:
    """Return a line for a zone file; a long text is in several strings, which are one."""
    pieces = [text[at : at + _RECORD_PIECE] for at in range(0, len(text), _RECORD_PIECE)]
    return f"{name}. IN TXT " + " ".join(f'"{piece}"' for piece in pieces)


def find_record_fault(key: DomainKey, found: Sequence[str]) -> str:
    """Say what is wrong with the TXT records that were found for *key*; empty: nothing."""
    records = [_parse_tags(text) for text in found if "p=" in text.replace(" ", "")]
    if len(records) != 1:
        return f"there are {len(records)} records" if records else "there is no record"
    tags = records[0]
    kind, wanted = tags.get("k", "rsa"), _KINDS[key.algorithm]
    faults = {
        f"it is of version {shorten(tags.get('v'))}": tags.get("v", "DKIM1") != "DKIM1",
        "it revokes the key: p is empty": not tags["p"],
        f"it is for {shorten(kind)}, not {wanted}": kind != wanted,
        "it has another key": tags["p"] != key.public,
        "it does not allow sha256 (h=)": "sha256" not in tags.get("h", "sha256").split(":"),
        "it says that the domain only tests (t=y)": "y" in tags.get("t", "").split(":"),
    }
    return next((fault for fault, is_so in faults.items() if is_so), "")


def _parse_tags(text: str) -> dict[str, str]:
    """Return the tags of a record, spaces removed (RFC 6376 3.2, 3.6.1)."""
    tags: dict[str, str] = {}
    for part in text.split(";"):
        name, found, value = part.partition("=")
        if found:
            tags.setdefault(name.strip(), "".join(value.split()))
    return tags
