"""Run Reports: a synthetic run of 5,297 records in 5,539 steps, and logs that are not in order."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golfpack.base.documents import to_json
from golfpack.errors import CorruptError, GolfpackError, StrictError, UsageError
from golfpack.runlog import figures, words
from golfpack.runlog.log import LogStep
from golfpack.runlog.shapes import alpha_parameters, bottleneck_parameters
from golfpack.runlog.write import RunReportOptions, runreport

RECORDS, STEPS, PLANNED = 5297, 5539, 50_000
# Records in each range of the run that this one is shaped after, by its end.
RANGES = {500: 490, 1000: 492, 2000: 789, 3000: 987, 4000: 1000, 5539: 1539}
PHASES = {"fwd": 1790, "bwd": 710, "optim": 22, "grad_norm": 22, "flush": 40, "data": 0.04}


def alpha_records() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    steps: list[int] = []
    first = 1
    for last, count in RANGES.items():
        inside = np.arange(first, last + 1)
        keep = np.concatenate([inside[:1], inside[-1:]])
        rest = rng.choice(inside[1:-1], count - 2, replace=False)
        steps += sorted(np.concatenate([keep, rest]).tolist())
        first = last + 1
    norms = rng.permutation(np.r_[
        rng.uniform(0.5, 100, RECORDS - 961), rng.uniform(100.1, 1000, 961 - 63),
        rng.uniform(1000.1, 4726, 63),
    ])  # fmt: skip
    records = []
    for step, norm in zip(steps, norms, strict=True):
        i = step - 1
        lr = 3e-6 + 2.7e-5 * min(1.0, (i + 1) / 500)
        records.append({
            "step": step, "loss": 8.4 - step / 2000, "lr": lr, "gradNorm": float(norm),
            "tokens_per_sec": 1590.0, "ms_per_iter": 2584.04, "elapsed_ms": 2584.04,
            **{f"timing_{name}_ms": ms for name, ms in PHASES.items()},
        })  # fmt: skip
        if step in (2500, 5000):
            records[-1]["valLoss"] = records[-1]["loss"] + 0.122
    return records


CONFIG = {
    "runId": "20260224064526_4kwo",
    "domain": "chat",
    "modelConfig": {
        "vocabSize": 4000, "blockSize": 256, "nLayer": 6, "nEmbd": 256, "nHead": 8, "dropout": 0.1,
    },
    "trainConfig": {"iters": PLANNED, "lr": 3e-5, "lrMin": 3e-6, "eps": 1e-8, "seed": 42},
}  # fmt: skip

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """write(records, config=None) -> a run's folder: alpha's with a configuration, else train.jsonl."""

    def make(records: list[Any], config: dict[str, Any] | None = None) -> Path:
        name = "train.jsonl" if config is None else "metrics.jsonl"
        text = "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records)
        (tmp_path / name).write_text(text, encoding="utf-8")
        if config is not None:
            (tmp_path / "config.json").write_text(json.dumps(config))
        return tmp_path

    return make


def section(text: str, title: str) -> str:
    return re.split(r"^#{2,3} ", text.split(f"# {title}")[1], maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str, title: str) -> list[list[str]]:
    """Cells of a section's table, without its head."""
    lines = [x for x in section(text, title).splitlines() if x.startswith("|")]
    return [[c.strip(" *") for c in line.strip("|").split("|")] for line in lines[2:]]


