"""The records' checkpoints: bare state dicts, with a small sidecar for what shapes cannot tell."""

import json
import re
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import asked
from golf_reference import TINY, reference_logits

from golfpack.artifact import open_model, open_pair
from golfpack.build.run import build
from golfpack.data.id_lists import word_start_ids, word_start_text
from golfpack.data.pieces import word_starts
from golfpack.data.tokenizer import load_tokenizer, train_tokenizer
from golfpack.errors import UsageError
from golfpack.models.base import KVCache
from golfpack.models.checkpoint import load_checkpoint
from golfpack.models.detect import detect
from golfpack.models.golf.adapt import adapt
from golfpack.models.golf.config import FIRST_OPTIONS, GolfConfig
from golfpack.models.golf.family import GOLF
from golfpack.packer.format.loader import load

LEAKY = {"activation": "leaky_relu2", "rope_dims": 16, "xsa_last_n": 11, "ln_scale": True}
SIDECAR_0405 = {**LEAKY, "layer_order": "0-5,4-5,4-10", "parallel_start": -1}
SIDECAR_0409 = {**LEAKY, "layer_order": "0-5,3-5,3-10", "parallel_start": 7}
SIDECAR_0427 = {
    **LEAKY, "layer_order": "0-5,3-5,3-10", "parallel_start": 8, "attn_gate_scale": 0.5,
    "bos_resets": True,
}  # fmt: skip


def on_meta(shapes):
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def shapes_of(blocks, vectors, matrices, rest):
    """Shapes by name: per block, then the rest."""
    kinds = {**vectors, **matrices}
    return {f"blocks.{i}.{k}": s for i in range(blocks) for k, s in kinds.items()} | rest


VECTORS = {"attn_scale": (512,), "mlp_scale": (512,), "resid_mix": (2, 512), "attn.q_gain": (8,)}
MATRICES = {
    "attn.c_q.weight": (512, 512), "attn.c_k.weight": (256, 512), "attn.c_v.weight": (256, 512),
    "attn.proj.weight": (512, 512), "mlp.fc.weight": (2048, 512), "mlp.proj.weight": (512, 2048),
}  # fmt: skip


def per_layer_record(skips):
    """The records of 2026-04-05 and 2026-04-09, which differ in their loops alone."""
    rest = {"tok_emb.weight": (8192, 512), "skip_weights": (skips, 512), "skip_gates": (skips, 512)}
    return shapes_of(11, VECTORS, MATRICES, rest)


def banked_record():
    """The record of 2026-04-27 (pull request 1855)."""
    rest = {
        "qo_bank": (22, 512, 512), "kv_bank": (22, 256, 512),
        "mlp_up_bank": (11, 2048, 512), "mlp_down_bank": (11, 512, 2048),
        "tok_emb.weight": (8192, 512), "skip_weights": (8, 512), "skip_gates": (8, 512),
        "parallel_post_lambdas": (11, 2, 2), "parallel_resid_lambdas": (11, 2),
        "smear_gate.weight": (1, 12), "smear_lambda": (1,),
    }  # fmt: skip
    return shapes_of(11, {**VECTORS, "attn.attn_gate_w": (8, 12)}, {}, rest)


