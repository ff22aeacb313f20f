"""Low-rank adapters on a model's linear layers, a set of them per document of a batch.

Forward hooks add scale * B (A x) to what a linear module returns, so that any family works as it is.
A module that several virtual layers call gets adapters per call, as in the records.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Slot = tuple[str, int]  # (module, number of its call within a forward pass)


@dataclass(frozen=True)
class Sites:
    """Where adapters go.

    Attributes:
        shapes: slot -> (in, out) features.
        rank: of each adapter.
        scale: factor of what adapters add, alpha / rank.
    """

    shapes: Mapping[Slot, tuple[int, int]]
    rank: int
    scale: float

    @property
    def parameters_per_document(self) -> int:
        return sum(self.rank * (i + o) for i, o in self.shapes.values())


@torch.no_grad()
def find_slots(
    model: nn.Module, shapes: Mapping[str, tuple[int, int]], device: str
) -> dict[Slot, tuple[int, int]]:
    """Every call of some modules in one forward pass, with its module's (in, out) features."""
    calls: dict[str, int] = dict.fromkeys(shapes, 0)

    def count(name: str) -> None:
        calls[name] += 1

    with ExitStack() as stack:
        for name in shapes:
            handle = model.get_submodule(name).register_forward_hook(
                lambda _module, _args, _out, name=name: count(name)
            )
            stack.callback(handle.remove)
        model(torch.zeros(1, 1, dtype=torch.int64, device=device))
    return {(name, i): shapes[name] for name, n in calls.items() for i in range(n)}


class Adapters:
    """Adapters of one batch of documents, fresh: B is zero, so that they change nothing yet.

    A is uniform in +-1/sqrt(in) and equal for all documents: what a document is scored at does not
    depend on which batch, or which rank, it falls into.
    """

    def __init__(self, sites: Sites, documents: int, device: str, seed: int) -> None:
        self.sites = sites
        generator = torch.Generator().manual_seed(seed)
        self.down: dict[Slot, torch.Tensor] = {}
        self.up: dict[Slot, torch.Tensor] = {}
        for slot, (n_in, n_out) in sites.shapes.items():
            a = (2 * torch.rand(sites.rank, n_in, generator=generator) - 1) / n_in**0.5
            self.down[slot] = a.to(device).expand(documents, -1, -1).clone().requires_grad_()
            self.up[slot] = torch.zeros(
                documents, n_out, sites.rank, device=device, requires_grad=True
            )

    def parameters(self) -> list[torch.Tensor]:
        """All tensors: (documents, rank, in) and (documents, out, rank)."""
        return [*self.down.values(), *self.up.values()]

    @contextmanager
    def on(self, model: nn.Module, documents: int) -> Iterator[None]:
        """Let the first `documents` sets act on one forward pass of as many sequences."""
        calls: dict[str, int] = {}

        def add(name: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            slot = (name, calls.get(name, 0))
            calls[name] = slot[1] + 1
            rows = x.reshape(documents, -1, x.shape[-1])
            low = rows @ self.down[slot][:documents].mT
            return y + self.sites.scale * (low @ self.up[slot][:documents].mT).view(y.shape)

        with ExitStack() as stack:
            for name in dict.fromkeys(name for name, _ in self.sites.shapes):
                handle = model.get_submodule(name).register_forward_hook(_hook(name, add))
                stack.callback(handle.remove)
            yield


def _hook(name: str, add: Any) -> Any:
    return lambda _module, args, out: add(name, args[0], out)
