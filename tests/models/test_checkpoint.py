"""Reading checkpoint files: every format, every way a file can be wrong."""

import hashlib
import io
import json
import lzma
import re
import zlib
from fractions import Fraction

import brotli
import numpy as np
import pytest
import safetensors.torch
import torch
import zstandard
from conftest import agree

from golfpack.errors import UsageError
from golfpack.models import exports
from golfpack.models import files as module
from golfpack.models.checkpoint import load_checkpoint, peek_spec
from golfpack.models.golf.family import GOLF

CONFIG = {
    "vocab_size": 7,
    "num_layers": 2,
    "dim": 8,
    "num_heads": 2,
    "num_kv_heads": 1,
    "mlp_hidden": 12,
}


@pytest.fixture
def state():
    gen = torch.Generator().manual_seed(0)
    return {t.name: torch.randn(t.shape, generator=gen) for t in GOLF.spec(CONFIG).tensors}


def torch_bytes(obj):
    buffer = io.BytesIO()
    torch.save(obj, buffer)
    return buffer.getvalue()


def assert_weights(checkpoint, state):
    assert list(checkpoint.weights) == [t.name for t in checkpoint.spec.tensors]
    for name, w in checkpoint.weights.items():
        assert w.dtype == np.float32
        np.testing.assert_array_equal(w, state[name].float().numpy())


@pytest.mark.parametrize(
    "wrap", ["plain", "model", "state_dict", "ddp", "safetensors", "parameters"]
)
def test_formats_are_told_by_content(state, wrap, tmp_path):
    path = tmp_path / "weights.anything"
    if wrap == "safetensors":
        path.write_bytes(safetensors.torch.save(state))
    elif wrap == "parameters":
        held = {name: torch.nn.Parameter(w) for name, w in state.items()}
        path.write_bytes(torch_bytes(held))
    elif wrap == "ddp":
        path.write_bytes(torch_bytes({f"_orig_mod.module.{k}": v for k, v in state.items()}))
    else:
        path.write_bytes(torch_bytes(state if wrap == "plain" else {wrap: state, "step": 3}))
    checkpoint = load_checkpoint(path)
    assert_weights(checkpoint, state)
    assert checkpoint.family is GOLF
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert {"activation", "rope_base", "softcap", "seq_len"} <= set(checkpoint.assumed)
    checkpoint.module()


def int8_export(state):
    """The layout of the challenge's exporter, with one tensor of each kind."""
    q = {n: t for n, t in state.items() if n.endswith(".weight")}
    codes = {n: (t * 20).round().clamp(-127, 127).to(torch.int8) for n, t in q.items()}
    scales = {n: t.abs().amax(1).half() / 100 for n, t in q.items()}
    rest = {n: t for n, t in state.items() if n not in q}
    rest["skip_weights"] = rest["skip_weights"].half()
    return {
        "__quant_format__": "int8_clean_per_row_v1",
        "quantized": codes,
        "scales": scales,
        "dtypes": {n: "bfloat16" if n == "tok_emb.weight" else "float32" for n in q},
        "passthrough": rest,
        "qmeta": {n: {"scheme": "per_row", "axis": 0} for n in q},
        "passthrough_orig_dtypes": {"skip_weights": "float32"},
    }


def test_int8_exports_are_dequantized_as_the_challenge_does(state, tmp_path):
    export = int8_export(state)
    path = tmp_path / "final_model.int8.ptz"
    path.write_bytes(zlib.compress(torch_bytes(export)))
    checkpoint = load_checkpoint(path)
    name = "blocks.1.mlp.fc.weight"
    codes, scales = export["quantized"][name].numpy(), export["scales"][name].numpy()
    expected = codes.astype(np.float32) * scales.astype(np.float32)[:, None]
    np.testing.assert_array_equal(checkpoint.weights[name], expected)
    assert checkpoint.dtypes["tok_emb.weight"] == "bfloat16"
    assert checkpoint.dtypes["skip_weights"] == "float32"
    embedding = torch.from_numpy(checkpoint.weights["tok_emb.weight"])
    assert torch.equal(embedding, embedding.bfloat16().float())  # rounded to bfloat16 on the way