@pytest.mark.parametrize(
    ("shapes", "sidecar", "count", "virtual"),
    [
        (per_layer_record(7), SIDECAR_0405, 35_943_512, [0, 1, 2, 3, 4, 5, 4, 5, 4, *range(5, 11)]),
        (per_layer_record(8), SIDECAR_0409, 35_944_536, [*range(6), *(3, 4, 5) * 2, *range(6, 11)]),
        (banked_record(), SIDECAR_0427, 35_945_671, [*range(6), *(3, 4, 5) * 2, *range(6, 11)]),
    ],
    ids=["04-05", "04-09", "04-27"],
)
def test_records_are_detected_with_their_exact_size(shapes, sidecar, count, virtual):
    found = detect(on_meta(shapes), overrides=sidecar)
    assert found.family.name == "golf"
    spec = GOLF.spec(found.config)
    assert spec.numel == count == sum(prod(s) for s in shapes.values())
    assert len([t for t in spec.tensors if t.hooks]) == 67
    assert list(GolfConfig(**found.config).order) == virtual
    dims = {k: found.config[k] for k in ("num_layers", "num_heads", "num_kv_heads", "mlp_hidden")}
    assert dims == {"num_layers": 11, "num_heads": 8, "num_kv_heads": 4, "mlp_hidden": 2048}
    assert found.config["lanes"] == (2 if "qo_bank" in shapes else 1)
    assert set(found.assumed) <= {
        "rope_base", "softcap", "softcap_kind", "seq_len", "rope_scaling", "final_lane", "bos_id",
        "attn_gate_source", "leaky_slope", "resid_norm", "rope_base_odd", "leaky_slopes",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("shapes", "sidecar"),
    [(per_layer_record(7), SIDECAR_0405), (banked_record(), SIDECAR_0427)],
    ids=["04-05", "04-27"],
)
def test_what_the_sidecar_lacks_is_asked_for_by_name(shapes, sidecar):
    with pytest.raises(UsageError, match="do not tell") as caught:
        detect(on_meta(shapes))
    assert set(re.findall(r"(\w+) \(", caught.value.message)) == set(sidecar)
    assert "config.json" in (caught.value.hint or "")
    for name in sidecar:
        rest = {k: v for k, v in sidecar.items() if k != name}
        with pytest.raises(UsageError, match="do not tell") as caught:
            detect(on_meta(shapes), overrides=rest)
        assert re.findall(r"(\w+) \(", caught.value.message)[0] == name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer_order": "0-5,4-10"}, "has 13 virtual layers, but the checkpoint's skip_weights"),
        ({"layer_order": "0-5,4-5,4-11"}, "has 16 virtual layers"),
        ({"layer_order": "0-4,3-4,3-4,6-9"}, "has 13 virtual layers"),
        ({"layer_order": "0-9,0-4"}, "does not run each of the blocks 0 to 10"),
        ({"layer_order": "five"}, "option layer_order is 'five', not a list"),
        ({"rope_dims": 128}, "rope_dims is 128, the heads have 64 channels"),
        ({"skip_gates": False}, "skip_gates=False contradicts the checkpoint"),
    ],
)
def test_wrong_sidecars_are_usage_errors(change, message):
    with pytest.raises(UsageError, match=message):
        detect(on_meta(per_layer_record(7)), overrides={**SIDECAR_0405, **change})


RECORD = {
    **TINY, "activation": "leaky_relu2", "rope_dims": 2, "xsa_last_n": 3, "ln_scale": True,
    "layer_order": "0-2,1-2,1-2", "parallel_start": 2, "lanes": 2, "skip_gates": True,
    "attn_gate": "plain", "attn_gate_window": 4, "attn_gate_scale": 0.5,
    "smear": "window", "smear_window": 4, "bos_resets": True,
}  # fmt: skip
TOLD = (
    "activation", "rope_dims", "xsa_last_n", "ln_scale", "layer_order", "parallel_start",
    "attn_gate_scale", "bos_resets",
)  # fmt: skip


def banked(weights, blocks):
    """The same weights as their trainer saves them."""
    kinds = {
        "qo_bank": ["attn.c_q", "attn.proj"], "kv_bank": ["attn.c_k", "attn.c_v"],
        "mlp_up_bank": ["mlp.fc"], "mlp_down_bank": ["mlp.proj"],
    }  # fmt: skip
    state = dict(weights)
    for bank, names in kinds.items():
        parts = [state.pop(f"blocks.{i}.{n}.weight") for n in names for i in range(blocks)]
        state[bank] = torch.stack(parts)
    return state


