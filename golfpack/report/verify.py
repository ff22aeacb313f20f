"""The document of `golfpack verify`: one check after the other."""

from dataclasses import dataclass, field
from typing import Literal

from golfpack.report.reports import SCHEMA_VERSION, versions

# "differs" is no fault of the file: other software may write other bytes for the same tensors.
Status = Literal["ok", "failed", "differs", "skipped"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: "frame", "stream codes", "tensors", ...
        status: "skipped" where an earlier check failed, so that there was nothing to look at.
        detail: what was found, in words.
    """

    name: str
    status: Status
    detail: str


@dataclass(frozen=True)
class VerifyReport:
    """What `golfpack verify` found.

    Attributes:
        sha256: of the whole file as it is.
        report, against: the build report and the checkpoint it was held against; None without.
        passed: whether no check failed.
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
