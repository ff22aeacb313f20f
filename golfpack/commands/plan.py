"""`golfpack plan`: its options, and what it prints."""

from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from golfpack.base.defaults import CALIB_TOKENS
from golfpack.commands.options import (
    CORES,
    Calib,
    CalibTokens,
    Checkpoint,
    Code,
    DataFree,
    Device,
    Json,
    Model,
    ModelArgs,
    NoCache,
    Quiet,
    RecipeName,
    Seed,
    Set,
    Threads,
    Tokenizer,
    WithTokenizer,
)
from golfpack.commands.render.console import Reporter, number, out, show_assumed, show_json
from golfpack.commands.render.tables import plain_table

if TYPE_CHECKING:
    from rich.table import Table

    from golfpack.build.plan_report import PlanReport

EXAMPLES = (
    "Examples: golfpack plan ckpt.pt --calib train.bin | golfpack plan ckpt.pt --budget 8MB "
    "--budget 16MB --calib train.bin --tokenizer bpe.model | golfpack plan ckpt.pt --budget 16MB "
    "--recipe mixed-int5-int6 --calib train.bin -o plan.json"
)


def plan(
    checkpoint: Checkpoint,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SIZE",
            help="A budget; several are one table. Default: a range, or the recipe as is.",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the plan, for build --plan.")
    ] = None,
    recipe: RecipeName = None,
    calib: Calib = None,
    calib_tokens: CalibTokens = CALIB_TOKENS,
    tokenizer: Tokenizer = None,
    with_tokenizer: WithTokenizer = False,
    code: Code = None,
    data_free: DataFree = False,
    model: Model = None,
    model_args: ModelArgs = None,
    device: Device = "auto",
    no_cache: NoCache = False,
    settings: Set = None,
    seed: Seed = 0,
    threads: Threads = CORES,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Predict size, KL and loss for budgets from calibration alone, and every tensor's scheme."""
    from golfpack.build.options import BuildOptions, Goal, Inputs, Machine
    from golfpack.build.plan import plan as run

    inputs = Inputs(
        checkpoint=checkpoint, calib=calib, calib_tokens=calib_tokens, data_free=data_free,
        tokenizer=tokenizer, with_tokenizer=with_tokenizer, code=tuple(code or ()),
        settings=tuple(settings or ()), model=model, model_args=tuple(model_args or ()),
    )  # fmt: skip
    goal = Goal(recipe=recipe, seed=seed)
    machine = Machine(threads=threads, device=device, cache=not no_cache)
    options = BuildOptions(inputs=inputs, goal=goal, machine=machine, output=output)
    with Reporter(quiet) as notify:
        report = run(options, budget or [], notify)
    show_assumed(report.assumed)
    if json:
        show_json(report)
    else:
        show_plan(report)


def show_plan(report: "PlanReport") -> None:
    """A row per budget; for one budget, a row per tensor before it."""
    if any(t.bytes is not None for t in report.tensors):
        out.print(_plan_tensors(report))
    table = plain_table(
        ("budget", "expected bytes", "bpw", "dial", "predicted KL", "predicted bpb loss")
    )
    for r in report.rows:
        table.add_row(
            number(r.budget_bytes, ",d"), f"{r.artifact_bytes:,}", f"{r.bits_per_weight:.2f}",
            f"{r.dial:.3g}", number(r.predicted_kl, ".5f"), number(r.predicted_bpb, "+.5f"),
        )  # fmt: skip
    out.print(table)
    tokens = 0 if report.calibration is None else report.calibration["tokens"]
    why = "no gradients were measured, so no KL is predicted"
    if report.kl_ratio is not None:
        why = (
            "KL in nats per token; the quadratic model is corrected by "
            f"{report.kl_ratio:.2f}, from one probe"
        )
    out.print(f"recipe {report.recipe}, {tokens:,} calibration tokens; {why}")
    t = report.time
    behind = f", and {t.behind_seconds:.1f} s in sequence behind them" if t.behind_seconds else ""
    out.print(
        f"a build should take about {t.build_seconds:.0f} s: {t.rounds} rounds, as is typical, of "
        f"{t.round_seconds:.1f} s like the probe's, after {t.ready_seconds:.1f} s of preparation{behind}"
    )


def _plan_tensors(report: "PlanReport") -> "Table":
    table = plain_table(
        ("tensor", "role", "shape", "scheme", "expected bytes", "bpw", "KL share"),
        left=("tensor", "role", "scheme"),
    )
    total_kl = sum(t.predicted_kl or 0.0 for t in report.tensors)
    for t in report.tensors:
        size = t.bytes or 0
        share = None if not total_kl or t.predicted_kl is None else t.predicted_kl / total_kl
        table.add_row(
            t.name, t.role, "x".join(map(str, t.shape)), t.label, f"{size:,}",
            f"{8 * size / max(prod(t.shape), 1):.2f}", number(share, ".1%"),
        )  # fmt: skip
    return table
