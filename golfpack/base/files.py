"""Files, whole or not at all."""

import hashlib
import os
import tempfile
from pathlib import Path

from golfpack.errors import UsageError

# What every artifact begins with: its reader asks for it, and readers of checkpoints name it.
ARTIFACT_MAGIC = b"GOLF"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file through a temporary one beside it and a rename.

    Raises:
        UsageError: the folder is missing or cannot be written, the disk is full, or `path` is a
            folder.
    """
    try:
        fd, temp = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
            os.chmod(temp, 0o644)  # mkstemp makes files only their owner can read
            os.replace(temp, path)
        except BaseException:
            # A signal may come when the file has its name already.
            Path(temp).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UsageError(
            f"cannot write {path}: {error.strerror}", "check the folder and the space on its disk"
        ) from error


def make_folder(path: Path) -> None:
    """Make a folder for results, with those above it. Raises UsageError where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot make the folder {path}: {error.strerror}", "choose another"
        ) from error


def file_sha256(path: Path) -> str:
    """Of a file's bytes, hex. Raises OSError where it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
