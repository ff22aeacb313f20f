"""The ALPH family: golden loss, a numpy reference, its cache, its two file formats and their faults."""

import json
import re
import struct

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import agree, asked

from golfpack.artifact import open_model
from golfpack.build.run import build
from golfpack.calib.sources import from_data
from golfpack.data.stream import read_counted
from golfpack.data.tokenizer import load_tokenizer
from golfpack.errors import UsageError
from golfpack.eval.evaluate import evaluate
from golfpack.eval.inputs import EvalOptions
from golfpack.models.alph.family import ALPH
from golfpack.models.alph.file import read_alph
from golfpack.models.base import KVCache
from golfpack.models.checkpoint import load_checkpoint
from golfpack.models.detect import detect

TOY = {
    "vocab_size": 29, "num_layers": 2, "dim": 16, "num_heads": 2, "mlp_hidden": 64, "seq_len": 16,
}  # fmt: skip
SYSTEM_003 = {
    "vocab_size": 4000, "num_layers": 6, "dim": 256, "num_heads": 8, "mlp_hidden": 1024,
    "seq_len": 256,
}  # fmt: skip
MODEL_CONFIG = {
    "vocabSize": 29, "blockSize": 16, "nLayer": 2, "nEmbd": 16, "nHead": 2, "dropout": 0.1,
}  # fmt: skip
TOKENIZER = {"type": "bpe", "vocabSize": 3, "vocab": ["a", "b", "ab"], "merges": [[0, 1]]}


def stored_name(name):
    """The trainer's name of a tensor: matrices have no .weight behind them there."""
    return name if "ln" in name else name.removesuffix(".weight")


def golden_weights(config):
    """w.flat[k] = 0.3 sin(1.3 k + 0.7 j), j the rank of the tensor's name; norms have weights + 1."""
    spec = ALPH.spec(config)
    weights = {}
    for j, t in enumerate(sorted(spec.tensors, key=lambda t: stored_name(t.name))):
        w = 0.3 * np.sin(1.3 * np.arange(t.numel) + 0.7 * j).reshape(t.shape)
        weights[t.name] = w + 1 if re.search(r"ln.\.weight", t.name) else w
    return {t.name: weights[t.name] for t in spec.tensors}


def golden_loss(dtype, **changes):
    """Loss and number of parameters of the filled toy."""
    model = ALPH.build({**TOY, **changes}).to(dtype)
    model.load_state_dict({n: torch.from_numpy(w) for n, w in golden_weights(TOY).items()})
    ids = torch.tensor([(7 * i * i + 3 * i + 1) % 29 for i in range(13)])
    with torch.no_grad():
        loss = F.cross_entropy(model(ids[None, :-1])[0], ids[1:])
    return loss.item(), sum(p.numel() for p in model.parameters())


def test_golden_loss_with_and_without_the_score_cap():
    assert golden_loss(torch.float64) == (pytest.approx(3.809973390, abs=1e-8), 7488)
    assert golden_loss(torch.float32) == (pytest.approx(3.809973390, rel=1e-5), 7488)
    assert golden_loss(torch.float64, score_cap=0.0)[0] == pytest.approx(3.810177, abs=1e-6)


