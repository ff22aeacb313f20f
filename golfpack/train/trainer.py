"""Train a model of any family: the loop around `train_step`, with its log and checkpoints."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from golfpack.data.tokenizer import Tokenizer
from golfpack.errors import UsageError
from golfpack.models.base import Family, typed_overrides
from golfpack.models.device import peak_memory_bytes, resolve_device, watch_memory
from golfpack.models.golf.family import GOLF
from golfpack.models.ranks import ALONE, Group
from golfpack.train.aiming import Aim
from golfpack.train.analyst import Analyst, left_out
from golfpack.train.batches import Batches, Prefetch
from golfpack.train.checkpoint import LAST, Listener, RunFolder, settings_of, write_calibration
from golfpack.train.config import TrainConfig
from golfpack.train.log import Sampler, Stopwatch, meta_record, now, resume_record
from golfpack.train.loss import validation_loss
from golfpack.train.run import Run, new_run, training_of, weights_of
from golfpack.train.schedule import length_at, tokens_per_second, tokens_seen
from golfpack.train.step import StepRecord, train_step
from golfpack.train.system_files import SystemFiles

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class TrainResult:
    """What a finished run came to.

    Attributes:
        steps: optimiser steps taken.
        seconds: wall-clock time, over all resumptions.
        final_loss: moving average of the training loss at the end, nats per token.
        val_loss: validation loss of the final weights, nats per token, or None without such tokens.
        checkpoint: the final model, a plain state dict; its configuration lies beside it.
        device: where it was trained.
        peak_memory_bytes: torch's on CUDA, else the process's largest resident set.
        budget: size of the artifact that the run was for; empty where it was for none.
        seed: of the run.
        tokens: training tokens seen.
        parameters: weights of the model.
        codes: whether the codes of the run's artifact are to be trained.
        writes: whether this process wrote the files: one of a distributed run does.
        warnings: what was left out, and why.
    """

    steps: int
    seconds: float
    final_loss: float
    val_loss: float | None
    checkpoint: Path
    device: str = "cpu"
    peak_memory_bytes: int = 0
    writes: bool = True
    budget: str = ""
    seed: int = 0
    tokens: int = 0
    parameters: int = 0
    codes: bool = True
    warnings: tuple[str, ...] = ()


def train(
    config: TrainConfig,
    model_config: Mapping[str, Any],
    tokens: np.ndarray,
    out_dir: Path,
    *,
    family: Family = GOLF,
    val_tokens: np.ndarray | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    tokenizer: Tokenizer | None = None,
    about: Mapping[str, Any] | None = None,
    group: Group = ALONE,
    listeners: Sequence[Listener] = (),
) -> TrainResult:
    """Train a model from scratch, or go on where a run in `out_dir` stopped.

    Args:
        config: budget, rates and intervals.
        model_config: options of the family; `seq_len` comes from `config` and may be left out.
        tokens: (N,) uint16 or uint32 training stream.
        out_dir: gets last.pt, best.pt (with `val_every`), train.jsonl, final_model.pt and
            final_model.config.json.
        family: of the model.
        val_tokens: (M,) uint16 or uint32 held-out stream for validation losses; never trained on.
        resume: continue the run in `out_dir`, whose settings must be these.
        progress: called after each step with (done, total, note), in steps or in seconds.
        tokenizer: of the tokens, for sampled texts in the log.
        about: for the log: argv, versions, sources of the tokens, tokenizer's file.
        group: the processes that share each batch; the first of them writes.
        listeners: called with each line of the log.

    Raises:
        UsageError: unusable options or tokens, a folder in use, or a loss that is not finite.
        BudgetError: the run is for an artifact, and none of such a model can be so small.
        CorruptError: a damaged `last.pt`.
    """
    spec = family.spec(complete_options(family, model_config, config.seq_len))
    config = dataclasses.replace(config, device=_device(config.device, group))
    watch_memory(config.device)
    check_parts(config, group.size)
    _check_tokens("training", tokens, spec.config)
    if val_tokens is not None:
        _check_tokens("validation", val_tokens, spec.config)
    batches = Batches(
        tokens, config.seq_len, config.rows, config.seed, config.order, config.curriculum_steps
    )
    system = SystemFiles.of(family, spec.config, config, tokenizer)
    settings = settings_of(config, spec, tokens, val_tokens)
    folder = RunFolder(out_dir, settings, group.writes, system, listeners)
    sampler = Sampler.of(config, spec.config["vocab_size"], tokenizer)
    analyst = None
    if config.analyse_every is not None and group.writes:
        seen = tokens if val_tokens is None else val_tokens
        analyst = Analyst.of(family, spec, seen, config.seq_len, out_dir)
    about = about or {}
    aim = Aim(config, spec, tokens)
    aim.check()

    def batch_at(step: int) -> np.ndarray:
        return batches.at(step, length_at(config, step))

    with _torch_threads(config.threads), Prefetch(batch_at) as prefetch:
        run = new_run(family, spec, config, tokens, group)
        if resume and not folder.begun:
            folder.resume(run)
            folder.log(resume_record(config, run.step, about))
        else:
            folder.start(meta_record(config, spec, tokens, val_tokens, out_dir, about))
            if analyst is not None:
                folder.log(analyst.first(run.result, run.step))
        loop = _Loop(config, prefetch, val_tokens, folder, progress, sampler, analyst, group, aim)
        try:
            loop.run_out(run)
        except BaseException as error:
            if group.writes:
                error.add_note(_left(run))
            raise
        if config.budget and folder.writes:
            write_calibration(out_dir, tokens)
        checkpoint = folder.finish(weights_of(run.result), spec.config)
        if analyst is not None:
            analyst.draw(folder.lines())
    return TrainResult(
        run.step, run.seconds, run.running_loss, run.val_loss, checkpoint,
        config.device, peak_memory_bytes(config.device), group.writes, config.budget, config.seed,
        tokens_seen(config, run.step), spec.numel, run.extended_at is None,
        warnings=() if analyst is None else tuple(left_out()),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Loop:
    """What stays the same from step to step."""

    config: TrainConfig
    batches: Prefetch
    val_tokens: np.ndarray | None
    folder: RunFolder
    progress: Progress | None
    sampler: Sampler | None
    analyst: Analyst | None
    group: Group
    aim: Aim

    def run_out(self, run: Run) -> None:
        """Take steps until the budget is used; the log tells of one that fails."""
        started = time.perf_counter() - run.seconds
        run.looked = (run.step, time.perf_counter())
        if self.val_tokens is None and run.used(self.config) < 1.0:
            run.val_loss = None  # what an earlier part of the run found is not of what comes
        buffers = {name: b.clone() for name, b in _stored_buffers(run.model).items()}
        while (used := run.used(self.config)) < 1.0:
            before = run.step
            try:
                self._step(run, used, started)
            except UsageError as error:
                failed = {"type": "error", "step": before + 1, "message": error.message}
                self.folder.log(failed | {"time": now()})
                raise
            if buffers:
                _refuse_changes(buffers, _stored_buffers(run.model))
                buffers = {}
        if self.config.budget:
            self.folder.log(self.aim.look(run, 1.0))
        self._note(run, "end", final_loss=run.running_loss, val_loss=run.val_loss)

    def _step(self, run: Run, used: float, started: float) -> None:
        """One step, timed, and what is due after it."""
        self.aim.remember(run, used)
        if self.aim.due(run, used):
            self.folder.log(self.aim.look(run, used))
        watch = Stopwatch(self.config.device)
        batch = self.batches.at(run.step)
        watch.lap("data")
        record = train_step(run, self.config, batch, used, watch, self.group)
        timing = watch.stop()
        run.seconds = self._agreed(time.perf_counter() - started)
        self._after_step(run, record, timing)

    def _agreed(self, seconds: float) -> float:
        """The first rank's clock, so that a budget in minutes ends at one step for all."""
        if self.group.size == 1 or self.config.minutes is None:
            return seconds
        mine = np.array([seconds if self.group.rank == 0 else 0.0])
        return float(self.group.sum_array(mine)[0])

    def _after_step(self, run: Run, record: StepRecord, timing: dict[str, float]) -> None:
        """What is due at this step, and progress."""
        config = self.config
        last = run.used(config) >= 1.0
        every = (
            config.val_every, config.log_every, config.save_every, config.sample_every,
            config.system_every, config.analyse_every,
        )  # fmt: skip
        if any(_due(interval, run.step, last) for interval in every):
            # Nothing is written of a run whose losses have not been seen to be finite.
            self._write(run, *self._look(run, record, timing), last)
            run.looked = (run.step, time.perf_counter())
        if self.progress is not None and self.folder.writes:
            done, total = _position(config, run)
            # A lazy run's loss is not fetched before a line of the log is due.
            known = not math.isnan(run.running_loss)
            note = f"loss {run.running_loss:.3f}" if known else ""
            self.progress(done, total, note if run.look is None else f"{note}, {run.look.told}")

    def _write(self, run: Run, record: StepRecord, timing: dict[str, float], last: bool) -> None:
        """Whatever is due: validation, log, analysis, samples, checkpoints."""
        config = self.config

        def due(every: int | None) -> bool:
            return _due(every, run.step, last)

        found = {"val_loss": self._validate(run)} if due(config.val_every) else {}
        found = {name: loss for name, loss in found.items() if loss is not None}
        if found or due(config.log_every):
            rate = tokens_per_second(config, run.step - 1, timing["step"])
            line = {"type": "step", **dataclasses.asdict(record), "seconds": run.seconds, **found}
            clock = {"tokens_per_second": rate, "timing_ms": timing, "time": now()}
            self.folder.log(line | clock)
        if self.folder.writes:
            self._watch(run, due)
        if due(config.save_every):
            self._note(run, "checkpoint")  # before it is saved: what is logged by then is kept
            self.folder.save(run)
        if config.system_every is not None and due(config.system_every):
            self.folder.save_system(run)

    def _watch(self, run: Run, due: Callable[[int | None], bool]) -> None:
        """What the model does and writes, as far as that is due."""
        if self.analyst is not None and due(self.config.analyse_every):
            self.folder.log(self.analyst.record(run.result, run.step))
        if self.sampler is not None and due(self.config.sample_every):
            for text in self.sampler.records(run.result, run.step):
                self.folder.log(text)

    def _validate(self, run: Run) -> float | None:
        """The validation loss, where there is anything to validate on; the best weights are kept."""
        if self.val_tokens is None:
            return None
        config = self.config
        run.val_loss = validation_loss(
            run.result, self.val_tokens, config.seq_len, config.rows // config.accumulate,
            batches=config.val_batches, precision=config.precision, ignore_id=config.ignore_id,
        )  # fmt: skip
        if run.val_loss < run.best_val:
            run.best_val = run.val_loss
            if config.val_every is not None:
                self.folder.save_best(run)
        return run.val_loss

    def _look(
        self, run: Run, record: StepRecord, timing: dict[str, float]
    ) -> tuple[StepRecord, dict[str, float]]:
        """The record with the step's own loss; a lazy run's step takes the mean since the last look."""
        run.read()
        if run.lazy:
            step, since = run.looked
            timing = {"step": 1000.0 * (time.perf_counter() - since) / (run.step - step)}
        return dataclasses.replace(record, loss=run.loss, grad_norm=run.grad_norm), timing

    def _note(self, run: Run, kind: str, **what: float | None) -> None:
        line = {"type": kind, "step": run.step, "time": now(), "seconds": run.seconds}
        self.folder.log(line | what)


