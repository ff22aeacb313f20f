"""Processes that work together: `torchrun` starts them, gloo (CPU) or nccl (CUDA) joins them.

One process alone is a group of one, in which nothing is exchanged. Work is split by position, never by
who is free first, so that a run is the same every time.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from golfpack.errors import GolfpackError, PeerError, UsageError
from golfpack.models.device import resolve_device

_Key = tuple[str, str]
_FAILURES = "golfpack/failures"  # key of the group's store that counts ranks that failed


@dataclass(frozen=True)
class Group:
    """This process among those that share the work.

    Attributes:
        rank, size: this process's number, and how many there are.
        device: where this process computes: "cpu", "cuda" or "cuda:N".
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    def share(self, count: int) -> slice:
        """This rank's part of `count` things in order: contiguous, sizes differ by one at most."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    @property
    def turns(self) -> slice:
        """This rank's part of things that are dealt out in turn: the first rank has the first."""
        return slice(self.rank, None, self.size)

    def sum_array(self, array: np.ndarray) -> np.ndarray:
        """The sum of an array over the ranks, on every rank."""
        if self.size == 1:
            return array
        total = torch.from_numpy(array.copy()).to(self.device)
        self._sum(total)
        return total.cpu().numpy()

    def sum_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over the ranks, on every rank."""
        if self.size == 1:
            return tensor
        total = tensor.clone()
        self._sum(total)
        return total

    def wait(self) -> None:
        """Return once every rank is here."""
        self.sum_tensor(torch.zeros((), device=self.device))

    @property
    def writes(self) -> bool:
        """Whether this is the rank that writes files and talks."""
        return self.rank == 0

    def sum_gradients(self, parameters: Sequence[torch.Tensor]) -> None:
        """Replace gradients by their sums over the ranks; a missing one counts as zero."""
        for p in parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        if self.size == 1:
            return
        grads = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in grads])  # one exchange, not one per tensor
        self._sum(flat)
        for g, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
            g.copy_(part.view_as(g))

    def sum_named(self, arrays: Mapping[_Key, np.ndarray]) -> dict[_Key, np.ndarray]:
        """Sums over the ranks of float64 arrays by name, on every rank.

        The first rank has all of them; what another lacks counts as zero.
        """
        if self.size == 1:
            return dict(arrays)
        if self.writes:
            self.tell({"names": [[list(name), list(a.shape)] for name, a in arrays.items()]}, {})
            names = [(name, a.shape) for name, a in arrays.items()]
        else:
            header, _ = self.told()
            names = [((first, second), tuple(shape)) for (first, second), shape in header["names"]]
        return {
            name: self.sum_array(arrays[name] if name in arrays else np.zeros(shape))
            for name, shape in names
        }

    def tell(self, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Hand something JSON-safe and arrays to all other ranks, which are waiting in `told`."""
        listed = [[name, str(a.dtype), list(a.shape)] for name, a in arrays.items()]
        text = json.dumps({"header": header, "arrays": listed}).encode()
        self._broadcast(torch.tensor([len(text)]))
        self._broadcast(torch.frombuffer(bytearray(text), dtype=torch.uint8))
        for array in arrays.values():
            self._broadcast(torch.from_numpy(np.array(array, order="C").reshape(-1).view(np.uint8)))

    def told(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What the first rank hands over next."""
        length = int(self._broadcast(torch.zeros(1, dtype=torch.int64)).item())
        text = self._broadcast(torch.zeros(length, dtype=torch.uint8)).cpu().numpy().tobytes()
        message, arrays = json.loads(text), {}
        for name, dtype, shape in message["arrays"]:
            size = np.dtype(dtype).itemsize * math.prod(shape)
            raw = self._broadcast(torch.zeros(size, dtype=torch.uint8)).cpu().numpy()
            arrays[name] = raw.view(dtype).reshape(shape)
        return message["header"], arrays

    def _broadcast(self, tensor: torch.Tensor) -> torch.Tensor:
        """The first rank's, on every rank."""
        tensor = tensor.to(self.device)
        with _told_of_losses():
            dist.broadcast(tensor, 0)
        return tensor

    @staticmethod
    def _sum(tensor: torch.Tensor) -> None:
        with _told_of_losses():
            dist.all_reduce(tensor)


@contextmanager
def _told_of_losses() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # a rank that is gone closes its connections
        raise GolfpackError(
            f"another rank was lost ({str(error).splitlines()[0]})", "see torchrun's log"
        ) from error


ALONE = Group()


def started_together() -> bool:
    """Whether torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def refuse_others(hint: str) -> None:
    """Raise UsageError where torchrun started several processes, in each of them."""
    if started_together():
        raise UsageError(
            "torchrun started several processes, and each of them would do all of this", hint
        )


@contextmanager
def joined(device: str, patience: timedelta | None = None) -> Iterator[Group]:
    """The group that torchrun's environment describes, or a group of one.

    When a rank fails, the others lose their connection to it and fail too: the first one raises its
    own error, the others `PeerError`, so that a run ends with one message.

    Args:
        device: "auto", "cpu" or "cuda"; under torchrun each process takes the GPU of its local rank.
        patience: how long a rank waits for others; None for torch's own (half an hour with gloo).

    Raises:
        UsageError: torchrun's environment is incomplete, or there are more processes than GPUs.
    """
    if not started_together():
        yield Group(device=resolve_device(device).name)
        return
    try:
        store, rank, size = next(rendezvous("env://"))
    except (ValueError, RuntimeError) as error:
        raise UsageError(
            f"WORLD_SIZE is set, but the ranks cannot meet: {error}",
            "start with torchrun --nproc-per-node N -m golfpack ...",
        ) from error
    try:
        group = Group(rank, size, _own_device(device))
        backend = "gloo" if group.device == "cpu" else "nccl"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=patience)
        yield group
    except Exception as error:
        if store.add(_FAILURES, 1) > 1:
            raise PeerError("another rank failed first") from error
        if isinstance(error, GolfpackError):
            error.message = f"rank {rank} of {size}: {error.message}"
        raise
    # Ranks leave together: a thread of gloo that still holds a tensor would abort an exiting process.
    dist.barrier()
    dist.destroy_process_group()


def _own_device(device: str) -> str:
    if (device := resolve_device(device).name) == "cpu":
        return device
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if local >= torch.cuda.device_count():
        raise UsageError(
            f"process {local} has no GPU: this machine has {torch.cuda.device_count()}",
            "start as many processes as there are GPUs",
        )
    torch.cuda.set_device(local)
    return f"cuda:{local}"
