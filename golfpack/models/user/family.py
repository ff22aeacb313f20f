"""The family of everything else: a user's own module, named with `--model FILE.py:CLASS`.

The class needs no changes. It is built with its keyword arguments and called with token ids (B, T);
it gives logits (B, T, V), alone, first in a tuple, or as `.logits`. What calibration hooks is found
by watching one call (`weight_uses.py`). The artifact keeps the class's name and arguments, never code.
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
from golfpack.models.base import (
    Family,
    KVCache,
    StateDict,
    typed_overrides,
)
from golfpack.models.roles import (
    block_of,
    guess_role,
)
from golfpack.models.user.choice import (
    USER_FAMILY,
    canonical,
    current_choice,
)
from golfpack.models.user.weight_uses import (
    USE_MODULES,
    Parameters,
    Route,
    Watch,
    use_key,
)
from golfpack.spec import (
    Hook,
    ModelSpec,
    Role,
    TensorSpec,
)

# The submodule that holds the modules of `weight_uses.py`; it has no parameters.
_USES = "golfpack_uses"
# More than one position, so that a class that only gives the last one's logits is found out.
_PROBE_LENGTH = 2


@dataclass(frozen=True)
class UserConfig:
    """What an artifact tells of a user's model.

    Attributes:
        class_name: the class to name with `--model FILE.py:CLASS`.
        args: its keyword arguments, canonical JSON.
        seq_len: longest sequence the model takes, and the default window of scoring.
    """

    class_name: str
    vocab_size: int
    args: str = "{}"
    seq_len: int = 1024

    def __post_init__(self) -> None:
        if min(self.vocab_size, self.seq_len) < 1:
            raise UsageError("model options vocab_size and seq_len must be positive", None)
        _parsed(self.args)


@dataclass(frozen=True)
class _Blueprint:
    """What one call of a freshly built module tells.

    Attributes:
        aliases: further names of a shared parameter -> its first name.
        buffers: what the class makes itself and saves with its weights.
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


def _parsed(args: str) -> dict[str, Any]:
    try:
        parsed = json.loads(args)
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        raise UsageError(f"model option args is {args!r}", "it must be one JSON object")
    return parsed


def chosen_class(class_name: str | None) -> type[nn.Module]:
    """The class in force. Raises UsageError where none is, or another than asked for."""
    choice = current_choice()
    named = class_name or "CLASS"
    if choice is None or choice.module_class is None:
        raise UsageError(
            f"this is a model of a class of its own, {named}, which golfpack does not have",
            f"add --model path/to/file.py:{named}",
        )
    if class_name not in (None, choice.module_class.__name__):
        raise UsageError(
            f"the model is of class {named}, not {choice.module_class.__name__}",
            f"add --model path/to/file.py:{named}",
        )
    return choice.module_class


@contextmanager
def _blaming(what: str, hint: str) -> Iterator[None]:
    """Turn whatever a user's code raises into one UsageError."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{what} raised {type(error).__name__}: {error}", hint) from error


def _make(module_class: type[nn.Module], args: str) -> nn.Module:
    """An instance, adapted, float32, in eval mode, with its class's own initial weights."""
    adapted = type(module_class.__name__, (_Adapter, module_class), {})
    hint = "give its arguments with --model-args key=value, or as a JSON object"
    # The class's initialisers draw from torch's own random state, which is left as it was.
    with _blaming(f"{module_class.__name__}({args})", hint), torch.random.fork_rng(devices=[]):
        module = adapted(**_parsed(args))
    module.add_module(_USES, nn.ModuleDict())
    return module.float().eval()


