"""A tiny golf model with a tokenizer of its own, built once."""

from pathlib import Path

import numpy as np
import torch
from conftest import TINY, asked, trained_looking

from golfpack.build.run import build
from golfpack.data.shards import write_shard
from golfpack.data.tokenizer import encode_documents, load_tokenizer, train_tokenizer

TEXT = [f"{a} {b} went to the {c}" for a in ("a cat", "one dog", "the fox") for b in "xyz"
        for c in ("river", "village", "red hat", "mountain", "sea")]  # fmt: skip
# Of the build: no budget here is tight.
SETTINGS = ("model.seq_len=48",)


_MADE: list[Path] = []


def make_home(tmp_path_factory):
    """A folder with c.pt, t.model, train.bin, held.bin and x.golf, made once a session."""
    if not _MADE:
        _MADE.append(_made(tmp_path_factory.mktemp("submission")))
    return _MADE[0]


def _made(path):
    train_tokenizer(TEXT, 290, path / "t.model")
    tokens = encode_documents(load_tokenizer(path / "t.model"), TEXT)
    write_shard(path / "train.bin", np.tile(tokens, 30))
    write_shard(path / "held.bin", tokens[:700])
    weights = trained_looking({**TINY, "vocab_size": 290}, 7)
    torch.save({n: torch.from_numpy(w) for n, w in weights.items()}, path / "c.pt")
    build(options_of(path, "25000", path / "x.golf"))
    return path


def options_of(home, budget, output, **more):
    """A quick build of the tiny model."""
    return asked(
        home / "c.pt", budget, output, calib=str(home / "train.bin"), calib_tokens=256, cache=False,
        settings=SETTINGS, **more,
    )  # fmt: skip
