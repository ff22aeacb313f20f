"""`golfpack eval`: its options, and what it prints."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from golfpack.commands import complete
from golfpack.commands.options import (
    CORES,
    Compile,
    CompileMode,
    Device,
    Json,
    KvCache,
    KvResidual,
    Model,
    ModelArgs,
    Quiet,
    Set,
    Strict,
    Threads,
    Ttt,
    compile_mode,
)
from golfpack.commands.render.console import Reporter, out, show_assumed, show_json, warn
from golfpack.commands.render.tables import plain_table

if TYPE_CHECKING:
    from golfpack.eval.report import EvalReport

EXAMPLES = (
    "Examples: golfpack eval ckpt.golf --tokens val.bin --tokenizer bpe.model | "
    "golfpack eval ckpt.golf --float ckpt.pt --tokens 'val_*.bin' --tokenizer t.model --mode sliding | "
    "golfpack eval ckpt.golf --tokens val.bin --tokenizer bpe.model --ttt sgd --set ttt.lr=0.002 | "
    "torchrun --nproc-per-node 8 -m golfpack eval ckpt.golf --device cuda ..."
)


def evaluate(
    path: Annotated[Path, typer.Argument(help="Checkpoint or .golf artifact.")],
    tokens: Annotated[str, typer.Option(help="Token shard, glob of shards, or text.")],
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            help="SentencePiece model or tokenizer.json of the tokens. Default: the one inside the "
            "artifact, or in a checkpoint that is a folder; without one, scores are in nats per token."
        ),
    ] = None,
    mode: Annotated[
        str,
        typer.Option(
            help="plain or sliding windows, or stream: token by token, by a KV cache.",
            autocompletion=complete.mode,
        ),
    ] = "plain",
    window: Annotated[
        int | None,
        typer.Option("--window", min=1, help="Tokens per window. Default: the trained length."),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(min=1, help="Targets each later sliding window scores. Default: 64."),
    ] = None,
    kv_cache: KvCache = None,
    kv_residual: KvResidual = None,
    ttt: Ttt = "none",
    limit: Annotated[
        int | None, typer.Option(min=2, help="Tokens to read; targets are one fewer.")
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option("--float", help="Float checkpoint, for the quantization gap.")
    ] = None,
    byte_counts: Annotated[
        str | None, typer.Option(help="Glob of _bytes_ shards that count the bytes of each token.")
    ] = None,
    source_text: Annotated[
        Path | None,
        typer.Option(help="The tokens' raw text: count documents the tokenizer changes."),
    ] = None,
    device: Device = "auto",
    batch_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens per forward pass. Default: what suits the device."),
    ] = None,
    compiled: Compile = False,
    mode_of_compile: CompileMode = None,
    legality: Annotated[bool, typer.Option(help="Check that the run is legal.")] = True,
    per_document: Annotated[
        bool, typer.Option("--per-document", help="Loss of each document, in the JSON.")
    ] = False,
    per_position: Annotated[
        bool, typer.Option("--per-position", help="Loss by context length, in the JSON.")
    ] = False,
    strict: Strict = False,
    model: Model = None,
    model_args: ModelArgs = None,
    settings: Set = None,
    threads: Threads = CORES,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score a model in bits per byte, every target once, with an audit of bytes and of legality."""
    from golfpack.eval.evaluate import evaluate as run
    from golfpack.eval.inputs import EvalOptions
    from golfpack.models.choose import choose_family

    first = os.environ.get("RANK", "0") == "0"  # under torchrun one rank speaks for all
    options = EvalOptions(
        path, tokens, tokenizer, mode=mode, window=window, stride=stride, ttt=ttt, limit=limit,
        settings=tuple(settings or ()), baseline=baseline, byte_counts=byte_counts,
        source_text=source_text, threads=threads, device=device, batch_tokens=batch_tokens,
        compiled=compile_mode(compiled, mode_of_compile), legality=legality,
        per_document=per_document, per_position=per_position, strict=strict, argv=sys.argv[1:],
        family=choose_family(model, model_args or ()), kv_cache=kv_cache, kv_residual=kv_residual,
    )  # fmt: skip
    with Reporter(quiet or not first) as notify:
        report = run(options, notify)
    if not first:
        return
    show_assumed(report.assumed)
    warn(report.warnings)
    if json:
        show_json(report)
    else:
        show_eval(report)