def test_a_run_of_5297_records(write: Write) -> None:
    records = alpha_records()
    folder = write(records, CONFIG)
    (folder / "checkpoint-2500.json").write_bytes(b"ALPH")
    report, text = runreport(RunReportOptions(folder))
    overview = dict(rows(text, "Overview"))
    assert overview["Total Metrics"] == "5,297"
    assert overview["Missing Steps"] == "242 of 5,539"
    assert overview["Final Step"] == "5,539 / 50,000 (11.1%)"
    assert overview["Status"] == "stopped at step 5,539"
    assert overview["Created"] == "2026-02-24T06:45:26+00:00"
    assert overview["Checkpoints Saved"] == "1 (step 2,500)"
    assert dict(rows(text, "Model Configuration"))["Total Parameters"] == "6,838,784 (6.84M)"
    training = dict(rows(text, "Training Configuration"))
    assert [training[k] for k in ("Learning Rate", "LR Min (cosine)", "Epsilon", "Seed")] == [
        "3e-5", "3e-6", "1e-8", "42",
    ]  # fmt: skip
    ranges = rows(text, "By Range")
    assert [r[0] for r in ranges] == [
        "0-500", "500-1,000", "1,000-2,000", "2,000-3,000", "3,000-4,000", "4,000-5,539",
    ]  # fmt: skip
    assert [r[3] for r in ranges] == ["490", "492", "789", "987", "1,000", "1,539"]
    assert sum(r.records for r in report.ranges) == report.coverage.records == RECORDS
    assert rows(text, "Spike Analysis") == [["> 100", "961", "18.1%"], ["> 1,000", "63", "1.2%"]]
    first = rows(text, "Milestone Steps")[0]
    assert (first[0], first[4]) == ("1", "3.05e-6")
    assert rows(text, "Evaluation Results") == [
        ["2,500", "7.150", "7.272", "0.122"], ["5,000", "5.900", "6.022", "0.122"],
    ]  # fmt: skip
    assert [r[0] for r in rows(text, "Final Steps (")][-1] == "5,539"
    norms = [r["gradNorm"] for r in records]
    assert report.gradients is not None
    for name, value in report.gradients.percentiles.items():
        assert value == np.percentile(norms, int(name[1:]), method="linear")
    shares = [p.share for p in report.timing.phases] if report.timing else []
    assert sum(shares) == pytest.approx(1.0)
    assert [r[2] for r in rows(text, "Per-Step Timing")][:5] == [
        "69.3%", "27.5%", "0.9%", "0.9%", "1.5%",
    ]  # fmt: skip
    assert report.warnings == ["242 of 5,539 steps have no record"]
    assert json.loads(to_json(report))["schema_version"] == 1


def test_sections_are_the_originals(shared: Path, write: Write) -> None:
    original = next((shared / "docs" / "seeds").glob("003_*")).read_text(encoding="utf-8")
    _, text = runreport(RunReportOptions(write(alpha_records(), CONFIG)))

    def headings(document: str) -> list[str]:
        return re.findall(r"^##? (?!Run Report)(.*)$", document, re.MULTILINE)

    assert headings(text) == headings(original)
    for title in ("Loss Curve", "Gradient Norm Analysis"):
        inner = [
            re.findall(
                r"^### ([A-Za-z ]+)", d.split(f"## {title}")[1].split("\n## ")[0], re.MULTILINE
            )
            for d in (text, original)
        ]
        assert inner[0] == inner[1]
    for title in ("By Range", "Milestone Steps", "Spike Analysis"):
        heads = [section(d, title).strip().splitlines()[0] for d in (text, original)]
        assert heads[0] == heads[1]


def test_foreign_analysis_errors_are_told_and_strict(write: Write) -> None:
    folder = write(FOREIGN)
    report, _ = runreport(RunReportOptions(folder))
    assert report.warnings == [
        "1 of 4 steps have no record",
        "1 records repeat a step",
        "1 analysis records are errors: shape is invalid",
    ]
    assert report.coverage.records == 5
    assert report.gradients is not None
    assert report.gradients.min == 150.0  # before clipping, not grad_norm_total
    assert (report.status, report.seconds) == ("completed", 60.0)
    assert report.kv_cache is not None
    assert report.kv_cache.ratio == 2.0
    with pytest.raises(StrictError, match="1 of 4 steps"):
        runreport(RunReportOptions(folder, strict=True))


def test_numbers_that_are_none_are_counted_and_kept_out(write: Write) -> None:
    records = [{"step": s, "loss": 2.0, "gradNorm": 1.0} for s in range(1, 11)]
    records[3]["loss"] = None  # as JavaScript writes NaN
    records[6]["gradNorm"] = float("inf")
    report, text = runreport(RunReportOptions(write(records, CONFIG)))
    assert report.coverage.nonfinite == 2
    assert (report.min_loss, report.final_loss) == (2.0, 2.0)
    assert report.gradients is not None
    assert report.gradients.records == 9
    assert ["4", "-"] in [r[:2] for r in rows(text, "Milestone Steps")]
    assert "2 records have a loss or norm that is not finite" in report.warnings
    to_json(report)


META = {"type": "meta", "golfpack_log": 1}


@pytest.mark.parametrize(
    ("records", "named"),
    [
        ([META, {"step": 1, "loss": 2.0}, "{'step': 2}"], "train.jsonl, line 3: not a JSON object"),
        ([META, {"step": 1, "loss": "two"}], "line 2: loss is 'two', not a number"),
        ([META, {"loss": 2.0}], "line 2: step is None, not a number of steps"),
        ([META, {"step": 1, "timing_ms": 3}], "line 2: timing_ms is not a JSON object"),
        ([], "train.jsonl is empty"),
    ],
)
def test_a_broken_line_is_named(write: Write, records: list[Any], named: str) -> None:
    with pytest.raises(CorruptError, match=re.escape(named)) as caught:
        runreport(RunReportOptions(write(records)))
    assert caught.value.hint


