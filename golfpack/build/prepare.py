"""What `build` and `plan` share: checkpoint, recipe, calibration, and a way to measure a candidate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import log
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from golfpack.artifact import split_settings
from golfpack.base.progress import (
    Notify,
    silent,
)
from golfpack.base.sizes import parse_size
from golfpack.build.backend import (
    Backend,
    choose_backend,
)
from golfpack.build.planfile import PlanFile
from golfpack.build.replay import Replay
from golfpack.calib.cache import (
    cache_folder,
    cached,
    cached_text,
)
from golfpack.calib.sources import (
    SELF_TEMPERATURE,
    CalibTokens,
    from_data,
    text_calls,
)
from golfpack.data.tokenizer import (
    Tokenizer,
    load_tokenizer,
)
from golfpack.errors import UsageError
from golfpack.eval.bytes import ByteTable
from golfpack.models.checkpoint import (
    load_checkpoint,
    peek_spec,
)
from golfpack.models.choose import choose_family
from golfpack.models.files import already_packed
from golfpack.models.model import Model
from golfpack.models.tensors import TENSORS
from golfpack.packer.format.loader import is_artifact
from golfpack.packer.format.tensors import PackedTensor
from golfpack.packer.predict import split_at_fit
from golfpack.packer.recipe import (
    Recipe,
    load_recipe,
)
from golfpack.packer.search import check_reach
from golfpack.packer.state import (
    Budget,
    PackState,
)
from golfpack.spec import CalibStats

# Calibration: enough for the plan to settle, little enough to take seconds; the last sequences are
# held out to measure what the build lost.
CALIB_TOKENS = 32_768
CALIB_LENGTH = 512
HELD_OUT = 8
DEFAULT_RECIPE = "rd"


@dataclass(frozen=True)
class BuildOptions:
    """What to build; see `golfpack build --help`.

    Attributes:
        budget: such as "16MB", "16MiB", "16000000" or "3.5bpw" (bits per weight).
        target_kl: instead of a budget: the smallest file within this KL, nats per token.
        target_bpb: the same in bits per byte; needs a tokenizer.
        output: None for the checkpoint's name with .golf, in the current folder.
        recipe: name or .toml file; None for DEFAULT_RECIPE, or what the plan brings.
        plan: replay this plan: its passes and its scheme for every tensor, and its budget unless
            another is given.
        settings: "pass.option=value" and "model.option=value".
        calib: token shard or text; None lets the model write its own.
        data_free: no calibration at all.
        blind: take fewer than 3 bits per weight without calibration, too.
        code: files that ship beside the artifact and count towards the budget, as they are.
        dry_run: everything but writing the file.
        recalibrate: measure the statistics again behind the quantized layers, and quantize again.
        lossless: instead of a budget: every float exactly as it is.
        refine: train the codes by self-distillation on this many calibration tokens; 0: not at all.
        model, model_args: what `choose_family` takes; a file that they name is run.
        replay: repeat the build of a report: its passes, and its inputs must be the same.
        device: "auto", "cpu" or "cuda": where calibration, rounding and the KL are worked out.
        batched: work in batches as on CUDA, wherever it is; None for what suits the device.
    """

    checkpoint: Path
    budget: str | None = None
    output: Path | None = None
    recipe: str | None = None
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
    target_kl: float | None = None
    target_bpb: float | None = None
    recalibrate: bool = False
    plan: PlanFile | None = None
    argv: list[str] = field(default_factory=list)
    lossless: bool = False
    refine: int = 0
    model: str | None = None
    model_args: tuple[str, ...] = ()
    replay: Replay | None = None
    device: str = "cpu"
    batched: bool | None = None
    blind: bool = False

    @property
    def unmeasured(self) -> bool:
        """Whether nothing is calibrated, so that tensors without a known network will do."""
        return self.data_free or self.lossless


@dataclass(frozen=True, eq=False)
class Prepared:
    """Everything a build needs before the first pass.

    Attributes:
        used, held_out: calibration tokens, and those kept back to measure the loss on.
        bytes_per_token: of the calibration tokens; None without a tokenizer.
        backend: what computes.
    """

    checkpoint: Model
    recipe: Recipe
    stats: CalibStats | None
    used: CalibTokens | None
    held_out: CalibTokens | None
    bytes_per_token: float | None
    backend: Backend

    @property
    def calibration(self) -> dict[str, Any] | None:
        """For reports: what was calibrated on."""
        if self.stats is None:
            return None
        s = self.stats
        return {"source": s.source, "tokens": s.tokens, "sha256": s.tokens_sha256}

    def state(self, budget: Budget, threads: int, notify: Notify) -> PackState:
        """The state that the recipe's first pass gets."""
        measure = None
        if self.held_out is not None:
            measure = lambda tensors: self.measure_kl(tensors, threads, notify)  # noqa: E731
        state = PackState(
            self.checkpoint.spec, self.checkpoint.weights, self.stats, budget, threads, notify,
            measure=measure, engine=self.backend.engine,
        )  # fmt: skip
        return state if self.backend.warning is None else state.warn(self.backend.warning)

    def measure_kl(
        self, tensors: Mapping[str, PackedTensor], threads: int, notify: Notify = silent
    ) -> float:
        """KL(float || tensors) on the held-out calibration tokens, nats per token."""
        assert self.held_out is not None
        before = self.checkpoint.module()
        tell = lambda done, total, note: notify("KL", done, total, note)  # noqa: E731
        after = self.model_of(tensors)
        return self.backend.mean_kl(before, after, self.held_out.sequences, threads, tell)

    def model_of(self, tensors: Mapping[str, PackedTensor]) -> nn.Module:
        """The model with these tensors as weights."""
        c = self.checkpoint
        shapes = {t.name: t.shape for t in c.spec.tensors}
        weights = {n: t.dequantize().reshape(shapes[n]) for n, t in tensors.items()}
        return c.module(weights)

    def bpb(self, kl: float | None) -> float | None:
        """The loss in bits per byte that a KL stands for, where a tokenizer tells bytes per token."""
        if kl is None or self.bytes_per_token is None:
            return None
        return kl / log(2) / self.bytes_per_token


