"""`golfpack size` end to end on tiny models: honest, resumable, each cell made once."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from golfpack.base.documents import to_json
from golfpack.base.files import file_sha256
from golfpack.data.shards import read_shard, write_shard
from golfpack.data.tokenizer import encode_documents, load_tokenizer, train_tokenizer
from golfpack.errors import BudgetError, UsageError
from golfpack.eval.evaluate import evaluate
from golfpack.eval.inputs import EvalOptions
from golfpack.models.choose import choose_family
from golfpack.size import lab as lab_module
from golfpack.size import size as size_module
from golfpack.size.options import SizeOptions
from golfpack.size.report import SizeRun
from golfpack.size.shapes import LADDER_BITS, ladder, tables
from golfpack.size.size import size
from golfpack.train.checkpoint import LAST
from golfpack.train.shapes import Shape, options_of, read_shape
from golfpack.train.sources import DataOptions
from golfpack.train.trainer import complete_options

TEXT = [f"Line {i} of {c} goes on for a while, {a} and slow." for i in range(60) for c in "abcd"
        for a in ("calm", "wide")]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Tokens to train on, and their tokenizer."""
    path = tmp_path_factory.mktemp("size")
    train_tokenizer(TEXT, 320, path / "bpe.model")
    tokens = encode_documents(load_tokenizer(path / "bpe.model"), TEXT)
    write_shard(path / "train.bin", np.tile(tokens, 3))
    return path


@pytest.fixture
def options(folder, tmp_path) -> SizeOptions:
    return SizeOptions(
        budget="30kB",
        data=DataOptions(tokens=str(folder / "train.bin"), tokenizer=folder / "bpe.model"),
        shapes=("2x32", "2x64", "2x48"),
        steps=4,
        settings=("train.seq_len=16", "train.batch_tokens=64", "train.save_every=1"),
        calib_tokens=256,
        limit=301,
        out=tmp_path / "out",
    )


def figures(report) -> list[tuple]:
    return [(r.shape, r.seed, r.float_bpb, r.artifact_bpb, r.artifact_bytes) for r in report.runs]


def test_a_ladder_and_a_rerun_that_trains_nothing(options, folder, monkeypatch):
    report = size(options)
    assert [r.shape for r in report.rows] == ["2x32", "2x48", "2x64"]
    for run in report.runs:
        assert run.artifact_bytes == Path(run.artifact).stat().st_size <= 30_000
        assert run.gap == pytest.approx(run.artifact_bpb - run.float_bpb)
        assert run.bits_per_weight == pytest.approx(8 * run.artifact_bytes / run.parameters)
        assert (run.trained_tokens, run.scored_tokens, run.reused) == (4 * 64, 300, False)
    # The figures are what `golfpack eval` says of the artifact, on tokens that nothing was trained on.
    tokens = read_shard(folder / "train.bin")
    held_out = read_shard(report.held_out)
    cut = int((1 - 0.05) * len(tokens))
    np.testing.assert_array_equal(held_out, tokens[cut:])
    (calib,) = options.out.glob("train@*.bin")
    np.testing.assert_array_equal(read_shard(calib), tokens[:cut])
    last = report.runs[-1]
    told = evaluate(
        EvalOptions(Path(last.artifact), report.held_out, folder / "bpe.model", limit=301)
    )
    assert told.val_bpb == last.artifact_bpb
    assert json.loads((options.out / "size.report.json").read_text()) == json.loads(to_json(report))

    def refuse(*_args, **_options):
        raise AssertionError("everything is there")

    for name in ("train", "build", "evaluate"):
        monkeypatch.setattr(lab_module, name, refuse)
    again = size(options)
    assert figures(again) == figures(report)
    assert all(r.reused for r in again.runs)
    assert (again.notes, again.says, again.png) == ([], report.says, report.png)


def test_another_setting_is_said_and_made_anew(options):
    few = replace(options, shapes=("2x32",), recipe="sdclip-brotli")
    before = size(few)
    after = size(replace(few, steps=5))
    (told,) = after.notes
    assert told.startswith("2x32-seed0 is made anew")
    assert told.endswith("has steps = 4, not 5")
    assert after.runs[0].steps == 5
    # What was there stays there.
    assert figures(size(few)) == figures(before)
    # A smaller budget takes the model and builds it again.
    smaller = size(replace(few, budget="20kB"))
    assert smaller.runs[0].float_bpb == before.runs[0].float_bpb
    assert smaller.runs[0].artifact_bytes <= 20_000


