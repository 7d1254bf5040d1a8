"""`emailerctl.django` with the real Django, and `emailerctl.testing`, whose API it sends to."""

import email
import subprocess
import sys
from email.message import EmailMessage as StandardMessage
from email.mime.image import MIMEImage
from email.policy import default
from typing import TYPE_CHECKING, Any

import django.conf
import pytest
from django.core import mail
from django.core.mail import EmailMessage, EmailMultiAlternatives, get_connection

from emailerctl.client import NoAnswer, Refused
from tests.api.cutting import CuttingProxy

if TYPE_CHECKING:
    from emailerctl.testing import Outbox

pytest_plugins = ["emailerctl.testing"]

HEADERS = ("From", "To", "Cc", "Reply-To", "X-A")
pytestmark = pytest.mark.timeout(120)
PNG = b"\x89PNG\r\n\x1a\n" + b"x" * 20


@pytest.fixture(autouse=True)
def settings(outbox: "Outbox", monkeypatch: pytest.MonkeyPatch) -> None:
    """Django's settings, as an application has them."""
    if not django.conf.settings.configured:
        django.conf.settings.configure(
            EMAIL_BACKEND="emailerctl.django.EmailBackend",
            DEFAULT_FROM_EMAIL="Shop <shop@example.org>",
            USE_I18N=False,
        )
    monkeypatch.setattr(django.conf.settings, "EMAILER_URL", outbox.url, raising=False)
    monkeypatch.setattr(django.conf.settings, "EMAILER_TOKEN", outbox.token, raising=False)


def describe(message: StandardMessage) -> dict[str, Any]:
    """Return what a reader of the message sees."""
    bodies = {kind: message.get_body((kind,)) for kind in ("plain", "html")}
    return {
        **{
            name: str(message.get(name, "")) for name in ("From", "To", "Cc", "Reply-To", "X-A")
        },
        "subject": str(message["Subject"]),
        **{kind: part.get_content().strip() for kind, part in bodies.items() if part},
        "files": [
            (part.get_filename(), part.get_content_type(), part.get_content())
            for part in message.iter_attachments()
            if part.get_filename() != "logo.png"
        ],
    }


def test_send_mail(outbox: "Outbox") -> None:
    sent = mail.send_mail(
        "Grüße", "Hello", None, ["Ann <ann@example.org>"], html_message="<p>Hello</p>"
    )

    assert (sent, len(outbox)) == (1, 1)
    assert outbox[0].subject == "Grüße"
    assert (outbox[0].text.strip(), outbox[0].html.strip()) == ("Hello", "<p>Hello</p>")
    assert outbox[0].recipients == ("ann@example.org",)
    assert str(outbox[0].message["From"]) == "Shop <shop@example.org>"
    assert outbox.client.load(outbox[0].id)["state"] == "queued"


def test_it_sends_what_django_would(outbox: "Outbox") -> None:
    message = EmailMultiAlternatives(
        "Your order",
        "Thank you",
        "Orders <orders@example.org>",
        ["ann@example.org", "Bob <bob@example.org>"],
        ["bcc@example.org"],
        cc=["cc@example.org"],
        headers={"Reply-To": "Help <help@example.org>, b@example.org", "X-A": "b"},
    )
    message.attach_alternative("<p>Thank <img src='cid:logo'></p>", "text/html")
    message.attach("terms.txt", "größer", "text/plain")
    message.attach("invoice.pdf", b"%PDF-1.7", "application/pdf")
    logo = MIMEImage(PNG)
    logo.add_header("Content-ID", "<logo>")
    logo.add_header("Content-Disposition", "inline", filename="logo.png")
    message.attach(logo)
    message.emailer = {"tags": ["order"], "metadata": {"order": "4711"}}
    theirs = email.message_from_bytes(message.message().as_bytes(), policy=default)

    assert message.send() == 1
    [sent] = outbox.messages
    assert describe(sent.message) == describe(theirs)
    assert sent.recipients == (
        "ann@example.org",
        "bob@example.org",
        "cc@example.org",
        "bcc@example.org",
    )
    assert "bcc@example.org" not in sent.message.as_string()
    assert (sent.tags, sent.metadata) == (("order",), {"order": "4711"})
    parts = {part.get_content_type(): part for part in sent.message.walk()}
    assert parts["image/png"]["Content-ID"] == "<logo>"


def test_html_alone_and_one_connection_for_many(outbox: "Outbox") -> None:
    page = EmailMessage("s", "<p>Hi</p>", to=["ann@example.org"])
    page.content_subtype = "html"
    alone = EmailMultiAlternatives("s", "", to=["ann@example.org"])
    alone.attach_alternative("<p>Hi</p>", "text/html")
    with get_connection() as connection:
        assert connection.send_messages([page, alone]) == 2
        assert connection.open() is False

    assert [(one.text, one.html.strip()) for one in outbox.messages] == [("", "<p>Hi</p>")] * 2
    assert get_connection().send_messages([]) == 0
    assert EmailMessage("s", "b").send() == 0


def test_a_refusal_is_raised_unless_it_shall_be_silent(outbox: "Outbox") -> None:
    wrong = EmailMessage("s", "b", to=["nobody"])
    with pytest.raises(Refused, match="nobody"):
        wrong.send()
    assert EmailMessage("s", "b", to=["nobody"]).send(fail_silently=True) == 0

    calendar = EmailMultiAlternatives("s", "b", to=["ann@example.org"])
    calendar.attach_alternative("BEGIN:VCALENDAR", "text/calendar")
    with pytest.raises(ValueError, match="text/calendar"):
        calendar.send()
    forwarded = EmailMessage("s", "b", to=["ann@example.org"])
    forwarded.attach("a.eml", EmailMessage("inner", "text"), "message/rfc822")
    with pytest.raises(Refused, match="application/octet-stream"):
        forwarded.send()
    assert len(outbox) == 0


def test_the_next_try_of_a_message_is_the_same_message(outbox: "Outbox") -> None:
    """F-IN-15: no answer came, and Django's caller tries again; sent twice it is two."""
    port = int(outbox.url.rpartition(":")[2])
    message = EmailMessage("s", "b", to=["ann@example.org"])
    with CuttingProxy(port, seed=1, chance=1.0, down_octets=20) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        message.connection = get_connection(url=url, timeout=0.01)
        with pytest.raises(NoAnswer):
            message.send()
    message.connection = None

    assert message.send() == 1
    assert len(outbox) == 1
    assert message.send() == 1
    assert len(outbox) == 2


def test_django_is_looked_for_when_it_is_used() -> None:
    code = (
        "import sys; sys.modules['django'] = None\n"
        "from emailerctl.django import EmailBackend\n"
        "try: EmailBackend()\nexcept ModuleNotFoundError: print('later')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert done.stdout == "later\n"


def test_an_outbox_begins_with_nothing(outbox: "Outbox") -> None:
    assert outbox.messages == []
    first = outbox.client.send(from_="a@example.org", to="b@example.org", subject="1", text="t")
    outbox.client.send(from_="a@example.org", to="b@example.org", subject="2", text="t")

    assert [one.subject for one in outbox.messages] == ["1", "2"]
    assert (outbox[0].id, outbox[0].html, len(outbox)) == (first.id, "", 2)