FOREIGN: list[dict[str, Any]] = [
    {"type": "meta", "step": 0, "env": {"device": "mps", "time": "2026-01-01T00:00:00+01:00"},
     "argv": ["x.py"], "args": {"steps": 40, "log_every": 10, "out_dir": "runs/x"},
     "config": {"attn_mode": "bottleneck", "n_layer": 2, "d_model": 8, "n_head": 2, "attn_dim": 4,
                "block_size": 16}},
    {"type": "eval", "step": 0, "train_loss": 3.0, "val_loss": 3.5},
    *({"type": "train", "step": s, "loss": 3.0, "grad_norm_total": 1.0, "grad_clip_norm": 150.0}
      for s in (1, 10, 20, 20, 40)),
    {"type": "analysis", "step": 10, "error": "shape is invalid",
     "wall_time": "2026-01-01T00:01:00+01:00"},
    {"type": "analysis", "step": 20, "attn_entropy_mean": 1.0},
]  # fmt: skip
OWN: list[dict[str, Any]] = [
    {"type": "meta", "golfpack_log": 1, "argv": ["train"], "versions": {"torch": "2"},
     "parameters": 9, "config": {"steps": 4, "log_every": 2}, "data": {"sources": ["a"], "tokens": 99},
     "model": {"num_layers": 2, "dim": 8, "num_heads": 2, "seq_len": 8, "vocab_size": 9}},
    {"type": "step", "step": 2, "loss": 2.0, "grad_norm": 1.0, "seconds": 1.0, "val_loss": 2.0,
     "tokens_per_second": 9.0, "timing_ms": {"step": 2.0, "forward": 1.0}, "time": "2026-01-01"},
    {"type": "sample", "step": 2, "prompt": "", "text": "a", "options": {"top_k": 1}},
    {"type": "end", "step": 4},
]  # fmt: skip
STRANGE = [None, "x", -1, [], {}, True, float("inf"), float("nan"), 0, 10**30, [1, 2], {"a": 1}]


def damaged(value: Any, rng: np.random.Generator) -> Any:
    """The value with one thing in it, at some depth, replaced or left out."""
    if not isinstance(value, dict) or not value or rng.random() < 0.1:
        return STRANGE[rng.integers(len(STRANGE))]
    key = list(value)[rng.integers(len(value))]
    rest = {k: v for k, v in value.items() if k != key}
    return rest if rng.random() < 0.2 else {**value, key: damaged(value[key], rng)}


@pytest.mark.parametrize("system", ["own", "foreign", "alpha"])
def test_damage_ends_in_a_report_or_in_a_named_error(write: Write, system: str) -> None:
    rng = np.random.default_rng(0)
    lines = {"own": OWN, "foreign": FOREIGN, "alpha": [*alpha_records()[:4], CONFIG]}[system]
    outcomes = set()
    for _ in range(100):
        at = 0 if rng.random() < 0.4 else int(rng.integers(len(lines)))
        broken = [damaged(x, rng) if i == at else x for i, x in enumerate(lines)]
        folder = write(broken[:-1], broken[-1] or {}) if system == "alpha" else write(broken)
        for form in ("report", "summary"):
            try:
                report, _ = runreport(RunReportOptions(folder, form=form))
                outcomes.add(json.loads(to_json(report))["system"])
            except GolfpackError:
                outcomes.add("error")
    assert len(outcomes) == 2


def test_a_line_cut_short_at_the_end_is_left_out(write: Write) -> None:
    folder = write([META, {"type": "step", "step": 1, "loss": 2.0}])
    with (folder / "train.jsonl").open("a") as log:
        log.write('{"type": "step", "ste')
    report, text = runreport(RunReportOptions(folder))
    assert report.coverage.records == 1
    assert "line 3: cut short" in report.warnings[0]
    assert "**Warning**" in section(text, "Overview")


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda d: None, "holds no training log"),
        (lambda d: (d / "train.jsonl").write_text('{"epoch": 1}\n'), "of no known system"),
        (lambda d: (d / "metrics.jsonl").write_text("{}\n"), "there is no .*config.json"),
    ],
)
def test_folders_without_a_run_are_refused(
    tmp_path: Path, make: Callable[[Path], object], named: str
) -> None:
    make(tmp_path)
    with pytest.raises(UsageError, match=named):
        runreport(RunReportOptions(tmp_path))


