"""The decoupled-bottleneck family: golden losses, a numpy reference, its cache, its checkpoints."""

import re

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from conftest import agree

from golfpack.calib.sources import CalibTokens
from golfpack.calib.stats import calibrate
from golfpack.errors import BudgetError, UsageError
from golfpack.models.base import KVCache
from golfpack.models.bottleneck.config import BottleneckConfig
from golfpack.models.bottleneck.family import BOTTLENECK
from golfpack.models.checkpoint import load_checkpoint, peek_spec
from golfpack.models.detect import detect
from golfpack.packer.aim import Budget, check_reach

TOY = {
    "vocab_size": 29, "num_layers": 2, "dim": 16, "num_heads": 2, "num_kv_heads": 2,
    "mlp_hidden": 24, "embed_dim": 16, "attn_dim": 12, "sem_dim": 4, "geo_dim": 8, "seq_len": 16,
}  # fmt: skip
PLAIN = {"sem_dim": 0, "geo_dim": 0, "attn_dim": 8}

# changes to TOY, parameters, loss, loss with the other score_scale: executed by the source program
GOLDEN = {
    "000": ({"tie_qk": True}, 4084, 3.710246823, 3.702281406),
    "001": ({"embed_dim": 8}, 4492, 3.282516275, 3.283444976),
    "002": ({**PLAIN, "null_attn": True}, 3988, 3.502452598, 3.502452598),
    "decoupled-null": ({"tie_qk": True, "null_attn": True}, 4132, 3.575046415, 3.575046415),
}

MODES = {
    "standard": {**PLAIN, "attn_dim": 16},
    "bottleneck": PLAIN,
    "gqa": {**PLAIN, "num_heads": 4, "attn_dim": 16},
    "decoupled": {},
}
VARIANTS = {
    f"{mode}{'-null' * null}{'-tie' * tie}": {**changes, "null_attn": null, "tie_qk": tie}
    for mode, changes in MODES.items()
    for null in (False, True)
    for tie in (False, True)
    if not (mode == "gqa" and tie)
}
VARIANTS |= {
    "gelu-narrow": {"activation": "gelu", "embed_dim": 8, "score_scale": "sum"},
    "no-rope-no-temp": {"rope": False, "learned_temp": False, "geo_dim": 6, "null_attn": True},
    "base": {**PLAIN, "rope_base": 100.0},
    "wide-values": {"attn_dim": 20},
}


def test_the_form_of_attention_follows_from_the_widths():
    for mode, changes in MODES.items():
        assert BottleneckConfig(**{**TOY, **changes}).mode == mode


def random_weights(config):
    rng = np.random.default_rng(0)
    return {
        t.name: rng.normal(0, 0.4, t.shape).astype(np.float32)
        for t in BOTTLENECK.spec(config).tensors
    }


def toy(**changes):
    config = BOTTLENECK.spec({**TOY, **changes}).config
    weights = random_weights(config)
    return config, weights, BOTTLENECK.module(config, weights)


def golden_model(changes):
    """w.flat[k] = 0.3 sin(1.3 k + 0.7 j), j the rank of the tensor's name; norms have weights + 1."""
    spec = BOTTLENECK.spec({**TOY, **changes})
    weights = {}
    for j, t in enumerate(sorted(spec.tensors, key=lambda t: t.name)):
        w = 0.3 * np.sin(1.3 * np.arange(t.numel) + 0.7 * j).reshape(t.shape)
        norm = re.search(r"ln(1|2|_f)\.weight", t.name)
        weights[t.name] = torch.from_numpy(w + 1 if norm else w)
    model = BOTTLENECK.build(spec.config).double()
    model.load_state_dict(weights)
    return model.requires_grad_(False)


def golden_loss(model):
    ids = torch.tensor([(7 * i * i + 3 * i + 1) % 29 for i in range(13)])
    return F.cross_entropy(model(ids[None, :-1])[0], ids[1:]).item()


