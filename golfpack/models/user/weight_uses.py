"""Seeing how a module uses its matrices, whatever its code looks like.

Calibration listens at modules that are called with an input and give x W^T, or with token ids and give
rows of W. A user's network may do either without such a module: `F.linear(x, self.emb.weight)`,
`x @ w.T`. torch hands every call of its functions to an active `TorchFunctionMode`; here one finds the
uses of every parameter (`watch`), and another routes each through a module of its own (`Route`).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from golfpack.spec import HookKind

_MATMULS = (torch.matmul, torch.mm, torch.Tensor.matmul, torch.Tensor.mm, torch.Tensor.__matmul__)


class Use(NamedTuple):
    """One use of parameter `name` in one call."""

    kind: HookKind
    name: str
    x: torch.Tensor
    bias: torch.Tensor | None

    @property
    def key(self) -> str:
        """Of the module in `use_modules` that stands for it."""
        return use_key(self.kind, self.name)


def use_key(kind: HookKind, name: str) -> str:
    return f"{kind}:{name.replace('.', '/')}"


class LinearUse(nn.Module):
    """x W^T + b as a module, for calibration to hook."""

    def forward(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        return F.linear(x, weight, bias)


class EmbeddingUse(nn.Module):
    """Rows of W as a module, for calibration to hook."""

    def forward(
        self, tokens: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        del bias  # a look-up has none
        return F.embedding(tokens, weight)


USE_MODULES: dict[HookKind, Callable[[], nn.Module]] = {
    "linear": LinearUse,
    "embedding": EmbeddingUse,
}


class Parameters:
    """A module's parameters by identity, each under its first name."""

    def __init__(self, module: nn.Module) -> None:
        self.by_name = dict(module.named_parameters())
        self._names = {id(p): name for name, p in self.by_name.items()}

    def behind(self, value: object) -> str | None:
        """The parameter that a tensor is, or is a view of."""
        if not isinstance(value, torch.Tensor):
            return None
        name = self._names.get(id(value))
        return self._names.get(id(value._base)) if name is None else name

    def whole(self, value: object) -> str | None:
        """The parameter that a tensor is, in full and in its own order."""
        name = self.behind(value)
        if name is None or not isinstance(value, torch.Tensor):
            return None
        p = self.by_name[name]
        return name if (value.shape, value.stride()) == (p.shape, p.stride()) else None


def find_use(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], known: Parameters
) -> Use | None:
    """The use of a matrix that this call is, if it is one."""
    if func is F.linear:
        x, weight, bias = _arguments(args, kwargs, ("input", "weight", "bias"))
        name = known.whole(weight)
        return None if name is None else Use("linear", name, x, bias)
    if func is F.embedding:
        x, weight, _, max_norm = _arguments(
            args, kwargs, ("input", "weight", "padding_idx", "max_norm")
        )
        name = known.whole(weight)
        return None if name is None or max_norm is not None else Use("embedding", name, x, None)
    if func in _MATMULS and len(args) == 2 and not kwargs:
        x, other = args
        if isinstance(other, torch.Tensor) and other.ndim == 2:
            name = known.whole(other.T)
            return None if name is None or known.behind(x) else Use("linear", name, x, None)
    return None


def _arguments(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], names: tuple[str, ...]
) -> list[Any]:
    return [args[i] if i < len(args) else kwargs.get(n) for i, n in enumerate(names)]


@dataclass
class Watch(TorchFunctionMode):
    """Notes every use of every parameter while it is active.

    Attributes:
        kinds: parameter -> kinds of its uses, in order of appearance.
        other: parameters that also enter the network in ways no hook can see.
    """

    known: Parameters
    kinds: dict[str, list[HookKind]] = field(default_factory=dict)
    other: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        use = find_use(func, args, kwargs, self.known)
        if use is not None:
            kinds = self.kinds.setdefault(use.name, [])
            if use.kind not in kinds:
                kinds.append(use.kind)
            return result
        entering = {self.known.behind(a) for a in _tensors([*args, *kwargs.values()])}
        # A view or a number (a shape, a dtype) is no use yet: what is made of it will be seen.
        leaving = {self.known.behind(r) for r in _tensors([result])}
        if any(True for _ in _tensors([result])):
            self.other |= {name for name in entering - leaving if name is not None}
        return result


def _tensors(values: list[Any] | tuple[Any, ...]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


class Route(TorchFunctionMode):
    """Sends uses of parameters through the modules that stand for them, where there is one."""

    def __init__(self, module: nn.Module, modules: nn.ModuleDict) -> None:
        super().__init__()
        self.known = Parameters(module)
        self.modules = modules

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        use = find_use(func, args, kwargs, self.known)
        if use is None or use.key not in self.modules:
            return func(*args, **kwargs)
        return self.modules[use.key](use.x, self.known.by_name[use.name], use.bias)
