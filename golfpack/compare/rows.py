"""The rows of `golfpack compare`: built, evaluated and held to the float, or from an earlier run."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from golfpack.artifact import open_model, split_settings
from golfpack.base.convert import check_counts, check_seed, from_json
from golfpack.base.defaults import CALIB_TOKENS, EVAL_TOKENS, KL_TOKENS
from golfpack.base.files import file_sha256
from golfpack.base.progress import Notify
from golfpack.base.sizes import parse_size
from golfpack.build.options import BuildOptions, Goal, Inputs, Machine
from golfpack.build.overwrite import other_checkpoint
from golfpack.build.prepare import DEFAULT_RECIPE, code_bytes
from golfpack.build.report import BuildReport
from golfpack.build.reportfile import report_beside
from golfpack.build.run import build
from golfpack.compare.report import CompareRow
from golfpack.compare.store import Store, key_of
from golfpack.errors import BudgetError, StrictError, UsageError
from golfpack.eval.divergence import mean_kl
from golfpack.eval.evaluate import evaluate
from golfpack.eval.inputs import EvalOptions
from golfpack.models.model import Model
from golfpack.packer.aim import Bytes
from golfpack.packer.recipe import load_recipe, pass_tables


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """What to compare; see `golfpack compare --help` and `golfpack sweep --help`.

    Attributes:
        command: "compare" or "sweep": whose name the folder and the files in it have.
        recipes: names or .toml files.
        budgets: as `build` takes them; none for the range in which people build.
        tokens: to evaluate on; no build sees them. None: rows are built and not evaluated.
        tokenizer: of the tokens, and of calibration text.
        limit: tokens read of them.
        window: targets per window; None for the model's trained length.
        kl_tokens: of the same tokens, to measure the KL to the float model on.
        predict: build nothing, and take bytes and KL as `plan` expects them.
        png: draw the frontier of one recipe into this file.
        out: folder for artifacts and finished rows; None for the checkpoint's name with the command's,
            in the current folder.
        settings: "model.option=value", and "pass.option=value" for every recipe.
        calib, calib_tokens, code, seed, strict, cache: as `build` has them.
    """

    checkpoint: Path
    command: str = "compare"
    recipes: tuple[str, ...] = (DEFAULT_RECIPE,)
    budgets: tuple[str, ...] = ()
    tokens: str | None = None
    tokenizer: Path | None = None
    limit: int = EVAL_TOKENS
    window: int | None = None
    kl_tokens: int = KL_TOKENS
    predict: bool = False
    png: Path | None = None
    out: Path | None = None
    settings: tuple[str, ...] = ()
    calib: str | None = None
    calib_tokens: int = CALIB_TOKENS
    code: tuple[Path, ...] = ()
    seed: int = 0
    threads: int = 1
    strict: bool = False
    cache: bool = True
    argv: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_counts(limit=(self.limit, 2), window=(self.window, 1), kl_tokens=(self.kl_tokens, 1))
        check_counts(threads=(self.threads, 1), calib_tokens=(self.calib_tokens, 2))
        check_seed(self.seed)

    def build_options(
        self, recipe: str, budget: str | None = None, output: Path | None = None
    ) -> BuildOptions:
        """Those of one build; without a budget, of a plan."""
        return BuildOptions(
            inputs=Inputs(
                checkpoint=self.checkpoint, calib=self.calib, calib_tokens=self.calib_tokens,
                tokenizer=self.tokenizer, code=self.code, settings=self.settings,
            ),
            goal=Goal(
                aim=None if budget is None else Bytes(budget), recipe=recipe, seed=self.seed,
                strict=self.strict, blind=True,
            ),
            machine=Machine(threads=self.threads, cache=self.cache),
            output=output,
            force=True,  # the folder is the command's own; `check_folder` looks whose rows it has
            argv=self.argv,
        )  # fmt: skip


@dataclass(frozen=True)
class Score:
    """A model on the evaluation tokens, and what that evaluation warned of."""

    val_loss: float
    val_bpb: float
    scored_tokens: int
    window: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Runs:
    """What all rows share.

    Attributes:
        recipes: what was given (name or file), by the name that rows and artifacts get.
        tokens: (n,) token ids, to evaluate on; none where nothing is evaluated.
        store: where finished rows are kept, with their artifacts.
        inputs: what every row and the float model's score depend on, for their keys.
        calib_sha256: of the tokens to calibrate on; None lets the model write its own.
    """

    options: CompareOptions
    model: Model
    recipes: dict[str, str]
    tokens: np.ndarray
    store: Store
    inputs: dict[str, Any]
    calib_sha256: str | None

    def score_float(self, notify: Notify) -> Score | None:
        """Score the float model, or take that from an earlier run; None without an evaluation."""
        if self.options.tokens is None:
            return None
        key = key_of({"what": "float", **self.inputs})
        known = self.store.get(key)
        if known is not None:
            return from_json(Score, known, f"{self.store.path}: float")
        found = self._evaluate(self.options.checkpoint, model_settings(self.options), notify)
        self.store.put(key, asdict(found))
        return found

    def row(self, name: str, budget: str, baseline: Score | None, notify: Notify) -> CompareRow:
        """Build and evaluate, or take the row from an earlier run; without a baseline, only build.

        Raises:
            StrictError: a warning, under `strict`; the rows before it are kept.
        """
        row = CompareRow(name, budget, parse_size(budget, self.model.spec.numel))
        key, path = key_of(self._row_inputs(row)), self._path(row)
        known = self._known(key, path)
        if known is not None:
            return self._accepted(known)
        try:
            built = build(self.options.build_options(self.recipes[name], budget, path), notify)
        except UsageError as e:
            # Not kept: what it complains about may be mended by the next run.
            return replace(row, refused=e.message)
        except BudgetError as e:
            row = replace(row, refused=e.message)
        else:
            row = _with_build(row, built)
            if baseline is not None:
                row = self._measured(row, path, baseline, notify)
        self.store.put(key, asdict(row))
        return self._accepted(row)

    def check_folder(self, budgets: Sequence[str]) -> None:
        """Raise UsageError where a row would replace another checkpoint's artifact."""
        for path in (self._named(r, b) for r in self.recipes for b in budgets):
            found = other_checkpoint(path, self.model.sha256)
            if found is not None:
                raise UsageError(found, "choose another --out, or move that file away")

    def _accepted(self, row: CompareRow) -> CompareRow:
        """A row of an earlier run, which may not have been strict."""
        if self.options.strict and row.warnings:
            raise StrictError(f"--strict: {row.warnings[0]}", "drop --strict to accept it")
        return row

    def _path(self, row: CompareRow) -> Path:
        return self._named(row.recipe, row.budget)

    def _named(self, recipe: str, budget: str) -> Path:
        return self.store.path.parent / f"{recipe}-{budget}.golf"

    def _row_inputs(self, row: CompareRow) -> dict[str, Any]:
        o = self.options
        _, settings = split_settings(o.settings)
        recipe = load_recipe(self.recipes[row.recipe], settings)
        return {
            **self.inputs,
            "recipe": [row.recipe, recipe.calibration, pass_tables(recipe), vars(recipe.search)],
            "budget": [row.budget, row.budget_bytes],
            "calib": [self.calib_sha256, o.calib_tokens, o.seed],
            "code": code_bytes(o.code),
            "kl_tokens": o.kl_tokens,
        }

    def _known(self, key: str, path: Path) -> CompareRow | None:
        """The row of an earlier run, where its artifact is still there as it was."""
        stored = self.store.get(key)
        if stored is None:
            return None
        row = from_json(CompareRow, stored, f"{self.store.path}: {path.stem}")
        if row.refused is not None:
            return replace(row, reused=True)
        if not path.is_file() or file_sha256(path) != row.artifact_sha256:
            return None
        if not report_beside(path).is_file():
            return None
        return replace(row, artifact=str(path), reused=True)

    def _measured(self, row: CompareRow, path: Path, baseline: Score, notify: Notify) -> CompareRow:
        found = self._evaluate(path, (), notify)
        before, after = self.model.module(), open_model(path).module()
        tell = lambda done, total, note: notify("KL", done, total, note)  # noqa: E731
        sequences = self.sequences(baseline.window)
        kl = mean_kl(before, after, sequences, self.options.threads, tell)
        return replace(
            row,
            val_loss=found.val_loss,
            val_bpb=found.val_bpb,
            quant_gap=found.val_bpb - baseline.val_bpb,
            kl=kl,
            warnings=(*row.warnings, *found.warnings),
        )

    def _evaluate(self, path: Path, settings: tuple[str, ...], notify: Notify) -> Score:
        o = self.options
        assert o.tokens is not None
        assert o.tokenizer is not None  # so that bytes are counted
        # Every row runs the same code in the same mode: whether that is legal is not for each to ask.
        options = EvalOptions(
            path, o.tokens, o.tokenizer, window=o.window, limit=o.limit, settings=settings,
            threads=o.threads, legality=False,
        )  # fmt: skip
        found = evaluate(options, notify)
        assert found.val_bpb is not None
        return Score(
            found.val_loss, found.val_bpb, found.scored_tokens, found.window, tuple(found.warnings)
        )  # fmt: skip

    def sequences(self, window: int) -> np.ndarray:
        """(n, length) tokens to measure the KL on: whole windows from the start of the stream."""
        length = min(window, len(self.tokens))
        count = max(1, min(self.options.kl_tokens, len(self.tokens)) // length)
        return self.tokens[: count * length].reshape(count, length)


def require_any(rows: Sequence[CompareRow]) -> None:
    """Raise BudgetError where every row was refused: a script is to see that it got no artifact."""
    if all(row.refused is not None for row in rows):
        raise BudgetError(
            "nothing was built: every row was refused",
            "the rows say why, and how many bytes would do",
        )


def model_settings(options: CompareOptions) -> tuple[str, ...]:
    """Those of the settings that are the checkpoint's."""
    return tuple(s for s in options.settings if s.startswith("model."))


def _with_build(row: CompareRow, built: BuildReport) -> CompareRow:
    assert built.headroom_bytes is not None
    calibrate = built.seconds["calibrate"]
    return replace(
        row,
        artifact=built.artifact,
        artifact_sha256=built.artifact_sha256,
        artifact_bytes=built.artifact_bytes,
        headroom_bytes=built.headroom_bytes,
        headroom_share=built.headroom_bytes / row.budget_bytes,
        bits_per_weight=built.bits_per_weight,
        kl=built.measured_kl,
        quant_gap=built.measured_bpb,
        build_kl=built.measured_kl,
        build_bpb=built.measured_bpb,
        build_seconds=sum(built.seconds.values()) - calibrate,
        calibrate_seconds=calibrate,
        warnings=tuple(built.warnings),
    )