def show_eval(report: "EvalReport") -> None:
    """The figures of an evaluation."""
    table = plain_table()
    training = "" if report.ttt == "none" else f", test-time training {report.ttt}"
    for name, value in (
        ("val_loss", f"{report.val_loss:.6f} nats per token"),
        ("val_bpb", _bpb_line(report)),
        ("scored", f"{report.scored_tokens:,} of {report.targets:,} targets, once each"),
        *_text_lines(report),
        ("mode", f"{report.mode}, window {report.window}{_stride(report)}{training}"),
        ("legality", _legality_line(report)),
        ("model", f"{report.model_bytes:,} bytes, sha256 {report.model_sha256[:16]}"),
        ("tokens", f"sha256 {report.tokens_sha256[:16]}"),
        ("seconds", f"{report.seconds:.1f} ({report.tokens_per_second:,.0f} tokens per second)"),
    ):
        table.add_row(name, value)
    if report.quant_gap is not None:
        table.add_row("float", f"{report.float_bpb:.6f} bits per byte")
        table.add_row("quant gap", f"{report.quant_gap:+.6f} bits per byte")
    elif report.float_loss is not None:
        table.add_row("float", f"{report.float_loss:.6f} nats per token")
        table.add_row("quant gap", f"{report.val_loss - report.float_loss:+.6f} nats per token")
    if report.spread is not None:
        s = report.spread
        table.add_row(
            "give or take",
            f"{s.quant_gap:.6f} the gap, {s.float_bpb:.6f} the float: standard errors over "
            f"{s.stretches} stretches of the text",
        )
    out.print(table)


def _bpb_line(report: "EvalReport") -> str:
    if report.val_bpb is None:
        return "not known without a tokenizer; --tokenizer FILE tells the bytes behind the tokens"
    return f"{report.val_bpb:.6f} bits per byte"


def _text_lines(report: "EvalReport") -> list[tuple[str, str]]:
    """What is known of the text behind the tokens."""
    if report.byte_audit is None:
        return []
    return [
        ("bytes", f"{report.scored_bytes:,} by the {_bytes_source(report)}"),
        ("audit", _audit_line(report.byte_audit)),
        ("documents", _documents_line(report)),
    ]


def _bytes_source(report: "EvalReport") -> str:
    if report.bytes_source == "text":
        return "text itself"
    if report.bytes_source == "table":
        return "tokenizer's table"
    return f"side-car {report.bytes_source}"


def _stride(report: "EvalReport") -> str:
    options = report.options
    if report.mode == "stream":
        return f", cache {options['kv_cache']}, {options['kv_bytes']:,} bytes a window"
    return f", stride {options['stride']}" if report.mode == "sliding" else ""


def _documents_line(report: "EvalReport") -> str:
    tried = report.round_trip
    line = f"{report.documents:,}"
    if tried is not None and tried["documents"]:
        line += f"; {tried['lossy']:,} of {tried['documents']:,} whole ones do not round-trip"
    return line


def _legality_line(report: "EvalReport") -> str:
    if report.legality is None:
        return "not checked"
    return ", ".join(f"{c['name']} {'ok' if c['passed'] else 'FAILED'}" for c in report.legality)


def _audit_line(audit: dict[str, int]) -> str:
    line = f"{audit['table_bytes']:,} bytes by the table"
    if audit["uncounted_spaces"]:
        line += f" + {audit['uncounted_spaces']:,} spaces it leaves out by rule"
    return line + f" = {audit['decoded_bytes']:,} decoded"
