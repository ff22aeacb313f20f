"""Every option of the golf network against a float64 numpy reference, cached and uncached."""

import numpy as np
import pytest
import torch
from conftest import agree
from golf_reference import TINY, pair_rows, reference_logits

from golfpack.calib.sources import CalibTokens
from golfpack.calib.stats import calibrate
from golfpack.data.id_lists import index_list
from golfpack.errors import UsageError
from golfpack.models.base import KVCache, generate
from golfpack.models.golf.config import GolfConfig
from golfpack.models.golf.embed import BigramHash
from golfpack.models.golf.family import GOLF

LANES = {"lanes": 2, "parallel_start": 2}
BIGRAMS = {"bigram_size": 13, "bigram_dim": 6}
ENGRAM = {"bigram_size": 14, "bigram_dim": 3, "bigram_hash": "engram"}
TABLES = {"value_embed_dim": 3, "value_embed_layers": "1,2"}
RECORD = {
    "activation": "leaky_relu2", "rope_dims": 2, "ln_scale": True, "xsa_last_n": 3,
    "layer_order": "0-2,1-2,1-2", "skip_gates": True, "parallel_start": 2,
}  # fmt: skip
FEATURES = {
    "partial rope": {"rope_dims": 2, "num_kv_heads": 4},
    "ntk": {"rope_scaling": "ntk", "rope_train_len": 8, "rope_base": 100.0},
    "ntk within its length": {"rope_scaling": "ntk", "rope_train_len": 99},
    "yarn": {"rope_scaling": "yarn", "rope_factor": 4.0, "dim": 32},
    "slope": {"activation": "leaky_relu2", "leaky_slope": 0.25},
    "ln scale": {"ln_scale": True},
    "exclusive last": {"xsa_last_n": 1},
    "exclusive all": {"xsa_last_n": 3, "num_kv_heads": 1},
    "value residual, weights": {"value_residual": "lambda", "layer_order": "0-2,0"},
    "value residual, gate": {"value_residual": "sigmoid", **TABLES, "xsa_last_n": 2},
    "value tables": TABLES,
    "value tables, unprojected": {"value_embed_dim": 8, "value_embed_layers": "0"},
    "smeared channels": {"smear": "channels", "bos_resets": True},
    "smeared window": {"smear": "window", "smear_window": 5},
    "smeared window, documents": {"smear": "window", "smear_window": 5, "bos_resets": True},
    "bigrams": BIGRAMS,
    "bigrams, smeared": {**BIGRAMS, "smear": "channels", "bigram_trigram": True},
    "bigrams, documents": {**BIGRAMS, "bigram_trigram": True, "bos_resets": True},
    "bigrams, linear": {**BIGRAMS, "bigram_hash": "linear", "bigram_multiplier": 31},
    "bigrams, unprojected": {"bigram_size": 7, "bigram_dim": 16, "smear": "channels"},
    "gate, affine": {"attn_gate": "affine"},
    "gate, all channels": {"attn_gate": "plain", "attn_gate_window": 16},
    "gate, sparse": {"attn_gate": "plain", "attn_gate_window": 5, "attn_gate_scale": 0.5},
    "gate, doubled": {"attn_gate": "double", "attn_gate_window": 5},
    "gate, of queries": {
        "attn_gate": "double", "attn_gate_window": 5, "attn_gate_source": "query",
    },
    "skip gates": {"skip_gates": True},
    "parallel": {"parallel_start": 1},
    "two lanes": LANES,
    "two lanes, gated": {**LANES, "skip_gates": True, "final_lane": "mlp"},
    "two lanes, looped": {**LANES, "layer_order": "0-1,0-2,2", "final_lane": "attn"},
    "looped": {"layer_order": "0,1-2,1-2"},
    "two lanes, parted late": {**LANES, "lane_split": "late", "layer_order": "0-2,1-2"},
    "two lanes, looped with embeddings": {
        **LANES, "layer_order": "0,1,1,1,2", "loop_embeds": 3, "lane_split": "late",
        "lane_mixes": "both", "lane_decay": "both", "final_lane": "mlp",
    },
    "looped with embeddings": {"layer_order": "0-1,0-2", "loop_embeds": 2},
    "residual norm": {"resid_norm": True, "layer_order": "0-2,2"},
    "exclusive by strength": {"xsa_last_n": 2, "xsa_strength": True},
    "bigrams, split": {**BIGRAMS, "bigram_split": True, "word_starts": "2-4,9"},
    "bigrams, split, boosted": {
        **BIGRAMS, "bigram_trigram": True, "bigram_split": True, "word_boost": True,
        "word_starts": "1,5-8", "bos_resets": True,
    },
    "engram of pairs": ENGRAM,
    "engram of triples": {**ENGRAM, "bigram_size": 28, "bigram_trigram": True, "smear": "channels"},
    "alternating rope": {"rope_base": 500.0, "rope_base_odd": 10.0},
    "a slope a block": {"activation": "leaky_relu2", "leaky_slopes": "0.9,-0.4,0.1"},
    "factored": {"embed_dim": 6, "smear": "window", "smear_window": 6},
    "factored, untied": {"embed_dim": 6, "tied": False, **BIGRAMS},
    "fractional mlp": {"mlp_hidden": 37},
    "poly cap": {"softcap": 0.7, "softcap_kind": "poly"},
    "one-lane record": RECORD,
    "two-lane record": {
        **RECORD, **LANES, "attn_gate": "plain", "attn_gate_window": 4, "attn_gate_scale": 0.5,
        "smear": "window", "smear_window": 4, "bos_resets": True,
    },
    "early record": {
        **BIGRAMS, **TABLES, "smear": "channels", "xsa_last_n": 2, "rope_dims": 2, "ln_scale": True,
        "rope_scaling": "yarn", "rope_factor": 2.0, "value_residual": "lambda", "attn_gate": "affine",
        "bigram_trigram": True,
    },
}  # fmt: skip
# Token 1 is the BOS: documents start within the sequences.
TOKENS = np.array(
    [[1, 4, 9, 9, 1, 2, 7, 1, 1, 3, 10, 5, 0], [6, 1, 8, 2, 2, 1, 5, 9, 4, 1, 3, 3, 7]]
)


