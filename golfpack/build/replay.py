"""Build reports read back, for `golfpack build --from`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from golfpack.base.convert import from_json
from golfpack.base.documents import SCHEMA_VERSION, read_json
from golfpack.build.report import InputFile
from golfpack.errors import UsageError
from golfpack.packer.recipe import Recipe, make_recipe

_HINT = "give the .report.json that golfpack build wrote beside its artifact"


@dataclass(frozen=True)
class Recorded:
    """What a report says of a build, successful or not; see `BuildReport`.

    Attributes:
        passes: none where a build failed before its recipe was read.
        search: options of the search for a dial.
        artifact, artifact_sha256, artifact_bytes, measured_kl: None for a build that failed; the first
            for a dry run, too.
        calibration: source, tokens and sha256 of the tokens; None without.
        argv: the command line.
    """

    options: dict[str, Any]
    passes: list[dict[str, Any]]
    calibrates: str
    recipe: str | None
    checkpoint_sha256: str | None
    config: dict[str, Any]
    inputs: list[InputFile]
    versions: dict[str, str]
    calibration: dict[str, Any] | None
    artifact: str | None = None
    artifact_sha256: str | None = None
    artifact_bytes: int | None = None
    measured_kl: float | None = None
    search: dict[str, Any] = field(default_factory=dict)
    argv: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Replay:
    """A build to be repeated.

    Attributes:
        path: of the report.
        given: options of this command line, which win over the report's.
    """

    path: Path
    recorded: Recorded
    given: frozenset[str] = frozenset()

    @property
    def brings_passes(self) -> bool:
        """Whether the recipe is the report's, with every option it had then."""
        return bool(self.recorded.passes) and not self.given & {"recipe", "plan"}

    def make_recipe(self, settings: Sequence[str] = ()) -> Recipe:
        """The recipe as it was. Raises UsageError for a pass or an option that cannot be."""
        table = {
            "name": self.recorded.recipe or self.path.stem,
            "calibration": self.recorded.calibrates,
            "pass": self.recorded.passes,
            "search": self.recorded.search,
        }
        return make_recipe(table, str(self.path), settings)


def read_replay(path: Path) -> Replay:
    """Read the report of a build.

    Raises:
        UsageError: unreadable, no build report, or one of another schema version.
    """
    data = read_json(path, _HINT)
    version = data.get("schema_version")
    if "options" not in data or "passes" not in data:
        raise UsageError(f"{path} is not a report that tells how to build again", _HINT)
    if version != SCHEMA_VERSION:
        raise UsageError(
            f"{path} has schema version {json.dumps(version)}; this golfpack reads {SCHEMA_VERSION}",
            "use the golfpack that wrote it",
        )
    return Replay(path, from_json(Recorded, data, str(path)))
