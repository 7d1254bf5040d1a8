"""A request as people read it: no secret, nothing endless, and everything else."""

import json

from emailerctl.providers.http_legible import MASK, show_body, show_head


def mask(text: str) -> str:
    return text.replace("s3cret", MASK)


def test_of_credentials_the_scheme_is_shown() -> None:
    headers = {
        "Authorization": "Basic dTpzM2NyZXQ=",
        "authorization": "s3cret-key-alone",
        "X-Postmark-Server-Token": "s3cret",
        "Content-Type": "application/json",
    }

    assert show_head(headers, mask) == (
        f"Authorization: Basic {MASK}",
        f"authorization: {MASK}",
        f"X-Postmark-Server-Token: {MASK}",
        "Content-Type: application/json",
    )


def test_json_is_indented_and_its_long_strings_are_cut() -> None:
    body = {"Subject": "Grüße", "Attachments": [{"Content": "A" * 1000}], "To": None, "n": 1}
    shown = json.loads(show_body(json.dumps(body).encode(), mask))

    assert (shown["Subject"], shown["To"], shown["n"]) == ("Grüße", None, 1)
    (file,) = shown["Attachments"]
    assert file["Content"] == "A" * 160 + "… (1000 characters)"


def test_anything_else_is_text_and_bounded() -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="to"\r\n\r\nann@example.org\r\n--x--'

    assert show_body(form, mask).splitlines()[-2:] == ["ann@example.org", "--x--"]
    assert show_body(b"\xff s3cret", mask) == f"� {MASK}"
    many = show_body(json.dumps([str(n) for n in range(100_000)]).encode(), mask)
    assert len(many) < 6100
    assert many.endswith("characters more")