def packed_bytes(spec, bits):
    """Matrices at `bits` with a float16 scale per row, everything else in float16."""
    size = 0
    for t in spec.tensors:
        size += 2 * t.numel if t.role == "vector" else -(-t.numel * bits // 8) + 2 * t.shape[0]
    return size


def test_system_003_has_its_exact_size_without_memory():
    spec = ALPH.spec(SYSTEM_003)
    assert spec.numel == 6_838_784
    assert [packed_bytes(spec, bits) for bits in (8, 6, 5)] == [6_889_600, 5_181_568, 4_327_552]


def random_weights(config):
    rng = np.random.default_rng(0)
    return {
        t.name: rng.normal(0, 0.5, t.shape).astype(np.float32) for t in ALPH.spec(config).tensors
    }


def toy(**changes):
    config = ALPH.spec({**TOY, **changes}).config
    weights = random_weights(config)
    return config, weights, ALPH.module(config, weights)


def layer_norm(w, name, x):
    centred = x - x.mean(1, keepdims=True)
    normal = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
    return normal * w[f"{name}.weight"] + w[f"{name}.bias"]


def reference_attention(w, p, x, c):
    q, k, v = (np.split(x @ w[f"{p}w{n}.weight"].T, c["num_heads"], axis=1) for n in "qkv")
    out = []
    for h in range(c["num_heads"]):
        s = q[h] @ k[h].T / np.sqrt(q[h].shape[1])
        s = c["score_cap"] * np.tanh(s / c["score_cap"]) if c["score_cap"] else s
        s = np.where(np.tri(len(x), dtype=bool), s, -1e9)
        e = np.exp(s - s.max(1, keepdims=True))
        out.append(e / e.sum(1, keepdims=True) @ v[h])
    return np.concatenate(out, axis=1) @ w[f"{p}wo.weight"].T


def reference_logits(weights, c, tokens):
    """The formula of the source for one sequence, in float64."""
    w = {name: a.astype(np.float64) for name, a in weights.items()}
    x = w["wte.weight"][tokens] + w["wpe.weight"][: len(tokens)]
    for i in range(c["num_layers"]):
        p = f"layer.{i}."
        x = x + reference_attention(w, f"{p}attn.", layer_norm(w, f"{p}ln1", x), c)
        h = layer_norm(w, f"{p}ln2", x) @ w[f"{p}mlp.fc1.weight"].T
        h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
        x = x + h @ w[f"{p}mlp.fc2.weight"].T
    return layer_norm(w, "lnF", x) @ w["lmHead.weight"].T


@pytest.mark.parametrize("changes", [{}, {"score_cap": 2.0}, {"score_cap": 0.0, "num_heads": 4}])
def test_every_path_matches_the_float64_reference(changes):
    config, weights, model = toy(**changes)
    tokens = np.random.default_rng(1).integers(0, 29, (2, 13))
    expected = np.stack([reference_logits(weights, config, t) for t in tokens])
    ids = torch.from_numpy(tokens)
    paths = {"full": [13], "decode": [1] * 13, "chunks": [5, 1, 7]}
    for name, sizes in paths.items():
        cache = None if name == "full" else KVCache(13)
        logits = torch.cat([model(part, cache=cache) for part in ids.split(sizes, dim=1)], dim=1)
        assert logits.dtype == torch.float32
        np.testing.assert_allclose(logits.numpy(), expected, atol=1e-4, err_msg=name)


def test_sequences_end_with_the_learned_positions():
    _, _, model = toy()
    assert ALPH.max_length(TOY) == 16
    with pytest.raises(UsageError, match="sequence of 17 tokens is beyond the 16 positions"):
        model(torch.zeros(1, 17, dtype=torch.int64))
    cache = KVCache(20)
    model(torch.zeros(1, 16, dtype=torch.int64), cache=cache)
    with pytest.raises(UsageError, match="sequence of 17 tokens"):
        model(torch.zeros(1, 1, dtype=torch.int64), cache=cache)


def test_hooked_modules_compute_with_their_weight():
    config, weights, model = toy()
    seen = {}

    def record(name):
        return lambda module, args, out: seen.update({name: (args[0], out)})

    for name, module in model.named_modules():
        module.register_forward_hook(record(name))
    model(torch.tensor([[1, 2, 3]]))
    assert list(weights) == list(model.state_dict())
    for t in ALPH.spec(config).tensors:
        assert bool(t.hooks) == (t.role != "vector"), t.name
        w = torch.from_numpy(weights[t.name])
        for hook in t.hooks:
            x, y = seen[hook.module]
            expected = w[x] if hook.kind == "embedding" else x @ w.T
            agree(y, expected)


# --- the files -------------------------------------------------------------------------------------


def header_of(weights, **changes):
    entries = [
        {"name": f"{kind}.{stored_name(n)}{moment}", "shape": list(w.shape), "elements": w.size}
        for kind, moments in (("p", [""]), ("o", [".m", ".v"]))
        for n, w in weights.items()
        for moment in moments
    ]
    header = {
        "modelConfig": MODEL_CONFIG, "configHash": "0a", "rngState": 42, "step": 5000,
        "tokenizerArtifacts": TOKENIZER, "optimizerStep": 5000, "tensors": entries,
    }  # fmt: skip
    return {**header, **changes}


def alph_bytes(weights, header=None):
    """Parameters, then the optimiser's moments: noise of the same sizes, twice."""
    text = json.dumps(header or header_of(weights)).encode()
    payload = b"".join(w.astype("<f4").tobytes() for w in weights.values())
    return b"ALPH" + struct.pack("<I", len(text)) + text + payload + bytes(2 * len(payload))


def legacy_bytes(weights, **changes):
    params = {
        stored_name(n): {"shape": list(w.shape), "data": w.ravel().tolist()}
        for n, w in weights.items()
    }
    legacy = {"modelConfig": MODEL_CONFIG, "params": params, "tokenizerArtifacts": TOKENIZER}
    return json.dumps({**legacy, **changes}).encode()


@pytest.mark.parametrize("write", [alph_bytes, legacy_bytes])
def test_both_formats_load_by_content(write, tmp_path):
    config, weights, _ = toy()
    path = tmp_path / "checkpoint-5000.json"
    path.write_bytes(write(weights))
    checkpoint = load_checkpoint(path)
    assert (checkpoint.family, checkpoint.config) == (ALPH, config)
    assert set(checkpoint.assumed) == {"score_cap"}
    assert "wte is wte.weight" in checkpoint.notes[0]
    assert list(checkpoint.weights) == list(weights)
    for name, w in weights.items():
        np.testing.assert_array_equal(checkpoint.weights[name], w)
    alph = read_alph(path.read_bytes(), path)
    assert alph.config == MODEL_CONFIG
    checkpoint.module()
    tokenizer = load_tokenizer(path)
    assert tokenizer.vocab_size() == 3
    assert tokenizer.Encode("abba") == [2, 1, 0]


def test_text_is_scored_by_its_own_bytes_and_calibrates(tmp_path):
    """A .txt is one stream as it stands; each document of a .jsonl gets a mark and a line."""
    text = "".join(map(chr, range(97, 117))) + "\n <|_>"
    merges = [[0, 1], [1, 2], [19, 19]]
    artifacts = {"type": "bpe", "vocab": [*text, "ab", "bc", "tt"], "merges": merges}
    _, weights, _ = toy()
    path = tmp_path / "checkpoint-5000.json"
    path.write_bytes(alph_bytes(weights, header_of(weights, tokenizerArtifacts=artifacts)))
    plain = "abc tea\u00e9Zs at the hat\n\n\nsecond"
    (tmp_path / "x.txt").write_text(plain)
    said = evaluate(EvalOptions(path, str(tmp_path / "x.txt"), path))
    tokenizer = load_tokenizer(path)
    assert said.targets == len(tokenizer.Encode(plain)) - 1
    assert said.bytes_source == "text"
    assert said.scored_bytes == len(plain.encode()) - 2  # the first token, "ab", is not a target
    assert any("what it drops counts as bytes" in w for w in said.warnings)
    documents = ["tea at ten", "a hat <|end_of_text|>\n"]
    (tmp_path / "x.jsonl").write_text("\n".join(json.dumps({"text": d}) for d in documents))
    tokens, sizes = read_counted(str(tmp_path / "x.jsonl"), tokenizer)
    assert tokenizer.Decode(tokens.tolist()) == "tea at ten <|end_of_tet|>\na hat <|end_of_tet|>\n"
    assert sizes.sum() == len("tea at ten <|end_of_text|>\na hat <|end_of_text|>\n")
    calib = from_data(str(tmp_path / "x.jsonl"), tokenizer, 29, 2, 8)
    assert calib.sequences.shape == (2, 8)


def test_a_checkpoint_may_come_without_its_tokenizer(tmp_path):
    path = tmp_path / "checkpoint-5000.json"
    path.write_bytes(alph_bytes(toy()[1], header_of(toy()[1], tokenizerArtifacts=None)))
    assert load_checkpoint(path).family is ALPH
    with pytest.raises(UsageError, match="holds no BPE tokenizer"):
        load_tokenizer(path)


def test_the_optimiser_takes_two_thirds_of_the_file_and_none_of_the_memory():
    spec = ALPH.spec(SYSTEM_003)
    zeros = {t.name: np.zeros(t.shape, np.float32) for t in spec.tensors}
    data = alph_bytes(zeros)
    assert len(data) == 8 + int.from_bytes(data[4:8], "little") + 82_065_408
    tensors = read_alph(data, "x.json").tensors
    assert sum(t.untyped_storage().nbytes() for t in tensors.values()) == 27_355_136


def test_fused_projections_of_later_checkpoints_are_split():
    _, weights, _ = toy()
    state = {stored_name(n): torch.from_numpy(w) for n, w in weights.items()}
    for i in range(2):
        parts = [state.pop(f"layer.{i}.attn.w{n}") for n in "qkv"]
        state[f"layer.{i}.attn.wqkv"] = torch.cat(parts)
    found = detect(state, stored={**MODEL_CONFIG, "softCap": 50, "ffnActivation": "gelu"})
    assert found.config["score_cap"] == 50.0
    assert "wqkv is split" in found.notes[0]
    for name, w in weights.items():
        np.testing.assert_array_equal(found.state[name], w)
    state["layer.0.attn.wqkv"] = torch.zeros(47, 16)
    with pytest.raises(UsageError, match=r"'layer\.0\.attn\.wqkv' has 47 rows"):
        detect(state, stored=MODEL_CONFIG)


def test_what_neither_shapes_nor_the_file_tell_is_asked_for():
    _, weights, _ = toy()
    state = {stored_name(n): torch.from_numpy(w) for n, w in weights.items()}
    with pytest.raises(UsageError, match="attention heads open: 1, 2, 4, 8, 16") as caught:
        detect(state)
    assert "--set model.num_heads=" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="3 heads do not divide dim 16"):
        detect(state, overrides={"num_heads": 3})
    with pytest.raises(UsageError, match="activation is 'swiglu'; the alph family has gelu"):
        detect(state, stored={**MODEL_CONFIG, "ffnActivation": "swiglu"})
    with pytest.raises(UsageError, match="score_cap must not be negative"):
        detect(state, overrides={"num_heads": 2, "score_cap": -1.0})


