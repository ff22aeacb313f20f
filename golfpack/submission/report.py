"""The document of `golfpack export --submission`."""

from dataclasses import dataclass, field

from golfpack.base.documents import SCHEMA_VERSION, versions


@dataclass(frozen=True)
class SubmissionReport:
    """A folder in the challenge's form.

    Attributes:
        folder: where it is.
        artifact_bytes, script_bytes: of `model.golf` and `train_gpt.py`.
        code_bytes: of all that counts but the artifact.
        total_bytes: artifact and code.
        budget_bytes, headroom_bytes: what they may be together, and what is left of it.
        artifact_sha256, script_sha256: of these files.
        checkpoint_sha256: of the float model; None where none was given.
        ttt: test-time training of the script, by name.
        logs: files in `logs/`.
        val_loss, val_bpb: mean over the evaluations among the logs; None without.
        val_bpb_std: their spread (n - 1), of two or more.
        warnings: what is to be said of it.
    """

    folder: str
    artifact_bytes: int
    script_bytes: int
    code_bytes: int
    total_bytes: int
    budget_bytes: int
    headroom_bytes: int
    artifact_sha256: str
    script_sha256: str
    checkpoint_sha256: str | None
    ttt: str
    logs: list[str]
    val_loss: float | None
    val_bpb: float | None
    val_bpb_std: float | None
    warnings: list[str]
    versions: dict[str, str] = field(default_factory=versions)
    schema_version: int = SCHEMA_VERSION
