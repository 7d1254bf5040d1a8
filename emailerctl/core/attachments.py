"""Attachments as a caller may send them (T-11): strict base64, safe names, no executables.

Content is never unpacked or looked into; the lists are about names and declared types.
"""

import binascii
import re
import unicodedata

from emailerctl.models.text import parse_line, parse_text, shorten

FILENAME_OCTETS = 255
OCTET_STREAM = "application/octet-stream"

# What the big mailbox providers refuse to take, because opening it runs it
# (https://support.google.com/mail/answer/6590, read 2026-11-20).
_EXECUTABLE_EXTENSIONS = frozenset(
    """
    ade adp apk appx appxbundle bat cab chm cmd com cpl diagcab diagcfg diagpkg dll dmg ex ex_
    exe hta img ins iso isp jar jnlp js jse lib lnk mde mjs msc msi msix msixbundle msp mst nsh
    pif ps1 psm1 reg scr sct shb sys url vb vbe vbs vhd vxd wsc wsf wsh xll
    """.split()  # noqa: SIM905  (a list of 60 lines reads worse)
)
_EXECUTABLE_TYPES = frozenset(
    {
        "application/hta",
        "application/java-archive",
        "application/javascript",
        "application/vnd.android.package-archive",
        "application/vnd.microsoft.portable-executable",
        "application/x-dosexec",
        "application/x-executable",
        "application/x-java-archive",
        "application/x-javascript",
        "application/x-ms-installer",
        "application/x-ms-shortcut",
        "application/x-msdos-program",
        "application/x-msdownload",
        "application/x-msi",
        "application/x-sh",
        "text/javascript",
        "text/vbscript",
    }
)

_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`{|}~-]+"  # RFC 2045 5.1  # noqa: S105
_CONTENT_TYPE = re.compile(
    rf'({_TOKEN}/{_TOKEN})((?: ?; ?{_TOKEN}=(?:{_TOKEN}|"[ !#-\[\]-~]*"))*)'
)
_CONTENT_TYPE_OCTETS = 200
_OUR_PARAMETERS = re.compile(r"; ?(?:boundary|name|filename)[*=]", re.IGNORECASE)
_CONTENT_ID = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+(?:@[A-Za-z0-9.-]+)?")
_CONTENT_ID_OCTETS = 120

# Not `mimetypes`: it reads the machine's own tables, and the bytes would depend on them.
_TYPE_BY_SUFFIX = {
    "csv": "text/csv",
    "doc": "application/msword",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "gif": "image/gif",
    "gz": "application/gzip",
    "htm": "text/html",
    "html": "text/html",
    "ics": "text/calendar",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "json": "application/json",
    "md": "text/markdown",
    "mp3": "audio/mpeg",
    "mp4": "video/mp4",
    "ods": "application/vnd.oasis.opendocument.spreadsheet",
    "odt": "application/vnd.oasis.opendocument.text",
    "pdf": "application/pdf",
    "png": "image/png",
    "ppt": "application/vnd.ms-powerpoint",
    "pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    "rtf": "application/rtf",
    "svg": "image/svg+xml",
    "txt": "text/plain",
    "vcf": "text/vcard",
    "webp": "image/webp",
    "xls": "application/vnd.ms-excel",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "xml": "application/xml",
    "zip": "application/zip",
}


def parse_content(value: object) -> bytes:
    """Return the bytes that *value* is the base64 of (RFC 4648 4: padded, without line breaks).

    Raises:
        ValueError: it is not; the sentence says why.
    """
    text = parse_text(value)
    if len(text) % 4:  # which the strict mode of some versions of Python overlooks
        raise ValueError(
            f"{shorten(text)} is not base64: its length is no multiple of 4; send the padding"
        )
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:  # binascii.Error is one
        reason = str(error) if isinstance(error, binascii.Error) else "not ASCII"
        raise ValueError(
            f"{shorten(text)} is not base64: {reason}; use the alphabet of RFC 4648 section 4 "
            "with its padding, and no line breaks"
        ) from None


def parse_filename(value: object) -> str:
    """Return *value* if it is a name that is safe to save a file under.

    Raises:
        ValueError: it is not; the sentence says why.
    """
    name = parse_line(value)
    is_trimmed = name == name.strip(" ") and not name.endswith(".")
    if not name.strip(".") or not is_trimmed or name.startswith(".."):
        raise ValueError(
            f"{shorten(name)} is not a file name; it can't be empty, begin with a space or two "
            "dots, or end with a space or a dot"
        )
    if "/" in name or "\\" in name:
        raise ValueError(f"{shorten(name)} names a folder; send the last part alone")
    if len(name.encode()) > FILENAME_OCTETS:
        raise ValueError(f"{shorten(name)} is longer than {FILENAME_OCTETS} octets")
    suffix = _suffix(name)
    if suffix in _EXECUTABLE_EXTENSIONS:
        raise ValueError(
            f"{shorten(name)} is executable (.{suffix}), which mailbox providers refuse; "
            "offer it as a link"
        )
    return name


def parse_content_type(value: object) -> str:
    """Return *value* if it is the media type of a file (RFC 2045 5.1), without our parameters.

    Raises:
        ValueError: it is not; the sentence says why.
    """
    text = parse_text(value)
    match = _CONTENT_TYPE.fullmatch(text) if len(text) <= _CONTENT_TYPE_OCTETS else None
    if match is None:
        raise ValueError(
            f"{shorten(text)} is not a media type; write it like application/pdf or "
            "text/csv; charset=utf-8"
        )
    media_type = match[1].lower()
    if media_type.startswith(("multipart/", "message/")):
        raise ValueError(
            f"{shorten(text)} has a structure of its own; send the file as {OCTET_STREAM}"
        )
    if media_type in _EXECUTABLE_TYPES:
        raise ValueError(
            f"{shorten(text)} is executable, which mailbox providers refuse; offer it as a link"
        )
    if _OUR_PARAMETERS.search(match[2]):
        raise ValueError(
            f"{shorten(text)} has a parameter that we write (boundary, name, filename); "
            'the name goes into "filename"'
        )
    return text


def parse_content_id(value: object) -> str:
    """Return *value* if it is a content id (RFC 2392) without angle brackets.

    Raises:
        ValueError: it is not; the sentence says why.
    """
    text = parse_text(value)
    if len(text) > _CONTENT_ID_OCTETS or not _CONTENT_ID.fullmatch(text):
        raise ValueError(
            f"{shorten(text)} is not a content id; write it as in the HTML after cid:, "
            'like "logo" or "logo@example.org", without angle brackets'
        )
    return text


def guess_content_type(filename: str) -> str:
    """Return the media type that *filename*'s extension stands for."""
    return _TYPE_BY_SUFFIX.get(_suffix(filename), OCTET_STREAM)


def _suffix(filename: str) -> str:
    """Return the extension as a file manager would see it: full-width letters are letters."""
    return unicodedata.normalize("NFKC", filename).lower().rpartition(".")[2].strip(" .")