def entry_changed(weights, **changes):
    header = header_of(weights)
    header["tensors"][0] = {**header["tensors"][0], **changes}
    return header


def broken_files(weights):
    whole, text = alph_bytes(weights), legacy_bytes(weights)
    twice = header_of(weights)
    bias = next(e for e in twice["tensors"] if e["name"] == "p.lnF.bias")
    bias["name"] = "p.lnF.weight"
    nan = {**weights, "wte.weight": np.full((29, 16), np.nan, np.float32)}
    wte = {"shape": [29, 16], "data": [1.0] * 463}
    return {
        "cut in magic and length": (whole[:6], "is truncated: its header ends at byte"),
        "cut in header": (whole[:500], "is truncated: its header ends at byte"),
        "cut in tensors": (whole[:-1], "is truncated: 89,855 bytes of tensors, but its header"),
        "too long": (whole + b"\0", "has bytes left over: 89,857 bytes of tensors"),
        "wrong magic": (b"ALPX" + whole[4:], "is of an unknown format"),
        "damaged header": (whole[:20] + b"\xff" + whole[21:], "its JSON cannot be read"),
        "header of another kind": (alph_bytes(weights, [1]), "header is not a JSON object"),
        "no tensor list": (alph_bytes(weights, {"step": 1}), "header lists no tensors"),
        "elements": (
            alph_bytes(weights, entry_changed(weights, elements=463)),
            "tensor 'p.wte' has shape (29, 16), which are 464 elements, but its header says 463",
        ),
        "shape": (
            alph_bytes(weights, entry_changed(weights, shape=[29, -16])),
            "tensor 'p.wte' has the impossible shape [29, -16]",
        ),
        "huge shape": (
            alph_bytes(weights, entry_changed(weights, shape=[10**4000], elements=10**4000)),
            "tensor 'p.wte' has the impossible shape",
        ),
        "huge tensor": (
            alph_bytes(weights, entry_changed(weights, shape=[1 << 39], elements=1 << 39)),
            "is truncated",
        ),
        "unknown kind": (
            alph_bytes(weights, entry_changed(weights, name="q.wte")),
            "names neither a parameter (p.) nor a moment",
        ),
        "twice": (alph_bytes(weights, twice), "holds the tensor 'lnF.weight' twice"),
        "model config": (
            alph_bytes(weights, header_of(weights, modelConfig=[1])),
            "modelConfig is not a JSON object",
        ),
        "not finite": (alph_bytes(nan), "'wte.weight' holds 464 values that are not finite"),
        "missing tensor": (
            alph_bytes({n: w for n, w in weights.items() if n != "lmHead.weight"}),
            "the checkpoint has no tensor 'lmHead.weight'",
        ),
        "cut json": (text[:-20], "its JSON cannot be read"),
        "other json": (b'{"vocab_size": 4}', 'is a JSON file without "params"'),
        "json elements": (
            legacy_bytes(weights, params={"wte": wte}),
            "tensor 'wte' has shape (29, 16), which are 464 elements, but 463 are stored",
        ),
        "json text": (
            legacy_bytes(weights, params={"wte": {"shape": [1], "data": ["x"]}}),
            "tensor 'wte' has data that are not numbers",
        ),
    }


