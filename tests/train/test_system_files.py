"""Checkpoints as the systems have them, read by their own loaders' rules, written from their facts."""

import dataclasses
import json
import math
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from train.test_all_families import HELD_OUT, MODELS, TOKENS, Stop, settings_of, stop_at

from golfpack.data.alph_tokenizer import AlphTokenizer
from golfpack.errors import UsageError
from golfpack.models import FAMILIES
from golfpack.models.alph.system import stored_names
from golfpack.models.checkpoint import load_checkpoint
from golfpack.models.training import Snapshot
from golfpack.runlog.shapes import bottleneck_parameters
from golfpack.train.loss import validation_loss
from golfpack.train.trainer import complete_options, train

# What ModelConfig(**checkpoint["config"]) of the bottleneck programs takes.
NINETEEN = {
    "attn_dim", "attn_mode", "block_size", "d_ff", "d_model", "dropout", "embed_dim", "geo_dim",
    "kv_head", "learned_temp", "mlp", "n_head", "n_layer", "null_attn", "rope", "rope_base", "sem_dim",
    "tie_qk", "vocab_size",
}  # fmt: skip
ALPH = MODELS["alph"] | {"mlp_hidden": 64}
LETTERS = AlphTokenizer((*"abcdefghijklmnopqrstuvwxyz .,;!", "ab"), ((0, 1),))


def run(folder: Path, name: str, model: dict[str, Any] | None = None, **changes: Any) -> None:
    options = {k: v for k, v in changes.items() if k in ("resume", "progress", "tokenizer")}
    config = settings_of(name, **{k: v for k, v in changes.items() if k not in options})
    train(
        config, model or MODELS[name], TOKENS, folder, family=FAMILIES[name], val_tokens=HELD_OUT,
        **options,
    )  # fmt: skip


def losses(folder: Path) -> dict[int, float]:
    lines = map(json.loads, (folder / "train.jsonl").read_text().splitlines())
    return {x["step"]: x["val_loss"] for x in lines if "val_loss" in x}


def expected_names(c: dict[str, Any]) -> set[str]:
    """Keys of a state dict of the bottleneck programs."""
    decoupled = c["attn_mode"] == "decoupled"
    projections = (
        [f"{x}_{y}" for x in "qk" for y in ("sem", "geo")] if decoupled else ["q_proj", "k_proj"]
    )
    nulls = [f"k_{y}_null" for y in ("sem", "geo")] if decoupled else ["k_null"]
    attn = [f"{p}.weight" for p in (*projections, "v_proj", "out_proj")]
    attn += ["logit_scale"] * c["learned_temp"] + [*nulls, "v_null"] * c["null_attn"]
    ff = ["w1", "w2", "w3"][: 3 if c["mlp"] == "swiglu" else 2]
    block = [f"attn.{x}" for x in attn] + [f"ff.{x}.weight" for x in ff]
    block += [f"{norm}.{x}" for norm in ("ln1", "ln2") for x in ("weight", "bias")]
    whole = {f"blocks.{i}.{x}" for i in range(c["n_layer"]) for x in block}
    narrow = {"emb_in.weight", "emb_out.weight"} if c["embed_dim"] != c["d_model"] else set()
    return whole | narrow | {"tok_emb.weight", "ln_f.weight", "ln_f.bias"}


def read_bottleneck(path: Path) -> dict[str, Any]:
    """A checkpoint by the programs' rules: plain values, all keys, both names of a tied tensor."""
    saved = torch.load(path, weights_only=True)
    assert set(saved["config"]) == NINETEEN
    assert isinstance(saved["step"], int)
    assert isinstance(saved["best_val"], float)
    assert set(saved["model"]) == expected_names(saved["config"])
    own = {t.data_ptr(): t.numel() for t in saved["model"].values()}
    assert sum(own.values()) == bottleneck_parameters(saved["config"])
    return saved


BOTTLENECKS: dict[str, dict[str, Any]] = {
    "decoupled-tied": {},
    "decoupled-null-narrow": {"tie_qk": False, "null_attn": True, "embed_dim": 8},
    "bottleneck-null": {"tie_qk": False, "null_attn": True, "sem_dim": 0, "geo_dim": 0},
    "gqa": {"tie_qk": False, "num_kv_heads": 1, "sem_dim": 0, "geo_dim": 0, "activation": "gelu"},
}


