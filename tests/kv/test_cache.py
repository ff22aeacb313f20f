"""Real caches: their codes, their bytes, what attention reads of them, and one score on every path."""

import json
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from golfpack.errors import UsageError
from golfpack.kv.blocks import decode, encode
from golfpack.kv.cache import StoredCache, check_cached, observe
from golfpack.kv.layout import Cached, CacheLayout, layout, policy
from golfpack.kv.plans import plans, read_blocks
from golfpack.kv.policy import stored_as, told
from golfpack.models.bottleneck.family import BOTTLENECK
from golfpack.models.golf.family import GOLF

# x[k] = 0.3 sin(1.3 k), k = 0..47, in blocks of 32: first codes, first scale, largest error.
GOLDEN = {
    "q8_0": ([0, 123, 66, -87, -112, 27], 0.0023593902587890625, 0.001252),
    "q4_0": ([143, 195, 42, 250, 35, 191], 0.04278564453125, 0.021295),
    "nf4": ([127, 209, 10, 251, 17, 207], 0.299560546875, 0.039945),
}


@pytest.mark.parametrize("kind", GOLDEN)
def test_golden_bytes(kind):
    first, scale, error = GOLDEN[kind]
    x = torch.from_numpy(0.3 * np.sin(1.3 * np.arange(48))).float()
    codes, scales = encode(kind, x, 32)
    assert codes[:6].tolist() == first
    assert scales[0].item() == scale
    assert (codes.nbytes, scales.nbytes) == (64 if kind == "q8_0" else 32, 4)
    assert (decode(kind, codes, scales, 48) - x).abs().max().item() == pytest.approx(
        error, abs=1e-6
    )