def load_inputs(options: BuildOptions, budgets: Sequence[str] = ()) -> tuple[Model, Recipe]:
    """The checkpoint and the recipe: what is quick to read and to refuse.

    Args:
        budgets: what the artifact is to fit in; a large checkpoint that cannot is not even read.

    Raises:
        UsageError: bad input. BudgetError: a large checkpoint and a hopeless budget.
    """
    model_settings, pass_settings = split_settings(options.settings)
    fallback = TENSORS if options.unmeasured else None
    recipe = _recipe(options, pass_settings)
    family = choose_family(options.model, options.model_args)
    spec = peek_spec(options.checkpoint, model_settings, family, fallback) if budgets else None
    if spec is not None:
        fit, code = split_at_fit(recipe.passes)[1], code_bytes(options.code)
        for budget in budgets:
            check_reach(fit, spec, Budget(parse_size(budget, spec.numel), code))
    checkpoint = load_checkpoint(options.checkpoint, model_settings, family, fallback)
    if options.plan is not None:
        options.plan.check(checkpoint.spec)
    return checkpoint, recipe


def _recipe(options: BuildOptions, settings: Sequence[str]) -> Recipe:
    if options.replay is not None and options.replay.brings_passes:
        return options.replay.make_recipe(settings)
    if options.plan is None:
        return load_recipe(options.recipe or DEFAULT_RECIPE, settings)
    if options.recipe is not None:
        raise UsageError("a plan brings its own passes", "leave out --recipe or --plan")
    return options.plan.make_recipe(settings)


def prepare(checkpoint: Model, recipe: Recipe, options: BuildOptions, notify: Notify) -> Prepared:
    """Calibrate, which is the first thing that takes time.

    Raises:
        UsageError: unusable calibration data or tokenizer, or no such device.
    """
    backend = choose_backend(options.device, options.batched)
    if options.unmeasured:
        return Prepared(checkpoint, recipe, None, None, None, None, backend)
    sp = None if options.tokenizer is None else load_tokenizer(options.tokenizer)
    if recipe.calibration == "none" and options.calib is None:
        # Nothing to measure with.
        return Prepared(checkpoint, recipe, None, None, None, None, backend)
    stats, used, held_out = _calibrate(checkpoint, recipe, options, sp, backend, notify)
    bytes_per_token = None
    if sp is not None:
        table = ByteTable.from_tokenizer(sp, checkpoint.config["vocab_size"])
        bytes_per_token = float(np.mean([table.count(row) for row in used.sequences]))
    return Prepared(checkpoint, recipe, stats, used, held_out, bytes_per_token, backend)