def test_exports_of_6_or_8_bits_are_read_alike_and_those_of_other_tables_are_refused(
    state, tmp_path
):
    export = int8_export(state)
    bits = dict.fromkeys(export["quantized"], 6)
    plain, mixed, other, grouped = (tmp_path / f"{name}.ptz" for name in "abcd")
    plain.write_bytes(zlib.compress(torch_bytes(export)))
    told = {**export, "__quant_format__": "int6_8_clean_per_row_v1", "bitwidths": bits}
    mixed.write_bytes(zlib.compress(torch_bytes(told)))
    for name, w in load_checkpoint(plain).weights.items():
        np.testing.assert_array_equal(load_checkpoint(mixed).weights[name], w)
    other.write_bytes(zlib.compress(torch_bytes({**export, "zero_points": {}})))
    with pytest.raises(UsageError, match="zero_points is no table"):
        load_checkpoint(other)
    by_group = {n: {"scheme": "per_group", "axis": 0} for n in export["quantized"]}
    grouped.write_bytes(zlib.compress(torch_bytes({**export, "qmeta": by_group})))
    with pytest.raises(UsageError, match="not by rows"):
        load_checkpoint(grouped)


def test_the_sidecar_gives_config_and_explicit_overrides_win(state, tmp_path):
    path = tmp_path / "final_model.int8.ptz"
    path.write_bytes(zlib.compress(torch_bytes(int8_export(state))))
    sidecar = tmp_path / "final_model.config.json"
    sidecar.write_text(json.dumps({"rope_base": 500.0, "seq_len": 256, "dim": 8}))
    config = load_checkpoint(path, {"seq_len": "64"}).config
    assert (config["rope_base"], config["seq_len"]) == (500.0, 64)
    sidecar.write_text("[1]")
    with pytest.raises(UsageError, match="holds no JSON object"):
        load_checkpoint(path)
    sidecar.write_text("{")
    with pytest.raises(UsageError, match="is not JSON"):
        load_checkpoint(path)


