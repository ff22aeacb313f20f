"""What a submission's folder says of itself: README.md, submission.json, requirements.txt."""

import json
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from golfpack import __version__
from golfpack.base.defaults import SUBMISSION_BYTES
from golfpack.eval.report import StatsReport
from golfpack.export.decoder import uses
from golfpack.packer.format.loader import Artifact
from golfpack.submission.count import ARTIFACT, LOGS, REQUIREMENTS, SCRIPT
from golfpack.submission.logs import figure
from golfpack.submission.parts import Parts, SubmissionOptions

# The oldest torch with all that the network calls: rms_norm (2.4), grouped queries in attention (2.5).
_TORCH = "torch>=2.5"


def requirements(artifact: Artifact) -> str:
    """`requirements.txt`: the script's imports beside the standard library's."""
    return "\n".join([_TORCH, "numpy>=2.0", *uses(artifact).packages]) + "\n"


def table(parts: Parts, options: SubmissionOptions) -> str:
    """`submission.json`: the fields of the challenge's records, and what `golfpack verify` reads."""
    author, logs = options.author, parts.logs
    told: dict[str, Any] = {
        "author": author.author,
        "github_id": author.github_id,
        "name": _name(options),
        "blurb": author.blurb,
        "date": datetime.now(UTC).date().isoformat(),
        "track": "10min_16mb" if parts.budget == SUBMISSION_BYTES else None,
        "val_loss": figure(logs.mean("val_loss")),
        "val_bpb": figure(logs.mean("val_bpb")),
        "val_bpb_std": figure(logs.std("val_bpb")),
        "pre_quant_val_bpb": figure(_float_bpb(parts)),
        "seed_results": {
            name: {"val_bpb": figure(e["val_bpb"]), "artifact_bytes": e.get("model_bytes")}
            for name, e in logs.evaluations.items()
        },
        "bytes_total": parts.total,
        "bytes_model": len(parts.files[ARTIFACT]),
        "bytes_code": parts.code,
        "pytorch_version": metadata.version("torch"),
    }
    told = {k: v for k, v in told.items() if v is not None and v != {}}
    told["golfpack"] = {
        "version": __version__,
        "budget": parts.budget,
        "artifact_sha256": parts.sha256(ARTIFACT),
        "script_sha256": parts.sha256(SCRIPT),
        "checkpoint_sha256": None if parts.original is None else parts.original.sha256,
        "ttt": {
            "name": parts.training.name,
            "kind": parts.training.kind,
            "options": parts.training.all_options(),
        },
    }
    return json.dumps(told, indent=2) + "\n"


def _float_bpb(parts: Parts) -> float | None:
    """Of the float model, where the evaluation of this very artifact has it."""
    sha256 = parts.artifact.container.sha256
    own = (e for e in parts.logs.evaluations.values() if e.get("model_sha256") == sha256)
    return next((e["float_bpb"] for e in own if e.get("float_bpb") is not None), None)


def _name(options: SubmissionOptions) -> str:
    return options.author.name or options.artifact.stem


def readme(parts: Parts, options: SubmissionOptions) -> str:
    """`README.md`."""
    sections = [
        f"# {_name(options)}",
        options.author.blurb,
        _bytes(parts),
        _scores(parts),
        _run(parts),
        _inside(parts),
        _origin(parts),
    ]
    return "\n\n".join(s for s in sections if s) + "\n"


def _bytes(parts: Parts) -> str:
    rows = [f"| `{name}` | {len(data):,} |" for name, data in parts.files.items()]
    left = parts.budget - parts.total
    return "\n".join([
        "## Bytes", "",
        "| counted file | bytes |", "|---|---:|", *rows, f"| together | {parts.total:,} |", "",
        f"Of {parts.budget:,} bytes {left:,} ({left / parts.budget:.3%}) are left.",
    ])  # fmt: skip