@pytest.mark.parametrize(("changes", "params", "loss", "flipped"), GOLDEN.values(), ids=GOLDEN)
def test_golden_losses(changes, params, loss, flipped):
    model = golden_model(changes)
    assert sum(p.numel() for p in model.parameters()) == params
    assert golden_loss(model) == pytest.approx(loss, abs=1e-8)
    assert golden_loss(golden_model({**changes, "score_scale": "sum"})) == pytest.approx(
        flipped, abs=1e-8
    )
    assert golden_loss(model.float()) == pytest.approx(loss, rel=1e-5)


SYSTEM_000 = {
    "vocab_size": 50257, "num_layers": 18, "dim": 2048, "num_heads": 16, "num_kv_heads": 16,
    "mlp_hidden": 8192, "embed_dim": 2048, "attn_dim": 512, "sem_dim": 32, "geo_dim": 64,
    "tie_qk": True, "seq_len": 2048,
}  # fmt: skip
SYSTEM_001 = {
    "vocab_size": 50257, "num_layers": 12, "dim": 768, "num_heads": 12, "num_kv_heads": 12,
    "mlp_hidden": 3072, "embed_dim": 512, "attn_dim": 144, "sem_dim": 48, "geo_dim": 96,
    "seq_len": 256,
}  # fmt: skip
SYSTEM_002 = {
    "vocab_size": 50257, "num_layers": 6, "dim": 512, "num_heads": 8, "num_kv_heads": 8,
    "mlp_hidden": 2048, "embed_dim": 512, "attn_dim": 96, "null_attn": True,
}  # fmt: skip


