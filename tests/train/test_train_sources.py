"""Where the tokens of a run come from, and what is held out of them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from golfpack.base.progress import silent
from golfpack.data.alph_training import train_alph_tokenizer
from golfpack.data.shards import write_shard
from golfpack.data.tokenizer import load_tokenizer, train_tokenizer
from golfpack.errors import UsageError
from golfpack.models.ranks import ALONE
from golfpack.train.choose import TrainOptions
from golfpack.train.sources import Data, DataOptions, read_data, split_at
from golfpack.train.train import train

TOKENS = np.random.default_rng(0).integers(64, size=4000).astype(np.uint16)
TEXT = "\n".join(f"line {i} of a text, {i * i % 97} again" for i in range(400))


def read(folder: Path, **options: Any) -> Data:
    data = DataOptions(**options)
    data.check()
    return read_data(data, folder, False, ALONE, silent)


def losses_of(folder: Path, data: DataOptions) -> list[float]:
    shape = (
        "num_layers=2",
        "dim=16",
        "num_heads=2",
        "mlp_hidden=24",
        "attn_dim=8",
        "vocab_size=64",
    )
    settings = tuple(f"model.{s}" for s in shape)
    options = TrainOptions(
        folder, preset="tiny-bottleneck", steps=10, threads=1, data=data,
        settings=(*settings, "train.seq_len=16", "train.batch_tokens=64", "train.log_every=1"),
    )  # fmt: skip
    train(options)
    lines = map(json.loads, (folder / "train.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["type"] == "step"]


def test_the_form_of_a_file_of_tokens_changes_nothing(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", TOKENS.astype(np.int64))
    (tmp_path / "t.tokens").write_text(" ".join(map(str, TOKENS)))
    write_shard(tmp_path / "t_0.bin", TOKENS[:1000])
    write_shard(tmp_path / "t_1.bin", TOKENS[1000:])
    names = ("t.npy", "t.tokens", "t_*.bin")
    found = [losses_of(tmp_path / n[2:5], DataOptions(tokens=str(tmp_path / n))) for n in names]
    assert len(found[0]) == 10
    assert found[0] == found[1] == found[2]


def test_the_end_is_held_out() -> None:
    """As the systems split: int((1 - f) n) are trained on."""
    assert [split_at(n, 0.1) for n in (10**9, 10**8, 100_002_129)] == [
        900_000_000, 90_000_000, 90_001_916,
    ]  # fmt: skip


def test_tokens_are_split_at_their_end(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", TOKENS)
    data = read(tmp_path, tokens=str(tmp_path / "t.npy"), val_fraction=0.1)
    assert data.val_tokens is not None
    assert np.array_equal(np.concatenate((data.tokens, data.val_tokens)), TOKENS)
    assert data.tokens.size == 3600


def test_alphs_text_is_split_by_characters_and_encoded_apart(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(TEXT)
    options = {"train_vocab": 60, "tokenizer_kind": "alph", "val_fraction": 0.1}
    data = read(tmp_path, text=(tmp_path / "t.txt",), **options)
    tokenizer = train_alph_tokenizer(TEXT, 60)
    cut = int(0.9 * len(TEXT))
    assert data.val_tokens is not None
    assert tokenizer.Decode(data.tokens.tolist()) == TEXT[:cut]
    assert tokenizer.Decode(data.val_tokens.tolist()) == TEXT[cut:]
    assert load_tokenizer(tmp_path / "tokenizer.json") == tokenizer
    assert data.path == tmp_path / "tokenizer.json"


def test_separators_are_said(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"text": "one and one"}\n{"text": "two"}\n')
    (tmp_path / "v.txt").write_text("two and one")
    train_tokenizer([TEXT, "one and two"], 290, tmp_path / "m.model")
    shared = {"text": (tmp_path / "t.jsonl",), "tokenizer": tmp_path / "m.model"}
    with_bos = read(tmp_path, **shared, val_tokens=str(tmp_path / "v.txt"))
    without = read(tmp_path, **shared, separator="none")
    bos = load_tokenizer(tmp_path / "m.model").bos_id()
    assert (with_bos.tokens == bos).sum() == 2
    assert np.array_equal(without.tokens, with_bos.tokens[with_bos.tokens != bos])
    assert with_bos.val_tokens is not None
    assert with_bos.val_tokens[0] == bos


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"tokens": "a.npy", "val_tokens": "b", "val_fraction": 0.1}, "two held-out parts"),
        ({"tokens": "./a.npy", "val_tokens": "a.npy"}, "what is trained on, too"),
        ({"tokens": "a.txt"}, "is text"),
        ({"tokens": "a.npy", "val_fraction": 1.5}, "fraction is 1.5"),
        ({"tokenizer_kind": "word"}, "tokenizer kind 'word'"),
        ({"separator": "eot"}, "separator 'eot'"),
        ({"tokens": "a.npy", "tokenizer_kind": "alph"}, "is of a tokenizer that is trained"),
        ({"tokens": "a.npy", "separator": "none"}, "separator=none is for text"),
        ({"text": (Path("a.txt"),)}, "text needs a tokenizer"),
        ({}, "either --tokens or --text"),
    ],
)
def test_what_does_not_go_together_is_named(
    options: dict[str, Any], named: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=named) as caught:
        read(tmp_path, **options)
    assert caught.value.hint


def test_what_is_given_stands_before_a_presets(tmp_path: Path) -> None:
    preset = DataOptions(train_vocab=1024, tokenizer_kind="alph", val_fraction=0.1)
    text = preset.with_given(DataOptions(text=(tmp_path,)))
    assert (text.train_vocab, text.tokenizer_kind) == (1024, "alph")
    plain = replace(preset, separator="none").with_given(DataOptions(tokens="a.npy"))
    assert plain == DataOptions(tokens="a.npy", val_fraction=0.1)
    own = preset.with_given(DataOptions(text=(tmp_path,), train_vocab=9, val_tokens="v.npy"))
    assert (own.train_vocab, own.val_fraction, own.val_tokens) == (9, None, "v.npy")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"steps": 3, "settings": ("train.steps=4",)}, "--steps and train.steps"),
        ({"budget": "20kB", "settings": ("train.budget=30kB",)}, "--for and train.budget"),
        ({"seed": 0, "settings": ("train.seed=1",)}, "--seed and train.seed"),
        ({"settings": ("train.val_every=5",)}, "no tokens to validate on"),
    ],
)
def test_what_is_said_twice_or_does_nothing_is_named(
    options: dict[str, Any], named: str, tmp_path: Path
) -> None:
    np.save(tmp_path / "t.npy", TOKENS)
    data = DataOptions(tokens=str(tmp_path / "t.npy"))
    with pytest.raises(UsageError, match=named):
        train(TrainOptions(tmp_path / "run", data=data, **options))
    assert not (tmp_path / "run").exists()
