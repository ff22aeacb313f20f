"""The family of everything else: a user's own module, named with `--model FILE.py:CLASS`.

`user_family` makes it of a class: there is one family per class, and what it does is that class's.
`USER` is the family without its class, which is all that an artifact leads to: it says what the
artifact tells, and what to add where more is asked. The artifact keeps the class's name and arguments,
never code.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from golfpack.errors import UsageError
from golfpack.models.base import Family, StateDict, typed_overrides
from golfpack.models.tensors import describe
from golfpack.models.training import Training
from golfpack.models.user.blueprint import blueprint, parsed, runnable
from golfpack.spec import ModelSpec

USER_FAMILY = "user"


class ClassError(UsageError):
    """The class of a user's model is not named, or is another than the model's."""


@dataclass(frozen=True)
class UserConfig:
    """What an artifact tells of a user's model.

    Attributes:
        class_name: the class to name with `--model FILE.py:CLASS`.
        vocab_size: how many tokens it tells apart.
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
        parsed(self.args)


@dataclass(frozen=True)
class _Chosen:
    """What `--model FILE.py:CLASS` chose; the functions of its family.

    Attributes:
        module_class: the class; None where no class was named.
        args: its keyword arguments, canonical JSON; None where none were given.
    """

    module_class: type[nn.Module] | None
    args: str | None

    def named(self, class_name: str | None) -> type[nn.Module]:
        """The class. Raises ClassError where there is none, or the model's is another."""
        named = class_name or "CLASS"
        hint = f"add --model path/to/file.py:{named}"
        if self.module_class is None:
            what = f"this is a model of a class of its own, {named}, which golfpack does not have"
            raise ClassError(what, hint)
        if class_name not in (None, self.module_class.__name__):
            what = f"the model is of class {named}, not {self.module_class.__name__}"
            raise ClassError(what, hint)
        return self.module_class

    def args_of(self, overrides: Mapping[str, Any]) -> str:
        """The class's arguments: from --model-args, else as the checkpoint or artifact has them."""
        return overrides.get("args", "{}") if self.args is None else self.args

    def adapt(self, state: StateDict, overrides: Mapping[str, Any]) -> tuple[StateDict, list[str]]:
        """One tensor per parameter of the class, and nothing that it makes itself."""
        plan = blueprint(self.named(overrides.get("class_name")), self.args_of(overrides))
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

    def infer(self, _state: StateDict, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """The class and its arguments; see `Family.infer`."""
        module_class = self.named(overrides.get("class_name"))
        vocab_size = blueprint(module_class, self.args_of(overrides)).vocab_size
        told = {"class_name": module_class.__name__, "vocab_size": vocab_size}
        return told if self.args is None else {**told, "args": self.args}

    def aliases(self, config: Mapping[str, Any]) -> Mapping[str, str]:
        """Further names of the parameters that the class ties."""
        return blueprint(self.named(config["class_name"]), config["args"]).aliases

    def build(self, config: Mapping[str, Any]) -> nn.Module:
        return runnable(self.named(config["class_name"]), config["args"])

    def spec(self, config: Mapping[str, Any]) -> ModelSpec:
        tensors = blueprint(self.named(config["class_name"]), config["args"]).tensors
        return ModelSpec(USER_FAMILY, dict(config), tensors)

    def complete(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """What a trainer need not be told: the class, its arguments, its vocabulary."""
        told = self.infer({}, options)
        if (size := options.get("vocab_size", told["vocab_size"])) != told["vocab_size"]:
            raise UsageError(
                f"the class gives {told['vocab_size']} logits for a vocabulary of {size}",
                "tell the class the tokenizer's size with --model-args",
            )
        return {"args": "{}", **options, **told}

    def initialise(self, model: nn.Module, spec: ModelSpec, generator: torch.Generator) -> None:
        """The class's own initial weights, of a seed from `generator`."""
        seed = int(torch.randint(1 << 62, (), generator=generator))
        fresh = runnable(self.named(spec.config["class_name"]), spec.config["args"], seed)
        model.load_state_dict(dict(fresh.named_parameters()))

    def max_length(self, config: Mapping[str, Any]) -> int | None:
        self.named(config["class_name"])  # who asks is about to run it
        return config["seq_len"]


def _matches(_state: StateDict) -> bool:
    return True  # asked for by name; `check_tensors` compares the rest


def _guess(config: Mapping[str, Any], state: StateDict) -> ModelSpec:
    """What names and shapes tell of the tensors, where nobody named the class."""
    return ModelSpec(USER_FAMILY, dict(config), describe({}, state).tensors)


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


def check_form(config: Mapping[str, Any]) -> None:
    """Raise UsageError unless a config is complete: all that can be said without the class."""
    missing = {"class_name", "vocab_size", "args", "seq_len"} - config.keys()
    if missing:
        raise UsageError(f"the config lacks {', '.join(sorted(missing))}", None)
    typed = typed_overrides(UserConfig, config)
    if mistyped := [key for key, value in typed.items() if type(value) is not type(config[key])]:
        raise UsageError(f"the config holds no proper {', '.join(mistyped)}", None)
    UserConfig(**typed)


def user_family(
    module_class: type[nn.Module] | None, args: Mapping[str, Any] | None = None, code: str = ""
) -> Family:
    """The family of one class.

    Args:
        module_class: None for what is known without it.
        args: the class's keyword arguments; None to take those that the checkpoint or artifact has.
        code: see `Family.code`.
    """
    given = None if args is None else json.dumps(args, sort_keys=True, separators=(",", ":"))
    chosen = _Chosen(module_class, given)
    return Family(
        name=USER_FAMILY,
        about="A torch module of your own, unchanged, by --model FILE.py:CLASS.",
        needs="the parameters of the class that --model FILE.py:CLASS names",
        config_type=UserConfig,
        matches=_matches,
        infer=chosen.infer,
        build=chosen.build,
        spec=chosen.spec,
        max_length=chosen.max_length,
        adapt=chosen.adapt,
        describe=_guess if module_class is None else None,
        asked_only=True,
        aliases=None if module_class is None else chosen.aliases,
        uncached=lambda config, positions: "a class of your own",
        training=None
        if module_class is None
        else Training(chosen.initialise, complete=chosen.complete),
        code=code,
    )


USER = user_family(None)
