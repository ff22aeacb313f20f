"""`golfpack build`: checkpoint -> calibration -> passes -> verified artifact -> report."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from golfpack.api.models import checkpoint_stem, split_settings
from golfpack.calib.cache import cache_folder, cached
from golfpack.calib.sources import CalibTokens, from_data, self_generated
from golfpack.calib.stats import calibrate
from golfpack.data.shards import write_atomically
from golfpack.data.tokenizer import load_tokenizer
from golfpack.errors import StrictError, UsageError
from golfpack.eval.divergence import mean_kl
from golfpack.models.checkpoint import Checkpoint, build_model, load_checkpoint
from golfpack.packer.ir import CalibStats
from golfpack.packer.loader import Artifact, loads
from golfpack.packer.recipe import Recipe, load_recipe
from golfpack.packer.sizes import parse_size
from golfpack.packer.state import Budget, Notify, PackState, run_passes, silent
from golfpack.report.reports import BuildReport, save
from golfpack.report.tensors import tensor_reports

# Calibration: enough for the plan to settle, little enough to take seconds; the last sequences are
# held out to measure what the build lost.
CALIB_TOKENS = 32_768
CALIB_LENGTH = 512
HELD_OUT = 8


@dataclass(frozen=True)
class BuildOptions:
    """What to build; see `golfpack build --help`.

    Attributes:
        budget: such as "16MB", "16MiB", "16000000" or "3.5bpw" (bits per weight).
        output: None for the checkpoint's name with .golf, in the current folder.
        settings: "pass.option=value" and "model.option=value".
        calib: token shard or text; None lets the model write its own.
        data_free: no calibration at all.
        code: files that ship beside the artifact and count towards the budget, as they are.
        dry_run: everything but writing the file.
    """

    checkpoint: Path
    budget: str
    output: Path | None = None
    recipe: str = "rd"
    settings: tuple[str, ...] = ()
    calib: str | None = None
    calib_tokens: int = CALIB_TOKENS
    data_free: bool = False
    tokenizer: Path | None = None
    code: tuple[Path, ...] = ()
    seed: int = 0
    threads: int = 1
    strict: bool = False
    cache: bool = True
    dry_run: bool = False
    argv: list[str] = field(default_factory=list)


def build(options: BuildOptions, notify: Notify = silent) -> BuildReport:
    """Compile a checkpoint into an artifact within the budget, and report on it.

    Raises:
        UsageError: bad input. BudgetError: nothing fits. StrictError: a warning, under `strict`.
    """
    clock = _Clock()
    _check_output(options)
    model_settings, pass_settings = split_settings(options.settings)
    recipe = load_recipe(options.recipe, pass_settings)
    checkpoint = load_checkpoint(options.checkpoint, model_settings)
    budget = Budget(parse_size(options.budget, checkpoint.spec.numel), _code_bytes(options.code))
    with clock.measure("calibrate"):
        stats, held_out = _calibrate(checkpoint, recipe, options, notify)
    with clock.measure("pack"):
        state = PackState(
            checkpoint.spec, checkpoint.weights, stats, budget, options.threads, notify
        )
        state = run_passes(recipe.passes, state)
    with clock.measure("verify"):
        artifact = _verified(state)
        measured_kl = _measure_kl(checkpoint, artifact, held_out, options.threads, notify)
    if options.strict and state.warnings:
        raise StrictError(f"--strict: {state.warnings[0]}", "drop --strict to accept it")
    output = None if options.dry_run else _write(options, state.blob)
    report = _build_report(
        options, checkpoint, recipe, state, artifact, output, measured_kl, clock.seconds
    )
    if output is not None:
        save(report, output.with_suffix(".report.json"))
    return report


def _check_output(options: BuildOptions) -> None:
    """Raise UsageError before the long work where its result could not be written."""
    output = _output(options)
    if options.dry_run:
        return
    if output.is_dir() or not output.parent.is_dir():
        what = "is a folder" if output.is_dir() else "is in a folder that does not exist"
        raise UsageError(f"cannot write {output}: it {what}", "choose another --output")
    if output.exists() and output.samefile(options.checkpoint):
        raise UsageError(f"{output} is the checkpoint itself", "choose another --output")


def _code_bytes(files: tuple[Path, ...]) -> int:
    """Bytes of the code that ships, as it ships."""
    total = 0
    for file in files:
        if not file.is_file():
            what = "is a folder" if file.is_dir() else "does not exist"
            raise UsageError(f"--code {file} {what}", "name each file that ships, as it ships")
        total += file.stat().st_size
    return total


def _calibrate(
    checkpoint: Checkpoint, recipe: Recipe, options: BuildOptions, notify: Notify
) -> tuple[CalibStats | None, CalibTokens | None]:
    """Statistics for the recipe, and the tokens held out to measure the loss on."""
    if options.data_free:
        return None, None
    model = build_model(checkpoint.family, checkpoint.config, checkpoint.weights)
    length = min(CALIB_LENGTH, options.calib_tokens)
    count = options.calib_tokens // length + HELD_OUT
    if options.calib is None:
        notify("calibrate", 0, 0, "the model writes its own text")
        tokens = self_generated(model, count, length, options.seed)
    else:
        sp = None if options.tokenizer is None else load_tokenizer(options.tokenizer)
        tokens = from_data(options.calib, sp, checkpoint.config["vocab_size"], count, length)
    used, held_out = tokens.split(HELD_OUT)
    inputs = {
        "checkpoint": checkpoint.sha256,
        "config": checkpoint.config,
        "tokens": used.sha256,
        "shape": used.sequences.shape,
        "gradients": recipe.gradients,
        "seed": options.seed,
    }
    stats = cached(
        cache_folder() if options.cache else None,
        inputs,
        lambda: calibrate(
            model, checkpoint.spec, used, gradients=recipe.gradients, seed=options.seed,
            threads=options.threads, progress=lambda d, t, note: notify("calibrate", d, t, note),
        ),
    )  # fmt: skip
    return stats, held_out


def _verified(state: PackState) -> Artifact:
    """Decode the finished bytes with the loader and compare every tensor bit for bit."""
    assert state.blob is not None
    artifact = loads(state.blob)
    assert set(artifact.tensors) == set(state.tensors)
    for name, (_, tensor) in artifact.tensors.items():
        expected = state.tensors[name].dequantize()
        if not np.array_equal(tensor.dequantize(), expected.reshape(tensor.dequantize().shape)):
            raise AssertionError(f"tensor {name} does not decode to what was encoded")
    return artifact


def _measure_kl(
    checkpoint: Checkpoint,
    artifact: Artifact,
    held_out: CalibTokens | None,
    threads: int,
    notify: Notify,
) -> float | None:
    if held_out is None:
        return None
    notify("verify", 0, 0, "KL to the float model on held-out calibration tokens")
    before = build_model(checkpoint.family, checkpoint.config, checkpoint.weights)
    after = build_model(artifact.family, artifact.config, artifact.weights())
    return mean_kl(before, after, held_out.sequences, threads)


def _output(options: BuildOptions) -> Path:
    return options.output or Path(checkpoint_stem(options.checkpoint) + ".golf")


def _write(options: BuildOptions, blob: bytes | None) -> Path:
    assert blob is not None
    output = _output(options)
    write_atomically(output, blob)
    return output


def _build_report(
    options: BuildOptions,
    checkpoint: Checkpoint,
    recipe: Recipe,
    state: PackState,
    artifact: Artifact,
    output: Path | None,
    measured_kl: float | None,
    seconds: dict[str, float],
) -> BuildReport:
    rows = tensor_reports(artifact, checkpoint.weights, state.sensitivity)
    known = [r.predicted_kl for r in rows if r.predicted_kl is not None]
    size, stats = artifact.container.size, state.stats
    return BuildReport(
        checkpoint=str(options.checkpoint),
        checkpoint_sha256=checkpoint.sha256,
        family=checkpoint.family,
        config=checkpoint.config,
        assumed=checkpoint.assumed,
        recipe=recipe.name,
        settings=list(options.settings),
        seed=options.seed,
        parameters=checkpoint.spec.numel,
        budget_bytes=state.budget.total,
        code_bytes=state.budget.code,
        artifact=None if output is None else str(output),
        artifact_bytes=size,
        artifact_sha256=artifact.container.sha256,
        headroom_bytes=state.budget.artifact - size,
        fixed_bytes=artifact.container.overhead,
        bits_per_weight=8 * size / checkpoint.spec.numel,
        dial=state.dial,
        trace=[[r.dial, r.artifact_bytes] for r in state.trace],
        calibration=None
        if stats is None
        else {"source": stats.source, "tokens": stats.tokens, "sha256": stats.tokens_sha256},
        predicted_kl=sum(known) if known and recipe.gradients and stats is not None else None,
        measured_kl=measured_kl,
        warnings=list(state.warnings),
        seconds=seconds,
        tensors=rows,
        argv=options.argv,
    )


class _Clock:
    """Wall seconds per stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - began
