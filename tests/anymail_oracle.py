"""Compare our requests with those that django-anymail builds for the same message.

    python -m venv VENV && VENV/bin/pip install "django-anymail[amazon-ses]==15.2"
    python -m tests.anymail_oracle VENV/bin/python

Django and our own dependencies need not get along, so it is asked in an environment of its own:
this file runs there too, with `--ask`.  Every difference is listed below with its reason; any
other one, and one that is listed and not there, ends with exit code 1.
"""

import base64
import json
import subprocess
import sys
from dataclasses import dataclass, field
from email.utils import getaddresses
from io import BytesIO
from pathlib import Path
from typing import Any

MESSAGE: dict[str, Any] = {
    "from": ["ann@example.org", "Ann Müller"],
    "to": [["bob@example.org", "Bob"], ["cleo@example.org", ""]],
    "cc": [["dan@example.org", "Dän, Esq."]],
    "bcc": [["eve@example.org", ""]],
    "reply_to": [["help@example.org", "Help"]],
    "subject": "Grüße an alle",
    "text": "Hallo Wörld\n",
    "html": '<p>Hallo <img src="cid:logo@example.org"></p>\n',
    "headers": {"X-Ticket": "17"},
    "file": ["report.pdf", "application/pdf", "AFBERg=="],
    "image": ["logo.png", "image/png", "iVBORw==", "logo@example.org"],
    "tag": "welcome",
    "metadata": {"order": "17"},
}


@dataclass(frozen=True)
class Compared:
    """One provider: anymail's backend and settings, our settings, and what differs, and why."""

    backend: str
    anymail: dict[str, Any]
    ours: dict[str, Any]
    reasons: dict[str, str] = field(default_factory=dict)


_OUR_ID = "our id travels along, so that a report can answer an attempt without a reply"
_IN_MIME = "is in `message`: the raw endpoint takes our bytes as they are, Message-ID included"
_AS_TAGS = "as tags, which come back with reports; anymail writes headers that recipients see"

COMPARED = {
    "postmark": Compared(
        backend="anymail.backends.postmark.EmailBackend",
        anymail={"POSTMARK_SERVER_TOKEN": "token"},
        ours={"server_token": "token"},
        reasons={
            "Metadata.emailer_id": _OUR_ID,
            "Metadata.emailer_attempt": _OUR_ID,
            "Headers.Message-ID": "the same Message-ID on every attempt (delivery.md §4.4)",
            "Headers.X-PM-KeepID": "keeps it",
            "MessageStream": "a setting of ours; anymail leaves it to Postmark's default",
        },
    ),
    "mailgun": Compared(
        backend="anymail.backends.mailgun.EmailBackend",
        anymail={"MAILGUN_API_KEY": "key", "MAILGUN_SENDER_DOMAIN": "mg.example.org"},
        ours={"api_key": "key", "domain": "mg.example.org"},
        reasons={
            "v:emailer_id": _OUR_ID,
            "v:emailer_attempt": _OUR_ID,
            "url": "messages.mime instead of messages",
            "message": "the raw message itself",
            "to": "the envelope: everybody, without names; the header is in `message`",
            **dict.fromkeys(
                ("from", "cc", "subject", "text", "html", "attachment", "inline"), _IN_MIME
            ),
            **dict.fromkeys(("h:Reply-To", "h:X-Ticket"), _IN_MIME),
            "bcc": "is among `to`, and in no header",
        },
    ),
    "resend": Compared(
        backend="anymail.backends.resend.EmailBackend",
        anymail={"RESEND_API_KEY": "key"},
        ours={"api_key": "key"},
        reasons={
            "tags": _AS_TAGS,
            "headers.X-Tags": _AS_TAGS,
            "headers.X-Metadata": _AS_TAGS,
        },
    ),
    "sendgrid": Compared(
        backend="anymail.backends.sendgrid.EmailBackend",
        anymail={"SENDGRID_API_KEY": "key"},
        ours={"api_key": "key"},
        reasons={
            "custom_args.emailer_id": _OUR_ID,
            "custom_args.emailer_attempt": _OUR_ID,
            "headers.Message-ID": "the same Message-ID on every attempt (delivery.md §4.4)",
            "personalizations": "anymail's own id is in there: custom_args.anymail_id",
        },
    ),
    "ses": Compared(
        backend="anymail.backends.amazon_ses.EmailBackend",
        anymail={
            "AMAZON_SES_CLIENT_PARAMS": {
                "aws_access_key_id": "AKIDEXAMPLE",
                "aws_secret_access_key": "secret",
                "region_name": "eu-west-1",
            },
            "AMAZON_SES_CONFIGURATION_SET_NAME": "events",
        },
        ours={
            "access_key_id": "AKIDEXAMPLE",
            "secret_access_key": "secret",
            "region": "eu-west-1",
            "configuration_set": "events",
        },
        reasons={
            "EmailTags": _AS_TAGS,
            "Content.Raw": "our bytes as they are; anymail's have headers of its own",
            "Destination.ToAddresses": "the envelope: everybody; the header is in Content.Raw",
            "Destination.CcAddresses": "is among ToAddresses, and in the header",
            "Destination.BccAddresses": "is among ToAddresses, and in no header",
            "authorization": "other bytes, and botocore signs at the present moment",
        },
    ),
}