def broken_files(state):
    whole = torch_bytes(state)
    packed = zlib.compress(torch_bytes(int8_export(state)))
    inf = {**state, "skip_weights": torch.full((1, 8), torch.inf)}
    return {
        "empty": (b"", "is empty"),
        "text": (b"# hello\nworld", "is a text file"),
        "unknown": (b"\x05\xc8\x00\x01" * 9, "of an unknown format"),
        "cut zip": (whole[: len(whole) // 2], "not a readable torch.save file"),
        "object": (torch_bytes({**state, "when": Fraction(1, 2)}), "(fractions.Fraction)"),
        "cut zlib": (packed[: len(packed) // 2], "is truncated"),
        "bad zlib": (packed[:2] + bytes(60), "cannot be decompressed"),
        "cut safetensors": (safetensors.torch.save(state)[:-8], "looks like safetensors"),
        "list": (torch_bytes([1, 2]), "holds a list without tensors"),
        "step": (torch_bytes({**state, "step": 3}), "entry 'step' is a int"),
        "integer": (torch_bytes({**state, "skip_weights": torch.ones(1, 8).long()}), "torch.int64"),
        "infinite": (torch_bytes(inf), "'skip_weights' holds 8 values that are not finite"),
        "expanded": (
            torch_bytes({**state, "skip_weights": torch.zeros(1, 1).expand(1 << 40, 8)}),
            "'skip_weights' claims more elements than are stored",
        ),
        "other int8": (
            zlib.compress(torch_bytes({"__quant_format__": "v9"})),
            "quantized format 'v9'",
        ),
        "half int8": (
            zlib.compress(torch_bytes({"__quant_format__": exports.INT8_FORMAT, "quantized": {}})),
            "tables do not fit each other",
        ),
    }


KINDS = [
    "empty", "text", "unknown", "cut zip", "object", "cut zlib", "bad zlib", "cut safetensors",
    "list", "step", "integer", "infinite", "expanded", "other int8", "half int8",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_unusable_files_say_what_is_wrong(state, kind, tmp_path):
    data, message = broken_files(state)[kind]
    path = tmp_path / "final_model.pt"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=re.escape(message)):
        load_checkpoint(path)


COMPRESS = {
    "zlib": (zlib.compress, ".pt"),
    "xz": (lzma.compress, ".pt"),
    "lzma": (lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE), ".bin"),
    "zstd": (zstandard.ZstdCompressor(level=3).compress, ".pt"),
    "brotli": (lambda data: brotli.compress(data, quality=2), ".ptz"),
}


@pytest.mark.parametrize("stream", COMPRESS)
def test_compressed_checkpoints_are_read_and_damaged_ones_are_not(
    state, stream, tmp_path, monkeypatch
):
    compress, suffix = COMPRESS[stream]
    path = tmp_path / f"m{suffix}"
    for inner in (torch_bytes({"ema": state}), safetensors.torch.save(state)):
        path.write_bytes(compress(inner))
        weights = load_checkpoint(path).weights
        assert all(np.array_equal(w, state[n].float().numpy()) for n, w in weights.items())
        shuffled = b"BSHF\x03" + inner[::3] + inner[1::3] + inner[2::3]
        path.write_bytes(compress(shuffled))
        other = load_checkpoint(path).weights
        assert all(np.array_equal(w, other[n]) for n, w in weights.items())
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(UsageError, match=r"is truncated|cannot be decompressed"):
        load_checkpoint(path)
    path.write_bytes(compress(b"something else, of some length"))
    with pytest.raises(UsageError, match="compressed file of something else"):
        load_checkpoint(path)
    path.write_bytes(compress(bytes(100_000)))
    monkeypatch.setattr(exports, "MAX_INFLATED_BYTES", 1000)
    with pytest.raises(UsageError, match="decompresses to more than 1000 bytes"):
        load_checkpoint(path)


def mixed_export(state):
    """The records' own: a tensor of each kind, and what each has to come back as."""
    gen = torch.Generator().manual_seed(0)
    w, meta, expected = {}, {}, {}
    for n, t in state.items():
        if n.endswith("attn.c_q.weight") or n == "tok_emb.weight":
            rows, cols = t.shape
            codes = torch.randint(-31, 32, t.shape, generator=gen, dtype=torch.int8)
            scale = torch.rand(rows, generator=gen).half() / 32
            w |= {f"{n}.q": codes, f"{n}.scale": scale}
            expected[n] = codes.float() * scale.float()[:, None]
            meta[n] = "gptq (int6)"
        if n == "tok_emb.weight":
            a = torch.randint(-2, 2, (rows, 4), generator=gen, dtype=torch.int8)
            b = torch.randint(-8, 8, (4, cols), generator=gen, dtype=torch.int8)
            a_scale, b_scale = torch.tensor(0.01), torch.rand(2, generator=gen).half()
            w |= {f"{n}.lqA_a": a, f"{n}.lqAs_a": a_scale, f"{n}.lqB_a": b, f"{n}.lqBs_a": b_scale}
            wide = b_scale.float().repeat_interleave(b.numel() // 2).view(b.shape)
            expected[n] = expected[n] + (a.float() * 0.01) @ (b.float() * wide)
            meta[n] = "gptq (int8)+lqer_asym"
        if n not in meta and n.endswith("mlp.fc.weight"):
            w |= {f"{n}.q": torch.ones(t.shape, dtype=torch.int8), f"{n}.scale": torch.tensor(0.5)}
            expected[n], meta[n] = torch.full(t.shape, 0.5), {"type": "int8"}
        if n not in meta:
            w[n] = t.half()
            expected[n], meta[n] = t.half().float(), "passthrough (float16)"
    return {"w": w, "m": meta}, expected


def test_the_records_exports_come_back_as_floats(state, tmp_path):
    export, expected = mixed_export(state)
    path = tmp_path / "final_model.int6.ptz"
    path.write_bytes(brotli.compress(torch_bytes(export), quality=2))
    weights = load_checkpoint(path).weights
    for name, w in weights.items():
        agree(w, expected[name], 1e-6)
    for damage in ("tok_emb.weight.scale", "tok_emb.weight.lqB_a"):
        rest = {k: v for k, v in export["w"].items() if k != damage}
        path.write_bytes(lzma.compress(torch_bytes({**export, "w": rest})))
        with pytest.raises(UsageError, match="tables do not fit each other"):
            load_checkpoint(path)
    more = {**export["w"], "tok_emb.weight.awqg_start": torch.zeros(1)}
    path.write_bytes(lzma.compress(torch_bytes({**export, "w": more})))
    with pytest.raises(UsageError, match="awqg_start belongs to no tensor"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"ema": s, "step": 3},
        lambda s: {"state_dict": {"model": {f"module.{n}": t for n, t in s.items()}}, "epoch": 1},
        lambda s: {"module": {f"_orig_mod.{n}": t for n, t in s.items()}},
    ],
)
def test_nested_dictionaries_are_opened(state, wrap, tmp_path):
    (tmp_path / "m.pt").write_bytes(torch_bytes(wrap(state)))
    assert set(load_checkpoint(tmp_path / "m.pt").weights) == set(state)


def test_two_sets_of_weights_are_not_chosen_among(state, tmp_path):
    (tmp_path / "m.pt").write_bytes(torch_bytes({"model": state, "ema": state}))
    with pytest.raises(UsageError, match="holds weights under model and ema"):
        load_checkpoint(tmp_path / "m.pt")


def test_missing_files_and_folders(state, tmp_path):
    (tmp_path / "final_model.pt").write_bytes(torch_bytes(state))
    with pytest.raises(UsageError, match="there is no file") as caught:
        load_checkpoint(tmp_path / "final_modle.pt")
    assert "final_model.pt" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="is a folder"):
        load_checkpoint(tmp_path)
    with pytest.raises(UsageError, match="there is no file") as caught:
        load_checkpoint(tmp_path / "absent" / "x.pt")
    assert "does not exist either" in (caught.value.hint or "")


def test_real_checkpoints_load(shared):
    folder = shared / "checkpoints"
    paths = [p for p in sorted(folder.rglob("*.pt*")) if p.suffix in (".pt", ".ptz")]
    # Records in small shapes need options that no shape tells.
    paths = [p for p in paths if p.parent.name != "records_tiny"]
    assert len(paths) == 7
    for path in paths:
        checkpoint = load_checkpoint(path)
        model = checkpoint.module()
        assert sum(p.numel() for p in model.parameters()) == checkpoint.spec.numel
    zero_proj = load_checkpoint(next(folder.glob("zero_proj*/*.ptz")))
    assert (zero_proj.config["passes"], zero_proj.config["activation"]) == (3, "swiglu")
    assert not zero_proj.weights["blocks.4.mlp.proj.weight"].any()


def test_only_large_files_are_looked_at_before_they_are_read(state, tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    data = torch_bytes({"model": {f"module.{k}": v for k, v in state.items()}})
    path.write_bytes(data)
    assert peek_spec(path) is None
    monkeypatch.setattr(module, "WORTH_A_PEEK", 1)
    assert peek_spec(path) == load_checkpoint(path).spec
    # What is wrong with a file is for those to say who read it.
    for broken in (data[:-100], zlib.compress(data), b"GGUF", b""):
        path.write_bytes(broken)
        assert peek_spec(path) is None
    assert peek_spec(tmp_path / "absent.pt") is None