def tiny(**changes):
    config = GOLF.spec({**TINY, **changes}).config
    rng = np.random.default_rng(0)
    weights = {
        t.name: np.asarray(rng.normal(0, 0.4, t.shape), np.float32)
        for t in GOLF.spec(config).tensors
    }
    return config, weights, GOLF.module(config, weights)


@pytest.mark.parametrize("changes", FEATURES.values(), ids=FEATURES)
def test_logits_match_the_float64_reference(changes):
    config, weights, model = tiny(**changes)
    logits = model(torch.from_numpy(TOKENS)).numpy()
    expected = np.stack([reference_logits(weights, config, ids) for ids in TOKENS])
    np.testing.assert_allclose(logits, expected, atol=3e-5)


SMEARED = {"smear": "window", "smear_window": 5}
GATED = {"attn_gate": "double", "attn_gate_window": 5}


@pytest.mark.parametrize(
    ("rest", "option"),
    [
        ({}, {"rope_dims": 2}),
        ({}, {"rope_scaling": "ntk", "rope_train_len": 8}),
        ({}, {"rope_scaling": "yarn", "rope_factor": 4.0}),
        ({"activation": "leaky_relu2"}, {"leaky_slope": 0.25}),
        ({}, {"rope_base_odd": 10.0}),
        ({"activation": "leaky_relu2"}, {"leaky_slopes": "0.5,0.5,0.2"}),
        ({}, {"ln_scale": True}),
        ({}, {"xsa_last_n": 1}),
        ({}, {"parallel_start": 2}),
        ({"softcap": 0.7}, {"softcap_kind": "poly"}),
        ({"layer_order": "0,1-2,1-2"}, {"layer_order": "0-1,0-2"}),
        (SMEARED, {"bos_resets": True}),
        (BIGRAMS, {"bos_resets": True}),
        (BIGRAMS, {"bigram_trigram": True}),
        (BIGRAMS, {"bigram_hash": "linear"}),
        (GATED, {"attn_gate_source": "query"}),
        ({**GATED, "attn_gate": "plain"}, {"attn_gate_scale": 0.5}),
        (LANES, {"final_lane": "attn"}),
        (LANES, {"final_lane": "mlp"}),
    ],
)
def test_options_without_tensors_change_the_logits(rest, option):
    logits = [tiny(**changes)[2](torch.from_numpy(TOKENS)) for changes in (rest, rest | option)]
    assert (logits[0] - logits[1]).abs().max() > 1e-2