ADDRESSES = {"from", "to", "cc", "bcc", "replyto"}

# In anymail's environment


def ask(kind: str) -> dict[str, Any]:
    """Return the request that anymail would send, flat."""
    import django
    from django.conf import settings

    compared = COMPARED[kind]
    settings.configure(ANYMAIL=compared.anymail, EMAIL_BACKEND=compared.backend)
    django.setup()
    from email.mime.image import MIMEImage

    from django.core.mail import EmailMultiAlternatives, get_connection

    message = EmailMultiAlternatives(
        subject=MESSAGE["subject"],
        body=MESSAGE["text"],
        from_email=write(*MESSAGE["from"]),
        to=[write(*one) for one in MESSAGE["to"]],
        cc=[write(*one) for one in MESSAGE["cc"]],
        bcc=[write(*one) for one in MESSAGE["bcc"]],
        reply_to=[write(*one) for one in MESSAGE["reply_to"]],
        headers=MESSAGE["headers"],
    )
    message.attach_alternative(MESSAGE["html"], "text/html")
    name, content_type, content = MESSAGE["file"]
    message.attach(name, base64.b64decode(content), content_type)
    name, content_type, content, content_id = MESSAGE["image"]
    image = MIMEImage(base64.b64decode(content), _subtype=content_type.partition("/")[2])
    image.add_header("Content-Disposition", "inline", filename=name)
    image.add_header("Content-ID", f"<{content_id}>")
    message.attach(image)
    message.tags = [MESSAGE["tag"]]
    message.metadata = MESSAGE["metadata"]
    connection = get_connection()
    connection.open()
    if kind == "ses":
        return ask_botocore(connection, message)
    payload = connection.build_message_payload(message, {})
    params = payload.get_request_params(connection.api_url)
    sent = connection.session.prepare_request(request_of(params))
    headers = {name.lower(): value for name, value in sent.headers.items()}
    body = sent.body.encode() if isinstance(sent.body, str) else sent.body
    return flatten(sent.method, sent.url, headers, body)


def ask_botocore(connection: Any, message: Any) -> dict[str, Any]:
    """Return what botocore is about to send: it is stopped there."""
    from botocore.awsrequest import AWSResponse
    from urllib3 import HTTPResponse

    caught: list[Any] = []

    def stop(request: Any, **_: Any) -> Any:
        caught.append(request)
        raw = HTTPResponse(body=BytesIO(b'{"MessageId": "x"}'), preload_content=False)
        return AWSResponse(request.url, 200, {}, raw)

    connection.client.meta.events.register("before-send.sesv2.SendEmail", stop)
    connection.send_messages([message])
    (sent,) = caught
    headers = {
        name.lower(): value.decode() if isinstance(value, bytes) else value
        for name, value in sent.headers.items()
    }
    return flatten(sent.method, sent.url, headers, sent.body)


def request_of(params: dict[str, Any]) -> Any:
    from requests import Request

    return Request(**{name: value for name, value in params.items() if name != "timeout"})


def write(address: str, name: str) -> str:
    escaped = name.replace('"', '\\"')
    return f'"{escaped}" <{address}>' if name else address


# In either


def flatten(method: str, url: str, headers: dict[str, str], body: bytes) -> dict[str, Any]:
    """Return a request as one level of names and values that can be compared."""
    flat: dict[str, Any] = {"method": method, "url": url}
    flat |= {
        name: headers[name]
        for name in headers
        if (name.startswith("x-") and name != "x-amz-date") or name == "authorization"
    }
    if headers["content-type"].startswith("application/json"):
        flat |= flatten_json(json.loads(body))
    else:
        for name, value in read_form(headers["content-type"], body):
            flat.setdefault(name, []).append(value)
    return flat


def flatten_json(message: dict[str, Any]) -> dict[str, Any]:
    """Return the fields, lists of names and values and one level of objects resolved."""
    flat: dict[str, Any] = {}
    for name, value in message.items():
        if name.lower() == "headers" and isinstance(value, list):
            flat |= {f"{name}.{h['Name']}": h["Value"] for h in value}
        elif isinstance(value, dict):
            flat |= {f"{name}.{inner}": one for inner, one in value.items()}
        elif name.lower().replace("_", "") in ADDRESSES and is_text(value):
            written = [value] if isinstance(value, str) else value
            flat[name] = [list(one) for one in getaddresses(written)]  # quoted or not
        elif isinstance(value, list):
            flat[name] = sorted(json.dumps(one, sort_keys=True) for one in value)
        else:
            flat[name] = value
    return flat


