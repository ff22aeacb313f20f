"""How many bytes a model's keys and values take while it generates: exact, per cache format.

Formats: fp16 and fp32 store every value. q8_0, q4_0 and nf4 cut each row (one token's vector of one
tensor) into blocks, store 8, 4 or 4 bits a value and one fp16 scale a block; besides, the newest
`residual` tokens are kept in fp16. Bytes of a tensor of width `dim` over `length` tokens:

    fp16, fp32   2 dim length, 4 dim length
    quantized    length * padded * bits / 8  +  2 length * blocks  +  2 dim * min(residual, length)

with rows padded to whole blocks. These are the formats of TheApeMachine/decoupled-bottleneck-attention,
not GGML's. Attention modes and what they cache per layer: standard 2 x d_model, bottleneck 2 x attn_dim,
gqa 2 x kv_head * attn_dim / n_head, decoupled sem_dim + geo_dim + attn_dim.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from golfpack.errors import UsageError

PLAIN_BYTES = {"fp16": 2, "fp32": 4}
QUANTISED_BITS = {"q8_0": 8, "q4_0": 4, "nf4": 4}
SCALE_BYTES = 2
RESIDUAL_BYTES = 2
LONG_CONTEXT = 128_000  # what "128k" means in a Run Summary
DEFAULT_BLOCK = 32
DEFAULT_RESIDUAL = 128
# What a tuned policy may take above the untuned one, in percent.
OVERHEAD_PERCENT = 10
# Decoupled attention asked for q4_0 as a whole: rotated keys suffer most, so they get 8 bits.
HETERO = {"k_sem": "q4_0", "k_geo": "q8_0", "v": "q4_0"}

_UNITS = ("B", "KB", "MB", "GB", "TB")


@dataclass(frozen=True)
class Cached:
    """One tensor of a layer's cache, and how it is stored.

    Attributes:
        dim: width over all heads, values per token.
        block: values per scale, before it is fitted to `dim`; only for quantized formats.
        residual: newest tokens kept in fp16; only for quantized formats.
    """

    name: str
    dim: int
    format: str = "fp16"
    block: int = DEFAULT_BLOCK
    residual: int = DEFAULT_RESIDUAL

    def __post_init__(self) -> None:
        if self.format not in (*PLAIN_BYTES, *QUANTISED_BITS):
            known = ", ".join((*PLAIN_BYTES, *QUANTISED_BITS))
            raise UsageError(f"unknown KV-cache format {self.format!r}", f"choose from {known}")
        for name in ("dim", "block", "residual"):
            if not isinstance(getattr(self, name), int):
                raise UsageError(f"{self.name}: {name} is {getattr(self, name)!r}, no whole number")
        least = 2 if QUANTISED_BITS.get(self.format) == 4 else 1
        if self.dim < least:
            raise UsageError(f"{self.name} of width {self.dim} cannot be cached as {self.format}")

    @property
    def fitted_block(self) -> int:
        """Values per scale: no more than a row has, and even where two values share a byte."""
        block = min(self.block if self.block > 0 else DEFAULT_BLOCK, self.dim)
        if QUANTISED_BITS[self.format] == 4:
            block = max(2, block - block % 2)
        return block

    def bytes(self, length: int) -> int:
        """Bytes of one sequence of `length` tokens in one layer."""
        if self.format in PLAIN_BYTES:
            return PLAIN_BYTES[self.format] * self.dim * length
        blocks = -(-self.dim // self.fitted_block)
        row = blocks * self.fitted_block * QUANTISED_BITS[self.format] // 8 + SCALE_BYTES * blocks
        kept = min(max(0, self.residual), length)
        return row * length + RESIDUAL_BYTES * self.dim * kept


@dataclass(frozen=True)
class CacheLayout:
    """What one model caches: the same tensors in each of `layers` layers."""

    layers: int
    tensors: tuple[Cached, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.layers, int) or self.layers < 1:
            raise UsageError(f"a model of {self.layers!r} layers caches nothing")

    def bytes(self, length: int, batch: int = 1) -> int:
        """Bytes of `batch` sequences of `length` tokens."""
        return self.layers * batch * sum(t.bytes(length) for t in self.tensors)

    def stored_as(
        self,
        formats: str | Mapping[str, str],
        block: int | Mapping[str, int] = DEFAULT_BLOCK,
        residual: int = DEFAULT_RESIDUAL,
    ) -> "CacheLayout":
        """The same tensors in other formats: one for all, or one for each name."""

        def of(t: Cached) -> Cached:
            form = formats if isinstance(formats, str) else formats[t.name]
            size = block if isinstance(block, int) else block[t.name]
            return replace(t, format=form, block=size, residual=residual)

        return replace(self, tensors=tuple(of(t) for t in self.tensors))


def layout(config: Mapping[str, Any]) -> CacheLayout:
    """What a model of that configuration caches, in fp16.

    Args:
        config: a decoupled-bottleneck run's own words (`n_layer`, `d_model`, `attn_mode`, ...), an
            ALPH model's (`nLayer`, `nEmbd`), or the options of a golf or bottleneck model of ours.

    Raises:
        UsageError: none of those, or one that lacks a width.
    """
    try:
        return _layout(config)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"this model configuration's attention cannot be read: {error}") from error


def _layout(config: Mapping[str, Any]) -> CacheLayout:
    if "attn_mode" in config:
        return _bottleneck(config)
    if "nLayer" in config and "nEmbd" in config:
        return _pair(config["nLayer"], config["nEmbd"])
    if {"num_layers", "dim", "num_heads"} <= config.keys():
        return _own(config)
    raise UsageError(
        "this model configuration does not say what its attention caches",
        "it needs attn_mode, n_layer and d_model; or num_layers, dim and num_heads",
    )


def baseline(config: Mapping[str, Any]) -> CacheLayout:
    """Standard attention of the same depth and width, in fp16: what a Run Summary compares with."""
    own = layout(config)
    width = next((config[k] for k in ("d_model", "nEmbd", "dim") if k in config), None)
    if width is None:
        raise UsageError("this model configuration does not tell its width")
    return _pair(own.layers, width)


def policy(config: Mapping[str, Any], args: Mapping[str, Any]) -> CacheLayout:
    """`layout` in the formats of a run's arguments; fp16 where they say nothing.

    `kv_cache`, `kv_qblock` and `kv_residual` are for all tensors, `kv_cache_NAME` and
    `kv_qblock_NAME` for one (k, v, k_sem, k_geo). Decoupled attention with `kv_cache` q4_0 is mixed,
    `HETERO`, where no tensor of its own is named.
    """
    plain = layout(config)
    names = [t.name for t in plain.tensors]
    overall = args.get("kv_cache") or "fp16"
    block = args.get("kv_qblock") or DEFAULT_BLOCK
    residual = args.get("kv_residual")
    mixed = HETERO if overall == "q4_0" and "k_geo" in names else {}
    return plain.stored_as(
        {n: args.get(f"kv_cache_{n}") or mixed.get(n, overall) for n in names},
        {n: args.get(f"kv_qblock_{n}") or block for n in names},
        DEFAULT_RESIDUAL if residual is None else residual,
    )


def tuning_budget(untuned: CacheLayout, length: int) -> int:
    """Bytes a tuned cache may take: those of the untuned one without its residual, and 10% more."""
    bare = replace(untuned, tensors=tuple(replace(t, residual=0) for t in untuned.tensors))
    return bare.bytes(length) * (100 + OVERHEAD_PERCENT) // 100


def human_bytes(size: float) -> str:
    """Bytes for people, in steps of 1024: 936.0KB, 9.00MB, 2.61GB. Two decimals below 100."""
    value, unit = float(size), 0
    while value >= 1024.0 and unit < len(_UNITS) - 1:
        value, unit = value / 1024.0, unit + 1
    decimals = 0 if unit == 0 else 1 if value >= 100.0 else 2
    return f"{value:.{decimals}f}{_UNITS[unit]}"


def _bottleneck(config: Mapping[str, Any]) -> CacheLayout:
    layers, mode, values = config["n_layer"], config["attn_mode"], config["attn_dim"]
    if mode == "standard":
        return _pair(layers, config["d_model"])
    if mode == "bottleneck":
        return _pair(layers, values)
    if mode == "gqa":
        shared = config.get("kv_head") or config["n_head"]
        return _pair(layers, shared * (values // config["n_head"]))
    if mode == "decoupled":
        return _decoupled(layers, config["sem_dim"], config["geo_dim"], values)
    raise UsageError(
        f"unknown attention mode {mode!r}", "known are standard, bottleneck, gqa and decoupled"
    )


def _own(config: Mapping[str, Any]) -> CacheLayout:
    """A golf model, whose virtual layers each have a cache, or a bottleneck model as imported."""
    layers = config["num_layers"] * config.get("passes", 1)
    if order := config.get("layer_order"):
        spans = [part.split("-") for part in order.split(",")]
        layers = sum(int(span[-1]) - int(span[0]) + 1 for span in spans)
    values = config.get("attn_dim", config["dim"])
    if config.get("sem_dim"):
        return _decoupled(layers, config["sem_dim"], config["geo_dim"], values)
    heads = config["num_heads"]
    return _pair(layers, config.get("num_kv_heads", heads) * (values // heads))


def _decoupled(layers: int, sem: int, geo: int, values: int) -> CacheLayout:
    parts = (Cached("k_sem", sem), Cached("k_geo", geo), Cached("v", values))
    return CacheLayout(layers, parts)


def _pair(layers: int, width: int) -> CacheLayout:
    return CacheLayout(layers, (Cached("k", width), Cached("v", width)))
