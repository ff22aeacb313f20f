"""A cache of keys and values in the formats that people choose: real buffers, of exactly the bytes told.

What attention reads of it: the positions of the call itself, and the newest `residual` ones, as float16
(fp32: as they are); all before them as their codes say. Codes are made when a position comes in, from
what the model computed. Nothing here knows how scores are made: the model's one attention reads these
keys and values as it reads its own, so that there is one definition of the score on every path.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import nn

from golfpack.errors import UsageError
from golfpack.kv.blocks import encode
from golfpack.kv.layout import PLAIN_BYTES, Cached, CacheLayout
from golfpack.kv.plans import Plan, read_blocks
from golfpack.models.base import Family, KeyParts, KVCache

_PLAIN_TYPES = {"fp16": torch.float16, "fp32": torch.float32}


class StoredCache(KVCache):
    """Keys and values of one run of sequences, each tensor in its own format."""

    def __init__(self, layout: CacheLayout, capacity: int, plan: Plan | None = None) -> None:
        """Buffers for `capacity` positions are allocated when a layer first comes in.

        Args:
            layout: what the model caches, and how (see `observe` and `kv.policy`).
            capacity: positions at most.
            plan: how codes are read, which changes no bit of what is read.
        """
        super().__init__(capacity)
        self.layout = layout
        self.plan = plan or Plan()
        self._of = {t.name: t for t in layout.tensors}
        self._stores: dict[tuple[int, str], _Store] = {}

    def extend(
        self, layer: int, k: torch.Tensor, v: torch.Tensor, parts: KeyParts = ()
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `KVCache.extend`."""
        if self.length + k.shape[2] > self.capacity:
            raise ValueError(
                f"the cache holds {self.capacity} positions, {self.length + k.shape[2]} were asked for"
            )
        seen = [self._passed(layer, name, part) for name, part in _key_parts(k, parts)]
        values = self._passed(layer, "v", v)
        return (torch.cat(seen, dim=-1) if len(seen) > 1 else seen[0]), values

    def _passed(self, layer: int, name: str, x: torch.Tensor) -> torch.Tensor:
        if (layer, name) not in self._stores:
            form = self._of[name]
            make = _PlainStore if form.format in PLAIN_BYTES else _BlockStore
            self._stores[layer, name] = make(form, self.capacity, x)
        return self._stores[layer, name].extend(x, self.length, self.plan)

    @property
    def bytes(self) -> int:
        """Of all buffers, each counted as it is allocated."""
        return sum(b.nbytes for store in self._stores.values() for b in store.buffers)


class _Store(Protocol):
    """One tensor of one layer."""

    buffers: tuple[torch.Tensor, ...]

    def extend(self, x: torch.Tensor, start: int, plan: Plan) -> torch.Tensor:
        """Take in x (B, H, T, D) of the positions from `start` on; give those of all positions."""
        ...


class _PlainStore:
    """fp16 or fp32."""

    def __init__(self, form: Cached, capacity: int, like: torch.Tensor) -> None:
        batch, heads, _, width = like.shape
        dtype = _PLAIN_TYPES[form.format]
        self.buffers = (like.new_empty(batch, heads, capacity, width, dtype=dtype),)

    def extend(self, x: torch.Tensor, start: int, plan: Plan) -> torch.Tensor:
        del plan  # there is one way to read floats
        end = start + x.shape[2]
        self.buffers[0][:, :, start:end] = x
        return self.buffers[0][:, :, :end].to(x.dtype)


class _BlockStore:
    """Codes and scales of every position, and the newest ones once more in float16."""

    def __init__(self, form: Cached, capacity: int, like: torch.Tensor) -> None:
        self.form = form
        batch, kept = like.shape[0], min(max(form.residual, 0), capacity)
        codes, scales = encode(form.format, like.new_zeros(batch, 1, form.dim), form.fitted_block)
        self.buffers = (
            codes.new_zeros(batch, capacity, codes.shape[-1]),
            scales.new_zeros(batch, capacity, scales.shape[-1]),
            scales.new_zeros(batch, kept, form.dim),
        )

    def extend(self, x: torch.Tensor, start: int, plan: Plan) -> torch.Tensor:
        batch, heads, length, width = x.shape
        codes, scales, newest = self.buffers
        end, kept = start + length, newest.shape[1]
        rows = x.transpose(1, 2).flatten(2)
        codes[:, start:end], scales[:, start:end] = encode(
            self.form.format, rows, self.form.fitted_block
        )
        # The newest positions are read as float16; those of before this call from the ring.
        own = rows.half()
        first = max(0, min(start, end - kept))
        out = x.new_empty(batch, end, heads * width)
        read_blocks(plan, self.form.format, codes[:, :first], scales[:, :first], out[:, :first])
        if first < start:
            at = torch.arange(first, start, device=x.device)
            out[:, first:start] = newest[:, at % kept].to(out.dtype)
        out[:, start:] = own
        if kept:
            at = torch.arange(max(start, end - kept), end, device=x.device)
            newest[:, at % kept] = own[:, at - start]
        return out.unflatten(-1, (heads, width)).transpose(1, 2)


def _key_parts(k: torch.Tensor, parts: KeyParts) -> list[tuple[str, torch.Tensor]]:
    """The parts of keys (B, H, T, D) by name."""
    if not parts:
        return [("k", k)]
    pieces = k.split([width for _, width in parts], dim=-1)
    return [(name, piece) for (name, _), piece in zip(parts, pieces, strict=True)]


class _Watch(KVCache):
    """Notes what passes by, and keeps nothing."""

    def __init__(self) -> None:
        super().__init__(1)
        self.layers: dict[int, tuple[Cached, ...]] = {}

    def extend(
        self, layer: int, k: torch.Tensor, v: torch.Tensor, parts: KeyParts = ()
    ) -> tuple[torch.Tensor, torch.Tensor]:
        seen = [*_key_parts(k, parts), ("v", v)]
        self.layers[layer] = tuple(Cached(n, x.shape[1] * x.shape[3], "fp32") for n, x in seen)
        return k, v


@torch.no_grad()
def observe(module: nn.Module) -> CacheLayout:
    """What a module caches for each layer, found by showing it one token; in fp32.

    Raises:
        UsageError: it has no attention that keeps keys and values, or its layers differ.
    """
    watch = _Watch()
    device = next(module.parameters()).device
    module(torch.zeros(1, 1, dtype=torch.int64, device=device), cache=watch)
    kinds = set(watch.layers.values())
    if len(kinds) != 1:
        what = "keeps no keys and values" if not kinds else "has layers of different widths"
        raise UsageError(f"this model {what}: there is no cache to make", NO_CACHE)
    return CacheLayout(len(watch.layers), kinds.pop())


NO_CACHE = "add --no-cache, which computes every position again for each token"


def check_cached(family: Family, config: Mapping[str, Any], positions: int) -> None:
    """Refuse a model whose logits under a cache would not be those of its full forward.

    Args:
        positions: of the longest sequence that the cache is for.

    Raises:
        UsageError: names the feature, and what to do.
    """
    why = None if family.uncached is None else family.uncached(config, positions)
    if why is not None:
        raise UsageError(f"keys and values cannot be cached for {why}", NO_CACHE)
