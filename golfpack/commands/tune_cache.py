"""`golfpack tune-cache`: its options, and what it prints."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from golfpack.commands.options import (
    CORES,
    Device,
    Json,
    Model,
    ModelArgs,
    Quiet,
    Seed,
    Set,
    Threads,
    Tokenizer,
)
from golfpack.commands.render.console import Reporter, out, show_assumed, show_json, warn
from golfpack.commands.render.tables import plain_table

if TYPE_CHECKING:
    from golfpack.kv.tune_report import TuneReport

EXAMPLES = (
    "Examples: golfpack tune-cache x.golf --tokens train.bin | golfpack tune-cache ckpt.pt --context "
    "4096 --memory 16MB | golfpack tune-cache x.golf --kv-cache q8_0 --max-kl 0.001 --again"
)


def tune_cache(
    path: Annotated[Path, typer.Argument(help="Checkpoint or .golf artifact.")],
    context: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens in the cache. Default: the trained length."),
    ] = None,
    base: Annotated[
        str, typer.Option("--kv-cache", help="Formats that the search begins with.")
    ] = "q4_0",
    residual: Annotated[
        int, typer.Option("--kv-residual", min=0, help="Newest tokens in fp16, to begin with.")
    ] = 128,
    memory: Annotated[
        str | None,
        typer.Option(help="Budget of the cache: 16MB. Default: 10% above the beginning's codes."),
    ] = None,
    tokens: Annotated[
        str | None,
        typer.Option(help="Shard or text to measure quality on. Default: the model writes it."),
    ] = None,
    tokenizer: Tokenizer = None,
    max_kl: Annotated[
        float, typer.Option(min=0, help="KL to an fp16 cache at most, nats per token.")
    ] = 0.02,
    again: Annotated[bool, typer.Option("--again", help="Tune afresh.")] = False,
    seed: Seed = 0,
    model: Model = None,
    model_args: ModelArgs = None,
    settings: Set = None,
    threads: Threads = CORES,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find the fastest formats of a KV cache within memory and quality; --kv-cache tuned takes them."""
    from golfpack.artifact import open_model
    from golfpack.kv.quality import Limits
    from golfpack.kv.tune import TuneOptions, tune
    from golfpack.models.choose import choose_family

    opened = open_model(
        path, tuple(settings or ()), choose_family(model, model_args or ()), tokenizer
    )
    options = TuneOptions(
        context=context, base=base, residual=residual, memory=memory, tokens=tokens,
        tokenizer=tokenizer, limits=Limits(kl=max_kl), again=again, seed=seed, threads=threads,
        device=device,
    )  # fmt: skip
    with Reporter(quiet) as notify:
        report = tune(opened, options, notify)
    show_assumed(opened.assumed)
    warn(report.warnings)
    if json:
        show_json(report)
    else:
        show_tuning(report)


def show_tuning(report: "TuneReport") -> None:
    """What was tried, and the answer."""
    if report.policies:
        table = plain_table(("policy", "fp16 tokens", "bytes", "ms a token", "taken"))
        for t in report.policies:
            row = (t.policy, str(t.residual), f"{t.bytes:,}", f"{1000 * t.seconds:.2f}")
            table.add_row(*row, "*" if t.taken else "")
        out.print(table)
    if report.plans:
        table = plain_table(("plan", "ms a token"))
        for p in report.plans:
            table.add_row(p.plan, f"{1000 * p.seconds:.2f}")
        out.print(table)
    for judged in report.judged:
        if judged.refused is not None:
            out.print(f"refused: {judged.policy}, residual {judged.residual}: {judged.refused}")
    share = report.bytes / report.fp16_bytes
    quality = "" if report.quality is None else f", KL {report.quality.kl:.5f} to fp16"
    out.print(
        f"--kv-cache {report.policy} --kv-residual {report.residual}: {report.bytes:,} bytes of "
        f"{report.budget_bytes:,}, {share:.2f} of fp16's at {report.context:,} tokens{quality}"
    )
    out.print(f"read by {report.plan}, {1000 * report.seconds:.2f} ms a token")
    kept = "an earlier run's answer, from" if report.cached else "kept in"
    out.print(f"{kept} {report.results}; --kv-cache tuned takes it")