@pytest.mark.parametrize("kind", GOLDEN)
def test_every_level_comes_back(kind):
    """Rows made of levels are their own codes: nothing is lost but the scale's rounding to float16."""
    codes = torch.arange(256, dtype=torch.uint8).reshape(8, 32)
    if kind == "q8_0":
        codes = codes.view(torch.int8).clamp(min=-127)
    codes[:, 0] = {"q8_0": 127, "q4_0": 0xE8, "nf4": 0xF7}[kind]  # the largest level of a block
    scales = torch.full((8, 2), 0.5).half()
    dim = 32 if kind == "q8_0" else 64
    scales = scales[:, :1]
    again = encode(kind, decode(kind, codes, scales, dim), dim)
    # q4_0's lowest level, -8, is one beyond its largest magnitude and sets another scale.
    same = torch.ones(8, dtype=torch.bool)
    if kind == "q4_0":
        same = ((codes // 16 > 0) & (codes % 16 > 0)).all(-1)
    assert torch.equal(again[0][same], codes[same])
    assert torch.equal(again[1][same], scales[same])


@pytest.mark.parametrize("kind", GOLDEN)
@pytest.mark.parametrize(("dim", "block"), [(48, 32), (5, 4), (64, 16), (7, 6)])
def test_every_plan_reads_the_same_bits(kind, dim, block):
    x = torch.randn(2, 300, dim, generator=torch.Generator().manual_seed(0))
    codes, scales = encode(kind, x, block)
    expected = decode(kind, codes, scales, dim)
    for plan in plans("cpu"):
        out = torch.empty_like(x)
        read_blocks(plan, kind, codes, scales, out)
        assert torch.equal(out, expected), plan.name
    levels = {"q8_0": 127, "q4_0": 7, "nf4": 3}[kind]  # nf4's widest gap is 0.3 of the scale
    largest = x.abs().amax(-1, keepdim=True)
    assert ((expected - x).abs() <= largest * (0.51 / levels + 1e-3)).all()


def filled(form, lengths, batch=2, heads=2, capacity=None):
    """A cache of one layer with keys and values of so many positions a call, and all of both."""
    cache = StoredCache(CacheLayout(1, (form("k"), form("v"))), capacity or sum(lengths))
    rng = torch.Generator().manual_seed(1)
    width = form("k").dim // heads
    k, v = (torch.randn(batch, heads, sum(lengths), width, generator=rng) for _ in "kv")
    seen = []
    for k_new, v_new in zip(k.split(lengths, 2), v.split(lengths, 2), strict=True):
        seen = cache.extend(0, k_new, v_new)
        cache.length += k_new.shape[2]
    return cache, (k, v), seen


@given(
    st.sampled_from(["q8_0", "q4_0", "nf4", "fp16", "fp32"]),
    st.integers(2, 20),
    st.integers(1, 9),
    st.integers(0, 12),
    st.integers(1, 20),
)
def test_bytes_are_the_formula(kind, width, block, residual, length):
    form = lambda name: Cached(name, 2 * width, kind, block, residual)  # noqa: E731
    cache, _, _ = filled(form, [length])
    assert cache.bytes == cache.layout.bytes(length, batch=2)


@pytest.mark.parametrize("kind", ["q8_0", "q4_0", "nf4"])
@pytest.mark.parametrize("lengths", [[1] * 20, [7, 1, 1, 1, 10], [13, 7]])
@pytest.mark.parametrize("residual", [0, 1, 4, 64])
def test_what_attention_reads(kind, lengths, residual):
    """Own positions and the newest ones as float16, to the bit; the rest as codes say."""
    form = lambda name: Cached(name, 12, kind, 8, residual)  # noqa: E731
    _, given_, seen = filled(form, lengths)
    for x, found in zip(given_, seen, strict=True):
        rows = x.transpose(1, 2).flatten(2)
        as_codes = decode(kind, *encode(kind, rows, 8), 12)
        exact = 20 - max(lengths[-1], min(residual, 20))
        found = found.transpose(1, 2).flatten(2)
        assert torch.equal(found[:, exact:], rows[:, exact:].half().float())
        assert torch.equal(found[:, :exact], as_codes[:, :exact])


def test_a_full_cache_says_so():
    form = lambda name: Cached(name, 4)  # noqa: E731
    cache, (k, v), _ = filled(form, [3])
    with pytest.raises(ValueError, match="holds 3 positions, 6 were asked for"):
        cache.extend(0, k, v)


DECOUPLED = {
    "vocab_size": 29, "num_layers": 2, "dim": 16, "num_heads": 2, "num_kv_heads": 2,
    "mlp_hidden": 24, "embed_dim": 16, "attn_dim": 12, "sem_dim": 6, "geo_dim": 8, "seq_len": 16,
}  # fmt: skip
GOLF_TOY = {
    "vocab_size": 29, "num_layers": 3, "dim": 32, "num_heads": 4, "num_kv_heads": 2,
    "mlp_hidden": 32, "seq_len": 16, "layer_order": "0-1,1-2",
}  # fmt: skip


def random_model(family, config, size=0.4):
    config = family.spec(config).config
    rng = np.random.default_rng(0)
    weights = {
        t.name: rng.normal(0, size, t.shape).astype(np.float32) for t in family.spec(config).tensors
    }
    return family.module(config, weights)


def test_observed_layouts_are_those_told_by_the_config():
    for family, config in ((BOTTLENECK, DECOUPLED), (GOLF, GOLF_TOY)):
        seen = observe(random_model(family, config))
        expected = layout(config)
        assert seen.layers == expected.layers
        assert [(t.name, t.dim) for t in seen.tensors] == [
            (t.name, t.dim) for t in expected.tensors
        ]


def test_policies():
    plain = observe(random_model(BOTTLENECK, DECOUPLED))
    assert told(stored_as(plain, "q4_0")) == "k_sem=q4_0/6,k_geo=q8_0/8,v=q4_0/12"
    assert told(stored_as(plain, "q8_0/4")) == "k_sem=q8_0/4,k_geo=q8_0/4,v=q8_0/4"
    assert told(stored_as(plain, "v=nf4/4, k_sem=fp16,k_geo=q8_0")) == (
        "k_sem=fp16,k_geo=q8_0/8,v=nf4/4"
    )
    for args, text in (({"kv_cache": "q4_0"}, "q4_0"), ({"kv_cache": "nf4"}, "nf4")):
        runs = policy({**DECOUPLED, "attn_mode": "decoupled", "n_layer": 2, "d_model": 16}, args)
        assert runs.bytes(40) == stored_as(plain, text).bytes(40)
    for text, message in (
        ("q5_0", "unknown KV-cache format 'q5_0'"),
        ("k=q8_0,v=q8_0", "names k, v; this model caches k_sem, k_geo, v"),
        ("k_sem=q8_0", "names k_sem; this model"),
        ("q8_0/0", "no block of that size"),
        ("fp16/32", "no block of that size"),
        ("v=q8_0,v=q8_0", "once each"),
    ):
        with pytest.raises(UsageError, match=message):
            stored_as(plain, text)


CUTS = {"steps": [1] * 40, "prefill": [25, *[1] * 15], "chunks": [9, 1, 17, 13]}


@pytest.mark.parametrize("null", [False, True])
@pytest.mark.parametrize("scale", ["sdpa", "sum"])
def test_one_score_on_every_path(null, scale):
    """Decoupled attention with sharp scores: where a path divides once more, logits move by whole units.

    The full forward is the reference; q8_0 stays as near to it as 8 bits are, on every path.
    """
    config = {**DECOUPLED, "null_attn": null, "score_scale": scale}
    model = random_model(BOTTLENECK, config, size=0.9)
    other = random_model(
        BOTTLENECK, {**config, "score_scale": "sum" if scale == "sdpa" else "sdpa"}, size=0.9
    )
    tokens = torch.randint(29, (2, 40), generator=torch.Generator().manual_seed(2))
    full, plain = model(tokens), observe(model)
    apart = (other(tokens) - full).abs().max()
    assert (apart > 1.0) == (not null)
    for kind, cuts in product(("fp32", "fp16", "q8_0"), CUTS.values()):
        cache = StoredCache(stored_as(plain, kind, residual=4), 40)
        logits = torch.cat([model(part, cache=cache) for part in tokens.split(cuts, 1)], 1)
        found = (logits - full).abs().max() / full.abs().max()
        assert found < {"fp32": 1e-5, "fp16": 0.02, "q8_0": 0.1}[kind], (kind, cuts)
        assert cache.bytes == cache.layout.bytes(40, batch=2)


def test_what_cannot_be_cached_is_named():
    config = GOLF.spec({**GOLF_TOY, "rope_scaling": "ntk", "rope_train_len": 8}).config
    check_cached(GOLF, config, 8)
    with pytest.raises(UsageError, match="rope_scaling=ntk beyond 8 positions") as e:
        check_cached(GOLF, config, 9)
    assert "--no-cache" in str(e.value.hint)
    plain = torch.nn.Module()
    plain.w = torch.nn.Parameter(torch.zeros(1))
    plain.forward = lambda tokens, cache=None: torch.zeros(*tokens.shape, 4)
    with pytest.raises(UsageError, match="keeps no keys and values"):
        observe(plain)


def test_golden_configs_of_the_systems_have_their_bytes(shared):
    """The formula again, on the shapes that the golden forwards use."""
    golden = json.loads((shared / "docs" / "seed_golden.json").read_text())
    for name in ("000", "001", "002"):
        config = golden[name]["config"]
        for kind in ("fp16", "q8_0", "q4_0", "nf4"):
            stored = policy(config, {"kv_cache": kind})
            cache = StoredCache(stored, 300)
            heads = config["n_head"]
            for layer in range(stored.layers):
                pieces = [torch.zeros(1, heads, 300, t.dim // heads) for t in stored.tensors]
                names = tuple((t.name, t.dim // heads) for t in stored.tensors[:-1])
                parts = names if len(names) > 1 else ()
                cache.extend(layer, torch.cat(pieces[:-1], -1), pieces[-1], parts)
            assert cache.bytes == stored.bytes(300)
