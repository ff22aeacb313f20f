"""The document of `golfpack verify`: one check after the other."""

from dataclasses import dataclass, field
from typing import Literal

from golfpack.base.documents import (
    SCHEMA_VERSION,
    versions,
)

# "differs" is no fault of the file: other software may write other bytes for the same tensors.
Status = Literal["ok", "failed", "differs", "skipped"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: "frame", "stream codes", "tensors", ...
        status: "differs" where this software would write other bytes for the same tensors, "skipped"
            where an earlier check failed, so that there was nothing to look at.
        detail: what was found, in words.
    """

    name: str
    status: Status
    detail: str


@dataclass(frozen=True)
class VerifyReport:
    """What `golfpack verify` found.

    Attributes:
        path: of the file.
        bytes: its size.
        sha256: of all of them, as they are.
        report: the build report it was held to; None without.
        against: the checkpoint it was held to; None without.
        passed: whether no check failed.
        checks: in the order in which they were made.
    """

    path: str
    bytes: int
    sha256: str
    report: str | None
    against: str | None
    passed: bool
    checks: list[Check]
    versions: dict[str, str] = field(default_factory=versions)
    schema_version: int = SCHEMA_VERSION
