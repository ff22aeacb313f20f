"""Calibration tokens: where they come from, and what a build must never see."""

import numpy as np
import pytest
import sentencepiece
import torch

from golfpack.calib.sources import (
    BOS,
    CalibTokens,
    from_data,
    self_generated,
    text_calls,
    training_text,
)
from golfpack.data.shards import write_shard
from golfpack.errors import UsageError


@pytest.mark.parametrize(
    "name",
    [
        "fineweb_val_000000.bin", "val.bin", "VAL_0.bin", "my-validation-set.txt", "x.valid.jsonl",
        "fineweb10B_sp1024_val_first262k.bin",
    ],
)  # fmt: skip
def test_validation_data_is_refused_by_its_name(tmp_path, name):
    write_shard(tmp_path / name, np.arange(100))
    with pytest.raises(UsageError, match="validation"):
        from_data(str(tmp_path / name), None, 256, 1, 10)


def test_a_glob_does_not_hide_validation_data(tmp_path):
    for name in ("web_train_0.bin", "web_val_0.bin"):
        write_shard(tmp_path / name, np.arange(100))
    with pytest.raises(UsageError, match="validation"):
        from_data(str(tmp_path / "web_*.bin"), None, 256, 1, 10)
    assert from_data(str(tmp_path / "web_t*.bin"), None, 256, 1, 10).sequences.shape == (1, 10)


@pytest.mark.parametrize(
    "name", ["interval.bin", "evaluate_train.bin", "valley.bin", "removal_0.bin"]
)
def test_names_that_only_contain_the_letters_are_fine(tmp_path, name):
    write_shard(tmp_path / name, np.arange(100))
    assert from_data(str(tmp_path / name), None, 256, 2, 10).source.endswith(name)


def test_sequences_are_spread_evenly_and_keep_order(tmp_path):
    path = tmp_path / "train.bin"
    write_shard(path, np.arange(100))
    tokens = from_data(str(path), None, 100, 4, 10).sequences
    assert tokens.dtype == np.int64
    np.testing.assert_array_equal(tokens[:, 0], [0, 30, 60, 90])
    np.testing.assert_array_equal(tokens - tokens[:, :1], np.tile(np.arange(10), (4, 1)))
    exact = from_data(str(path), None, 100, 10, 10).sequences
    np.testing.assert_array_equal(exact.ravel(), np.arange(100))


def test_what_cannot_be_calibrated_on(tmp_path):
    path = tmp_path / "train.bin"
    write_shard(path, np.arange(100))
    with pytest.raises(UsageError, match="has 100 tokens; calibration asks for 110"):
        from_data(str(path), None, 100, 11, 10)
    with pytest.raises(UsageError, match="token 99, the model's vocabulary ends at 98"):
        from_data(str(path), None, 99, 1, 10)
    with pytest.raises(UsageError, match="no"):
        from_data(str(tmp_path / "none.bin"), None, 99, 1, 10)
    text = tmp_path / "train.txt"
    text.write_text("some text\n" * 50)
    with pytest.raises(UsageError, match="tokenizer"):
        from_data(str(text), None, 100, 1, 10)


def test_text_is_tokenised_with_the_models_tokenizer(tmp_path):
    text = tmp_path / "train.txt"
    text.write_text("the quick brown fox jumps over the lazy dog\n" * 200)
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(tmp_path / "m"), vocab_size=40, model_type="bpe",
        hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    sp = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "m.model"))
    tokens = from_data(str(text), sp, sp.vocab_size(), 3, 20)
    assert tokens.sequences.shape == (3, 20)
    assert "quick" in sp.decode(tokens.sequences[1].tolist())


def test_held_out_sequences_are_the_last_and_the_digest_is_of_uint32():
    tokens = CalibTokens(np.arange(40).reshape(4, 10), "x")
    used, held_out = tokens.split(1)
    np.testing.assert_array_equal(used.sequences, tokens.sequences[:3])
    np.testing.assert_array_equal(held_out.sequences, tokens.sequences[3:])
    assert used.sha256 != tokens.sha256
    assert tokens.sha256 == CalibTokens(tokens.sequences.astype(np.uint16), "y").sha256


