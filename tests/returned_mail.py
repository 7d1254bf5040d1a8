"""The corpus of mail that comes back (tests/fixtures/bounces), filled in."""

from pathlib import Path

FOLDER = Path(__file__).parent / "fixtures" / "bounces"
NAMES = sorted(path.stem for path in FOLDER.glob("*.eml"))


def fill(
    name: str,
    *,
    path: str = "bounces@example.org",
    message_id: str = "somebody-else@example.net",
    to: str = "ann@example.org",
    envelope_id: str = "",
) -> bytes:
    """Return a message of the corpus as it would arrive, with CRLF."""
    text = (FOLDER / f"{name}.eml").read_text(encoding="utf-8")
    if not envelope_id:
        text = text.replace("Original-Envelope-Id: @ENVID@\n", "")
    text = text.replace("@ENVID@", envelope_id)
    text = text.replace("@PATH@", path).replace("@ID@", message_id).replace("@TO@", to)
    return text.replace("\n", "\r\n").encode()