def packed_bytes(spec, bits):
    """Matrices at `bits` with a float16 scale per row, everything else in float16."""
    size = 0
    for t in spec.tensors:
        size += 2 * t.numel if t.role == "vector" else -(-t.numel * bits // 8) + 2 * t.shape[0]
    return size


@pytest.mark.parametrize(
    ("config", "params", "int8", "int6", "int5"),
    [
        (SYSTEM_000, 1_050_335_520, 1_051_347_042, 788_801_122, 657_528_162),
        (SYSTEM_001, 116_799_632, 117_135_938, 87_945_666, 73_350_530),
        (SYSTEM_002, 45_800_112, 45_980_034, 34_533_634, 28_810_434),
        ({**SYSTEM_002, "vocab_size": 1024}, 20_592_816, 20_674_272, 15_529_696, 12_957_408),
    ],
    ids=["000", "001", "002", "002-1k"],
)
def test_systems_have_their_exact_size_without_memory(config, params, int8, int6, int5):
    spec = BOTTLENECK.spec(config)
    assert spec.numel == params
    assert [packed_bytes(spec, bits) for bits in (8, 6, 5)] == [int8, int6, int5]


def test_system_000_is_refused_at_16_mb_from_its_shapes():
    with pytest.raises(BudgetError, match=r"leave 0\.122 bits per parameter for 1,050,335,520"):
        check_reach(0.5, BOTTLENECK.spec(SYSTEM_000), Budget(16_000_000))


def test_system_000_counts_keys_and_aliases():
    spec = BOTTLENECK.spec(SYSTEM_000)
    keys = BOTTLENECK.spec({**SYSTEM_000, "tie_qk": False})
    assert (len(spec.tensors), len(keys.tensors)) == (219, 255)
    assert keys.numel == 1_053_874_464
    assert spec["tok_emb.weight"].numel == 102_926_336


def rope(x, base):
    """x (T, D): rotates the pair (i, i + D/2) by the angle t * base^(-2i/D)."""
    t, d = x.shape
    z = x[:, : d // 2] + 1j * x[:, d // 2 :]
    z = z * np.exp(1j * np.outer(np.arange(t), base ** (-np.arange(0, d, 2) / d)))
    return np.concatenate((z.real, z.imag), axis=1)


def layer_norm(w, name, x):
    centred = x - x.mean(1, keepdims=True)
    normal = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
    return normal * w[f"{name}.weight"] + w[f"{name}.bias"]


def softmax(s):
    e = np.exp(s - s.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def reference_attention(w, p, x, c):
    out = []
    for h in range(c["num_heads"]):
        g = h * c["num_kv_heads"] // c["num_heads"]

        def head(name, index, heads):
            return np.split(x @ w[f"{p}{name}.weight"].T, heads, axis=1)[index]

        def null(name, index=g):
            return np.split(w[p + name].reshape(-1), c["num_kv_heads"])[index]

        scores, null_scores, widths = 0.0, 0.0, 0
        for part in ("sem", "geo") if c["sem_dim"] else ("proj",):
            q = head(f"q_{part}", h, c["num_heads"])
            key = f"q_{part}" if c["tie_qk"] else f"k_{part}"
            k = head(key, g, c["num_kv_heads"])
            if c["rope"] and part != "sem":
                q, k = rope(q, c["rope_base"]), rope(k, c["rope_base"])
            scores = scores + q @ k.T / np.sqrt(q.shape[1])
            widths += q.shape[1]
            if c["null_attn"]:
                name = "k_null" if part == "proj" else f"k_{part}_null"
                null_scores = null_scores + q @ null(name)[:, None] / np.sqrt(q.shape[1])
        if c["sem_dim"] and not c["null_attn"] and c["score_scale"] == "sdpa":
            scores = scores / np.sqrt(widths)
        scores = np.where(np.tri(len(x), dtype=bool), scores, -np.inf)
        v = head("v_proj", g, c["num_kv_heads"])
        if c["null_attn"]:
            scores = np.concatenate((null_scores, scores), axis=1)
            v = np.concatenate((null("v_null")[None], v))
        if c["learned_temp"]:
            scores = scores * np.exp(w[p + "logit_scale"][h])
        out.append(softmax(scores) @ v)
    return np.concatenate(out, axis=1) @ w[p + "out_proj.weight"].T


def reference_mlp(w, p, x, c):
    h = x @ w[f"{p}w1.weight"].T
    if c["activation"] == "swiglu":
        return (h / (1 + np.exp(-h)) * (x @ w[f"{p}w2.weight"].T)) @ w[f"{p}w3.weight"].T
    erf = torch.erf(torch.from_numpy(h / np.sqrt(2))).numpy()
    return (0.5 * h * (1 + erf)) @ w[f"{p}w2.weight"].T


def reference_logits(weights, c, tokens):
    """The formula of the source for one sequence, in float64."""
    w = {name: a.astype(np.float64) for name, a in weights.items()}
    x = w["tok_emb.weight"][tokens]
    narrow = c["embed_dim"] != c["dim"]
    if narrow:
        x = x @ w["emb_in.weight"].T
    for i in range(c["num_layers"]):
        p = f"blocks.{i}."
        x = x + reference_attention(w, f"{p}attn.", layer_norm(w, f"{p}ln1", x), c)
        x = x + reference_mlp(w, f"{p}ff.", layer_norm(w, f"{p}ln2", x), c)
    x = layer_norm(w, "ln_f", x)
    if narrow:
        x = x @ w["emb_out.weight"].T
    return x @ w["tok_emb.weight"].T


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_every_path_matches_the_float64_reference(changes):
    config, weights, model = toy(**changes)
    tokens = np.random.default_rng(1).integers(0, 29, (2, 13))
    expected = np.stack([reference_logits(weights, config, t) for t in tokens])
    ids = torch.from_numpy(tokens)
    paths = {"full": [13], "decode": [1] * 13, "chunks": [5, 1, 7], "prefill": [9, 1, 1, 1, 1]}
    for name, sizes in paths.items():
        cache = None if name == "full" else KVCache(13)
        logits = torch.cat([model(part, cache=cache) for part in ids.split(sizes, dim=1)], dim=1)
        assert logits.dtype == torch.float32
        np.testing.assert_allclose(logits.numpy(), expected, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_hooked_modules_compute_with_their_weight(changes):
    config, weights, model = toy(**changes)
    seen = {}

    def record(name):
        return lambda module, args, out: seen.update({name: (args[0], out)})

    for name, module in model.named_modules():
        module.register_forward_hook(record(name))
    model(torch.tensor([[1, 2, 3]]))
    assert list(weights) == list(model.state_dict())
    for t in BOTTLENECK.spec(config).tensors:
        assert bool(t.hooks) == (t.role != "vector"), t.name
        w = torch.from_numpy(weights[t.name])
        for hook in t.hooks:
            x, y = seen[hook.module]
            expected = w[x] if hook.kind == "embedding" else x @ w.T
            agree(y, expected)


def test_calibration_measures_every_use():
    config, _, model = toy(embed_dim=8, tie_qk=True, null_attn=True)
    tokens = CalibTokens(np.random.default_rng(3).integers(0, 29, (4, 16)), "synthetic")
    spec = BOTTLENECK.spec(config)
    stats = calibrate(model, spec, tokens, gradients=True, seed=0, threads=1)
    assert {n: len(u) for n, u in stats.uses.items()} == {
        t.name: len(t.hooks) for t in spec.tensors if t.hooks
    }
    # The one matrix of tied queries and keys has the gradients of both in its row weights.
    assert (stats.uses["blocks.0.attn.q_sem.weight"][0].row_weight > 0).all()
    assert stats.vector_fisher["blocks.1.attn.k_geo_null"].any()


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_detection_recovers_the_config(changes):
    config, weights, _ = toy(**changes)
    state = {name: torch.from_numpy(w) for name, w in weights.items()}
    stored = {"n_head": config["num_heads"], "block_size": 16, "rope": config["rope"]}
    found = detect(state, stored={**stored, "dropout": 0.0, "kv_head": None})
    expected = {**config, "rope_base": 10000.0, "score_scale": "sdpa"}
    assert (found.family, found.config) == (BOTTLENECK, expected)
    assert set(found.assumed) == {"rope_base", "score_scale"}
    untold = ("num_heads", "rope", "rope_base", "score_scale", "seq_len")
    assert detect(state, overrides={k: config[k] for k in untold}).config == config


def saved_state(config, weights):
    """A state dict as the source saves it: tied keys are the queries' tensors under two names."""
    state = {name: torch.from_numpy(w) for name, w in weights.items()}
    if config["tie_qk"]:
        for name in list(state):
            if ".attn.q_" in name:
                state[name.replace(".q_", ".k_")] = state[name].detach()  # shares its memory
    return state


def test_tied_keys_are_not_counted_where_weights_are_not_read(tmp_path, monkeypatch):
    config, weights, _ = toy(**VARIANTS["decoupled-tie"])
    torch.save({"model": saved_state(config, weights)}, tmp_path / "best.pt")
    monkeypatch.setattr("golfpack.models.files.WORTH_A_PEEK", 1)
    found = peek_spec(tmp_path / "best.pt", {"num_heads": config["num_heads"]})
    assert found is not None
    assert found.numel == sum(w.size for w in weights.values())


@pytest.mark.parametrize("container", ["best.pt", "safetensors"])
def test_tied_checkpoints_import_without_their_aliases(container, tmp_path):
    config, weights, model = toy(tie_qk=True)
    state = saved_state(config, weights)
    path = tmp_path / container
    if container == "best.pt":
        stored = {
            "vocab_size": 29, "block_size": 16, "n_layer": 2, "n_head": 2, "kv_head": None,
            "d_model": 16, "d_ff": 24, "embed_dim": 16, "attn_mode": "decoupled", "attn_dim": 12,
            "sem_dim": 4, "geo_dim": 8, "rope": True, "rope_base": 10000.0, "tie_qk": True,
            "null_attn": False, "learned_temp": True, "mlp": "swiglu", "dropout": 0.0,
        }  # fmt: skip
        torch.save({"config": stored, "model": state, "step": 5, "best_val": 1.5}, path)
    else:  # a converter had to copy the shared tensors
        path.write_bytes(safetensors.torch.save({n: t.clone() for n, t in state.items()}))
    checkpoint = load_checkpoint(path, {"seq_len": 16})
    assert checkpoint.config == config
    assert checkpoint.spec.numel == 4084
    assert len(checkpoint.notes) == 1
    assert "4 tensors equal others (blocks.0.attn.k_geo.weight" in checkpoint.notes[0]
    again = checkpoint.module()
    tokens = torch.arange(10)[None]
    assert torch.equal(again(tokens), model(tokens))
    safetensors.torch.save(again.state_dict())  # which refuses tensors that share memory


def test_keys_that_differ_anywhere_are_not_aliases():
    config, weights, _ = toy(tie_qk=True)
    state = saved_state(config, weights)
    state["blocks.1.attn.k_geo.weight"] = state["blocks.1.attn.q_geo.weight"] + 1e-3
    found = detect(state)
    assert found.config["tie_qk"] is False
    assert (found.notes, len(found.state)) == ((), len(state))


def test_the_head_count_is_asked_for_where_nothing_tells_it():
    _, weights, _ = toy(learned_temp=False)
    state = {name: torch.from_numpy(w) for name, w in weights.items()}
    with pytest.raises(UsageError, match="attention heads open: 1, 2, 4") as caught:
        detect(state)
    assert "--set model.num_heads=" in (caught.value.hint or "")
    assert detect(state, overrides={"num_heads": "2"}).config["num_heads"] == 2
    with pytest.raises(UsageError, match=re.escape("does not split into 3 heads")):
        detect(state, overrides={"num_heads": 3})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"sem_dim": 4}, "sem_dim=4 contradicts the checkpoint"),
        ({"score_scale": "double"}, "unknown score_scale 'double'"),
        ({"rope_base": -1.0}, "rope_base must be positive"),
        ({"sem_dimension": 4}, "the model has no option 'sem_dimension'"),
    ],
)
def test_bad_overrides_are_usage_errors(overrides, message):
    _, weights, _ = toy(**PLAIN)
    with pytest.raises(UsageError, match=re.escape(message)):
        detect({n: torch.from_numpy(w) for n, w in weights.items()}, overrides=overrides)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"geo_dim": 0}, "sem_dim 4 and geo_dim 0 do not fit each other"),
        ({"num_kv_heads": 1}, "fit neither decoupled attention nor tie_qk"),
        ({**PLAIN, "num_kv_heads": 1, "tie_qk": True}, "fit neither decoupled attention nor"),
        ({**PLAIN, "attn_dim": 6}, "a width of 6 (proj) does not split into 2 heads of even width"),
        ({"attn_dim": 13}, "a width of 13 (attn_dim) does not split into 2 heads"),
        ({**PLAIN, "num_heads": 4, "num_kv_heads": 3}, "4 heads do not share 3 KV heads"),
        ({"num_layers": 0}, "num_layers must be at least 1"),
        ({"activation": "relu"}, "unknown activation 'relu'"),
    ],
)
def test_impossible_configs_are_usage_errors(changes, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        BOTTLENECK.spec({**TOY, **changes})


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("blocks.1.attn.v_null", None, "no tensor 'blocks.1.attn.v_null'"),
        ("blocks.1.ff.w2.weight", (24, 15), "'blocks.1.ff.w2.weight' has shape (24, 15)"),
        ("blocks.0.attn.out_proj.weight", None, "no tensor 'blocks.0.attn.out_proj.weight'"),
        ("pos_emb.weight", (16, 16), "'pos_emb.weight' (16, 16) is not part of the bottleneck"),
        ("blocks.0.attn.logit_scale", (3,), "does not split into 3 heads"),
    ],
)
def test_contradicting_shapes_name_the_tensor(name, shape, message):
    _, weights, _ = toy(**PLAIN, null_attn=True)
    state = {n: torch.from_numpy(w) for n, w in weights.items()}
    state.pop(name, None)
    if shape is not None:
        state[name] = torch.zeros(shape)
    with pytest.raises(UsageError, match=re.escape(message)):
        detect(state)