KINDS = [
    "cut in magic and length", "cut in header", "cut in tensors", "too long", "wrong magic",
    "damaged header", "header of another kind", "no tensor list", "elements", "shape",
    "huge shape", "huge tensor", "unknown kind", "twice", "model config", "not finite",
    "missing tensor", "cut json", "other json", "json elements", "json text",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_unusable_files_say_what_is_wrong(kind, tmp_path):
    _, weights, _ = toy()
    data, message = broken_files(weights)[kind]
    path = tmp_path / "checkpoint-5000.json"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=re.escape(message)):
        load_checkpoint(path)


def test_numbers_that_legacy_json_lost_are_found(tmp_path):
    """JSON has no NaN: the source writes null."""
    _, weights, _ = toy()
    legacy = json.loads(legacy_bytes(weights))
    legacy["params"]["wte"]["data"][7] = None
    path = tmp_path / "checkpoint-100.json"
    path.write_text(json.dumps(legacy))
    with pytest.raises(UsageError, match=r"'wte.weight' holds 1 values that are not finite"):
        load_checkpoint(path)


def test_a_checkpoint_builds_on_its_own_text_and_its_artifact_opens(tmp_path):
    """Calibration sequences are no longer than the 16 learned positions."""
    _, weights, model = toy()
    path, output = tmp_path / "checkpoint-5000.json", tmp_path / "out.golf"
    path.write_bytes(alph_bytes(weights))
    report = build(asked(path, "6bpw", output, calib_tokens=256, cache=False))
    assert report.headroom_bytes is not None
    assert report.headroom_bytes >= 0
    packed = open_model(output)
    assert (packed.family, packed.config) == (ALPH, ALPH.spec(TOY).config)
    tokens = torch.arange(16)[None]
    quantized = packed.module()(tokens)
    assert 0 < float((quantized - model(tokens)).abs().max()) < 2


@pytest.mark.slow
@pytest.mark.parametrize(("raw_bytes", "rel_err"), [(5_181_568, 0.033), (4_327_552, 0.068)])
def test_system_003_beats_raw_packing(raw_bytes, rel_err, tmp_path):
    """In the bytes of raw int6 and int5, a random model loses less than they do by row maxima."""
    rng = np.random.default_rng(0)
    weights = {
        t.name: 0.02 * rng.standard_normal(t.shape, np.float32)
        for t in ALPH.spec(SYSTEM_003).tensors
    }
    config = {**MODEL_CONFIG, "nHead": 8}
    path, output = tmp_path / "checkpoint-0.json", tmp_path / "out.golf"
    path.write_bytes(alph_bytes(weights, header_of(weights, modelConfig=config)))
    report = build(asked(path, str(raw_bytes), output, data_free=True, threads=1, cache=False))
    assert output.stat().st_size == report.artifact_bytes <= raw_bytes
    assert max(t.rel_err for t in report.tensors) < rel_err