def recalibrated(
    prepared: Prepared, state: PackState, options: BuildOptions, notify: Notify
) -> CalibStats:
    """Statistics of the quantized model of `state` on the same calibration tokens.

    Raises:
        UsageError: a data-free build has no tokens.
    """
    if prepared.used is None or prepared.stats is None:
        raise UsageError("--recalibrate needs calibration", "drop --data-free, or use recipe rd")
    return prepared.backend.calibrate(
        prepared.model_of(state.tensors), state.spec, prepared.used,
        gradients=prepared.recipe.gradients, seed=options.seed, threads=options.threads,
        progress=lambda d, t, note: notify("recalibrate", d, t, note),
    )  # fmt: skip


def check_output(output: Path, checkpoint: Path) -> None:
    """Raise UsageError before the long work where its result could not be written."""
    if output.is_dir() or not output.parent.is_dir():
        what = "is a folder" if output.is_dir() else "is in a folder that does not exist"
        raise UsageError(f"cannot write {output}: it {what}", "choose another --output")
    if is_artifact(checkpoint):
        raise already_packed(checkpoint)
    if output.exists() and checkpoint.exists() and output.samefile(checkpoint):
        raise UsageError(f"{output} is the checkpoint itself", "choose another --output")


def code_bytes(files: tuple[Path, ...]) -> int:
    """Bytes of the code that ships, as it ships."""
    total = 0
    for file in files:
        if not file.is_file():
            what = "is a folder" if file.is_dir() else "does not exist"
            raise UsageError(f"--code {file} {what}", "name each file that ships, as it ships")
        total += file.stat().st_size
    return total


def calib_shape(model: Model, tokens: int) -> tuple[int, int]:
    """How many sequences, held-out ones among them, and how long: for `tokens` to calibrate on."""
    longest = model.family.max_length(model.config)
    length = min(CALIB_LENGTH, tokens, longest or CALIB_LENGTH)
    return tokens // length + HELD_OUT, length


def written_text(
    checkpoint: Model,
    backend: Backend,
    options: BuildOptions,
    shape: tuple[int, int],
    *,
    temperature: float,
    seed: int,
    purpose: str,
    notify: Notify,
) -> CalibTokens:
    """Sequences of `shape` (count, length) that the model writes, or wrote before.

    Raises:
        UsageError: the model's logits are not finite.
    """
    model = checkpoint.module()
    inputs = {
        "checkpoint": checkpoint.sha256,
        "config": checkpoint.config,
        "shape": shape,
        "temperature": temperature,
        "seed": seed,
        "backend": backend.key,
    }
    done, calls = 0, text_calls(*shape)

    def told(*_: object) -> None:
        nonlocal done
        done += 1
        notify("write text", done, calls, f"for {purpose}, by the model itself")

    model.register_forward_hook(told)
    return cached_text(
        cache_folder() if options.cache else None,
        inputs,
        lambda: backend.write_text(model, *shape, seed, temperature),
    )


def _calibrate(
    checkpoint: Model,
    recipe: Recipe,
    options: BuildOptions,
    sp: Tokenizer | None,
    backend: Backend,
    notify: Notify,
) -> tuple[CalibStats | None, CalibTokens, CalibTokens]:
    """Statistics for the recipe, the tokens used, and those held out to measure the loss on."""
    model = checkpoint.module()
    count, length = calib_shape(checkpoint, options.calib_tokens)
    if options.calib is None:
        tokens = written_text(
            checkpoint, backend, options, (count, length), temperature=SELF_TEMPERATURE,
            seed=options.seed, purpose="calibration", notify=notify,
        )  # fmt: skip
    else:
        tokens = from_data(options.calib, sp, checkpoint.config["vocab_size"], count, length)
    used, held_out = tokens.split(HELD_OUT)
    if recipe.calibration == "none":
        return None, used, held_out
    inputs = {
        "checkpoint": checkpoint.sha256,
        "config": checkpoint.config,
        "tokens": used.sha256,
        "shape": used.sequences.shape,
        "gradients": recipe.gradients,
        "seed": options.seed,
        "backend": backend.key,
    }
    stats = cached(
        cache_folder() if options.cache else None,
        inputs,
        lambda: backend.calibrate(
            model, checkpoint.spec, used, gradients=recipe.gradients, seed=options.seed,
            threads=options.threads, progress=lambda d, t, note: notify("calibrate", d, t, note),
        ),
    )  # fmt: skip
    # A cached result may have been measured on the same tokens under another path.
    return replace(stats, source=used.source), used, held_out
