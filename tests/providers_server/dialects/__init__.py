"""What the fake provider server speaks: one file a provider, one line here."""

from tests.providers_server.dialects import (
    brevo,
    mailgun,
    mailjet,
    postmark,
    resend,
    sendgrid,
    ses,
    sparkpost,
)
from tests.providers_server.dialects.base import Dialect

DIALECTS: dict[str, Dialect] = {
    "mailgun": mailgun.DIALECT,
    "postmark": postmark.DIALECT,
    "brevo": brevo.DIALECT,
    "sparkpost": sparkpost.DIALECT,
    "mailjet": mailjet.DIALECT,
    "resend": resend.DIALECT,
    "sendgrid": sendgrid.DIALECT,
    "ses": ses.DIALECT,
}
