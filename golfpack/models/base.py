"""What a model family is. A family is a folder beside this file, plus one line in `FAMILIES`.

A family's module must:
- take token ids (B, T) int64 and return logits (B, T, V) float32;
- take an optional `cache` (a `KVCache`) and then continue the sequences the cache holds;
- have parameter names equal to the names in its `ModelSpec`;
- call the modules named in each `TensorSpec.hooks`, so that calibration sees inputs and gradients.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from golfpack.base.convert import options_of
from golfpack.errors import UsageError
from golfpack.models.device import send
from golfpack.models.training import Training
from golfpack.spec import Fold, ModelSpec, TensorSpec

StateDict = Mapping[str, torch.Tensor]
# Name and width of each part that stands side by side in every head's key.
KeyParts = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Forms:
    """In which forms checkpoints of a family have its tensors, and the way back to them.

    `restore` undoes what `Family.adapt` did to names, layouts and groups; what that left out because it
    follows from the rest (masks, tables) or because only training uses it does not come back.

    Attributes:
        tell: state dict as it is stored, of this family -> its form in the family's words, with spaces
            between them; "" as the module has it. Artifacts keep these words: they never change.
        restore: (tensors by the module's names, config, form) -> the tensors in that form. Raises
            UsageError for words that it does not know, and where the tensors do not go together.
    """

    tell: Callable[[StateDict], str]
    restore: Callable[[StateDict, Mapping[str, Any], str], dict[str, torch.Tensor]]


@dataclass(frozen=True)
class Transformers:
    """How models of a family become transformers'.

    Attributes:
        write: (config, model_type, or None for the first that has such models) -> config.json, of which
            `Family.read_config` gives the same options. Raises UsageError where transformers has none.
        form: the form in which a checkpoint had the tensors -> the nearest that transformers reads.
    """

    write: Callable[[Mapping[str, Any], str | None], dict[str, Any]]
    form: Callable[[str], str]


@dataclass(frozen=True, eq=False)
class Writes:
    """How a matrix adds its outputs to the residual stream: stream + factor * outputs.

    Attributes:
        block: the module in whose calls it does.
        enters: arguments of that call -> the stream, (B, T, dim), as the first such matrix finds it.
        after: the matrix of the same block that adds to it before; None for the first.
        factor: (dim,) or None for 1.
    """

    block: str
    enters: Callable[[tuple[Any, ...]], torch.Tensor]
    after: str | None = None
    factor: torch.Tensor | None = None


def writes_of(
    block: str,
    names: Sequence[str],
    enters: Callable[[tuple[Any, ...]], torch.Tensor] = lambda args: args[0],
    factors: Sequence[torch.Tensor | None] | None = None,
) -> dict[str, Writes]:
    """`Writes` of a block's matrices that add to the stream one after the other."""
    before = (None, *names[:-1])
    return {
        name: Writes(block, enters, after, factor)
        for name, after, factor in zip(names, before, factors or [None] * len(names), strict=True)
    }


def plain_writes(blocks: str, count: int, *matrices: str) -> dict[str, Writes]:
    """Of `count` blocks that are called with the stream, and add to it by these matrices of theirs.

    Args:
        blocks: the name of their list.
        matrices: modules of a block.
    """
    found: dict[str, Writes] = {}
    for i in range(count):
        names = [f"{blocks}.{i}.{matrix}.weight" for matrix in matrices]
        found |= writes_of(f"{blocks}.{i}", names)
    return found


@dataclass(frozen=True)
class Family:
    """How to recognise, describe and build one family of models.

    Attributes:
        name: stored in artifacts; never changes once released.
        about: one line on what it is, for `golfpack list families`.
        needs: what a state dict must hold to be of this family, for error messages.
        config_type: frozen dataclass of JSON-safe fields (int, float, bool, str), with the family's
            defaults for what names and shapes cannot tell.
        matches: state dict -> whether it is of this family, judged by a few telling names.
        infer: (state dict that matches, typed overrides) -> the config fields that names and shapes
            tell. Raises UsageError, listing the choices, when shapes leave a dimension open and no
            override settles it.
        build: config dict -> module in float32, on CPU, in eval mode, weights uninitialised.
        spec: config dict -> ModelSpec.
        max_length: config dict -> longest sequence the module can take, or None for no limit.
        adapt: (state dict, of any family, the stored config with the overrides on top, unchecked) ->
            (the same with this family's own names and one tensor per weight, notes for the user on
            what was renamed, split or dropped). A state dict that is not of the family, or already as
            the module has it, comes back as it is, with no notes. None: checkpoints have the module's
            names.
        read_config: the config that a trainer stored with its weights, by the trainer's own names ->
            the config fields that shapes cannot tell. Keys of no interest are ignored, values are
            checked by `typed_overrides`. None: checkpoints of this family carry no config.
        from_tokenizer: (state dict that matches, overrides, path of the model's tokenizer) -> the config
            fields that the tokenizer tells. None: none of them.
        siblings: config -> option -> the values under which the same tensors are another model; some
            may not go together. None: every option is told by the tensors, or by the file.
        newer: config fields that the family has gained since its first artifacts. These lack them; the
            defaults leave a model as it was before.
        describe: (config, state dict) -> ModelSpec, for a family whose tensors no config tells; it is
            asked instead of `spec`.
        asked_only: never detected, only used where it is asked for by name.
        model_types: of transformers' config.json, those that `read_config` reads.
        forms: in which other names, layouts or groupings checkpoints have the tensors. None: in none.
        transformers: how such models become transformers'. None: it has no class for them.
        aliases: config dict -> further names of a tied tensor that state dicts have -> the name in its
            ModelSpec. None: no tensor has two names.
        uncached: (config dict, positions) -> the feature for whose sake keys and values of earlier
            positions cannot be used again in a sequence that may get so long, in words, or None where
            a cache gives the full forward's logits. None: it always does.
        training: how such models are trained. None: they cannot be.
        writes: module -> by its name, how each matrix that adds to the residual stream does. Leaves out
            those whose outputs something else comes behind. None: nothing is known of a stream.
        code: sha256, hex, of code outside golfpack that computes the model; "" where there is none.
    """

    name: str
    about: str
    needs: str
    config_type: type
    matches: Callable[[StateDict], bool]
    infer: Callable[[StateDict, Mapping[str, Any]], dict[str, Any]]
    build: Callable[[Mapping[str, Any]], nn.Module]
    spec: Callable[[Mapping[str, Any]], ModelSpec]
    max_length: Callable[[Mapping[str, Any]], int | None]
    adapt: Callable[[StateDict, Mapping[str, Any]], tuple[StateDict, list[str]]] | None = None
    read_config: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
    from_tokenizer: Callable[[StateDict, Mapping[str, Any], Path], dict[str, Any]] | None = None
    siblings: Callable[[Mapping[str, Any]], Mapping[str, tuple[Any, ...]]] | None = None
    newer: frozenset[str] = frozenset()
    describe: Callable[[Mapping[str, Any], StateDict], ModelSpec] | None = None
    asked_only: bool = False
    model_types: tuple[str, ...] = ()
    forms: Forms | None = None
    transformers: Transformers | None = None
    aliases: Callable[[Mapping[str, Any]], Mapping[str, str]] | None = None
    uncached: Callable[[Mapping[str, Any], int], str | None] | None = None
    training: Training | None = None
    writes: Callable[[Any], Mapping[str, Writes]] | None = None
    code: str = ""

    def module(self, config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> nn.Module:
        """The model with these weights: float32, on CPU, in eval mode, no gradients asked for."""
        return with_weights(self.build(config), weights)


class MissingOptions(UsageError):
    """Options that neither shapes nor the user told, and that no default may stand for.

    Attributes:
        begin: the options, and what a search for their values may begin with.
    """

    def __init__(self, message: str, hint: str, begin: Mapping[str, Any]) -> None:
        super().__init__(message, hint)
        self.begin = begin


Net = TypeVar("Net", bound=nn.Module)
Config = TypeVar("Config")


def with_weights(net: Net, weights: Mapping[str, np.ndarray]) -> Net:
    """A module, of the meta device or any other, given these weights: all of its own, on the CPU."""
    # Copied: a module must not share memory with arrays its caller still holds.
    net.load_state_dict({name: torch.tensor(w) for name, w in weights.items()}, assign=True)
    return net.requires_grad_(False).eval()


def on_meta(net: Callable[[Config], Net], config: Config) -> Net:
    """The module without memory, so that no initialiser draws from the caller's random state."""
    with torch.device("meta"), _Uninitialised():
        return net(config)


class _Uninitialised(TorchFunctionMode):
    """A block in which torch.nn.init does nothing, and draws nothing.

    On the meta device, where it has no effect, it would import torch's compiler, which takes a second.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def defaults(config_type: type, names: Collection[str]) -> dict[str, Any]:
    """The defaults of some fields of a config."""
    return {f.name: f.default for f in dataclasses.fields(config_type) if f.name in names}


def from_net(
    name: str,
    net: Callable[[Any], Net],
    config_type: Callable[..., Any],
    tensor: Callable[[str, tuple[int, ...], Net], TensorSpec],
    folds: Callable[[Any], tuple[Fold, ...]] = lambda config: (),
    newer: frozenset[str] = frozenset(),
) -> tuple[Callable[[Mapping[str, Any]], nn.Module], Callable[[Mapping[str, Any]], ModelSpec]]:
    """A family's `build` and `spec`, where a class holds all there is to know.

    Args:
        net: the module of a config.
        tensor: (parameter's name, its shape, the module without memory) -> what it does.
        folds: see `ModelSpec.folds`.
        newer: see `Family.newer`.
    """

    def build(config: Mapping[str, Any]) -> nn.Module:
        with _Uninitialised():
            return net(config_type(**config)).eval()

    def spec(config: Mapping[str, Any]) -> ModelSpec:
        cfg = config_type(**config)
        model = on_meta(net, cfg)
        tensors = tuple(tensor(n, tuple(p.shape), model) for n, p in model.named_parameters())
        unsaid = defaults(type(cfg), newer)
        return ModelSpec(name, dataclasses.asdict(cfg), tensors, folds(cfg), unsaid)

    return build, spec


class KVCache:
    """Keys and values of the positions seen so far, one pair per attention call of a forward pass.

    Models whose embedding looks at earlier tokens keep the last of those here too.

    Buffers are allocated once at full capacity: growing them by concatenation would copy the whole
    cache for every generated token.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0  # positions held; the model advances it once per forward pass
        self._pairs: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._last_tokens: torch.Tensor | None = None

    def extend(
        self, layer: int, k: torch.Tensor, v: torch.Tensor, parts: KeyParts = ()
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store k, v (B, H, T, D) of new positions; return those of all positions (B, H, S, D).

        Args:
            layer: number of the attention call within a forward pass.
            k, v: of the new positions.
            parts: what keys are made of, where a cache may store that apart; () for all of a kind.
        """
        del parts  # kept as they are
        end = self.length + k.shape[2]
        if end > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} positions, {end} were asked for")
        if layer not in self._pairs:
            self._pairs[layer] = (self._buffer(k), self._buffer(v))
        k_all, v_all = self._pairs[layer]
        k_all[:, :, self.length : end] = k
        v_all[:, :, self.length : end] = v
        return k_all[:, :, :end], v_all[:, :, :end]

    def with_last_tokens(self, tokens: torch.Tensor, count: int) -> torch.Tensor:
        """New tokens (B, T) behind the up to `count` before them, which are those of earlier calls."""
        if self._last_tokens is not None:
            tokens = torch.cat((self._last_tokens, tokens), dim=1)
        self._last_tokens = tokens[:, -count:]
        return tokens

    def _buffer(self, like: torch.Tensor) -> torch.Tensor:
        return like.new_empty(*like.shape[:2], self.capacity, like.shape[3])


@torch.no_grad()
def generate(
    model: nn.Module,
    batch: int,
    length: int,
    bos: int,
    temperature: float,
    generator: torch.Generator,
    top_k: int | None = None,
) -> torch.Tensor:
    """Sample sequences from a model, each starting with `bos`.

    The generator may be on the CPU and the model elsewhere: all devices then write the same text, as
    long as rounding does not decide between two tokens.

    Args:
        model: module of a family.
        batch: number of sequences.
        length: tokens per sequence, `bos` included.
        bos: first token of every sequence.
        temperature: divides the logits; 1 samples the model's own distribution.
        generator: the only source of randomness.
        top_k: sample among that many of the likeliest tokens; None for among all.

    Returns:
        tokens (batch, length) int64, on the model's device.

    Raises:
        UsageError: the model's logits are not finite.
    """
    device = next(model.parameters()).device
    tokens = torch.full((batch, length), bos, dtype=torch.int64, device=device)
    finite = torch.ones((), dtype=torch.bool, device=device)  # asked at the end: asking waits
    cache = KVCache(length)
    for t in range(1, length):
        logits = model(tokens[:, t - 1 : t], cache=cache)[:, -1]
        if top_k is not None and top_k < logits.shape[-1]:
            least = logits.topk(top_k).values[:, -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        p = torch.softmax(logits.double() / temperature, dim=-1)
        finite &= p.isfinite().all()
        noise = torch.empty(p.shape, dtype=p.dtype, device=generator.device)
        noise.exponential_(generator=generator)
        tokens[:, t] = pick(p, send(noise, device))
    if not bool(finite):
        raise UsageError(
            "the model's logits are not finite, so it cannot write text",
            "check its config and its weights",
        )
    return tokens


def pick(p: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """One index per row of `p` (..., V), drawn from those probabilities: (...) int64.

    With `noise` (..., V) exponential, the largest p / noise is such a draw. torch.multinomial draws
    the same, but on CUDA it waits for the device to check p.
    """
    return (p / noise).argmax(-1)


def typed_overrides(config_type: type, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Config overrides, each of its field's type. Raises UsageError as `options_of`."""
    return options_of(config_type, overrides, "the model", "--set model.")


def settle(
    config_type: type, told: Mapping[str, Any], overrides: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Join what shapes tell with what the user set and the defaults.

    Returns:
        (complete config, the part of it that nobody told: defaults taken on trust).

    Raises:
        UsageError: an override contradicts the shapes, or the config is impossible.
    """
    for key, value in overrides.items():
        if key in told and told[key] != value:
            raise UsageError(
                f"model option {key}={value} contradicts the checkpoint, whose shapes say "
                f"{key}={told[key]}",
                f"leave {key} out: it is read from the checkpoint",
            )
    config = dataclasses.asdict(config_type(**{**told, **overrides}))
    assumed = {k: v for k, v in config.items() if k not in told and k not in overrides}
    return config, assumed


def form_words(form: str, known: Collection[str]) -> set[str]:
    """The words of a form. Raises UsageError for one that the family does not know."""
    words = set(form.split())
    if unknown := sorted(words - set(known)):
        raise UsageError(f"the artifact's tensors are of the unknown form {unknown[0]!r}", None)
    return words


def shape_of(state: StateDict, name: str, ndim: int) -> tuple[int, ...]:
    """Shape of a tensor that a family cannot do without.

    Raises:
        UsageError: it is missing, or has another number of dimensions, or a dimension of 0.
    """
    if name not in state:
        raise UsageError(f"the checkpoint has no tensor {name!r}", "is the checkpoint complete?")
    shape = tuple(state[name].shape)
    if len(shape) != ndim or 0 in shape:
        raise UsageError(f"tensor {name!r} has shape {shape}, expected {ndim} non-zero dimensions")
    return shape


def check_tensors(spec: ModelSpec, state: StateDict) -> None:
    """Compare the names and shapes of a state dict with what a config needs.

    Raises:
        UsageError: names the first tensor that is missing, of another shape, or unknown.
    """
    missing = [t for t in spec.tensors if t.name not in state]
    if missing:
        raise UsageError(
            f"the checkpoint has no tensor {missing[0].name!r}, expected with shape "
            f"{missing[0].shape} ({spec.family} family; missing tensors: {len(missing)})",
            "is the checkpoint complete, and saved from the whole model?",
        )
    for t in spec.tensors:
        found = tuple(state[t.name].shape)
        if found != t.shape:
            raise UsageError(
                f"tensor {t.name!r} has shape {found}, but the other tensors imply {t.shape}",
                "the checkpoint mixes models, or is of a variant this family does not cover",
            )
    unknown = sorted(set(state) - {t.name for t in spec.tensors})
    if unknown:
        raise UsageError(
            f"tensor {unknown[0]!r} {tuple(state[unknown[0]].shape)} is not part of the "
            f"{spec.family} family (unknown tensors: {len(unknown)})",
            "the model has a feature this family lacks; see docs/writing_a_family.md",
        )
