"""Options told by text: right ones pass, wrong ones are named, and where nothing tells none is said."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import asked

from golfpack.build.run import build
from golfpack.data.shards import write_shard
from golfpack.errors import UsageError
from golfpack.models.checkpoint import load_checkpoint
from golfpack.models.golf.family import GOLF
from golfpack.models.golf.siblings import siblings
from golfpack.probe.probe import probe, refuse_wrong_assumptions, windows
from golfpack.train.config import TrainConfig
from golfpack.train.trainer import train

SHAPE = {
    "vocab_size": 48, "num_layers": 3, "dim": 32, "num_heads": 4, "num_kv_heads": 2, "mlp_hidden": 64,
    "seq_len": 64,
}  # fmt: skip
TRUE = {"activation": "leaky_relu2", "ln_scale": True, "xsa_last_n": 3}
# What a sidecar says: the length the model was trained at.
KNOWN = ("model.seq_len=64",)


def text(count, seed):
    """Tokens that follow from the two before them, most of the time."""
    rng = np.random.default_rng(seed)
    table = np.random.default_rng(0).integers(0, 48, (48, 48))
    tokens = [1, 2]
    for guess, surprise in zip(rng.integers(0, 48, count), rng.random(count), strict=True):
        tokens.append(int(table[tokens[-2], tokens[-1]] if surprise < 0.85 else guess))
    return np.array(tokens, np.uint16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that was trained with TRUE, its state dict alone, and text."""
    folder = tmp_path_factory.mktemp("probe")
    config = TrainConfig(steps=220, batch_tokens=1024, seq_len=64, threads=1, save_every=1000)
    train(config, {**SHAPE, **TRUE}, text(60_000, 1), folder / "run")
    state = torch.load(folder / "run" / "final_model.pt", weights_only=True)
    torch.save(state, folder / "m.pt")
    write_shard(folder / "train.bin", text(20_000, 2))
    return folder


@pytest.fixture
def copy(folder, tmp_path):
    """The checkpoint in a folder of its own, without a sidecar."""
    (tmp_path / "m.pt").write_bytes((folder / "m.pt").read_bytes())
    return tmp_path / "m.pt"


def test_the_right_options_are_found_and_written(folder, copy):
    report = probe(copy, str(folder / "train.bin"), settings=KNOWN)
    assert report.loss_after < report.loss_before
    assert {c.option for c in report.changes} >= {"activation", "ln_scale"}
    written = json.loads(copy.with_name("m.config.json").read_text())
    assert {k: written[k] for k in ("activation", "ln_scale")} == {
        "activation": "leaky_relu2", "ln_scale": True,
    }  # fmt: skip
    assert report.config == load_checkpoint(copy).config
    assert load_checkpoint(copy).assumed == {}
    again = probe(
        copy, str(folder / "train.bin"), settings=KNOWN
    )  # what it wrote stands its own test
    assert again.changes == []


@pytest.mark.parametrize(
    ("option", "wrong"),
    [("activation", "relu2"), ("ln_scale", False), ("rope_dims", 4), ("resid_norm", True)],
)
def test_a_wrong_option_that_was_told_is_refused_by_name(folder, copy, option, wrong):
    told = [f"model.{k}={v}" for k, v in (TRUE | {option: wrong}).items()]
    right = {**TRUE, "rope_dims": 0, "resid_norm": False}[option]
    with pytest.raises(UsageError, match=f"--set model.{option}={right} lowers the loss") as caught:
        probe(copy, str(folder / "train.bin"), settings=(*KNOWN, *told))
    assert f"{option}={wrong} was told" in caught.value.message
    assert not copy.with_name("m.config.json").exists()


def test_right_options_that_were_told_are_left_alone(folder, copy):
    told = tuple(f"model.{k}={v}" for k, v in TRUE.items())
    report = probe(copy, str(folder / "train.bin"), settings=(*KNOWN, *told))
    assert report.changes == []
    assert not any(t.better for t in report.trials)
    assert {t.option for t in report.trials if t.worse} >= {"activation", "ln_scale", "resid_norm"}