def is_text(value: Any) -> bool:
    listed = value if isinstance(value, list) else [value]
    return all(isinstance(one, str) for one in listed)


def read_form(content_type: str, body: bytes) -> list[tuple[str, str]]:
    """Return the parts of a form; of files, name and size."""
    from email import message_from_bytes, policy

    head = f"Content-Type: {content_type}\r\n\r\n".encode()
    whole = message_from_bytes(head + body, policy=policy.HTTP)
    fields = []
    for part in whole.iter_parts():
        name = str(part.get_param("name", header="content-disposition"))
        filename = part.get_filename()
        content = part.get_payload(decode=True) or b""
        fields.append((name, f"file {filename}" if filename else content.decode()))
    return fields


# In ours


def build(kind: str) -> dict[str, Any]:
    """Return the request that we would send, flat."""
    from emailerctl.core.mime import build_raw
    from emailerctl.models.clock import SystemClock
    from emailerctl.models.message import Attachment, Draft, EnvelopeRecipient, Mailbox
    from emailerctl.providers.base import Outgoing
    from emailerctl.providers.http import HttpNextHop
    from emailerctl.providers.http_client import Request
    from emailerctl.providers.registry import KINDS

    file, image = MESSAGE["file"], MESSAGE["image"]
    draft = Draft(
        header_from=Mailbox(*MESSAGE["from"]),
        to=tuple(Mailbox(*one) for one in MESSAGE["to"]),
        cc=tuple(Mailbox(*one) for one in MESSAGE["cc"]),
        reply_to=tuple(Mailbox(*one) for one in MESSAGE["reply_to"]),
        subject=MESSAGE["subject"],
        text=MESSAGE["text"],
        html=MESSAGE["html"],
        headers=MESSAGE["headers"],
        attachments=(
            Attachment(
                filename=file[0], content_type=file[1], content=base64.b64decode(file[2])
            ),
            Attachment(
                filename=image[0],
                content_type=image[1],
                content=base64.b64decode(image[2]),
                content_id=image[3],
                is_inline=True,
            ),
        ),
    )
    public_id = "msg_0C6K9QAAAAAAA"
    everybody = [*MESSAGE["to"], *MESSAGE["cc"], *MESSAGE["bcc"]]
    outgoing = Outgoing(
        message_id=1,
        public_id=public_id,
        attempt=1,
        envelope_sender="ann@example.org",
        recipients=tuple(EnvelopeRecipient(n, one[0]) for n, one in enumerate(everybody)),
        raw=build_raw(
            draft, message_id_header=f"<{public_id}@example.org>", date_ms=1_795_514_400_000
        ),
        needs_smtputf8=False,
        deadline_boot_ms=0,
        tags=(MESSAGE["tag"],),
        metadata=MESSAGE["metadata"],
    )
    settings = KINDS[kind].settings.model_validate({"kind": kind, **COMPARED[kind].ours})
    hop = KINDS[kind].build(kind, settings, 1, SystemClock()).provider
    assert isinstance(hop, HttpNextHop)
    request = hop.build(outgoing)
    assert isinstance(request, Request)
    headers = {name.lower(): value for name, value in request.headers.items()}
    url = hop.settings.base_url + request.path
    return flatten(request.method, url, headers, request.body)


def compare(kind: str, anymail_python: str) -> list[str]:
    """Return what differs and should not, and what should and does not."""
    command = [anymail_python, "-W", "ignore", str(Path(__file__)), "--ask", kind]
    asked = subprocess.run(command, check=True, capture_output=True, text=True)
    theirs, ours = json.loads(asked.stdout), json.loads(json.dumps(build(kind)))
    reasons = COMPARED[kind].reasons
    differing = {
        name for name in {*theirs, *ours} if theirs.get(name, "-") != ours.get(name, "-")
    }
    unexpected = [
        f"{kind} {name}: anymail {theirs.get(name)!r}, we {ours.get(name)!r}"
        for name in sorted(differing - reasons.keys())
    ]
    return unexpected + [
        f"{kind} {name}: no difference any more" for name in sorted(reasons.keys() - differing)
    ]


def main(arguments: list[str]) -> int:
    """Be the one or the other."""
    if arguments[:1] == ["--ask"]:
        sys.stdout.write(json.dumps(ask(arguments[1])))
        return 0
    faults = [fault for kind in COMPARED for fault in compare(kind, arguments[0])]
    sys.stdout.write("".join(f"{fault}\n" for fault in faults))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
