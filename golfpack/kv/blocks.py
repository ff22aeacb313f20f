"""Quantized blocks: rows of keys or values as q8_0, q4_0 or nf4 codes with a float16 scale per block.

A row is one token's vector over all heads, cut into blocks of `block` values, the last one filled up
with zeros. With m the largest magnitude of a block and s its scale, at least 1e-8:

    q8_0   s = m / 127   code = round(x / s) in -127..127              one byte a value
    q4_0   s = m / 7     code = round(x / s) in -8..7, stored + 8      two values a byte, even one high
    nf4    s = m         code = the nearest of 16 levels to x / s      two values a byte, even one high

Codes are made with s in float32, rounding half to even, and read with s as float16: value = level * s.
These are the formats of TheApeMachine/decoupled-bottleneck-attention, and not those of GGML. The
levels of nf4: Dettmers et al., "QLoRA", arXiv 2305.14314, appendix E.
"""

import torch

# NormalFloat's 16 levels: quantiles of a normal distribution, scaled to [-1, 1], with an exact zero.
NF4_LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
)  # fmt: skip
_LARGEST = {"q8_0": 127.0, "q4_0": 7.0, "nf4": 1.0}
_LEAST_SCALE = 1e-8


def encode(kind: str, rows: torch.Tensor, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize rows (..., dim).

    Args:
        kind: q8_0, q4_0 or nf4.
        block: values per scale; even but for q8_0.

    Returns:
        codes, (..., padded) int8 for q8_0 and (..., padded / 2) uint8 else; scales, (..., blocks)
        float16.
    """
    blocks = -(-rows.shape[-1] // block)
    x = torch.nn.functional.pad(rows.float(), (0, blocks * block - rows.shape[-1]))
    x = x.unflatten(-1, (blocks, block))
    scales = (x.abs().amax(-1) / _LARGEST[kind]).clamp_min(_LEAST_SCALE)
    x = x / scales[..., None]
    if kind == "q8_0":
        return x.round().clamp(-127, 127).to(torch.int8).flatten(-2), scales.half()
    codes = x.round().clamp(-8, 7).to(torch.int16) + 8 if kind == "q4_0" else _nearest_level(x)
    pairs = codes.flatten(-2).unflatten(-1, (-1, 2))
    return (pairs[..., 0] * 16 + pairs[..., 1]).to(torch.uint8), scales.half()


def _nearest_level(x: torch.Tensor) -> torch.Tensor:
    """Index of the nearest level; of two at the same distance the lower one."""
    levels = torch.tensor(NF4_LEVELS, dtype=x.dtype, device=x.device)
    middles = (levels[1:] + levels[:-1]) / 2
    return torch.bucketize(x.contiguous(), middles).to(torch.int16)


def decode(kind: str, codes: torch.Tensor, scales: torch.Tensor, dim: int) -> torch.Tensor:
    """The way back: rows (..., dim) float32."""
    if kind == "q8_0":
        levels = codes.float()
    else:
        pairs = _pair_table(kind, codes.device).index_select(0, codes.flatten().int())
        levels = pairs.view(torch.float32).unflatten(0, (*codes.shape[:-1], -1))
    blocks = scales.shape[-1]
    return (levels.unflatten(-1, (blocks, -1)) * scales.float()[..., None]).flatten(-2)[..., :dim]


def pair_levels(kind: str) -> torch.Tensor:
    """(256, 2) float32: the levels that each byte of q4_0 or nf4 stands for, the even value's first."""
    levels = torch.tensor(NF4_LEVELS) if kind == "nf4" else torch.arange(-8.0, 8.0)
    byte = torch.arange(256)
    return torch.stack((levels[byte // 16], levels[byte % 16]), dim=-1)


_TABLES: dict[tuple[str, torch.device], torch.Tensor] = {}


def _pair_table(kind: str, device: torch.device) -> torch.Tensor:
    """(256,) `pair_levels` on a device, made once: it is looked up for every token.

    Both levels of a byte are one number of 64 bits here, so that they are fetched together.
    """
    if (kind, device) not in _TABLES:
        _TABLES[kind, device] = pair_levels(kind).view(torch.float64).flatten().to(device)
    return _TABLES[kind, device]
