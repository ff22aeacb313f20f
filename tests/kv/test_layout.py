"""KV-cache bytes: every cell of `seed_systems.md`, section 1.4, and the properties behind them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from golfpack.errors import UsageError
from golfpack.kv.cache import StoredCache
from golfpack.kv.layout import (
    LONG_CONTEXT,
    Cached,
    baseline,
    human_bytes,
    layout,
    policy,
    tuning_budget,
)

# Three runs of TheApeMachine/decoupled-bottleneck-attention: the shapes, no more.
DECOUPLED_18 = {
    "attn_mode": "decoupled", "n_layer": 18, "d_model": 2048, "n_head": 16, "attn_dim": 512,
    "sem_dim": 32, "geo_dim": 64,
}  # fmt: skip
DECOUPLED_12 = {
    "attn_mode": "decoupled", "n_layer": 12, "d_model": 768, "n_head": 12, "attn_dim": 144,
    "sem_dim": 48, "geo_dim": 96,
}  # fmt: skip
BOTTLENECK_6 = {
    "attn_mode": "bottleneck", "n_layer": 6, "d_model": 512, "n_head": 8, "attn_dim": 96,
}  # fmt: skip

# config, context, policy -> bytes and words at the context, bytes and words at 128k
TABLE = [
    (DECOUPLED_18, 2048, "fp16", 44_826_624, "42.75MB", 2_801_664_000, "2.61GB"),
    (DECOUPLED_18, 2048, "q8_0", 26_615_808, "25.38MB", 1_491_185_664, "1.39GB"),
    (DECOUPLED_18, 2048, "q4_0", 16_588_800, "15.82MB", 864_497_664, "824.4MB"),
    (DECOUPLED_18, 2048, "nf4", 15_409_152, "14.70MB", 790_769_664, "754.1MB"),
    (DECOUPLED_12, 256, "fp16", 1_769_472, "1.69MB", 884_736_000, "843.8MB"),
    (DECOUPLED_12, 256, "q8_0", 1_929_216, "1.84MB", 523_124_736, "498.9MB"),
    (DECOUPLED_12, 256, "q4_0", 1_585_152, "1.51MB", 351_092_736, "334.8MB"),
    (DECOUPLED_12, 256, "nf4", 1_437_696, "1.37MB", 277_364_736, "264.5MB"),
    (BOTTLENECK_6, 1024, "fp16", 2_359_296, "2.25MB", 294_912_000, "281.2MB"),
    (BOTTLENECK_6, 1024, "q8_0", 1_548_288, "1.48MB", 156_966_912, "149.7MB"),
    (BOTTLENECK_6, 1024, "q4_0", 958_464, "936.0KB", 83_238_912, "79.38MB"),
    (BOTTLENECK_6, 1024, "nf4", 958_464, "936.0KB", 83_238_912, "79.38MB"),
]


@pytest.mark.parametrize(("config", "context", "kind", "at", "at_words", "long", "words"), TABLE)
def test_every_cell(
    config: dict, context: int, kind: str, at: int, at_words: str, long: int, words: str
) -> None:
    cache = policy(config, {"kv_cache": kind})
    assert (cache.bytes(context), human_bytes(cache.bytes(context))) == (at, at_words)
    assert (cache.bytes(LONG_CONTEXT), human_bytes(cache.bytes(LONG_CONTEXT))) == (long, words)


@pytest.mark.parametrize(("config", "context", "kind", "at", "_", "long", "__"), TABLE)
def test_every_cell_is_what_buffers_take(
    config: dict, context: int, kind: str, at: int, _: str, long: int, __: str
) -> None:
    """Of a layer's own cache, made without memory."""
    form = policy(config, {"kv_cache": kind})
    heads = config["n_head"]
    *keys, v = (torch.empty(1, heads, 1, t.dim // heads, device="meta") for t in form.tensors)
    parts = tuple((t.name, t.dim // heads) for t in form.tensors[:-1]) if len(keys) > 1 else ()
    for length, size in ((context, at), (LONG_CONTEXT, long)):
        cache = StoredCache(form, length)
        cache.extend(0, torch.cat(keys, -1), v, parts)
        assert form.layers * cache.bytes == size


@pytest.mark.parametrize(
    ("config", "context", "size", "words", "ratio"),
    [
        (DECOUPLED_18, 2048, 301_989_888, "288.0MB", "6.74"),
        (DECOUPLED_12, 256, 9_437_184, "9.00MB", "5.33"),
        (BOTTLENECK_6, 1024, 12_582_912, "12.00MB", "5.33"),
    ],
)
def test_baselines(config: dict, context: int, size: int, words: str, ratio: str) -> None:
    standard = baseline(config).bytes(context)
    assert (standard, human_bytes(standard)) == (size, words)
    assert f"{standard / layout(config).bytes(context):.2f}" == ratio
    same = layout({**config, "attn_mode": "standard"})
    assert same.bytes(context) == standard
    assert same.stored_as("fp32").bytes(context) == 2 * standard


def test_q8_with_a_residual_can_be_larger_than_fp16() -> None:
    assert policy(DECOUPLED_12, {"kv_cache": "q8_0"}).bytes(256) > layout(DECOUPLED_12).bytes(256)
    none = policy(DECOUPLED_12, {"kv_cache": "q8_0", "kv_residual": 0})
    assert none.bytes(256) < layout(DECOUPLED_12).bytes(256)


def test_the_budget_of_tuning() -> None:
    mixed = policy(DECOUPLED_12, {"kv_cache": "q4_0"})
    assert [t.format for t in mixed.tensors] == ["q4_0", "q8_0", "q4_0"]
    bare = policy(DECOUPLED_12, {"kv_cache": "q4_0", "kv_residual": 0})
    assert bare.bytes(LONG_CONTEXT) == 350_208_000
    assert tuning_budget(mixed, LONG_CONTEXT) == 385_228_800
    assert human_bytes(385_228_800) == "367.4MB"


def test_one_tensor_can_have_a_format_of_its_own() -> None:
    args = {"kv_cache": "q4_0", "kv_cache_k_geo": "fp16", "kv_qblock_v": 16}
    assert [(t.format, t.block) for t in policy(DECOUPLED_12, args).tensors] == [
        ("q4_0", 32),
        ("fp16", 32),
        ("q4_0", 16),
    ]
    # Mixing is what decoupled attention gets when q4_0 is asked for as a whole; others do not.
    assert {t.format for t in policy(BOTTLENECK_6, {"kv_cache": "q4_0"}).tensors} == {"q4_0"}


@given(
    st.sampled_from(["q8_0", "q4_0", "nf4"]),
    st.integers(2, 300),
    st.integers(1, 64),
    st.integers(0, 200),
    st.integers(1, 300),
)
def test_quantized_bytes_are_those_of_real_buffers(
    kind: str, dim: int, block: int, residual: int, length: int
) -> None:
    cached = Cached("k", dim, kind, block, residual)
    width = cached.fitted_block
    assert width <= dim
    padded = next(n for n in range(dim, dim + width) if n % width == 0)
    codes = np.zeros((length, padded if kind == "q8_0" else padded // 2), np.int8)
    scales = np.zeros((length, padded // width), np.float16)
    newest = np.zeros((min(residual, length), dim), np.float16)
    assert cached.bytes(length) == codes.nbytes + scales.nbytes + newest.nbytes


def test_other_families() -> None:
    golf = {"num_layers": 6, "dim": 128, "num_heads": 4, "num_kv_heads": 2, "vocab_size": 2048}
    assert layout(golf).bytes(256) == 6 * 2 * 64 * 256 * 2
    assert baseline(golf).bytes(256) == 2 * layout(golf).bytes(256)
    assert layout(golf | {"passes": 2}).layers == 12
    assert layout(golf | {"layer_order": "0-5,3-5,4"}).layers == 10
    alph = {"nLayer": 6, "nEmbd": 256, "nHead": 8}
    assert layout(alph).bytes(256) == 6 * 2 * 256 * 256 * 2
    grouped = {**BOTTLENECK_6, "attn_mode": "gqa", "kv_head": 2}
    assert [t.dim for t in layout(grouped).tensors] == [24, 24]


@pytest.mark.parametrize(
    ("config", "args", "named"),
    [
        ({"width": 3}, {}, "does not say what its attention caches"),
        ({**BOTTLENECK_6, "attn_mode": "linear"}, {}, "unknown attention mode 'linear'"),
        (BOTTLENECK_6, {"kv_cache": "int3"}, "unknown KV-cache format 'int3'"),
    ],
)
def test_what_cannot_be_counted_is_named(config: dict, args: dict, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        policy(config, args)


def test_sizes_for_people() -> None:
    sizes = [0, 1023, 1024, 100 * 1024 - 1, 100 * 1024, 294_912_000, 1 << 60]
    words = ["0B", "1023B", "1.00KB", "100.00KB", "100.0KB", "281.2MB", "1048576.0TB"]
    assert [human_bytes(s) for s in sizes] == words