def saved_record(tmp_path):
    gen = torch.Generator().manual_seed(0)
    weights = {t.name: 0.4 * torch.randn(t.shape, generator=gen) for t in GOLF.spec(RECORD).tensors}
    state = banked(weights, 3)
    state["tok_emb.weight"] = state["tok_emb.weight"].bfloat16()
    state["mtp_heads.0.weight"] = torch.zeros(11, 16)
    torch.save(state, tmp_path / "final_model.pt")
    told = {name: RECORD[name] for name in TOLD}
    (tmp_path / "final_model.config.json").write_text(json.dumps(told))
    return tmp_path / "final_model.pt", {**weights, "tok_emb.weight": state["tok_emb.weight"]}


def test_banked_checkpoints_load_and_predict_as_the_formula_says(tmp_path):
    path, weights = saved_record(tmp_path)
    checkpoint = load_checkpoint(path)
    assert checkpoint.config == GOLF.spec(RECORD).config
    assert len(checkpoint.notes) == 2
    assert "split into 18 matrices" in checkpoint.notes[0]
    assert "1 multi-token-prediction heads dropped" in checkpoint.notes[1]
    assert checkpoint.dtypes["tok_emb.weight"] == "bfloat16"
    for name, w in checkpoint.weights.items():
        np.testing.assert_array_equal(w, weights[name].float().numpy())
    model = checkpoint.module()
    tokens = np.array([1, 5, 3, 1, 0, 9, 9, 2, 1, 1, 4])
    expected = reference_logits(checkpoint.weights, checkpoint.config, tokens)
    logits = model(torch.from_numpy(tokens)[None])[0].numpy()
    np.testing.assert_allclose(logits, expected, atol=3e-5)


def test_early_records_with_bigrams_and_value_tables_are_detected():
    config = {
        **TINY, "bigram_size": 13, "bigram_dim": 6, "smear": "channels", "value_embed_dim": 3,
        "value_embed_layers": "1,2", "value_residual": "sigmoid", "attn_gate": "affine",
        "activation": "leaky_relu2", "rope_dims": 2, "xsa_last_n": 2, "ln_scale": True,
        "embed_dim": 10, "tied": False,
    }  # fmt: skip
    state = on_meta({t.name: t.shape for t in GOLF.spec(config).tensors})
    with pytest.raises(UsageError, match="value_embed_layers \\(the blocks"):
        detect(state)
    told = {k: config[k] for k in (*LEAKY, "value_embed_layers")} | {"resid_norm": False}
    assert detect(state, overrides=told).config == GOLF.spec(config).config
    with pytest.raises(UsageError, match=re.escape("unknown tensors: 1")):
        detect(state, overrides={**told, "value_embed_layers": 1})


def test_engrams_are_told_by_their_shapes_and_ask_for_their_slope():
    config = {
        **TINY, "bigram_size": 28, "bigram_dim": 3, "bigram_hash": "engram", "bigram_trigram": True,
        "smear": "channels", **LEAKY, "rope_dims": 2, "xsa_last_n": 2, "leaky_slope": 0.3,
    }  # fmt: skip
    state = on_meta({t.name: t.shape for t in GOLF.spec(config).tensors})
    told = {k: config[k] for k in LEAKY} | {"resid_norm": False, "bos_resets": False}
    with pytest.raises(UsageError, match="leaky_slope \\(slope of leaky_relu2"):
        detect(state, overrides=told)
    assert detect(state, overrides={**told, "leaky_slope": 0.3}).config == GOLF.spec(config).config
    by_block = detect(state, overrides={**told, "leaky_slopes": "0.1,0.2,0.3"}).config
    assert GolfConfig(**by_block).slopes == (0.1, 0.2, 0.3)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("qo_bank", (3, 16, 16), "'qo_bank' has shape (3, 16, 16), not (matrices, rows, columns)"),
        ("qo_bank", (6, 16), "'qo_bank' has shape (6, 16), not"),
        ("kv_bank", (4, 8, 16), "no tensor 'blocks.2.attn.c_k.weight'"),
        ("mlp_up_bank", (3, 20, 16), "but the other tensors imply"),
        ("blocks.1.attn.c_q.weight", (16, 16), "a bank with the same matrix"),
        ("mlp_down_bank", None, "no tensor 'blocks.0.mlp.proj.weight'"),
    ],
)
def test_misshapen_banks_name_the_tensor(name, shape, message):
    state = banked({t.name: torch.zeros(t.shape) for t in GOLF.spec(RECORD).tensors}, 3)
    state.pop(name, None)
    if shape is not None:
        state[name] = torch.zeros(shape)
    with pytest.raises(UsageError, match=re.escape(message)):
        detect(state, overrides={k: RECORD[k] for k in TOLD})


