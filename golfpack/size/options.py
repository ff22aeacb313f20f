"""What `golfpack size` is asked to do."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from golfpack.base.convert import check_counts
from golfpack.base.defaults import CALIB_TOKENS, EVAL_TOKENS
from golfpack.train.sources import DataOptions

# Held out where nobody says what artifacts are scored on.
VAL_FRACTION = 0.05


@dataclass(frozen=True, kw_only=True)
class SizeOptions:
    """What to train, to compile and to score; see `golfpack size --help`.

    Attributes:
        budget: bytes of an artifact, with the code that ships beside it, as "16MB".
        data: what to train on, and what is held out; the last twentieth where nothing is said.
        shapes: of the ladder, such as "6x256"; none for those that fit the budget.
        steps, minutes: of every run; one of them, or neither for 1000 steps.
        seeds: runs of each shape: seeds 0, 1 and so on.
        family: of the models; None for golf.
        settings: "model.", "train." and "data." settings of training, and "pass.option=value".
        recipe: name or .toml file; None for the default.
        refine: as `build` has it.
        calib_tokens, code: as `build` has them.
        cache: keep models' statistics for builds of other budgets; they take more room than models.
        limit: held-out tokens read.
        window: targets per window; None for the trained length.
        out: folder of everything.
        png: the picture; None for `size.png` in `out`.
        threads: of the CPU.
        device: "auto", "cpu" or "cuda", for training, compiling and scoring.
        argv: the command line, for logs and the report.
    """

    budget: str
    data: DataOptions = field(default_factory=DataOptions)
    shapes: tuple[str, ...] = ()
    steps: int | None = None
    minutes: float | None = None
    seeds: int = 1
    family: str | None = None
    settings: tuple[str, ...] = ()
    recipe: str | None = None
    refine: int | Literal["auto"] = 0
    calib_tokens: int = CALIB_TOKENS
    code: tuple[Path, ...] = ()
    cache: bool = False
    limit: int = EVAL_TOKENS
    window: int | None = None
    out: Path = Path("size")
    png: Path | None = None
    threads: int = 1
    device: str = "cpu"
    argv: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_counts(seeds=(self.seeds, 1), threads=(self.threads, 1), window=(self.window, 1))
        check_counts(limit=(self.limit, 2), calib_tokens=(self.calib_tokens, 2))
