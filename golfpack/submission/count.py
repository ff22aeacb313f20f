"""What counts of a submission's folder, by the challenge's rules (openai/parameter-golf, README, FAQ).

bytes(code) + bytes(compressed model) are at most 16,000,000, decimal. All counted code should stand in
`train_gpt.py`. Records have shipped further files that nobody counted; here whatever is not plainly
documentation counts, and what does not count is not there when `golfpack verify` runs the script.
"""

from dataclasses import dataclass
from pathlib import Path

from golfpack.errors import UsageError

SCRIPT = "train_gpt.py"
ARTIFACT = "model.golf"
TABLE = "submission.json"
README = "README.md"
REQUIREMENTS = "requirements.txt"
LOGS = "logs"
# What only people read: these files by name, and all files of these kinds in the folder of logs.
_TOLD = frozenset({README, TABLE, REQUIREMENTS, "LICENSE", "LICENSE.txt"})
LOG_KINDS = frozenset({".log", ".txt", ".json", ".md", ".csv", ".tsv"})


@dataclass(frozen=True)
class Count:
    """Bytes that count, and those that do not.

    Attributes:
        artifact: of `model.golf`.
        script: of `train_gpt.py`.
        others: of every other file that counts, by its path in the folder.
        told: files that do not count, by their path.
    """

    artifact: int
    script: int
    others: dict[str, int]
    told: tuple[str, ...]

    @property
    def code(self) -> int:
        return self.script + sum(self.others.values())

    @property
    def total(self) -> int:
        return self.artifact + self.code

    @property
    def files(self) -> list[str]:
        """What counts, by path: all that the script may find beside it."""
        return [SCRIPT, ARTIFACT, *self.others]


def count(folder: Path) -> Count:
    """Count a folder.

    Raises:
        UsageError: it is no folder, it lacks script or artifact, or it holds a link.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}", "golfpack export X.golf --submission DIR")
    sizes: dict[str, int] = {}
    told: list[str] = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise UsageError(
                f"{path} is a link: what it leads to may change", "copy the file itself"
            )
        if path.is_dir() or "__pycache__" in path.relative_to(folder).parts:
            continue
        if counts(name):
            sizes[name] = path.stat().st_size
        else:
            told.append(name)
    for name in (SCRIPT, ARTIFACT):
        if name not in sizes:
            raise UsageError(
                f"{folder} is no submission: it has no {name}",
                "golfpack export X.golf --submission DIR writes one",
            )
    script, artifact = sizes.pop(SCRIPT), sizes.pop(ARTIFACT)
    return Count(artifact, script, sizes, tuple(told))


def counts(name: str) -> bool:
    """Whether a file counts, by its path in the folder."""
    path = Path(name)
    in_logs = len(path.parts) == 2 and path.parts[0] == LOGS
    return name not in _TOLD and not (in_logs and path.suffix in LOG_KINDS)
