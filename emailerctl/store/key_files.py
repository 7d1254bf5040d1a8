"""Private keys: a file for each, 0600, in a folder of its domain.  None is in the store."""

import contextlib
import os
from pathlib import Path

from emailerctl.errors import StoreUnusable

_SUFFIX = ".pem"


class KeyFiles:
    """The folder of the private keys.

    Args:
        folder: made when the first key is written.
        like: whose owner the files get, where root writes them: the store, which the daemons
            can read.
    """

    def __init__(self, folder: Path, *, like: Path) -> None:
        """Remember where; nothing is read yet."""
        self.folder = folder
        self._like = like

    def find_path(self, domain: str, selector: str) -> Path:
        """Return where a key is; names have no dot at either end, nor a slash."""
        return self.folder / domain / f"{selector}{_SUFFIX}"

    def write(self, domain: str, selector: str, pem: bytes) -> Path:
        """Write a key that is not there yet, and let it reach the disk.

        Raises:
            StoreUnusable: the folder can't be written.
        """
        path = self.find_path(domain, selector)
        try:
            for folder in (self.folder, path.parent):
                if not folder.is_dir():
                    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                    self._give(folder)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(pem)
                file.flush()
                os.fsync(file.fileno())
            self._give(path)
            _sync(path.parent)
        except OSError as error:
            raise StoreUnusable(
                f"the key can't be written to {path}: {error.strerror}",
                hint="check the folder's permissions, or set [dkim] keys",
            ) from error
        return path

    def read(self, domain: str, selector: str) -> bytes:
        """Return a key.

        Raises:
            OSError: it can't be read.
        """
        return self.find_path(domain, selector).read_bytes()

    def remove(self, domain: str, selector: str) -> None:
        """Remove a key, and the folder of its domain where it was the last one."""
        path = self.find_path(domain, selector)
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            path.parent.rmdir()

    def _give(self, path: Path) -> None:
        if os.geteuid() == 0:
            owner = self._like.stat()
            os.chown(path, owner.st_uid, owner.st_gid)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
