"""What the fake provider server speaks: one file a provider, one line here."""

from tests.providers_server.dialects import mailgun, postmark, resend, sendgrid, ses
from tests.providers_server.dialects.base import Dialect

DIALECTS: dict[str, Dialect] = {
    "mailgun": mailgun.DIALECT,
    "postmark": postmark.DIALECT,
    "resend": resend.DIALECT,
    "sendgrid": sendgrid.DIALECT,
    "ses": ses.DIALECT,
}