def test_an_interrupted_training_goes_on_and_a_damaged_file_is_made_again(options):
    whole = replace(options, shapes=("2x32",), recipe="sdclip-brotli")
    before = size(whole)
    stopped = replace(whole, out=options.out.with_name("stopped"))

    def stop(stage, done, total, note):
        if stage == "train" and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        size(stopped, stop)
    (last,) = stopped.out.glob(f"runs/*/{LAST}")
    seen = []
    after = size(stopped, lambda stage, done, *_: seen.append((stage, done)))
    assert [done for stage, done in seen if stage == "train"] == [3, 4]
    assert figures(after) == figures(before)
    assert not last.exists()
    artifact = Path(after.runs[0].artifact)
    sha256 = file_sha256(artifact)
    artifact.write_bytes(artifact.read_bytes()[:-1])
    (model,) = stopped.out.glob("runs/*/final_model.pt")
    model.write_bytes(b"damaged")
    assert figures(size(stopped)) == figures(before)
    assert file_sha256(artifact) == sha256
    (cell,) = stopped.out.glob("cells/2x32-seed0@*.json")
    cell.write_text("{")
    with pytest.raises(UsageError, match="no result of an earlier run"):
        size(stopped)


def test_what_is_asked_wrongly_is_refused_at_once(options, tmp_path, monkeypatch):
    for changed, words in (
        ({"budget": "0.5bpw"}, "another size for every shape"),
        ({"shapes": ("2x32", "")}, "'' is no shape"),
        ({"shapes": ("2x32", "2x32")}, "named twice"),
        ({"shapes": ("32",)}, "is no shape"),
        ({"shapes": ("2x50",)}, "does not divide into heads"),
        ({"settings": ("model.dim=64",)}, "what a shape says"),
        ({"settings": ("model.bigram_size=64",)}, "what a shape says"),
        ({"family": "bottleneck"}, "does not say all"),
        ({"png": tmp_path / "none" / "x.png"}, "no folder"),
        ({"data": replace(options.data, tokenizer=None)}, "takes a tokenizer"),
        ({"data": replace(options.data, val_tokens=options.data.tokens)}, "trained on"),
    ):
        with pytest.raises(UsageError, match=words):
            size(replace(options, **changed))
    assert not list(options.out.glob("runs/*"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="each of them would do all"):
        size(options)
    monkeypatch.delenv("WORLD_SIZE")
    with pytest.raises(BudgetError, match=r"this recipe needs at least 0\.5"):
        size(replace(options, budget="1100", shapes=("2x32",)))
    assert not list(options.out.glob("runs/*"))


@pytest.fixture
def searched(options, monkeypatch):
    """What the default search makes of models that score what a function of (parameters, shape) says."""

    def search(bpb, family="golf", budget=300_000):
        def one_run(lab, shape, seed, notify):
            labs.append(lab)
            n = lab.parameters(shape)
            found = bpb(n, shape)
            told = {"bits_per_weight": 8 * budget / n, "artifact_bpb": found, "gap": 0.1}
            return SizeRun(
                shape.name,
                n,
                seed,
                float_bpb=found - 0.1,
                tokens_per_second=1.0,
                trained_tokens=1,
                **told,
            )

        labs = []
        monkeypatch.setattr(size_module, "one_run", one_run)
        monkeypatch.setattr(size_module, "can_draw", lambda: False)
        report = size(replace(options, shapes=(), budget=str(budget), png=None, family=family))
        rows = {r.shape: r for r in report.rows}
        assert len(rows) == len(report.rows) == len(report.runs) < 25
        assert sum("+" not in shape for shape in rows) < 20
        return report, rows, labs[0]

    return search


@pytest.mark.parametrize(("bits", "ratio"), [(2.5, 80.0), (0.8, 25.0), (0.1, 40.0)])
def test_the_search_ends_at_the_best_of_a_fine_grid(searched, bits, ratio):
    def bpb(parameters: int, shape: Shape) -> float:
        """Lowest at so many bits per weight and channels per block; a table is of no use."""
        size, depth = (
            np.log(8 * 300_000 / parameters / bits),
            np.log(shape.dim / shape.layers / ratio),
        )
        return 2.0 + 0.05 * size**2 + 0.05 * depth**2 + 0.1 * bool(shape.rows)

    report, rows, lab = searched(bpb)
    grid = [Shape(dim, layers) for dim in range(32, 400, 16) for layers in range(2, 11)]
    sizes = {s: lab.parameters(s) for s in grid}
    fitting = {s: n for s, n in sizes.items() if 0.4 <= 8 * 300_000 / n <= 16}
    best = min(bpb(n, s) for s, n in fitting.items())
    assert rows[report.best].artifact_bpb <= best + 0.005
    plain = [r.shape for r in report.rows if "+" not in r.shape]
    ends = report.best in (plain[0], plain[-1])
    assert ends == (bits == 0.1)
    assert ("end of the ladder" in " ".join(report.says)) == ends


@pytest.mark.parametrize(
    ("rows", "width", "triples"), [(32_768, 64, True), (2_048, 128, False), (4_096, 16, False)]
)
def test_the_search_finds_the_table_of_token_pairs(searched, rows, width, triples):
    def bpb(parameters: int, shape: Shape) -> float:
        """A table is worth the more, the nearer it comes to one."""
        base = 2.0 + 0.05 * np.log(lab_size(shape) / 700_000) ** 2
        if not shape.rows:
            return base
        off = np.log2(shape.rows / rows) ** 2 + np.log2(shape.width / width) ** 2
        return base - 0.3 + 0.01 * off + 0.02 * (shape.triples != triples)

    def lab_size(shape: Shape) -> int:
        return 12 * shape.layers * shape.dim**2

    report, found, lab = searched(bpb, budget=600_000)
    best = read_shape(report.best)
    widths = [2**n for n in range(4, 12) if 2**n <= best.dim]
    around = [
        Shape(best.dim, best.layers, 2**n, w, more)
        for n in range(10, 20)
        for w in widths
        for more in (False, True)
    ]
    fitting = [s for s in around if 8 * 600_000 / lab.parameters(s) >= 0.4]
    assert best.rows
    assert found[report.best].artifact_bpb == min(bpb(0, s) for s in fitting)
    assert report.recommended == report.best
    # No curve is about tables: the best shape in between is one without.
    assert "+" not in report.between.shape
    # A family without such tables is not asked for any.
    report, found, _ = searched(bpb, "llama", 600_000)
    assert not any("+" in shape for shape in found)


@pytest.mark.parametrize(("layers", "dim"), [(2, 96), (3, 128), (5, 192)])
def test_the_search_finds_the_blocks_that_a_table_leaves_time_for(searched, layers, dim):
    """Beside a table other blocks are the best ones than without, and the table stays the best."""

    def bpb(parameters: int, shape: Shape) -> float:
        wanted = (layers, dim) if shape.rows else (4, 176)
        off = np.log(shape.layers / wanted[0]) ** 2 + np.log(shape.dim / wanted[1]) ** 2
        if not shape.rows:
            return 2.0 + 0.3 * off
        table = abs(np.log2(shape.rows / 16_384)) + (shape.width != 32) + shape.triples
        return 1.7 + 0.3 * off + 0.05 * table

    report, found, _ = searched(bpb, budget=600_000)
    best = read_shape(report.best)
    assert best.table == (16_384, 32, False)
    assert best.layers == layers
    assert abs(np.log(best.dim / dim)) < np.log(1.25)
    asked = [read_shape(s) for s in found]
    assert len({s.plain for s in asked if s.table == best.table}) <= 10
    assert len({s for s in asked if s.rows and s.plain == read_shape("4x176")}) <= 8


def test_a_table_is_tried_where_one_as_large_as_the_rest_has_no_bits():
    def size_of(shape: Shape) -> int:
        return 12 * shape.layers * shape.dim**2 + shape.rows * shape.width

    best = Shape(160, 4)
    assert 8 * 100_000 / (2 * size_of(best)) < 0.4
    tried = tables(size_of, [best], best, 100_000)
    assert tried == [Shape(160, 4, 16_384, 32)]  # with twice the rows, 0.35 bits
    assert tables(size_of, [best, *tried], best, 100_000) == []


def test_names_of_shapes():
    for name, shape in (
        ("6x256", Shape(256, 6)),
        ("4x128+16384x64", Shape(128, 4, 16_384, 64)),
        ("4x128+16384x64x3", Shape(128, 4, 16_384, 64, triples=True)),
    ):
        assert read_shape(name) == shape
        assert shape.name == name
        assert shape.plain.name == name.partition("+")[0]
    for name in (
        "4x128+",
        "4x128+64",
        "0x128",
        "4x128+0x64",
        "4x128+64x0",
        "4x128-64x64",
        "4x128x3",
    ):
        with pytest.raises(UsageError, match="is no shape"):
            read_shape(name)
    golf, llama = (choose_family(name) for name in ("golf", "llama"))
    assert golf is not None
    assert llama is not None
    plain, table = options_of(golf, Shape(128, 4)), {"bigram_size": 16_384, "bigram_dim": 64}
    for more in (False, True):
        told = options_of(golf, Shape(128, 4, 16_384, 64, more))
        assert told == plain | table | {"bigram_trigram": more}
    with pytest.raises(UsageError, match="llama models have no table"):
        options_of(llama, Shape(128, 4, 16_384, 64))


@pytest.mark.parametrize("name", ["golf", "llama", "gpt2", "alph"])
def test_shapes_of_every_family_are_models(name):
    family = choose_family(name)
    assert family is not None
    for dim in range(32, 1024, 32):
        found = options_of(family, Shape(dim, 2))
        spec = family.spec(complete_options(family, {**found, "vocab_size": 512}, 64))
        assert spec.numel > 12 * dim * dim
    own = family.training.shape
    assert options_of(family, read_shape("6x256")) == own


def test_a_ladder_spans_the_bits_that_a_budget_can_give():
    golf = choose_family("golf")
    assert golf is not None

    def size_of(shape: Shape) -> int:
        options = {**options_of(golf, shape), "vocab_size": 1024, "seq_len": 256}
        return golf.spec(options).numel

    for budget in (200_000, 500_000, 16_000_000):
        rungs = ladder(size_of, budget)
        bits = [8 * budget / size_of(s) for s in rungs]
        assert bits == sorted(bits, reverse=True)
        np.testing.assert_allclose(np.log(bits), np.log(LADDER_BITS), atol=0.25)
    with pytest.raises(UsageError, match="no model with this vocabulary"):
        ladder(size_of, 4_000)
