"""A user's class as a module of golfpack's, and what one call of it tells of its parameters.

The class needs no changes. It is built with its keyword arguments and called with token ids (B, T);
it gives logits (B, T, V), alone, first in a tuple, or as `.logits`. What calibration hooks is found
by watching one call (`weight_uses.py`).
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from golfpack.errors import UsageError
from golfpack.models.base import KVCache
from golfpack.models.roles import block_of, guess_role
from golfpack.models.training import seeded
from golfpack.models.user.weight_uses import USE_MODULES, Parameters, Route, Watch, use_key
from golfpack.spec import Hook, Role, TensorSpec

# The submodule that holds the modules of `weight_uses.py`; it has no parameters.
_USES = "golfpack_uses"
# More than one position, so that a class that only gives the last one's logits is found out.
_PROBE_LENGTH = 2


@dataclass(frozen=True)
class Blueprint:
    """What one call of a freshly built module tells.

    Attributes:
        tensors: one per parameter, with what calibration hooks.
        aliases: further names of a shared parameter -> its first name.
        buffers: what the class makes itself and saves with its weights.
        vocab_size: how many logits there are per token.
    """

    tensors: tuple[TensorSpec, ...]
    aliases: Mapping[str, str]
    buffers: Mapping[str, torch.Tensor]
    vocab_size: int


class _Adapter(nn.Module):
    """Put before the user's class in a class of both: what golfpack asks of a module."""

    def forward(self, tokens: torch.Tensor, cache: KVCache | None = None) -> torch.Tensor:
        """Tokens (B, T) int64 -> logits (B, T, V) float32.

        The class has no cache of its own: with one, the tokens seen so far are computed again.
        """
        seen = tokens if cache is None else cache.with_last_tokens(tokens, cache.capacity)
        with Route(self, self.get_submodule(_USES)):  # type: ignore[arg-type]
            out = super().forward(seen)
        return _logits(out)[:, -tokens.shape[1] :].float()

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Copy one tensor per parameter; assigning them would untie what the class has tied."""
        del strict, assign
        parameters = dict(self.named_parameters())
        if parameters.keys() != state_dict.keys():
            raise ValueError(f"not the parameters: {sorted(parameters.keys() ^ state_dict.keys())}")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(state_dict[name])


def _logits(out: Any) -> torch.Tensor:
    """The logits in what a class returned."""
    first: Any = out[0] if isinstance(out, (tuple, list)) and out else out
    return getattr(first, "logits", first)


def parsed(args: str) -> dict[str, Any]:
    """Keyword arguments as artifacts keep them. Raises UsageError where they are no JSON object."""
    try:
        found = json.loads(args)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UsageError(f"model option args is {args!r}", "it must be one JSON object")
    return found


@contextmanager
def _blaming(what: str, hint: str) -> Iterator[None]:
    """Turn whatever a user's code raises into one UsageError."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{what} raised {type(error).__name__}: {error}", hint) from error


def _make(module_class: type[nn.Module], args: str, seed: int = 0) -> nn.Module:
    """An instance, adapted, float32, in eval mode, with its class's own initial weights."""
    adapted = type(module_class.__name__, (_Adapter, module_class), {})
    hint = "give its arguments with --model-args key=value, or as a JSON object"
    # The class's initialisers draw from torch's own random state, which is left as it was.
    with _blaming(f"{module_class.__name__}({args})", hint), seeded(seed):
        module = adapted(**parsed(args))
    module.add_module(_USES, nn.ModuleDict())
    return module.float().eval()


@lru_cache(maxsize=4)
def blueprint(module_class: type[nn.Module], args: str) -> Blueprint:
    """Build the class once and watch one call of it.

    Raises:
        UsageError: it cannot be built with these arguments (canonical JSON), or is no language model.
    """
    module = _make(module_class, args)
    known = Parameters(module)
    watch = Watch(known)
    name = module_class.__name__
    hint = "its forward must take token ids (B, T) alone and give logits (B, T, V)"
    with torch.no_grad(), _blaming(f"{name}'s forward", hint), watch:
        logits = module(torch.zeros(1, _PROBE_LENGTH, dtype=torch.int64))
    if logits.ndim != 3 or logits.shape[:2] != (1, _PROBE_LENGTH):
        raise UsageError(
            f"{name}'s forward gives {tuple(logits.shape)} for {_PROBE_LENGTH} tokens",
            f"{hint}: of every position, not the last alone",
        )
    first = {id(p): n for n, p in known.by_name.items()}
    named = {n: first[id(p)] for n, p in module.named_parameters(remove_duplicate=False)}
    return Blueprint(
        tensors=tuple(_tensor_spec(n, p, watch, logits.shape[2]) for n, p in known.by_name.items()),
        aliases={n: kept for n, kept in named.items() if n != kept},
        buffers={n: b for n, b in module.state_dict().items() if n not in named},
        vocab_size=logits.shape[2],
    )


def _tensor_spec(name: str, parameter: nn.Parameter, watch: Watch, vocab: int) -> TensorSpec:
    shape = tuple(parameter.shape)
    seen = len(shape) == 2 and name not in watch.other
    kinds = watch.kinds.get(name, []) if seen else []
    role: Role = guess_role(name, shape)
    if "embedding" in kinds:
        role = "embed"
    elif kinds and shape[0] == vocab:
        role = "head"
    elif role in ("embed", "head"):
        role = "mlp_in"  # named like one, used like any other matrix
    hooks = tuple(Hook(f"{_USES}.{use_key(kind, name)}", kind) for kind in kinds)
    return TensorSpec(name, shape, role, block_of(name), hooks)


def runnable(module_class: type[nn.Module], args: str, seed: int = 0) -> nn.Module:
    """The class's module, with what calibration hooks. Raises UsageError as `blueprint`.

    Args:
        seed: of its class's own initial weights.
    """
    module = _make(module_class, args, seed)
    uses = module.get_submodule(_USES)
    for tensor in blueprint(module_class, args).tensors:
        for hook in tensor.hooks:
            uses.add_module(hook.module.removeprefix(f"{_USES}."), USE_MODULES[hook.kind]())
    return module
