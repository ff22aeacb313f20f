"""What `build` and `plan` share: model, recipe, calibration, and a way to measure a candidate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import log
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from golfpack.artifact import split_settings
from golfpack.base.progress import Notify, silent
from golfpack.build.backend import Backend, choose_backend
from golfpack.build.helpers import NO_HELP, Helpers
from golfpack.build.options import BuildOptions, Goal, Inputs, Machine
from golfpack.calib.cache import cache_folder, cached, cached_text
from golfpack.calib.sources import SELF_TEMPERATURE, CalibTokens, from_data, text_calls
from golfpack.data.belongs import refuse_other_tokenizer
from golfpack.data.tokenizer import Tokenizer, beside, load_tokenizer, shipped_bytes
from golfpack.errors import UsageError
from golfpack.eval.bytes import ByteTable
from golfpack.models.checkpoint import load_checkpoint, peek_spec
from golfpack.models.choose import choose_family
from golfpack.models.files import already_packed
from golfpack.models.folder import refuse_itself
from golfpack.models.model import Model
from golfpack.models.ranks import refuse_others
from golfpack.models.tensors import TENSORS
from golfpack.packer.aim import Budget, Bytes, check_reach
from golfpack.packer.format.attached import TokenizerFile
from golfpack.packer.format.loader import is_artifact
from golfpack.packer.format.streams import MAX_AXES
from golfpack.packer.format.tensors import PackedTensor
from golfpack.packer.recipe import Recipe, load_recipe
from golfpack.packer.state import PackState, run_passes
from golfpack.probe.probe import refuse_wrong_assumptions
from golfpack.spec import CalibStats

# Calibration sequences, of which the last are held out to measure what the build lost.
CALIB_LENGTH = 512
HELD_OUT = 8
DEFAULT_RECIPE = "rd"


@dataclass(frozen=True, eq=False)
class Prepared:
    """Everything a build needs before the first pass.

    Attributes:
        model: the checkpoint, in memory.
        recipe: what is done to it.
        backend, machine: what computes.
        seed: of everything random.
        stats: what calibration measured; None without.
        used, held_out: calibration tokens, and those kept back to measure the loss on.
        bytes_per_token: of the calibration tokens; None without a tokenizer.
        tokenizer: what goes into the artifact beside the weights, or None.
    """

    model: Model
    recipe: Recipe
    backend: Backend
    machine: Machine
    seed: int
    stats: CalibStats | None = None
    used: CalibTokens | None = None
    held_out: CalibTokens | None = None
    bytes_per_token: float | None = None
    tokenizer: TokenizerFile | None = None

    @property
    def calibration(self) -> dict[str, Any] | None:
        """For reports: what was calibrated on."""
        if self.stats is None:
            return None
        s = self.stats
        return {"source": s.source, "tokens": s.tokens, "sha256": s.tokens_sha256}

    def state(self, limit: int | None, notify: Notify) -> PackState:
        """The state that the recipe's first pass gets.

        Args:
            limit: bytes that the artifact may have; None for no limit.
        """
        measure = None
        if self.held_out is not None:
            measure = lambda tensors: self.measure_kl(tensors, notify)  # noqa: E731
        state = PackState(
            self.model.spec, self.model.weights, self.stats, limit, self.machine.threads, notify,
            measure=measure, engine=self.backend.engine, tokenizer=self.tokenizer,
        )  # fmt: skip
        return state if self.backend.warning is None else state.warn(self.backend.warning)

    def ready(self, limit: int | None, notify: Notify, warnings: Sequence[str] = ()) -> PackState:
        """The state behind the recipe's `prepare`, as the search gets it."""
        state = self.state(limit, notify)
        state = replace(state, warnings=tuple(dict.fromkeys((*state.warnings, *warnings))))
        return run_passes(self.recipe.prepare, state)

    def measure_kl(self, tensors: Mapping[str, PackedTensor], notify: Notify = silent) -> float:
        """KL(float || tensors) on the held-out calibration tokens, nats per token."""
        assert self.held_out is not None
        found = self.losses(tensors, self.held_out.sequences, notify)
        return float(found[:, 0].sum()) / self.held_out.sequences.size

    def losses(
        self, tensors: Mapping[str, PackedTensor], sequences: np.ndarray, notify: Notify = silent
    ) -> np.ndarray:
        """As `eval.divergence.text_losses`, of the model with these tensors as weights."""
        tell = lambda done, total, note: notify("KL", done, total, note)  # noqa: E731
        return self.backend.text_losses(
            self.model.module(), self.module_of(tensors), sequences, self.machine.threads, tell
        )

    @property
    def writes_quickly(self) -> bool:
        """Whether the model has a cache of keys and values to write with; a user's class has none."""
        return not self.model.family.asked_only

    def fitting_length(self, length: int) -> int:
        """`length`, or as long as the model's sequences may be."""
        return min(length, self.model.family.max_length(self.model.config) or length)

    def module_of(self, tensors: Mapping[str, PackedTensor]) -> nn.Module:
        """The model with these tensors as weights."""
        shapes = {t.name: t.shape for t in self.model.spec.tensors}
        weights = {n: t.dequantize().reshape(shapes[n]) for n, t in tensors.items()}
        return self.model.module(weights)

    def bpb(self, kl: float | None) -> float | None:
        """The loss in bits per byte that a KL stands for, where a tokenizer tells bytes per token."""
        if kl is None or self.bytes_per_token is None:
            return None
        return kl / log(2) / self.bytes_per_token

    def recalibrated(self, state: PackState, notify: Notify) -> "Prepared":
        """The same with the statistics of the quantized model of `state`.

        Raises:
            UsageError: a data-free build has no tokens.
        """
        if self.used is None or self.stats is None:
            raise UsageError(
                "--recalibrate needs calibration", "drop --data-free, or use recipe rd"
            )
        stats = self.backend.calibrate(
            self.module_of(state.tensors), state.spec, self.used,
            gradients=self.recipe.gradients, seed=self.seed, threads=self.machine.threads,
            progress=lambda d, t, note: notify("recalibrate", d, t, note),
        )  # fmt: skip
        return replace(self, stats=stats)

    def written_text(
        self,
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
        module = self.model.module()
        inputs = {**self._key, "shape": shape, "temperature": temperature, "seed": seed}
        calls, total = 0, text_calls(*shape)

        def count(*_: object) -> None:
            nonlocal calls
            calls += 1
            notify("write text", calls, total, f"for {purpose}, by the model itself")

        module.register_forward_hook(count)
        write = lambda: self.backend.write_text(module, *shape, seed, temperature)  # noqa: E731
        return cached_text(self._cache, inputs, write)

    def calibrated(self, inputs: Inputs, tokenizer: Tokenizer | None, notify: Notify) -> "Prepared":
        """The same with calibration tokens, and with the statistics that the recipe asks for.

        Raises:
            UsageError: unusable calibration data.
        """
        shape = calib_shape(self.model, inputs.calib_tokens)
        if inputs.calib is None:
            tokens = self.written_text(
                shape, temperature=SELF_TEMPERATURE, seed=self.seed, purpose="calibration",
                notify=notify,
            )  # fmt: skip
        else:
            tokens = from_data(inputs.calib, tokenizer, self._vocab_size, *shape)
            if tokenizer is not None:
                refuse_other_tokenizer(tokenizer, tokens.sequences.ravel(), inputs.tokenizer)
            notify("probe", 0, 0, "whether text contradicts what was assumed")
            refuse_wrong_assumptions(self.model, tokens.sequences)
        used, held_out = tokens.split(HELD_OUT)
        bytes_per_token = None
        if tokenizer is not None:
            table = ByteTable.from_tokenizer(tokenizer, self._vocab_size)
            bytes_per_token = float(np.mean([
                # A model with padded outputs may write one that stands for nothing.
                table.count(row[row < len(table.base)]) for row in used.sequences
            ]))  # fmt: skip
        found = replace(self, used=used, held_out=held_out, bytes_per_token=bytes_per_token)
        return replace(found, stats=found._statistics(used, notify))

    def _statistics(self, used: CalibTokens, notify: Notify) -> CalibStats | None:
        """Measured, or from the cache; None for a recipe that asks for none."""
        if self.recipe.calibration == "none":
            return None
        gradients = self.recipe.gradients
        inputs = {
            **self._key, "tokens": used.sha256, "shape": used.sequences.shape,
            "gradients": gradients, "seed": self.seed,
        }  # fmt: skip
        stats = cached(
            self._cache, inputs,
            lambda: self.backend.calibrate(
                self.model.module(), self.model.spec, used, gradients=gradients, seed=self.seed,
                threads=self.machine.threads,
                progress=lambda d, t, note: notify("calibrate", d, t, note),
            ),
        )  # fmt: skip
        # A cached result may have been measured on the same tokens under another path.
        return replace(stats, source=used.source)

    @property
    def _vocab_size(self) -> int:
        return self.model.config["vocab_size"]

    @property
    def _key(self) -> dict[str, Any]:
        """What every cached result depends on."""
        model = self.model
        told = {"checkpoint": model.sha256, "config": model.config, "backend": self.backend.key}
        return {**told, "code": model.family.code}

    @property
    def _cache(self) -> Path | None:
        return cache_folder() if self.machine.cache else None


def read_model(options: BuildOptions, budgets: Sequence[Bytes] = ()) -> tuple[Model, Recipe]:
    """The checkpoint and the recipe: what is quick to read and to refuse.

    Args:
        options: of the build.
        budgets: what the artifact is to fit in; a large checkpoint that cannot is not even read.

    Raises:
        UsageError: bad input. BudgetError: a large checkpoint and a hopeless budget.
    """
    inputs = options.inputs
    model_settings, pass_settings = split_settings(inputs.settings)
    fallback = TENSORS if options.unmeasured else None
    recipe = _recipe(options.goal, pass_settings)
    family = choose_family(inputs.model, inputs.model_args)
    spec = (
        peek_spec(inputs.checkpoint, model_settings, family, fallback, inputs.tokenizer)
        if budgets
        else None
    )
    if spec is not None:
        code = code_bytes(inputs.code)
        for budget in budgets:
            check_reach(recipe.search.floor_bpw, spec, Budget(budget.total(spec.numel), code))
    model = load_checkpoint(inputs.checkpoint, model_settings, family, fallback, inputs.tokenizer)
    if model.spec.numel == 0:
        raise UsageError(
            f"{inputs.checkpoint} holds no weights: all of its tensors are empty",
            "is it the model's checkpoint?",
        )
    deep = next((t for t in model.spec.tensors if len(t.shape) > MAX_AXES), None)
    if deep is not None:
        raise UsageError(
            f"tensor {deep.name!r} has {len(deep.shape)} axes; an artifact's have {MAX_AXES} at most",
            "reshape it before it is saved",
        )
    if options.goal.plan is not None:
        options.goal.plan.check(model.spec)
    return model, recipe


def _recipe(goal: Goal, settings: Sequence[str]) -> Recipe:
    if goal.replay is not None and goal.replay.brings_passes:
        return goal.replay.make_recipe(settings)
    if goal.plan is None:
        return load_recipe(goal.recipe or DEFAULT_RECIPE, settings)
    if goal.recipe is not None:
        raise UsageError("a plan brings its own passes", "leave out --recipe or --plan")
    return goal.plan.make_recipe(settings)


def prepare(
    model: Model,
    recipe: Recipe,
    options: BuildOptions,
    notify: Notify,
    helpers: Helpers = NO_HELP,
) -> Prepared:
    """Calibrate, which is the first thing that takes time.

    Raises:
        UsageError: unusable calibration data or tokenizer, no such device, or several processes of
            which each would do all of it.
    """
    if helpers.group.size == 1:
        refuse_others(
            "start it without torchrun: of what builds, `golfpack build` alone shares its work"
        )
    inputs, machine = options.inputs, options.machine
    backend = choose_backend(machine.device, machine.batched, helpers)
    prepared = Prepared(
        model, recipe, backend, machine, options.goal.seed, tokenizer=_shipped(inputs, model)
    )
    if options.unmeasured:
        return prepared
    tokenizer = None if inputs.tokenizer is None else load_tokenizer(inputs.tokenizer)
    if not measures(options, recipe):
        return prepared
    return prepared.calibrated(inputs, tokenizer, notify)


def with_its_tokenizer(options: BuildOptions) -> BuildOptions:
    """The options with the tokenizer's file named, where it is to ship and nobody named it.

    Raises:
        UsageError: there is none beside the checkpoint, or more than one.
    """
    inputs = options.inputs
    if not inputs.with_tokenizer or inputs.tokenizer is not None:
        return options
    found = beside(inputs.checkpoint)
    if found is None:
        raise UsageError(
            f"there is no tokenizer beside {inputs.checkpoint}", "name it: --tokenizer FILE"
        )
    return replace(options, inputs=replace(inputs, tokenizer=found))


def _shipped(inputs: Inputs, model: Model) -> TokenizerFile | None:
    """The tokenizer as it goes into the artifact. Raises UsageError for one of another model."""
    if not inputs.with_tokenizer:
        return None
    assert inputs.tokenizer is not None
    pieces, rows = load_tokenizer(inputs.tokenizer).vocab_size(), model.config.get("vocab_size")
    if rows is not None and pieces > rows:
        raise UsageError(
            f"{inputs.tokenizer} has {pieces:,} tokens, the model {rows:,}",
            "give the tokenizer that the model was trained with",
        )
    return TokenizerFile(inputs.tokenizer.name, shipped_bytes(inputs.tokenizer))


def measures(options: BuildOptions, recipe: Recipe) -> bool:
    """Whether there are calibration tokens, and so a KL."""
    asked = recipe.calibration != "none" or options.inputs.calib is not None
    return asked and not options.unmeasured


def check_output(output: Path, checkpoint: Path) -> None:
    """Raise UsageError before the long work where its result could not be written."""
    if output.is_dir() or not output.parent.is_dir():
        what = "is a folder" if output.is_dir() else "is in a folder that does not exist"
        raise UsageError(f"cannot write {output}: it {what}", "choose another --output")
    if is_artifact(checkpoint):
        raise already_packed(checkpoint)
    refuse_itself(output, checkpoint)


def code_bytes(files: tuple[Path, ...]) -> int:
    """Bytes of the code that ships, as it ships. Raises UsageError for what is no file."""
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
