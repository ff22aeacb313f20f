"""Weight quantizers of other projects, as they come from the package registry, on one model's matrices.

    pip install -c constraints.txt gguf optimum-quanto hqq torchao bitsandbytes

What is not installed is left out, and said. Each rounds one matrix at a time on a CPU, without
calibration (data-free), as its project does: gguf-py's block formats (llama.cpp), HQQ, Quanto with its
HQQ optimizer, torchao's int8, bitsandbytes' NF4. None of them codes entropy or knows a budget, so each
gets the best for it: what it stores counts as it is or by brotli-11, whichever is smaller; codes count
at their bits or as a byte each under brotli-11, scales as float16, and nothing for headers or names. A
matrix whose rows are no multiple of a group takes half the group, and so on.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.util import find_spec

import brotli
import numpy as np
import torch

GROUP = 64
SMALLEST_GROUP = 16
_BLOCK = 32  # of gguf's formats used here


@dataclass(frozen=True)
class Stored:
    """A matrix as a peer keeps it.

    Attributes:
        weights: (rows, cols) float32, what it stands for.
        arrays: its codes and scales.
        bits: of each of the codes, where they are a byte each; None: arrays are stored as they are.
    """

    weights: np.ndarray
    arrays: tuple[np.ndarray, ...]
    bits: int | None = None

    @cached_property
    def size(self) -> int:
        """Bytes: of every array as it is, packed, or under brotli-11, the least of these."""
        total = 0
        for a in self.arrays:
            packed = a.nbytes
            if self.bits is not None and a.dtype == np.uint8:
                packed = -(-a.size * self.bits // 8)
            total += min(packed, len(brotli.compress(a.tobytes(), quality=11)))
        return total


Rounding = Callable[[torch.Tensor], Stored]


def _half(x: torch.Tensor) -> np.ndarray:
    return x.detach().numpy().astype(np.float16)


def _group(cols: int, size: int = GROUP) -> int:
    while cols % size and size > SMALLEST_GROUP:
        size //= 2
    return size


def _gguf(kind: str) -> Rounding:
    from gguf import GGMLQuantizationType, quants

    def rounded(w: torch.Tensor) -> Stored:
        block = GGMLQuantizationType[kind]
        if w.shape[1] % _BLOCK:  # llama.cpp leaves such a matrix in float16
            return Stored(_half(w).astype(np.float32), (_half(w),))
        stored = quants.quantize(w.numpy(), block)
        return Stored(quants.dequantize(stored, block), (stored,))

    return rounded


def _hqq(bits: int) -> Rounding:
    from hqq.core.quantize import Quantizer

    def rounded(w: torch.Tensor) -> Stored:
        codes, meta = Quantizer.quantize(
            w, nbits=bits, group_size=_group(w.shape[1]), axis=1, device="cpu",
            compute_dtype=torch.float32, bitpack=False,
        )  # fmt: skip
        for name in ("scale", "zero"):
            meta[name] = meta[name].half().float()  # as it is stored
        weights = Quantizer.dequantize(codes, meta).reshape(w.shape).float().numpy()
        arrays = codes.numpy().astype(np.uint8), _half(meta["scale"]), _half(meta["zero"])
        return Stored(weights, arrays, bits)

    return rounded


def _quanto(kind: str, bits: int) -> Rounding:
    from optimum import quanto

    def rounded(w: torch.Tensor) -> Stored:
        qtype, group = quanto.qtypes[kind], _group(w.shape[1])
        scale, shift = quanto.HqqOptimizer()(w, qtype, 0, group)
        scale, shift = scale.half().float(), shift.half().float()
        q = quanto.quantize_weight(w, qtype, 0, scale, shift, group_size=group, optimized=False)
        codes = q._data.unpack() if hasattr(q._data, "unpack") else q._data
        arrays = codes.numpy().astype(np.uint8), _half(scale), _half(shift)
        return Stored(q.dequantize().float().numpy(), arrays, bits)

    return rounded


def _torchao_int8() -> Rounding:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    def rounded(w: torch.Tensor) -> Stored:
        layer = torch.nn.Linear(w.shape[1], w.shape[0], bias=False)
        layer.weight = torch.nn.Parameter(w.clone(), requires_grad=False)
        quantize_(layer, Int8WeightOnlyConfig())
        q = layer.weight
        scale = q.scale.half().float()
        weights = (q.qdata.float() * scale.reshape(-1, 1)).numpy()
        return Stored(weights, (q.qdata.numpy(), _half(scale)))

    return rounded


def _nf4() -> Rounding:
    from bitsandbytes import functional

    def rounded(w: torch.Tensor) -> Stored:
        packed, state = functional.quantize_4bit(w.contiguous(), blocksize=GROUP, quant_type="nf4")
        both, scale = packed.numpy().reshape(-1), _half(state.absmax)
        codes = np.stack([both >> 4, both & 15], 1).reshape(-1)[: w.numel()]
        # By hand: 0.50.2's dequantize_4bit is wrong on a CPU where rows are no multiple of a block.
        scales = np.repeat(scale.astype(np.float32), GROUP)[: w.numel()]
        weights = state.code.numpy()[codes] * scales
        return Stored(weights.reshape(w.shape), (codes, scale), 4)

    return rounded


# Project -> the module it is, and its settings, coarse to fine, each with how its rounding is made.
PEERS: Mapping[str, tuple[str, Mapping[str, Callable[[], Rounding]]]] = {
    "gguf": (
        "gguf",
        {k: partial(_gguf, k) for k in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")},
    ),
    "HQQ": ("hqq", {f"{b} bits": partial(_hqq, b) for b in (2, 3, 4, 8)}),
    "Quanto": (
        "optimum.quanto",
        {f"qint{b}": partial(_quanto, f"qint{b}", b) for b in (2, 4)},
    ),
    "torchao": ("torchao", {"int8": _torchao_int8}),
    "bitsandbytes": ("bitsandbytes", {"NF4": _nf4}),
}


def installed() -> tuple[list[str], list[str]]:
    """The peers that are there, and those that are not."""
    there = [name for name, (module, _) in PEERS.items() if _found(module)]
    return there, [name for name in PEERS if name not in there]


def _found(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # a package around it is not there
        return False


def roundings(peer: str) -> Iterator[tuple[str, Rounding]]:
    """(setting, how it rounds a matrix) of one peer."""
    for setting, made in PEERS[peer][1].items():
        yield setting, made()


def float16_size(vectors: Iterable[np.ndarray]) -> int:
    """Bytes of what is left in float16, under brotli-11."""
    whole = b"".join(v.astype(np.float16).tobytes() for v in vectors)
    return len(brotli.compress(whole, quality=11))