def test_state_dicts_without_banks_are_left_alone():
    for state in ({"qo_bank": torch.zeros(2)}, {"tok_emb.weight": torch.zeros(3, 2)}):
        assert adapt(state, {}) == (state, [])


def test_artifacts_keep_the_split_matrices_and_the_whole_config(tmp_path, tiny_shard):
    path, weights = saved_record(tmp_path)
    out = tmp_path / "out.golf"
    # Token ids of the shard go up to 255: a vocabulary for them.
    state = torch.load(path, weights_only=True)
    gen = torch.Generator().manual_seed(1)
    state["tok_emb.weight"] = torch.randn(256, 16, generator=gen)
    torch.save(state, path)
    shard = str(tiny_shard)
    build(asked(path, "24000", out, calib=shard, calib_tokens=512, cache=False))
    packed, original = open_pair(out, path)
    assert original is not None
    assert packed.config == original.config
    said = load(out).config
    assert said.items() <= packed.config.items()
    assert said.keys() >= FIRST_OPTIONS
    assert {"bigram_size", "word_boost"}.isdisjoint(said)  # at their defaults, and newer
    assert set(packed.weights) == set(weights)
    tokens = torch.arange(40)[None] % 7
    logits = [m.module()(tokens) for m in (packed, original)]
    assert 0 < (logits[0] - logits[1]).abs().max() < 0.1 * logits[1].abs().max()


@pytest.mark.parametrize("name", ["v1-bytes.golf", "v1-rans.golf"])
def test_artifacts_older_than_the_features_are_as_they_were(name):
    path = Path(__file__).resolve().parents[1] / "golden" / name
    artifact = load(path)
    opened = open_model(path)
    assert set(opened.config) - set(artifact.config) == GOLF.newer >= {"rope_dims", "smear"}
    assert opened.config == GOLF.spec(artifact.config).config
    tokens = np.arange(20) % opened.config["vocab_size"]
    model = opened.module()
    logits = model(torch.from_numpy(tokens)[None])[0].numpy()
    expected = reference_logits(opened.weights, opened.config, tokens)
    np.testing.assert_allclose(logits, expected, atol=1e-4)


# Beside their sidecars: what the oracles' own code had switched on, and its sidecar does not say.
ORACLES = {
    "improved": {"lane_split": "late", "lane_mixes": "attn", "lane_decay": "own"},
    "tapin": {"lane_split": "late", "lane_mixes": "both", "lane_decay": "both"},
    "rec0409": {},
    "exp27b": {},
    "exp101pc": {
        "resid_norm": False, "bigram_split": True, "word_starts": ",".join(map(str, range(0, 1024, 3)))
    },
    "exp106": {"resid_norm": False, "bigram_split": False, "word_starts": "none"},
}  # fmt: skip