@pytest.mark.parametrize("changes", FEATURES.values(), ids=FEATURES)
@pytest.mark.parametrize("chunks", [[1] * 13, [6, 7], [2, 1, 1, 9]], ids=["1", "6-7", "2-1-1-9"])
def test_cached_logits_equal_the_full_forward(changes, chunks):
    _, _, model = tiny(**changes)
    tokens = torch.from_numpy(TOKENS)
    cache = KVCache(13)
    parts = [model(part, cache=cache) for part in tokens.split(chunks, dim=1)]
    agree(torch.cat(parts, dim=1), model(tokens))


@pytest.mark.parametrize("changes", FEATURES.values(), ids=FEATURES)
def test_no_logit_depends_on_later_tokens(changes):
    _, _, model = tiny(**changes)
    changed = TOKENS.copy()
    changed[:, 8:] = (changed[:, 8:] + 1) % 11
    logits = [model(torch.from_numpy(t)) for t in (TOKENS, changed)]
    agree(logits[0][:, :8], logits[1][:, :8])
    assert not torch.allclose(logits[0][:, 8], logits[1][:, 8])


@pytest.mark.parametrize("changes", FEATURES.values(), ids=FEATURES)
def test_hooked_modules_compute_with_their_weight(changes):
    config, weights, model = tiny(**changes)
    seen = {}

    def record(name):
        return lambda module, args, out: seen.update({name: (args[0], out)})

    for name, module in model.named_modules():
        module.register_forward_hook(record(name))
    model(torch.from_numpy(TOKENS))
    for t in GOLF.spec(config).tensors:
        assert bool(t.hooks) == (t.role != "vector"), t.name
        w = torch.from_numpy(weights[t.name])
        for hook in t.hooks:
            x, y = seen[hook.module]
            expected = w[x] if hook.kind == "embedding" else x @ w.T
            agree(y, expected)


def test_roles_of_the_records_tensors():
    spec = GOLF.spec({**TINY, **FEATURES["early record"], "embed_dim": 4, "skip_gates": True})
    roles = {t.name: t.role for t in spec.tensors}
    assert roles["bigram.embed.weight"] == roles["ve_shared.embed.weight"] == "embed"
    assert roles["bigram.proj.weight"] == "mlp_out"
    assert roles["ve_shared.proj.weight"] == "attn_v"
    assert roles["embed_proj.weight"] == roles["head_proj.weight"] == "mlp_in"
    for name in ("bigram.scale", "smear.gate", "skip_gates", "ve_layer_scales.1"):
        assert roles[name] == "vector"
    assert roles["blocks.1.attn.attn_gate.weight"] == "vector"
    # Whatever feeds the logits directly is told by these two roles: calibration relies on it.
    linear = {t.name for t in spec.tensors for h in t.hooks if h.kind == "linear"}
    assert {n for n in linear if roles[n] in ("embed", "head")} == {"tok_emb.weight"}


def test_hashes_wrap_like_int32_arithmetic():
    config = {"bigram_trigram": True, "bigram_size": 10240, "bigram_dim": 1}
    cfg = GolfConfig(**{**TINY, **config})
    tokens = np.random.default_rng(3).integers(0, 1 << 20, 200)
    hashed = BigramHash(cfg)
    rows = np.array(pair_rows({**cfg.__dict__}, [int(t) for t in tokens]))
    batch = torch.from_numpy(tokens)[None]
    np.testing.assert_array_equal(hashed._pair(batch)[0].numpy(), rows[:, 0])
    np.testing.assert_array_equal(hashed._triple(batch)[0].numpy(), rows[:, 1])
    assert rows.max() == 10239
    assert rows[2:].max() < 10239


def test_calibration_sums_over_the_uses_of_a_block():
    config, _, model = tiny(**FEATURES["looped"])
    tokens = CalibTokens(TOKENS, "test")
    stats = calibrate(model, GOLF.spec(config), tokens, gradients=False, seed=0, threads=1)
    inputs = {"0": [], "1": []}
    for block, seen in inputs.items():
        module = model.get_submodule(f"blocks.{block}.mlp.fc")
        module.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0].double()))
    model(torch.from_numpy(TOKENS))
    assert [len(seen) for seen in inputs.values()] == [1, 2]
    for block, seen in inputs.items():
        x = torch.cat(seen).flatten(0, -2).numpy()
        hessian = stats.uses[f"blocks.{block}.mlp.fc.weight"][0].hessian
        agree(hessian, x.T @ x / TOKENS.size)


