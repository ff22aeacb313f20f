"""`golfpack verify`: an artifact, or the folder of a submission."""

from dataclasses import dataclass
from pathlib import Path

from golfpack.base.convert import check_counts
from golfpack.base.progress import Notify, silent
from golfpack.errors import UsageError
from golfpack.inspect.verify import VerifyReport, verify
from golfpack.models.base import Family
from golfpack.submission.verify import Stretch, verify_submission


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What an artifact is held to; see `verify`."""

    report: Path | None = None
    against: Path | None = None
    settings: tuple[str, ...] = ()
    family: Family | None = None


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a submission's script is to score; see `Stretch`. Without tokens nothing runs."""

    tokens: str | None = None
    tokenizer: Path | None = None
    limit: int | None = None
    window: int | None = None
    stride: int | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        check_counts(limit=(self.limit, 2), window=(self.window, 1), stride=(self.stride, 1))
        check_counts(threads=(self.threads, 1))

    @property
    def stretch(self) -> Stretch | None:
        """None where nothing is to run. Raises UsageError where only half of what it takes is there."""
        if self.tokens is None and self.tokenizer is None:
            return None
        if self.tokens is None or self.tokenizer is None:
            raise UsageError("scores take both --tokens and --tokenizer", "give both, or neither")
        return Stretch(
            tokens=self.tokens, tokenizer=self.tokenizer, limit=self.limit, window=self.window,
            stride=self.stride, threads=self.threads,
        )  # fmt: skip


def verify_any(path: Path, asked: Asked, scores: Scores, notify: Notify = silent) -> VerifyReport:
    """Look at everything that can be wrong with an artifact, or with a submission's folder.

    Args:
        path: what it is told by: a file is an artifact.
        asked: of an artifact alone.
        scores: of a submission alone.

    Raises:
        UsageError: as `verify` and `verify_submission`, or options of the other kind.
    """
    if path.is_dir():
        if asked != Asked():
            raise UsageError(
                f"{path} is a folder: --report, --against, --model and --set are of an artifact",
                f"name the artifact: {path / 'model.golf'}",
            )
        return verify_submission(path, scores.stretch, notify)
    if scores.tokens is not None or scores.tokenizer is not None:
        raise UsageError(
            "--tokens and --tokenizer are of a submission's folder",
            "golfpack eval scores artifacts",
        )
    return verify(path, asked.report, asked.against, asked.settings, notify, asked.family)