def _left(run: Run) -> str:
    """What a run that ends early leaves to go on from."""
    if run.saved is None:
        return f"the run ends after step {run.step}, before its first {LAST}: there is nothing to resume"
    again = f"; {run.step - run.saved} steps come again" if run.step > run.saved else ""
    return f"the run ends after step {run.step}: --resume goes on from step {run.saved}{again}"


def _stored_buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    """What a class would store beside its parameters."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return {name: t for name, t in model.state_dict().items() if name not in parameters}


def _refuse_changes(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> None:
    for name, buffer in before.items():
        if not torch.equal(buffer, after[name]):
            raise UsageError(
                f"the class changes its buffer {name!r} while it is trained",
                "golfpack stores parameters only: use layers without running statistics",
            )


def _due(every: int | None, step: int, last: bool) -> bool:
    return last or (every is not None and step % every == 0)


def _position(config: TrainConfig, run: Run) -> tuple[int, int]:
    """(done, total) in steps, or in seconds where minutes are the budget."""
    if config.steps is not None:
        return run.step, config.steps
    assert config.minutes is not None  # TrainConfig holds one of the two
    kept = config.codes_share if run.extended_at is None else 0.0
    total = max(1, round(60.0 * config.minutes * (1.0 - kept)))
    return int(total * run.used(config)), total


def complete_options(
    family: Family, model_config: Mapping[str, Any], seq_len: int
) -> dict[str, Any]:
    """Checked model options, with the training length as the model's `seq_len`.

    Raises:
        UsageError: an option is unknown, of another type, missing, or contradicts the training length.
    """
    training = training_of(family)
    options = typed_overrides(family.config_type, model_config)
    if options.setdefault("seq_len", seq_len) != seq_len:
        raise UsageError(
            f"the model's seq_len is {options['seq_len']}, the training run's {seq_len}",
            "Leave seq_len out of the model options; it follows the training run.",
        )
    options = training.complete(options)
    fields = dataclasses.fields(family.config_type)
    required = [f.name for f in fields if f.default is dataclasses.MISSING]
    if missing := [name for name in required if name not in options]:
        raise UsageError(
            f"the model options lack {', '.join(missing)}",
            f"A {family.name} model needs {', '.join(required)}: --set model.{missing[0]}=VALUE"
            + (", or --tokenizer FILE" if "vocab_size" in missing else ""),
        )
    return options


def check_parts(config: TrainConfig, ranks: int) -> None:
    """Raise UsageError unless the parts of a batch can be shared out evenly."""
    if config.accumulate % ranks:
        raise UsageError(
            f"{ranks} processes cannot share a batch of {config.accumulate} parts evenly",
            f"Set train.accumulate={ranks}, or a multiple of it: a batch's parts are the same on any "
            "number of processes.",
        )


def _device(asked: str, group: Group) -> str:
    """Where this process computes: its own GPU in a group, else what is asked for."""
    return resolve_device(asked).name if group.size == 1 else group.device


def _check_tokens(kind: str, tokens: np.ndarray, model_config: Mapping[str, Any]) -> None:
    vocab_size, seq_len = model_config["vocab_size"], model_config["seq_len"]
    if tokens.ndim != 1 or tokens.dtype not in (np.uint16, np.uint32):
        raise UsageError(
            f"the {kind} tokens are {tokens.dtype} of shape {tokens.shape}",
            "They must be one stream of uint16, or of uint32.",
        )
    if tokens.size <= seq_len:
        raise UsageError(
            f"{tokens.size} {kind} tokens do not fill one sequence of {seq_len}",
            "Give more tokens, or use a shorter seq_len.",
        )
    if tokens.max() >= vocab_size:
        raise UsageError(
            f"the {kind} tokens hold id {tokens.max()}; the model's vocabulary has {vocab_size}",
            "Use the tokenizer that made the tokens, and its size as vocab_size.",
        )


@contextlib.contextmanager
def _torch_threads(threads: int | None) -> Iterator[None]:
    """Run with that many threads, and give the caller's setting back."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