@pytest.mark.parametrize("name", ["two-lane record", "early record", "factored, untied"])
def test_calibration_reaches_every_tensor(name):
    config, _, model = tiny(**FEATURES[name])
    spec, tokens = GOLF.spec(config), CalibTokens(TOKENS, "test")
    stats = calibrate(model, spec, tokens, gradients=True, seed=0, threads=1)
    for t in spec.tensors:
        if not t.hooks:
            # The first virtual layer has no earlier values to take in.
            used = t.name != "blocks.0.attn.vr_lambda"
            assert stats.vector_fisher[t.name].any() == used, t.name
            continue
        assert len(stats.uses[t.name]) == len(t.hooks)
        for use in stats.uses[t.name]:
            assert use.row_weight is not None
            assert np.trace(use.hessian) > 0


def test_generation_with_long_rotary_scaling_follows_the_whole_length():
    _, _, model = tiny(rope_scaling="ntk", rope_train_len=4, softcap=9.0, **BIGRAMS)
    greedy = generate(model, 2, 12, 1, 1e-6, torch.Generator().manual_seed(0))
    # The last step alone does not show in the tokens: the scaling counts all 12 positions.
    assert torch.equal(model(greedy).argmax(-1)[:, :-1], greedy[:, 1:])


def test_index_lists():
    assert index_list("0-2, 1,10-11", "x") == (0, 1, 2, 1, 10, 11)
    assert index_list("", "x") == ()
    for text in ("3-1", "a", "1,,2", "-1", "1-2-3"):
        with pytest.raises(UsageError, match="option x is"):
            index_list(text, "x")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_dims": 3}, "rope_dims is 3, the heads have 4 channels"),
        ({"rope_dims": 6}, "rope_dims is 6"),
        ({"rope_dims": -2}, "rope_dims must be at least 0"),
        ({"rope_scaling": "ntk", "rope_dims": 2}, "ntk scaling needs more than 2"),
        ({"rope_scaling": "linear"}, "unknown rope_scaling 'linear'"),
        ({"attn_gate": "plain"}, "attn_gate plain does not go with attn_gate_window 0"),
        ({"attn_gate": "affine", "attn_gate_window": 4}, "attn_gate affine does not go"),
        ({"smear": "window", "smear_window": 17}, "smear window does not go"),
        ({"bigram_size": 9}, "bigram table of 9 x 0"),
        ({"bigram_size": 1, "bigram_dim": 4}, "bigram table of 1 x 4"),
        ({"bigram_trigram": True, "bigram_hash": "linear"}, "linear hash knows pairs alone"),
        ({**ENGRAM, "bigram_size": 15}, "15 rows are not 2 engram tables of equal size"),
        ({**ENGRAM, "word_boost": True, "word_starts": "2"}, "engram tables know no word starts"),
        (
            {"activation": "leaky_relu2", "leaky_slopes": "0.5,0.2"},
            "leaky_slopes has 2 slopes; there",
        ),
        ({"leaky_slopes": "0.5,0.2,0.1"}, "3 blocks with activation relu2"),
        ({"activation": "leaky_relu2", "leaky_slopes": "0.5,nan,0"}, "not a list of numbers"),
        ({"rope_base_odd": -1.0}, "rope_base_odd must be at least 0"),
        ({"value_embed_layers": "1"}, "does not go with value_embed_dim 0"),
        ({"value_embed_layers": "3", "value_embed_dim": 4}, "names block 3"),
        ({"value_embed_layers": "1,1", "value_embed_dim": 4}, "does not go with value_embed_dim"),
        ({"layer_order": "0,2,0"}, "does not run each of the blocks 0 to 2"),
        ({"layer_order": "0-3"}, "does not run each of the blocks"),
        ({"layer_order": "0-2", "passes": 2}, "layer_order and passes both repeat blocks"),
        ({"lanes": 2}, "2 lanes do not go with parallel_start -1"),
        ({"lanes": 3, "parallel_start": 1}, "3 lanes do not go"),
    ],
)
def test_impossible_options_are_usage_errors(changes, message):
    with pytest.raises(UsageError, match=message):
        GolfConfig(**{**TINY, **changes})