@lru_cache(maxsize=4)
def _blueprint(module_class: type[nn.Module], args: str) -> _Blueprint:
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
    return _Blueprint(
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


def build(config: Mapping[str, Any]) -> nn.Module:
    module_class = chosen_class(config["class_name"])
    module = _make(module_class, config["args"])
    uses = module.get_submodule(_USES)
    for tensor in _blueprint(module_class, config["args"]).tensors:
        for hook in tensor.hooks:
            uses.add_module(hook.module.removeprefix(f"{_USES}."), USE_MODULES[hook.kind]())
    return module


def spec(config: Mapping[str, Any]) -> ModelSpec:
    tensors = _blueprint(chosen_class(config["class_name"]), config["args"]).tensors
    return ModelSpec(USER_FAMILY, dict(config), tensors)


def matches(_state: StateDict) -> bool:
    return True  # asked for by name; `check_tensors` compares the rest


def _args(overrides: Mapping[str, Any]) -> str:
    """The class's arguments: from --model-args, else as the checkpoint or artifact has them."""
    choice = current_choice()
    if choice is None or choice.args is None:
        return overrides.get("args", "{}")
    return canonical(choice.args)


def adapt(state: StateDict, overrides: Mapping[str, Any]) -> tuple[StateDict, list[str]]:
    """One tensor per parameter of the class, and nothing that it makes itself."""
    plan = _blueprint(chosen_class(overrides.get("class_name")), _args(overrides))
    out, notes = dict(state), []
    for alias, kept in plan.aliases.items():
        if alias in out:
            tensor = out.pop(alias)
            _check_alias(alias, tensor, kept, out.setdefault(kept, tensor))
            notes.append(f"{alias} is {kept} (tied) and is kept once")
    for name, made in plan.buffers.items():
        if name in out:
            _check_buffer(name, out.pop(name), made)
            notes.append(f"{name} left out: the class makes it itself")
    return out, notes


def _check_alias(alias: str, tensor: torch.Tensor, kept: str, original: torch.Tensor) -> None:
    if tensor.is_meta or original.is_meta:
        return
    if tensor.shape != original.shape or not torch.equal(tensor, original):
        raise UsageError(
            f"the class ties {alias!r} to {kept!r}, but the checkpoint has different values for them",
            "is the checkpoint of this class, with these --model-args?",
        )


def _check_buffer(name: str, stored: torch.Tensor, made: torch.Tensor) -> None:
    if stored.is_meta:
        return
    if stored.shape != made.shape or not torch.equal(stored.to(made.dtype), made):
        raise UsageError(
            f"buffer {name!r} is not what the class makes it",
            "golfpack stores parameters only: make it a parameter, with requires_grad=False",
        )


def infer(_state: StateDict, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The class and its arguments; see `Family.infer`."""
    module_class, choice = chosen_class(overrides.get("class_name")), current_choice()
    vocab_size = _blueprint(module_class, _args(overrides)).vocab_size
    told = {"class_name": module_class.__name__, "vocab_size": vocab_size}
    if choice is not None and choice.args is not None:
        told["args"] = canonical(choice.args)
    return told


def _max_length(config: Mapping[str, Any]) -> int | None:
    chosen_class(config["class_name"])  # who asks is about to run it
    return config["seq_len"]


def check_form(config: Mapping[str, Any]) -> None:
    """Raise UsageError unless a config is complete: all that can be said without the class."""
    missing = {"class_name", "vocab_size", "args", "seq_len"} - config.keys()
    if missing:
        raise UsageError(f"the config lacks {', '.join(sorted(missing))}", None)
    typed = typed_overrides(UserConfig, config)
    if mistyped := [key for key, value in typed.items() if type(value) is not type(config[key])]:
        raise UsageError(f"the config holds no proper {', '.join(mistyped)}", None)
    UserConfig(**typed)


USER = Family(
    name=USER_FAMILY,
    about="A torch module of your own, unchanged, by --model FILE.py:CLASS.",
    needs="the parameters of the class that --model FILE.py:CLASS names",
    config_type=UserConfig,
    matches=matches,
    infer=infer,
    build=build,
    spec=spec,
    max_length=_max_length,
    adapt=adapt,
    asked_only=True,
)
