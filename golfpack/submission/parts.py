"""What a submission is made from, and of."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from golfpack.base.defaults import SUBMISSION_BYTES
from golfpack.models.model import Model
from golfpack.packer.format.loader import Artifact
from golfpack.submission.count import ARTIFACT
from golfpack.submission.logs import Logs
from golfpack.submission.make import Training


@dataclass(frozen=True)
class Author:
    """Who submits, for `submission.json`.

    Attributes:
        author, github_id: names of the person.
        name, blurb: of the submission; without a name it has its artifact's.
    """

    author: str = ""
    github_id: str = ""
    name: str = ""
    blurb: str = ""


@dataclass(frozen=True, kw_only=True)
class SubmissionOptions:
    """What to put into a folder.

    Attributes:
        artifact: `.golf` file, of the golf family.
        folder: to write.
        checkpoint: the float model, which must have the artifact's tensors; None is not to look.
        settings: "model.option=value" of the checkpoint, "ttt.option=value" of the training.
        ttt: test-time training: "none", a name or a .toml file.
        budget: that artifact and code share, as `--budget` takes it.
        code: further files that ship and count.
        logs: files that ship and do not count; evaluations among them tell the score.
        baseline: figure or report that the evaluations are held against; see `golfpack stats`.
        author: who submits.
        force: replace files of a folder that exists.
    """

    artifact: Path
    folder: Path
    checkpoint: Path | None = None
    settings: tuple[str, ...] = ()
    ttt: str = "none"
    budget: str | int = SUBMISSION_BYTES
    code: tuple[Path, ...] = ()
    logs: tuple[Path, ...] = ()
    baseline: str | None = None
    author: Author = Author()
    force: bool = False


@dataclass(frozen=True, eq=False)
class Parts:
    """A submission before it is written.

    Attributes:
        files: what counts, by its path in the folder.
        artifact, model: what is submitted.
        training: at test time.
        original: the float model, if it was given.
        budget: bytes that the counted files may have.
        logs: what goes with them.
        warnings: what is to be said.
    """

    files: dict[str, bytes]
    artifact: Artifact
    model: Model
    training: Training
    original: Model | None
    budget: int
    logs: Logs
    warnings: tuple[str, ...]

    @property
    def total(self) -> int:
        return sum(map(len, self.files.values()))

    @property
    def code(self) -> int:
        return self.total - len(self.files[ARTIFACT])

    def sha256(self, name: str) -> str:
        """Of a counted file, hex."""
        return hashlib.sha256(self.files[name]).hexdigest()
