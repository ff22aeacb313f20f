"""What a training run would be, worked out without memory for its weights and without its data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from golfpack.base.documents import SCHEMA_VERSION, versions
from golfpack.data.tokenizer import load_tokenizer
from golfpack.kv.layout import LONG_CONTEXT, layout
from golfpack.spec import ModelSpec
from golfpack.train.choose import Chosen, TrainOptions, choose
from golfpack.train.config import TrainConfig
from golfpack.train.optim import make_optimisers, state_bytes
from golfpack.train.run import DTYPES, training_of
from golfpack.train.schedule import budget_used, length_at, lr_scale, tokens_seen
from golfpack.train.trainer import complete_options


@dataclass(frozen=True)
class StepPlan:
    """What a step would be like.

    Attributes:
        step: counted from 1.
        lr: rate of the matrices inside blocks; None where the clock decides.
        seq_len: tokens per sequence.
    """

    step: int
    lr: float | None
    seq_len: int


@dataclass(frozen=True)
class TrainPlan:
    """What `golfpack train --print-plan` found.

    Attributes:
        preset: its name, or None.
        family: of the model.
        model: its options.
        train: all settings of the run.
        parameters: weights, those of tied tensors counted once.
        tensors: how many tensors hold them.
        keys: names that a state dict of the family's own system has.
        aliases: those among them that name a tensor a second time.
        decayed: parameters that AdamW or Lion shrinks; under Muon, those of its matrices.
        weight_bytes: of the weights as they are trained.
        optimizer_bytes: of what the optimiser keeps for the model's tensors; auxiliary heads, which no
            final model has, are not in it.
        sequences: sequences of a step.
        tokens_per_step: at the longest sequence.
        tokens: of the whole run; None where minutes are its budget.
        steps: at which rates or lengths are of interest.
        kv_bytes: of one sequence's keys and values at the trained length, in fp16; None where the
            model's options do not tell what its attention caches.
        kv_long_bytes: the same at 128,000 tokens.
    """

    preset: str | None
    family: str
    model: dict[str, Any]
    train: dict[str, Any]
    parameters: int
    tensors: int
    keys: int
    aliases: int
    decayed: int
    weight_bytes: int
    optimizer_bytes: int
    sequences: int
    tokens_per_step: int
    tokens: int | None
    steps: list[StepPlan]
    kv_bytes: int | None
    kv_long_bytes: int | None
    argv: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=versions)
    schema_version: int = SCHEMA_VERSION


def train_plan(options: TrainOptions) -> TrainPlan:
    """Work out a run.

    Raises:
        UsageError: as `choose`, or the model's options are incomplete, such as without a vocabulary.
    """
    chosen = choose(options)
    config, family = chosen.config, chosen.family
    shape, tokenizer = dict(chosen.shape), None
    if chosen.data.tokenizer is not None:
        tokenizer = load_tokenizer(chosen.data.tokenizer)
        shape.setdefault("vocab_size", tokenizer.vocab_size())
    elif chosen.data.train_vocab is not None:
        shape.setdefault("vocab_size", chosen.data.train_vocab)
    told = training_of(family).from_tokenizer(shape, tokenizer)
    spec = family.spec(complete_options(family, {**shape, **told}, config.seq_len))
    aliases = len(training_of(family).aliases(spec.config))
    kv = _kv_bytes(spec.config, config.seq_len)
    dtype = DTYPES[config.param_dtype]
    return TrainPlan(
        preset=chosen.preset,
        family=family.name,
        model=dict(spec.config),
        train=dict(vars(config)),
        parameters=spec.numel,
        tensors=len(spec.tensors),
        keys=len(spec.tensors) + aliases,
        aliases=aliases,
        decayed=_decayed(chosen, spec),
        weight_bytes=spec.numel * dtype.itemsize,
        optimizer_bytes=_optimizer_bytes(chosen, spec, dtype),
        sequences=config.rows,
        tokens_per_step=config.batch_tokens,
        tokens=None if config.steps is None else tokens_seen(config, config.steps),
        steps=[_step(config, step) for step in _named_steps(config)],
        kv_bytes=kv[0],
        kv_long_bytes=kv[1],
        argv=options.argv,
    )


def _optimizer_bytes(chosen: Chosen, spec: ModelSpec, dtype: torch.dtype) -> int:
    """What the run's own optimisers keep after a step, on tensors without memory."""
    parameters = {}
    for tensor in spec.tensors:
        parameter = torch.nn.Parameter(torch.empty(tensor.shape, dtype=dtype, device="meta"))
        parameter.grad = torch.empty_like(parameter)
        parameters[tensor.name] = parameter
    decays = training_of(chosen.family).decays
    optimisers = make_optimisers(parameters, spec, decays, chosen.config)
    for optimiser in optimisers:
        optimiser.step()
    return state_bytes(optimisers)


def _decayed(chosen: Chosen, spec: ModelSpec) -> int:
    if chosen.config.optimizer == "muon":
        kept = ("embed", "head", "vector")
        return sum(t.numel for t in spec.tensors if t.role not in kept)
    decays = training_of(chosen.family).decays
    return sum(t.numel for t in spec.tensors if decays(t))


def _kv_bytes(config: Mapping[str, Any], length: int) -> tuple[int | None, int | None]:
    if not {"num_layers", "dim", "num_heads"} <= config.keys():
        return None, None
    cached = layout(config)
    return cached.bytes(length), cached.bytes(LONG_CONTEXT)


def _named_steps(config: TrainConfig) -> list[int]:
    """The first steps, those where something changes, the middle and the last; counted from 1."""
    last = config.steps
    changes = [first + 1 for first, _ in config.lengths] + [first for first, _ in config.lengths]
    found = {1, 2, config.warmup_steps, *changes}
    if last is not None:
        found |= {last // 2, last}
    return sorted(step for step in found if step >= 1 and (last is None or step <= last))


def _step(config: TrainConfig, step: int) -> StepPlan:
    rate = None
    if config.steps is not None:
        used = budget_used(config, step - 1, 0.0)
        rate = config.peak_lr * lr_scale(config, step - 1, used)
    return StepPlan(step, rate, length_at(config, step - 1))