@pytest.mark.parametrize("name", ORACLES)
def test_logits_are_those_of_the_authors_code(shared, name):
    folder = shared / "checkpoints" / "records_tiny"
    path = folder / f"{name}.pt"
    if not path.exists():
        pytest.skip("needs ../shared/checkpoints/records_tiny")
    told = ORACLES[name]
    for left_out in told:
        rest = {k: v for k, v in told.items() if k != left_out}
        with pytest.raises(UsageError, match=left_out):
            load_checkpoint(path, rest)
    expected = np.load(folder / f"{name}.expected.npz")
    tokens = torch.from_numpy(expected["ids"].astype(np.int64))
    module = load_checkpoint(path, told).module()
    with torch.inference_mode():
        whole = module(tokens).numpy()
        cache = KVCache(tokens.shape[1])
        parts = [module(part, cache=cache) for part in tokens.split((40, 1, 23), dim=1)]
    size = np.abs(expected["logits"]).max()
    assert np.abs(whole - expected["logits"]).max() <= 1e-5 * size
    assert np.abs(torch.cat(parts, 1).numpy() - expected["logits"]).max() <= 1e-5 * size


def test_the_tokenizer_tells_which_tokens_start_a_word(tmp_path):
    text = ["one two three " * 20 + "x\n" * 5]
    train_tokenizer(text, 270, tmp_path / "sp.model")
    sp = load_tokenizer(tmp_path / "sp.model")
    starts = word_starts(sp)
    assert 0 < starts.sum() < 20
    assert not starts[:4].any()  # control pieces
    config = {
        **TINY, "vocab_size": 270, "bigram_size": 13, "bigram_dim": 6, "word_boost": True,
        "bigram_split": True, "word_starts": word_start_text(starts),
    }  # fmt: skip
    drawn = np.random.default_rng(0)
    shapes = {t.name: t.shape for t in GOLF.spec(config).tensors}
    weights = {n: torch.from_numpy(drawn.normal(0, 0.5, s)).float() for n, s in shapes.items()}
    torch.save(weights, tmp_path / "m.pt")
    told = {**LEAKY, "rope_dims": 2, "xsa_last_n": 0, "bigram_split": True, "bigram_trigram": True}
    with pytest.raises(UsageError, match="the tokens that start a word: --tokenizer"):
        load_checkpoint(tmp_path / "m.pt", told)
    model = load_checkpoint(tmp_path / "m.pt", told, tokenizer=tmp_path / "sp.model")
    assert word_start_ids(model.config["word_starts"]) == tuple(np.flatnonzero(starts))
    by_hand = {**told, "word_starts": ",".join(map(str, np.flatnonzero(starts)))}
    other = load_checkpoint(tmp_path / "m.pt", by_hand)
    tokens = torch.from_numpy(drawn.choice(np.flatnonzero(starts), (2, 16)))
    with torch.inference_mode():
        assert torch.equal(model.module()(tokens), other.module()(tokens))
        none = load_checkpoint(tmp_path / "m.pt", {**told, "word_starts": "none"})
        assert not torch.equal(none.module()(tokens), other.module()(tokens))
    train_tokenizer(text, 271, tmp_path / "other.model")
    with pytest.raises(UsageError, match="has 271 pieces, the model 270 out"):
        load_checkpoint(tmp_path / "m.pt", told, tokenizer=tmp_path / "other.model")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"word_boost": True}, "boosts a bigram table, and there is none"),
        ({"bigram_size": 9, "bigram_dim": 2, "bigram_split": True}, "depend on which tokens start"),
        ({"word_starts": "3"}, "nothing in the model depends on it"),
        ({"loop_embeds": 2}, "the first repeated block runs 0 times"),
        ({"loop_embeds": 2, "layer_order": "0-2,1-2,1-2"}, "the first repeated block runs 3 times"),
        ({"lane_split": "never"}, "unknown lane_split 'never'"),
    ],
)
def test_options_that_do_not_go_together_say_so(options, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        GolfConfig(**{**TINY, **options})


@pytest.mark.parametrize("text", ["b85:~~~\x7f", "b85:!", "3-1", "900"])
def test_damaged_word_starts_are_usage_errors(text):
    table = {"bigram_size": 9, "bigram_dim": 2, "bigram_split": True}
    with pytest.raises(UsageError, match="word_starts"):
        GolfConfig(**{**TINY, **table, "word_starts": text})
