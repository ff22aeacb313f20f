"""The commands that pack: parse, call the api, render. No torch until a command runs."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from golfpack.commands.options import (
    CHECKPOINT_HELP,
    CORES,
    Calib,
    CalibTokens,
    Checkpoint,
    Code,
    DataFree,
    Device,
    Explain,
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
    given_options,
)
from golfpack.commands.report import write_page

BUILD_EXAMPLES = (
    "Examples: golfpack build ckpt.pt --budget 16MB | golfpack build ckpt.pt --budget 3.5bpw "
    "--calib train.bin -o small.golf | golfpack build ckpt.pt --target-kl 0.01 --calib train.bin | "
    "golfpack build --from ckpt.report.json | golfpack build ckpt.pt --budget 16MB --table tensor"
)
PLAN_EXAMPLES = (
    "Examples: golfpack plan ckpt.pt --calib train.bin | golfpack plan ckpt.pt --budget 8MB "
    "--budget 16MB --calib train.bin --tokenizer bpe.model | golfpack plan ckpt.pt --budget 16MB "
    "--recipe mixed-int5-int6 --calib train.bin -o plan.json"
)


def build(
    context: typer.Context,
    checkpoint: Annotated[
        Path | None, typer.Argument(help=f"{CHECKPOINT_HELP} Not needed with --from.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="16MB, 16MiB, 16000000 or 3.5bpw (bits per weight).")
    ] = None,
    target_kl: Annotated[
        float | None, typer.Option(help="No budget: the smallest file within this KL, nats/token.")
    ] = None,
    target_bpb: Annotated[
        float | None, typer.Option(help="The same as a loss in bits per byte; needs --tokenizer.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The .golf to write.")
    ] = None,
    recipe: RecipeName = None,
    plan: Annotated[
        Path | None, typer.Option(help="Replay a plan file: its passes, schemes and budget.")
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", help="Repeat the build of a .report.json; what is given here wins."),
    ] = None,
    calib: Calib = None,
    calib_tokens: CalibTokens = 32768,
    tokenizer: Tokenizer = None,
    code: Code = None,
    data_free: DataFree = False,
    blind: Annotated[
        bool, typer.Option("--blind", help="Below 3 bits per weight without calibration, too.")
    ] = False,
    lossless: Annotated[
        bool, typer.Option("--lossless", help="No budget: every float exactly as it is.")
    ] = False,
    model: Model = None,
    model_args: ModelArgs = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write no file.")] = False,
    recalibrate: Annotated[
        bool, typer.Option("--recalibrate", help="Measure again behind quantized layers; slower.")
    ] = False,
    refine: Annotated[
        int,
        typer.Option(
            min=0, metavar="TOKENS", help="Train the codes on so many tokens, 200000 say; slower."
        ),
    ] = 0,
    strict: Annotated[bool, typer.Option("--strict", help="Turn warnings into errors.")] = False,
    device: Device = "auto",
    no_cache: NoCache = False,
    settings: Set = None,
    seed: Seed = 0,
    threads: Threads = CORES,
    table: Annotated[str, typer.Option(help="Rows by role, block or tensor.")] = "role",
    explain: Explain = False,
    json: Json = False,
    html: Annotated[
        bool, typer.Option("--html", help="Write the report as a page, too: NAME.html.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Compile a checkpoint into a .golf artifact that is never one byte over the budget."""
    from golfpack.base.documents import to_json
    from golfpack.build.planfile import read_plan
    from golfpack.build.prepare import BuildOptions
    from golfpack.build.rebuild import rebuild_options
    from golfpack.build.replay import read_replay
    from golfpack.build.report import FailedBuild
    from golfpack.build.run import build as run
    from golfpack.commands.render import (
        build as render_build,
    )
    from golfpack.commands.render import (
        console as render,
    )
    from golfpack.errors import UsageError

    if checkpoint is None and source is None:
        raise UsageError("nothing to build", "give a checkpoint, or --from REPORT")
    group = render_build.read_group(table, each="tensor")
    options = BuildOptions(
        checkpoint or Path(), budget, output, recipe, tuple(settings or ()), calib, calib_tokens,
        data_free, tokenizer, tuple(code or ()), seed, threads, strict, not no_cache, dry_run,
        target_kl, target_bpb, recalibrate, None if plan is None else read_plan(plan),
        sys.argv[1:], lossless, refine, model, tuple(model_args or ()), device=device, blind=blind,
    )  # fmt: skip
    if source is not None:
        options = rebuild_options(options, read_replay(source), given_options(context))
    failed: list[FailedBuild] = []
    try:
        with render.Reporter(quiet) as notify:
            report = run(options, notify, failed.append)
    except Exception:
        if json and failed:
            render.data(to_json(failed[0]))
        raise
    render.show_notes(report.notes)
    render.show_assumed(report.assumed)
    render.warn(report.warnings)
    if json:
        render.data(to_json(report))
    else:
        render_build.show_build(report, group, explain)
    if html:
        write_page(report.artifact)


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
    calib_tokens: CalibTokens = 32768,
    tokenizer: Tokenizer = None,
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
    from golfpack.base.documents import to_json
    from golfpack.build.plan import plan as run
    from golfpack.build.prepare import BuildOptions
    from golfpack.commands.render import (
        compare as render_tables,
    )
    from golfpack.commands.render import (
        console as render,
    )

    options = BuildOptions(
        checkpoint, output=output, recipe=recipe, settings=tuple(settings or ()), calib=calib,
        calib_tokens=calib_tokens, data_free=data_free, tokenizer=tokenizer, code=tuple(code or ()),
        seed=seed, threads=threads, cache=not no_cache, device=device,
        model=model, model_args=tuple(model_args or ()),
    )  # fmt: skip
    with render.Reporter(quiet) as notify:
        report = run(options, budget or [], notify)
    render.show_assumed(report.assumed)
    if json:
        render.data(to_json(report))
    else:
        render_tables.show_plan(report)