def test_notes_go_to_their_sections(write: Write) -> None:
    folder = write(alpha_records()[:50], CONFIG)
    notes = folder / "notes.md"
    notes.write_text("# Notes\n\n## Key Fixes\n\n1. Dropout.\n\n## evaluation\n\nToo early.\n")
    _, text = runreport(RunReportOptions(folder, notes=notes))
    assert section(text, "Key Fixes Applied This Run").strip() == "1. Dropout."
    assert section(text, "Evaluation Results").strip().endswith("Too early.")
    assert "`--notes`" in section(text, "Diagnostic Notes")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("## Loss\n## Fixes\n", "line 2: a report has no section 'Fixes'"),
        ("hello\n", "line 1: text before the first section"),
        ("## Loss\na\n## Loss Curve\nb\n", "line 3: a second 'Loss Curve'"),
    ],
)
def test_notes_for_no_section_are_refused(write: Write, text: str, named: str) -> None:
    folder = write([META])
    (folder / "notes.md").write_text(text)
    with pytest.raises(UsageError, match=named):
        runreport(RunReportOptions(folder, notes=folder / "notes.md"))


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=60))
def test_ranges_hold_every_record_once(steps: list[int]) -> None:
    records = [LogStep(s, loss=1.0) for s in steps]
    ranges = figures.loss_ranges(records)
    assert sum(r.records for r in ranges) == len(steps)
    assert [r.last for r in ranges[:-1]] == [r.first for r in ranges[1:]]
    assert len(ranges) <= figures.MOST_RANGES + 1
    assert {m.step for m in figures.milestones(records)} <= set(steps)


@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=40), st.floats(0, 1e5))
def test_shares_of_a_step_sum_to_one(times: list[float], whole: float) -> None:
    steps = [
        LogStep(i, step_ms=whole, phases={"forward": t, "data": t / 3}) for i, t in enumerate(times)
    ]
    timing = figures.timing(steps)
    assert timing is not None
    assert timing.step_ms >= sum(p.ms for p in timing.phases) - 1e-6 * timing.step_ms
    if timing.step_ms > 0:
        assert sum(p.share for p in timing.phases) == pytest.approx(1.0)


def test_numbers_are_written_as_reports_write_them() -> None:
    assert [words.exponent(v) for v in (3.05e-6, 3e-5, 0.03, 0.0)] == [
        "3.05e-6", "3.00e-5", "3.00e-2", "0.00e0",
    ]  # fmt: skip
    assert [words.norm(v) for v in (4726.57, 13.95, 0.529, 0.0123, None)] == [
        "4,726.57", "13.95", "0.529", "0.0123", "-",
    ]  # fmt: skip
    assert [words.setting(v) for v in (3e-5, 1e-8, 1.5e-4, 0.1, 50_000, None, True)] == [
        "3e-5", "1e-8", "1.5e-4", "0.1", "50,000", "none", "yes",
    ]  # fmt: skip
    assert [words.share(v) for v in (0.694, 0.0085, 0.0004, 1.5e-5, 0.0)] == [
        "69.4%", "0.9%", "0.04%", "<0.01%", "0.0%",
    ]  # fmt: skip
    assert [words.duration(v) for v in (15044, 61, 0.4)] == [
        "4 hours 10 minutes", "1 minute 1 second", "0 seconds",
    ]  # fmt: skip
    assert words.millions(6_838_784) == "6,838,784 (6.84M)"


DBA = {"vocab_size": 50257, "mlp": "swiglu", "learned_temp": True, "kv_head": None}
BOTTLENECKS = [
    ({"n_layer": 18, "n_head": 16, "d_model": 2048, "d_ff": 8192, "embed_dim": 2048, "tie_qk": True,
      "attn_mode": "decoupled", "attn_dim": 512, "sem_dim": 32, "geo_dim": 64, "null_attn": False},
     1_050_335_520),
    ({"n_layer": 12, "n_head": 12, "d_model": 768, "d_ff": 3072, "embed_dim": 512, "tie_qk": False,
      "attn_mode": "decoupled", "attn_dim": 144, "sem_dim": 48, "geo_dim": 96, "null_attn": False},
     116_799_632),
    ({"n_layer": 6, "n_head": 8, "d_model": 512, "d_ff": 2048, "embed_dim": 512, "tie_qk": False,
      "attn_mode": "bottleneck", "attn_dim": 96, "sem_dim": 32, "geo_dim": 64, "null_attn": True},
     45_800_112),
]  # fmt: skip


@pytest.mark.parametrize(("config", "parameters"), BOTTLENECKS)
def test_weights_are_counted(config: dict[str, Any], parameters: int) -> None:
    assert bottleneck_parameters({**DBA, **config}) == parameters
    assert bottleneck_parameters({}) is None
    assert alpha_parameters({"nEmbd": 256}) is None
