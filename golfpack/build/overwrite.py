"""What a build may replace: the artifact of the same checkpoint with its report, and nothing else."""

from pathlib import Path

from golfpack.base.files import file_sha256
from golfpack.build.reportfile import read_build_report, report_beside
from golfpack.errors import UsageError
from golfpack.packer.format.loader import is_artifact


def check_replaceable(artifact: Path, checkpoint_sha256: str, *, force: bool) -> None:
    """Refuse to build over what another build would have to make again, or none can.

    Args:
        artifact: to be written, with its report beside it.
        checkpoint_sha256: of the checkpoint that is built.
        force: replace whatever is there.

    Raises:
        UsageError: one of the two files exists and is not of this checkpoint.
    """
    found = None if force else _stranger(artifact, checkpoint_sha256)
    if found is not None:
        raise UsageError(found, "choose another --output, or add --force to replace what is there")


def other_checkpoint(artifact: Path, checkpoint_sha256: str) -> str | None:
    """That the report of `artifact` names another checkpoint; None where it does not, or says nothing.

    An artifact does not say of which checkpoint it is, the report beside it does.
    """
    report = report_beside(artifact)
    try:
        told = read_build_report(report)
    except UsageError:
        return None
    if told["checkpoint_sha256"] == checkpoint_sha256:
        return None
    return (
        f"{artifact if artifact.exists() else report} is of another checkpoint: "
        f"{told.get('checkpoint')}, sha256 {told['checkpoint_sha256'][:16]}; this one has "
        f"{checkpoint_sha256[:16]}"
    )


def _stranger(artifact: Path, checkpoint_sha256: str) -> str | None:
    """Why what lies at `artifact`, or at its report, is not of a checkpoint; None: it is, or is new."""
    report = report_beside(artifact)
    if not artifact.exists() and not report.exists():
        return None
    if not report.exists():
        if not is_artifact(artifact):
            return f"{artifact} exists and is no artifact"
        return f"{artifact} exists, and no {report.name} beside it says of which checkpoint it is"
    try:
        told = read_build_report(report)
    except UsageError:
        return f"{report} exists and is no report of a build"
    if artifact.exists() and file_sha256(artifact) != told["artifact_sha256"]:
        return f"{artifact} exists and is not the artifact that {report.name} describes"
    return other_checkpoint(artifact, checkpoint_sha256)