@pytest.mark.parametrize("changes", BOTTLENECKS.values(), ids=BOTTLENECKS)
def test_the_bottleneck_programs_read_what_a_run_writes(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    run(folder, "bottleneck", MODELS["bottleneck"] | changes, val_every=6, system_every=12)
    found = {name: read_bottleneck(folder / name) for name in ("best.pt", "last.pt", "step12.pt")}
    assert (folder / "step24.pt").exists()
    measured = losses(folder)
    assert found["last.pt"]["step"] == 24
    assert found["best.pt"]["step"] == min(measured, key=lambda step: measured[step])
    assert found["best.pt"]["best_val"] == min(measured.values()) == found["last.pt"]["best_val"]
    assert found["step12.pt"]["best_val"] == min(measured[6], measured[12])
    config = found["best.pt"]["config"]
    assert (config["dropout"], config["block_size"]) == (0.1, 16)
    assert config["attn_mode"] in next(k for k, v in BOTTLENECKS.items() if v is changes)
    assert config["kv_head"] == (1 if config["attn_mode"] == "gqa" else None)
    # golfpack's own reader takes it for the model that was validated, with the options beside it or
    # from what the programs' configuration tells.
    for sidecar in (True, False):
        if not sidecar:
            (folder / "best.config.json").unlink()
        model = load_checkpoint(folder / "best.pt")
        assert model.family.name == "bottleneck"
        assert validation_loss(model.module(), HELD_OUT, 16, 4) == pytest.approx(
            min(measured.values()), rel=1e-5
        )


def test_best_is_the_lowest_even_where_the_last_is_worse(tmp_path: Path) -> None:
    """A rate that ruins what was learnt: the best checkpoint stays, over an interruption, too."""
    config: dict[str, Any] = {"schedule": "constant", "lr": 0.05, "val_every": 4, "warmup_steps": 0}
    run(tmp_path / "a", "llama", **config)
    with pytest.raises(Stop):
        run(tmp_path / "b", "llama", progress=stop_at(22), **config)
    run(tmp_path / "b", "llama", resume=True, **config)
    measured = losses(tmp_path / "a")
    best = min(measured, key=lambda step: measured[step])
    for folder in (tmp_path / "a", tmp_path / "b"):
        saved = torch.load(folder / "best.pt", weights_only=True)
        assert (saved["step"], saved["best_val"]) == (best, measured[best])
        assert set(saved) == {"model", "step", "best_val"}
        module = load_checkpoint(folder / "best.pt").module()
        assert validation_loss(module, HELD_OUT, 16, 4) == pytest.approx(measured[best], rel=1e-5)


def test_no_best_where_nothing_is_validated_on_the_way(tmp_path: Path) -> None:
    run(tmp_path / "run", "llama")
    assert not (tmp_path / "run" / "best.pt").exists()


def read_alph(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and tensors by the rules of the binary format."""
    assert data[:4] == b"ALPH"
    (length,) = struct.unpack("<I", data[4:8])
    header = json.loads(data[8 : 8 + length])
    assert len(data) == 8 + length + 4 * sum(t["elements"] for t in header["tensors"])
    values, tensors = np.frombuffer(data[8 + length :], "<f4"), {}
    for t in header["tensors"]:
        assert math.prod(t["shape"]) == t["elements"]
        tensors[t["name"]] = values[: t["elements"]].reshape(t["shape"])
        values = values[t["elements"] :]
    return header, tensors


def test_alph_checkpoints_of_a_run(tmp_path: Path) -> None:
    """Parameters, AdamW's moments and the tokenizer, in the files' order; equal to what is resumed."""
    folder = tmp_path / "run"
    run(folder, "alph", ALPH, system_every=10, tokenizer=LETTERS)
    assert {p.name for p in folder.glob("checkpoint-*")} == {
        f"checkpoint-{n}.json" for n in (10, 20, 24)
    }
    data = (folder / "checkpoint-24.json").read_bytes()
    header, tensors = read_alph(data)
    assert (header["step"], header["optimizerStep"]) == (24, 24)
    assert header["modelConfig"] == {
        "vocabSize": 32, "blockSize": 16, "nLayer": 2, "nEmbd": 16, "nHead": 2, "dropout": 0.1,
        "softCap": 30.0,
    }  # fmt: skip
    assert header["tokenizerArtifacts"]["vocab"][-1] == "ab"
    assert header["tokenizerArtifacts"]["merges"] == [[0, 1]]
    names = stored_names(2)
    assert names[:5] == ["wte", "wpe", "lmHead", "lnF.weight", "lnF.bias"]
    expected = [f"p.{n}" for n in names] + [f"o.{n}.{x}" for n in names for x in "mv"]
    assert [t["name"] for t in header["tensors"]] == expected
    last = torch.load(folder / "last.pt", weights_only=True)
    state = last["optimisers"][0]["state"]
    for name in names:
        ours = name if name in last["model"] else f"{name}.weight"
        weight = last["model"][ours].numpy()
        assert np.array_equal(tensors[f"p.{name}"], weight)
        moments = tensors[f"o.{name}.m"], tensors[f"o.{name}.v"]
        assert any(
            np.array_equal(kept["exp_avg"].ravel(), moments[0])
            and np.array_equal(kept["exp_avg_sq"].ravel(), moments[1])
            for kept in state.values()
        ), name
    # Ours reads it, whatever its name; without a sidecar, from the header alone.
    (tmp_path / "elsewhere.json").write_bytes(data)
    module = load_checkpoint(tmp_path / "elsewhere.json").module()
    final = load_checkpoint(folder / "final_model.pt").module()
    ids = torch.arange(16)[None]
    assert torch.equal(module(ids), final(ids))


def test_an_alph_file_of_the_golden_weights_has_the_golden_loss(
    tmp_path: Path, shared: Path
) -> None:
    golden = json.loads((shared / "docs" / "seed_golden.json").read_text())["003"]
    family = FAMILIES["alph"]
    given = {"vocab_size": 29, "num_layers": 2, "dim": 16, "num_heads": 2, "mlp_hidden": 64}
    spec = family.spec(complete_options(family, given, 16))
    stored = {t.name: t.name if ".ln" in t.name or "lnF" in t.name else t.name.removesuffix(".weight")
              for t in spec.tensors}  # fmt: skip
    weights = {}
    for j, t in enumerate(sorted(spec.tensors, key=lambda t: stored[t.name])):
        w = 0.3 * np.sin(1.3 * np.arange(t.numel) + 0.7 * j).reshape(t.shape)
        weights[t.name] = torch.from_numpy(w + 1 if re.search(r"ln.\.weight", t.name) else w)
    moments = {n: (torch.zeros_like(w), torch.ones_like(w)) for n, w in weights.items()}
    assert family.training is not None
    assert family.training.system is not None
    name, data = family.training.system.write(
        Snapshot(spec.config, 0.0, 42, 7, weights, moments, updates=7)
    )
    assert name == "checkpoint-7.json"
    header, tensors = read_alph(data)
    assert {k: header["modelConfig"][k] for k in golden["config"]} == golden["config"]
    assert sum(a.size for n, a in tensors.items() if n[0] == "p") == golden["params"]
    (tmp_path / name).write_bytes(data)
    module = load_checkpoint(tmp_path / name).module()
    ids = torch.tensor([(7 * i * i + 3 * i + 1) % 29 for i in range(13)])
    loss = F.cross_entropy(module(ids[None, :-1])[0], ids[1:]).item()
    assert loss == pytest.approx(golden["loss"], rel=1e-5)
    # The size of the system's own: 3 x 4 bytes a weight, and what its upload keeps of that.
    payload = 4 * sum(a.size for a in tensors.values())
    assert payload == 12 * golden["params"]


def test_what_a_system_has_not_is_refused_before_a_step(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="llama family comes from no system"):
        run(tmp_path / "a", "llama", system_every=5)
    with pytest.raises(UsageError, match="hold AdamW's moments; this run has lion"):
        run(tmp_path / "a", "alph", ALPH, system_every=5, optimizer="lion")
    with pytest.raises(UsageError, match="MLP of 4 x 16, not of 32"):
        run(tmp_path / "a", "alph", system_every=5)
    summed = MODELS["bottleneck"] | {"score_scale": "sum"}
    with pytest.raises(UsageError, match="do not tell score_scale='sum'"):
        run(tmp_path / "a", "bottleneck", summed, system_every=5)
    assert not (tmp_path / "a").exists()
    # Without that setting such a model trains; its files do not claim to be the system's.
    run(tmp_path / "b", "bottleneck", summed, val_every=12)
    assert "config" not in torch.load(tmp_path / "b" / "best.pt", weights_only=True)
    assert load_checkpoint(tmp_path / "b" / "best.pt").config["score_scale"] == "sum"


def test_a_run_before_its_first_step_can_be_written() -> None:
    """Moments that AdamW has not made yet are zeros."""
    from golfpack.train.run import new_run
    from golfpack.train.system_files import SystemFiles

    family = FAMILIES["alph"]
    config = dataclasses.replace(settings_of("alph"), system_every=1)
    spec = family.spec(complete_options(family, ALPH, 16))
    files = SystemFiles.of(family, spec.config, config, None)
    _, data = files.checkpoint(new_run(family, spec, config))
    header, tensors = read_alph(data)
    assert "tokenizerArtifacts" not in header
    assert not any(a.any() for n, a in tensors.items() if n[0] == "o")
