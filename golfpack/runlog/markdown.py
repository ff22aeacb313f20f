"""The Run Report: sections and tables in the form of thomasdavis/alpha2's reports."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from golfpack.kv.layout import human_bytes
from golfpack.runlog import words
from golfpack.runlog.figures import GradientNorms, Timing
from golfpack.runlog.notes import PROSE, SECTIONS
from golfpack.runlog.report import RunReport, StepRow

# What systems call the same thing, by the name readers know; the first that is there counts.
_WIDTH = ("dim", "d_model", "nEmbd")
_HEADS = ("num_heads", "n_head", "nHead")
MODEL_ROWS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Layers", ("num_layers", "n_layer", "nLayer")),
    ("Embedding Dim", _WIDTH),
    ("Attention Heads", _HEADS),
    ("KV Heads", ("num_kv_heads", "kv_head")),
    ("Vocab Size", ("vocab_size", "vocabSize")),
    ("Block Size (Context)", ("seq_len", "block_size", "blockSize")),
    ("Dropout", ("dropout",)),
)
ARGS_ROWS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Optimizer", ("optimizer",)),
    ("Learning Rate", ("matrix_lr", "lr")),
    ("LR Min (cosine)", ("lrMin", "min_lr")),
    ("Warmup Steps", ("warmup_steps", "warmupIters", "warmup")),
    ("Beta1", ("beta1",)),
    ("Beta2", ("beta2",)),
    ("Epsilon", ("eps", "adam_eps")),
    ("Weight Decay", ("weight_decay", "weightDecay")),
    ("Gradient Clip", ("grad_clip", "gradClip")),
    ("Batch Size", ("batchSize", "batch_size")),
    ("Batch Tokens", ("batch_tokens",)),
    ("Grad Accum Steps", ("gradAccumSteps", "grad_accum")),
    ("Eval Interval", ("val_every", "evalInterval", "eval_every")),
    ("Eval Iters", ("evalIters", "eval_iters")),
    ("Sample Interval", ("sample_every", "sampleInterval")),
    ("Seed", ("seed",)),
    ("Tokenizer", ("tokenizer",)),
    ("Backend", ("backend", "device")),
)
# Settings of `golfpack train` that an optimiser has no use for.
_MUONS = (
    "matrix_lr", "embed_lr", "head_lr", "scalar_lr", "momentum", "momentum_start", "momentum_steps",
    "embed_decay", "scalar_decay",
)  # fmt: skip
_UNUSED = {"muon": ("lr",), "adamw": _MUONS, "lion": (*_MUONS, "eps")}
ARCHITECTURES = {
    "golfpack": "golf",  # what logs of before there were other families are of
    "bottleneck": "decoupled bottleneck attention",
    "alpha": "GPT-2",
}
# Values that mean: without this. They share one row, so that what is set stands out.
_OFF = (False, 0, None, "", "none")
NO_NOTES = "No notes: give them with `--notes`, below `## {}`."
_MARKUP = re.compile(r"([\\`*_\[\]<>#|~])")


def report_markdown(report: RunReport) -> str:
    """The whole document. Every section is there, even if only to say that there is nothing."""
    lines = [f"# Run Report: {report.run_id}", ""]
    for title in SECTIONS:
        body = _BODIES[title](report) if title in _BODIES else []
        note = report.notes.get(title)
        if title in PROSE and not note:
            note = NO_NOTES.format(title)
        lines += [f"## {title}", "", *body, *([note, ""] if note else [])]
    return "\n".join(lines)


def _overview(r: RunReport) -> list[str]:
    best = f"{words.loss(r.best_val_loss)} (step {words.count(r.best_val_step)})"
    rows = {
        "Run ID": f"`{r.run_id}`",
        "Domain": r.domain,
        "Status": r.status,
        "Created": r.created,
        "Last Update": r.updated,
        "Duration": words.duration(r.seconds) if r.seconds is not None else None,
        "Time in Logged Steps": words.duration(r.step_seconds) if r.step_seconds else None,
        "Final Step": _position(r),
        "Final Loss": words.loss(r.final_loss),
        "Best Val Loss": best if r.best_val_loss is not None else None,
        "Min Loss": words.loss(r.min_loss),
        "Total Metrics": words.count(r.coverage.records),
        "Missing Steps": _missing(r),
        "Duplicate Records": words.count(r.coverage.duplicates),
        "Non-finite Records": words.count(r.coverage.nonfinite),
        "Checkpoints Saved": _checkpoints(r.checkpoints),
        "Resumed": ", ".join(f"from step {s:,}" for s in r.resumed) or None,
        "Files": ", ".join(f"`{n}` ({human_bytes(s)})" for n, s in r.files.items()) or None,
    }
    return [*_facts("Field", rows), *_warnings(r)]


def _position(r: RunReport) -> str:
    if r.last_step is None or not r.planned_steps:
        return words.count(r.last_step)
    done = r.last_step / r.planned_steps
    return f"{r.last_step:,} / {r.planned_steps:,} ({done:.1%})"


def _missing(r: RunReport) -> str:
    if r.coverage.expected is None:
        return "unknown: the log does not tell one interval of its records"
    return f"{r.coverage.missing:,} of {r.coverage.expected:,}"


def _checkpoints(steps: Sequence[int]) -> str:
    if not steps:
        return "0"
    if len(steps) <= 4:
        return f"{len(steps)} ({', '.join(f'step {s:,}' for s in steps)})"
    return f"{len(steps):,} (steps {steps[0]:,} to {steps[-1]:,})"


def _warnings(r: RunReport) -> list[str]:
    return [*(f"- **Warning**: {_escape(w)}" for w in r.warnings), ""] if r.warnings else []


def _model(r: RunReport) -> list[str]:
    rows, rest = _labelled(r.model, MODEL_ROWS)
    rows = {
        "Architecture": f"{r.family or ARCHITECTURES[r.system]} (decoder-only transformer)",
        **rows,
    }
    width, heads = (_first(r.model, names) for names in (_WIDTH, _HEADS))
    if isinstance(width, int) and isinstance(heads, int) and heads > 0:
        rows["Head Dim"] = words.setting(width // heads)
    if r.parameters is not None:
        rows["Total Parameters"] = words.millions(r.parameters)
    if r.kv_cache is not None:
        context = r.kv_cache.context
        rows["KV Cache (batch=1)"] = f"{human_bytes(r.kv_cache.bytes)} at {context:,} tokens"
    return _facts("Parameter", rows | rest)


def _training(r: RunReport) -> list[str]:
    unused = _UNUSED.get(str(r.args.get("optimizer")), ()) if r.system == "golfpack" else ()
    own = {
        name: v
        for name, v in r.args.items()
        if name not in unused and (name not in r.model or r.model[name] != v)
    }
    rows, rest = _labelled(own, ARGS_ROWS)
    if r.args.get("seed") is not None:
        rows["Seed"] = str(r.args["seed"])  # a name more than a number
    return _facts("Parameter", rows | rest)


def _labelled(
    values: Mapping[str, Any], labels: Sequence[tuple[str, tuple[str, ...]]]
) -> tuple[dict[str, str | None], dict[str, str | None]]:
    """Rows under the names readers know, and what else is set under its own name."""
    found = {label: next((n for n in names if n in values), None) for label, names in labels}
    rows: dict[str, str | None] = {
        label: words.setting(values[name]) for label, name in found.items() if name is not None
    }
    others = {n: v for n, v in values.items() if n not in found.values()}
    rest: dict[str, str | None] = {
        f"`{n}`": words.setting(v) for n, v in others.items() if v not in _OFF
    }
    off = ", ".join(f"`{n}`" for n, v in others.items() if v in _OFF)
    return rows, rest | ({"Off, zero or unset": off} if off else {})


def _first(values: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((values[n] for n in names if n in values), None)


def _infrastructure(r: RunReport) -> list[str]:
    speed = f"{words.milliseconds(r.mean_step_ms)}/step" if r.mean_step_ms else None
    rate = r.mean_tokens_per_second
    rows = {
        **r.infrastructure,
        "Avg Speed": speed,
        "Avg Throughput": f"{words.count(rate)} tokens/sec" if rate else None,
    }
    return _facts("Field", rows)


def _data(r: RunReport) -> list[str]:
    found = [f"- **{name}**: {value}" for name, value in r.data.items()]
    return [*(found or ["The log says nothing about its data."]), ""]


def _curve(r: RunReport) -> list[str]:
    if not r.final_steps:
        return ["The log has no records of steps.", ""]
    ranges = [
        (f"{x.first:,}-{x.last:,}", words.loss(x.mean), words.loss(x.min), words.count(x.records))
        for x in r.ranges
    ]
    first, last = r.final_steps[0].step, r.final_steps[-1].step
    return [
        "### By Range",
        "",
        *_table(("Step Range", "Avg Loss", "Min Loss", "Steps"), ranges),
        "### Milestone Steps",
        "",
        *_table(
            ("Step", "Loss", "Val Loss", "Grad Norm", "LR", "Tokens/s", "ms/step"),
            map(_milestone, r.milestones),
        ),
        f"### Final Steps ({first:,}-{last:,})",
        "",
        *_table(
            ("Step", "Loss", "Grad Norm"),
            ((f"{s.step:,}", words.loss(s.loss), words.norm(s.grad_norm)) for s in r.final_steps),
        ),
    ]


def _milestone(s: StepRow) -> tuple[str, ...]:
    return (
        f"{s.step:,}", words.loss(s.loss), words.loss(s.val_loss), words.norm(s.grad_norm),
        words.exponent(s.lr), words.count(s.tokens_per_second),
        words.milliseconds(s.step_ms).removesuffix(" ms"),
    )  # fmt: skip


def _evaluations(r: RunReport) -> list[str]:
    if not r.evaluations:
        return ["The run has no validation losses.", ""]
    rows = [
        (f"{e.step:,}", words.loss(e.train_loss), words.loss(e.val_loss), words.loss(e.gap))
        for e in r.evaluations
    ]
    return _table(("Step", "Train Loss", "Val Loss", "Gap"), rows)


def _gradients(r: RunReport) -> list[str]:
    g = r.gradients
    if g is None:
        return ["The log has no gradient norms from before clipping.", ""]
    facts = {"Average": words.norm(g.mean), "Min": words.norm(g.min), "Max": words.norm(g.max)}
    return [
        *_facts("Metric", facts),
        "### Percentile Distribution",
        "",
        *_table(("Percentile", "Grad Norm"), _percentiles(g)),
        "### Spike Analysis",
        "",
        *_table(
            ("Threshold", "Count", "Percentage"),
            ((f"> {s.threshold:,.0f}", f"{s.count:,}", f"{s.share:.1%}") for s in g.spikes),
        ),
        f"Norms before clipping, of {g.records:,} records.",
        "",
    ]


def _percentiles(g: GradientNorms) -> Iterable[tuple[str, str]]:
    for name, value in g.percentiles.items():
        cells = ("p50 (median)" if name == "p50" else name, words.norm(value))
        yield cells if name != "p50" else (f"**{cells[0]}**", f"**{cells[1]}**")


def _timing(r: RunReport) -> list[str]:
    t: Timing | None = r.timing
    if t is None:
        return ["The log has no breakdown of a step's time.", ""]
    rows = [(p.name, words.milliseconds(p.ms), words.share(p.share)) for p in t.phases]
    rows.append(("**Total**", f"**{words.milliseconds(t.step_ms)}**", "**100%**"))
    return [
        *_table(("Phase", "Time", "% of Step"), rows),
        f"Means over {t.records:,} records.",
        "",
    ]


def _samples(r: RunReport) -> list[str]:
    if not r.samples:
        return ["The log has no samples.", ""]
    lines = []
    for step in dict.fromkeys(s.step for s in r.samples):
        of_step = [s for s in r.samples if s.step == step]
        loss = of_step[0].loss
        at = "" if loss is None else f" (loss ~{loss:.2f})"
        lines += [f"### From Step {step:,}{at}", ""]
        if of_step[0].settings:
            lines += [f"Sampled with: `{of_step[0].settings}`", ""]
        for sample in of_step:
            prompt = f'"{_escape(sample.prompt)}"' if sample.prompt else "(start of a document)"
            lines += [f"**{prompt}**", *_quoted(sample.text), ""]
    return lines


def _quoted(text: str) -> list[str]:
    return [f"> {_escape(line)}".rstrip() for line in text.splitlines() or [""]]


def _escape(text: str) -> str:
    """Text that a model or another program wrote, as plain words of markdown."""
    return _MARKUP.sub(r"\\\1", text.replace("\n", " "))


def _facts(name: str, rows: Mapping[str, str | None]) -> list[str]:
    """A table of two columns; rows without a value are left out."""
    shown = ((f"**{k}**", v) for k, v in rows.items() if v is not None)
    return _table((name, "Value"), shown)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        plain = (cell.replace("\n", " ").replace("|", "&#124;") for cell in cells)
        return f"| {' | '.join(plain)} |"

    return [line(header), f"|{'|'.join('-' * (len(c) + 2) for c in header)}|", *map(line, rows), ""]


_BODIES: dict[str, Callable[[RunReport], list[str]]] = {
    "Overview": _overview,
    "Model Configuration": _model,
    "Training Configuration": _training,
    "Infrastructure": _infrastructure,
    "Training Data": _data,
    "Loss Curve": _curve,
    "Evaluation Results": _evaluations,
    "Gradient Norm Analysis": _gradients,
    "Per-Step Timing Breakdown (typical)": _timing,
    "Inference Samples": _samples,
}