def _scores(parts: Parts) -> str:
    logs = parts.logs
    if not logs.evaluations:
        return ""
    rows = [
        f"| `{LOGS}/{name}` | {e['mode']}, ttt {e['ttt']} | {e['val_loss']:.6f} | {e['val_bpb']:.6f} | "
        f"{e['scored_tokens']:,} | {e['scored_bytes']:,} |"
        for name, e in logs.evaluations.items()
    ]
    lines = [
        "## Score", "",
        "| evaluation | scored | nats per token | bits per byte | tokens | bytes |",
        "|---|---|---:|---:|---:|---:|", *rows,
    ]  # fmt: skip
    std = logs.std("val_bpb")
    if std is not None:
        mean = logs.mean("val_bpb")
        lines += ["", f"{len(rows)} runs: {mean:.6f} bits per byte, standard deviation {std:.6f}."]
    if logs.stats is not None:
        lines += ["", _significance(logs.stats)]
    return "\n".join(lines)


def _significance(stats: StatsReport) -> str:
    nats, verdict = stats.nats, "met" if stats.meets_rule else "NOT met"
    return (
        f"Against the baseline {stats.baseline}: {nats['improvement']:+.6f} nats per token better, "
        f"p = {nats['p_margin']:.3g} for an improvement of {stats.margin_nats} or less (one-sided "
        f"t-test). The rule ({stats.margin_nats} nats at p < {stats.significance}) is {verdict}."
    )


def _run(parts: Parts) -> str:
    config = parts.model.config
    size = config["vocab_size"]
    variables = {
        "VAL_FILES": ("glob of validation shards", "`$DATA_PATH/fineweb_val_*.bin`"),
        "DATA_PATH": ("their folder", f"`./data/datasets/fineweb10B_sp{size}`"),
        "TOKENIZER_PATH": (
            "SentencePiece model; bytes per token are read from it",
            f"`./data/tokenizers/fineweb_{size}_bpe.model`",
        ),
        "BYTE_FILES": ("glob of side-car shards that count bytes in its place", "none"),
        "SCORES": (f"what to score, of {', '.join(scores(parts))}", "all"),
        "WINDOW": ("tokens per window", config["seq_len"]),
        "STRIDE": ("targets that each later sliding window scores", min(64, config["seq_len"])),
        "LIMIT": ("tokens to read", "all"),
    }
    rows = [f"| `{name}` | {what} | {usual} |" for name, (what, usual) in variables.items()]
    return "\n".join([
        "## Run", "",
        f"    pip install -r {REQUIREMENTS}",
        f"    python {SCRIPT}",
        f"    torchrun --standalone --nproc_per_node=8 {SCRIPT}",
        f"    VAL_FILES=val.bin TOKENIZER_PATH=bpe.model LIMIT=16385 python {SCRIPT}", "",
        "It prints a line for each score. Ranks share the work, and their number changes the result by",
        "rounding alone. On a GPU it computes in bfloat16 (autocast), on the CPU in float32.",
        "Environment variables say what is read:", "",
        "| variable | what it is | default |", "|---|---|---|", *rows,
    ])  # fmt: skip


def scores(parts: Parts) -> list[str]:
    """What the script can score."""
    return ["plain", "sliding", *(["ttt"] if parts.training.kind else [])]


def _inside(parts: Parts) -> str:
    lines = [
        "## What is inside", "",
        f"`{SCRIPT}` is a script out of golfpack's modules, packed (LZMA): the decoder of",
        f"`{ARTIFACT}`, this model's network, windows, bytes per token, scoring. It does not train the",
        "model: the training script is no part of this folder unless it is listed above.",
    ]  # fmt: skip
    training = parts.training
    if training.kind:
        told = ", ".join(f"`{k} = {v}`" for k, v in training.all_options().items())
        lines += [
            "", f"Test-time training: `{training.kind}` with {told}.",
            "Score first: every token is scored once, left to right, before anything learns from it.",
        ]  # fmt: skip
    return "\n".join(lines)


def _origin(parts: Parts) -> str:
    rows = [
        f"| `{ARTIFACT}` | `{parts.sha256(ARTIFACT)}` |",
        f"| `{SCRIPT}` | `{parts.sha256(SCRIPT)}` |",
    ]
    if parts.original is not None:
        rows.append(f"| float checkpoint | `{parts.original.sha256}` |")
    head = f"Made by golfpack {__version__}; `golfpack verify` counts this folder and runs it."
    return "\n".join(["## Origin", "", head, "", "| file | sha256 |", "|---|---|", *rows])