def test_self_generated_text_depends_on_the_seed_alone(tiny):
    model = tiny.module()
    state = torch.get_rng_state()
    one = self_generated(model, 3, 20, seed=1)
    torch.manual_seed(99)  # noqa: TID251
    again, other = self_generated(model, 3, 20, seed=1), self_generated(model, 3, 20, seed=2)
    torch.set_rng_state(state)
    self_generated(model, 3, 20, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(one.sequences, again.sequences)
    assert (one.sequences != other.sequences).any()
    assert (one.sequences[:, 0] == BOS).all()
    assert 0 <= one.sequences.min() <= one.sequences.max() < tiny.config["vocab_size"]
    assert one.source == "self-generated"


def source_of(tokens, count, length, held_out):
    """Calibration tokens as `from_data` takes them from a stream, split."""
    starts = np.linspace(0, len(tokens) - length, count).astype(np.int64)
    rows = np.stack([tokens[s : s + length] for s in starts])
    return CalibTokens(rows.astype(np.int64), "shard.bin", starts, tokens).split(held_out)


@pytest.mark.parametrize(
    ("source", "rows", "half", "written"),
    [
        ("shard.bin", 30, False, 0),
        ("shard.bin", 30, True, 15),
        ("shard.bin", 50, False, 18),
        ("shard.bin", 80, False, 40),
        ("self-generated", 30, True, 0),
        ("self-generated", 80, True, 48),
    ],
)
def test_a_model_writes_half_or_what_text_would_repeat_too_often(source, rows, half, written):
    used = CalibTokens(np.arange(4 * 8).reshape(4, 8), source)
    fresh = CalibTokens(1000 + np.arange(written * 8).reshape(written, 8), "self-generated")

    def write(shape):
        assert shape == (written, 8)
        return fresh

    text, tokens = training_text(used, used, rows * 8 + 7, 256, 0, write, half)
    assert (text.shape, tokens) == ((rows, 8), written * 8)
    seen = [int(np.count_nonzero((text == row).all(1))) for row in used.sequences]
    assert sum(seen) == rows - written
    assert max(seen) - min(seen) <= 1
    # Every written sequence once, and in the midst of the others.
    assert sorted(text[text[:, 0] >= 1000][:, 0]) == list(fresh.sequences[:, 0])
    assert written == 0 or np.any(np.diff(text[:, 0] >= 1000, prepend=False)[written:])
    again, _ = training_text(used, used, rows * 8, 256, 1, write, half)
    assert not np.array_equal(text, again)
    real, none = training_text(used, used, rows * 8, 256, 0, None)
    assert (real.shape, none) == ((rows, 8), 0)
    assert real.max() < 4 * 8


def test_training_reads_the_whole_source_but_what_is_held_out():
    """In windows of its own length, each once before any comes again."""
    stream = np.arange(1000, dtype=np.uint16)
    used, held_out = source_of(stream, 12, 16, 4)
    text, _ = training_text(used, held_out, 100 * 8, 8, 0, None)
    assert text.shape == (100, 8)
    np.testing.assert_array_equal(text, text[:, :1] + np.arange(8))
    assert not np.isin(text, held_out.sequences).any()
    clear = 1000 // 8 - len(np.unique(held_out.sequences // 8))
    assert clear > 100
    assert len(np.unique(text[:, 0])) == 100
    longer, _ = training_text(used, held_out, 2 * clear * 8, 8, 0, None)
    assert set(np.unique(longer[:, 0], return_counts=True)[1]) == {2}


def test_a_text_no_longer_than_calibration_takes_is_trained_on_as_calibration_has_it():
    used, held_out = source_of(np.arange(12 * 16, dtype=np.uint16), 12, 16, 4)
    text, _ = training_text(used, held_out, 16 * 8, 8, 0, None)
    assert sorted(map(tuple, text)) == sorted(map(tuple, used.sequences.reshape(-1, 8)))


def test_long_texts_are_written_in_parts_and_all_is_told(tiny, monkeypatch):
    monkeypatch.setattr("golfpack.calib.sources.WRITTEN_AT_ONCE", 64)
    model, calls = tiny.module(), []
    model.register_forward_hook(lambda *_: calls.append(1))
    text = self_generated(model, 5, 32, 0).sequences
    assert text.shape == (5, 32)
    assert len(calls) == text_calls(5, 32)
    assert len({tuple(row) for row in text}) == 5