def test_a_build_refuses_what_text_contradicts_and_takes_what_was_said(folder, copy):
    calib = {
        "calib": str(folder / "train.bin"),
        "calib_tokens": 1024,
        "cache": False,
        "settings": KNOWN,
    }
    options = asked(copy, "8bpw", output=copy.with_name("m.golf"), **calib)
    with pytest.raises(UsageError, match=r"--set model\.\w+=\S+ lowers the loss from") as caught:
        build(options)
    assert "was only assumed" in caught.value.message
    told = tuple(f"model.{k}={v}" for k, v in TRUE.items())
    build(options.changed(settings=KNOWN + told))
    # Whoever says so gets it: the model is theirs.
    names = ("activation", "ln_scale", "xsa_last_n", "resid_norm", "softcap")
    model = load_checkpoint(copy)
    wrong = tuple(f"model.{n}={v}" for n, v in model.config.items() if n in model.assumed)
    assert {n.split(".")[1].split("=")[0] for n in wrong} >= set(names)
    build(options.changed(settings=wrong))


def test_an_untrained_model_and_foreign_text_tell_nothing(folder, copy):
    model = load_checkpoint(copy)
    rng = np.random.default_rng(0)
    noise = rng.integers(3, 48, (4, 129))
    refuse_wrong_assumptions(model, noise)
    drawn = {n: rng.normal(0, 0.7, w.shape).astype(np.float32) for n, w in model.weights.items()}
    untrained = replace(model, weights=drawn)
    refuse_wrong_assumptions(untrained, windows(text(5000, 3)))
    torch.save({n: torch.from_numpy(w) for n, w in drawn.items()}, copy)
    with pytest.raises(UsageError, match="no better than a guess"):
        probe(copy, str(folder / "train.bin"), settings=KNOWN)


@pytest.mark.slow
def test_a_config_that_says_something_else_is_kept(folder, copy):
    other = copy.with_name("other.json")
    other.write_text('{"activation": "relu2"}')
    with pytest.raises(UsageError, match="says something else"):
        probe(copy, str(folder / "train.bin"), output=other, settings=KNOWN)
    assert json.loads(other.read_text()) == {"activation": "relu2"}
    probe(copy, str(folder / "train.bin"), output=other, settings=KNOWN, force=True)
    assert json.loads(other.read_text())["activation"] == "leaky_relu2"


def test_siblings_have_the_same_tensors():
    config = GOLF.spec({
        **SHAPE, "num_layers": 5, "layer_order": "0-2,1-2,1-4", "parallel_start": 3, "lanes": 2,
        "bigram_size": 12, "bigram_dim": 4, "value_embed_dim": 3, "value_embed_layers": "1,2",
        "attn_gate": "plain", "attn_gate_window": 4, "smear": "channels", "word_boost": True,
        "word_starts": "3-5",
    }).config  # fmt: skip
    shapes = {t.name: t.shape for t in GOLF.spec(config).tensors}
    tried = 0
    for option, values in siblings(config).items():
        assert config[option] in values or option in ("softcap", "rope_base"), option
        for value in values:
            try:
                spec = GOLF.spec({**config, option: value})
            except UsageError:
                continue
            assert {t.name: t.shape for t in spec.tensors} == shapes, (option, value)
            tried += 1
    assert tried > 60


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shard"),
    [
        ("golf_0.48M", "fineweb10B_sp1024_train_first1M.bin"),
        ("books_6x256", "books_sp1024nb_train.bin"),
        ("web_8x256", "fineweb10B_sp1024_train_first1M.bin"),
    ],
)
def test_right_checkpoints_pass_and_wrong_ones_are_named(shared, tmp_path, name, shard):
    path = tmp_path / "m.pt"
    path.write_bytes((shared / "checkpoints" / name / "final_model.pt").read_bytes())
    data = str(shared / "data" / "shards" / shard)
    assert probe(path, data).changes == []
    path.with_name("m.config.json").unlink()
    for wrong, right in (
        ("activation=leaky_relu2", "activation=relu2"), ("ln_scale=true", "ln_scale=False"),
        ("rope_base=1000", "rope_base=10000.0"), ("rope_dims=16", "rope_dims=0"),
        ("resid_norm=true", "resid_norm=False"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=f"--set model.{right} lowers the loss"):
            probe(path, data, settings=(f"model.{wrong}",))
