"""stories260K: both of its files, its tokenizer, and its bits per byte."""

import math
import struct
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import asked
from llama_reference import reference_logits

from golfpack.build.run import build
from golfpack.data.tokenizer import encode_documents, load_tokenizer
from golfpack.errors import UsageError
from golfpack.eval.bytes import ByteTable, audit, loss_and_bpb
from golfpack.eval.log import ScoreLog
from golfpack.eval.scorer import Scorer, score_windows
from golfpack.eval.windows import lay_windows
from golfpack.models.checkpoint import load_checkpoint
from golfpack.packer.format.loader import load


@pytest.fixture(scope="module")
def stories(shared):
    return shared / "checkpoints" / "stories260K"


def read_bin(path):
    """Weights by Meta's names and the header, read as run.c does."""
    data = path.read_bytes()
    dim, hidden, layers, heads, kv_heads, vocab, _ = struct.unpack_from("<7i", data)
    floats = np.frombuffer(data, "<f4", offset=28)
    kv = dim // heads * kv_heads
    shapes = [
        ("attention_norm", (dim,)), ("attention.wq", (dim, dim)), ("attention.wk", (kv, dim)),
        ("attention.wv", (kv, dim)), ("attention.wo", (dim, dim)), ("ffn_norm", (dim,)),
        ("feed_forward.w1", (hidden, dim)), ("feed_forward.w2", (dim, hidden)),
        ("feed_forward.w3", (hidden, dim)),
    ]  # fmt: skip
    out = {"tok_embeddings.weight": floats[: vocab * dim].reshape(vocab, dim)}
    at = vocab * dim
    for name, shape in shapes:
        size = math.prod(shape)
        for i in range(layers):
            out[f"layers.{i}.{name}.weight"] = floats[at : at + size].reshape(shape)
            at += size
    out["norm.weight"] = floats[at : at + dim]
    return out, {"layers": layers, "heads": heads, "kv_heads": kv_heads}


def test_both_files_of_stories_are_one_model(stories):
    one = load_checkpoint(stories / "stories260K.bin")
    two = load_checkpoint(stories / "stories260K.safetensors", {"num_heads": 8, "seq_len": 512})
    assert one.config == two.config
    assert (one.config["num_kv_heads"], one.config["tied"], one.spec.numel) == (4, True, 260_032)
    for name, w in one.weights.items():
        np.testing.assert_array_equal(w, two.weights[name])


def split_at_bos(tokens):
    """Token lists of the documents, without their BOS."""
    starts = [*np.flatnonzero(tokens == 1), len(tokens)]
    return [tokens[a + 1 : b].tolist() for a, b in pairwise(starts)]


def test_bpb_of_stories_agrees_with_the_reference(shared, stories):
    sp = load_tokenizer(stories / "tok512.bin")
    text = (shared / "data" / "text" / "tinystories_sample.txt").read_text()
    documents = [story.strip() for story in text.split("<|endoftext|>")]
    tokens = encode_documents(sp, documents)[:1025]
    found = load_checkpoint(stories / "stories260K.bin")
    model = found.module()
    table = ByteTable.from_tokenizer(sp, 512)
    assert audit(sp, table, tokens).table_bytes == int(table.count(tokens).sum())
    counts, stream = table.count(tokens), torch.from_numpy(tokens.astype(np.int64))
    log = ScoreLog(1024, counts)
    score_windows(Scorer(model, found.spec), stream, stream, lay_windows(1024, 256, 256), log)
    bpb = loss_and_bpb(log.nll, counts)[1]

    weights, shape = read_bin(stories / "stories260K.bin")
    total = 0.0
    for start in range(0, 1024, 256):
        inputs, targets = tokens[start : start + 256], tokens[start + 1 : start + 257]
        z = reference_logits(weights, inputs, **shape, base=10000.0, eps=1e-5)
        total += float((np.logaddexp.reduce(z, 1) - z[np.arange(256), targets]).sum())
    text_bytes = sum(len(d.encode()) for d in sp.Decode(split_at_bos(tokens)))
    assert bpb == pytest.approx(total / math.log(2) / text_bytes, abs=1e-4)
    assert 0.7 < bpb < 1.1  # a model of such stories, not noise


@pytest.mark.slow  # six minutes of training
def test_an_artifact_of_stories_at_3_5_bits_loses_less_than_0_02_bpb(shared, stories, tmp_path):
    """Trained on the first half of the text, scored on the second, of other stories."""
    text = (shared / "data" / "text" / "tinystories_sample.txt").read_text()
    documents = text.split("<|endoftext|>")
    first, second = documents[: len(documents) // 2], documents[len(documents) // 2 :]
    (tmp_path / "first.txt").write_text("<|endoftext|>".join(first))
    report = build(
        asked(
            stories / "stories260K.bin", "3.5bpw", tmp_path / "out.golf",
            calib=str(tmp_path / "first.txt"), tokenizer=stories / "tok512.bin",
            calib_tokens=53_000, refine=1_200_000, threads=2, cache=False,
        )
    )  # fmt: skip
    assert report.artifact_bytes <= report.budget_bytes

    sp = load_tokenizer(stories / "tok512.bin")
    tokens = encode_documents(sp, [d.strip() for d in second])
    counts, stream = ByteTable.from_tokenizer(sp, 512).count(tokens), torch.from_numpy(tokens)
    found, packed = load_checkpoint(stories / "stories260K.bin"), load(tmp_path / "out.golf")
    bpb = []
    for weights in (found.weights, packed.weights()):
        log, model = (
            ScoreLog(len(tokens) - 1, counts),
            found.module(weights),
        )
        windows = lay_windows(len(tokens) - 1, 512, 512)
        score_windows(Scorer(model, found.spec), stream.long(), stream.long(), windows, log)
        bpb.append(loss_and_bpb(log.nll, counts)[1])
    assert bpb[1] - bpb[0] < 0.02


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d[:-4], "is truncated"),
        (lambda d: d + b"\0\0\0\0", "has bytes left over"),
        (lambda d: struct.pack("<i", 66) + d[4:], "of an unknown format"),  # 8 heads do not divide it
    ],
)  # fmt: skip
def test_damaged_bin_files_say_so(stories, tmp_path, change, says):
    path = tmp_path / "x.bin"
    path.write_bytes(change((stories / "stories260K.bin").read_bytes()))
    with pytest.raises(UsageError, match=says):
        load_checkpoint(path)
