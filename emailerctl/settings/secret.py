"""Which settings are secrets, how they are read from files, and how they are shown."""

import re
import stat
from pathlib import Path

NAME = re.compile(r"[a-z0-9_-]{1,64}")

# In a next hop's table, whose settings are its adapter's business: the name tells.  A path such
# as `ca_file` is none: only these have a `_file` twin that is read here.
_SECRET = re.compile(
    r"(.+_)?(password|secret|token)|(api|signing|secret|access|account|server|hash)_key"
)
_LARGEST = 64 * 1024

# Container runtimes put secrets there, readable by all, in the container's own file system.
_MOUNTED = (Path("/run/secrets"), Path("/var/run/secrets"))

MASK = "********"


def is_secret(key: str) -> bool:
    """Return whether the setting of a next hop named *key* is a secret."""
    return _SECRET.fullmatch(key) is not None


def read_secret(path: Path) -> str:
    """Return the file's text without the line end that editors add.

    Raises:
        ValueError: the file can't be read, is empty, or others may read it.
    """
    try:
        with path.open("rb") as file:
            fault = find_exposure(path)
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise ValueError(f"can't read {path}: {error.strerror}") from error
    if fault:
        raise ValueError(fault)
    if len(content) > _LARGEST:
        raise ValueError(f"{path} is larger than {_LARGEST} bytes, which is no secret")
    try:
        text = content.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8") from error
    if not text:
        raise ValueError(f"{path} is empty")
    return text


def find_exposure(path: Path) -> str | None:
    """Return what is wrong with the mode of a file that holds a secret."""
    if any(path.absolute().is_relative_to(mount) for mount in _MOUNTED):
        return None
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        return f"{path} has mode {mode:04o}: others may read the secret in it; chmod 600 {path}"
    return None
