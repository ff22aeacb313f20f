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
    from golfpack.build.options import read_options
    from golfpack.build.planfile import read_plan
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
    from golfpack.models.user.choice import chosen_model

    if checkpoint is None and source is None:
        raise UsageError("nothing to build", "give a checkpoint, or --from REPORT")
    group = render_build.read_group(table, each="tensor")
    asked = {
        "checkpoint": checkpoint, "budget": budget, "target_kl": target_kl, "target_bpb": target_bpb,
        "lossless": lossless, "output": output, "recipe": recipe,
        "plan": None if plan is None else read_plan(plan), "settings": tuple(settings or ()),
        "calib": calib, "calib_tokens": calib_tokens, "data_free": data_free, "blind": blind,
        "tokenizer": tokenizer, "code": tuple(code or ()), "model": model,
        "model_args": tuple(model_args or ()), "recalibrate": recalibrate, "refine": refine,
        "strict": strict, "dry_run": dry_run, "device": device, "cache": not no_cache, "seed": seed,
        "threads": threads, "argv": tuple(sys.argv[1:]),
    }  # fmt: skip
    if source is None:
        options = read_options(asked)
    else:
        options = rebuild_options(asked, read_replay(source), given_options(context))
    chosen = chosen_model(options.inputs.model, options.inputs.model_args)
    failed: list[FailedBuild] = []
    try:
        with chosen, render.Reporter(quiet) as notify:
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
    from golfpack.build.options import BuildOptions, Goal, Inputs, Machine
    from golfpack.build.plan import plan as run
    from golfpack.commands.render import (
        compare as render_tables,
    )
    from golfpack.commands.render import (
        console as render,
    )
    from golfpack.models.user.choice import chosen_model

    inputs = Inputs(
        checkpoint=checkpoint, calib=calib, calib_tokens=calib_tokens, data_free=data_free,
        tokenizer=tokenizer, code=tuple(code or ()), settings=tuple(settings or ()),
    )  # fmt: skip
    goal = Goal(recipe=recipe, seed=seed)
    machine = Machine(threads=threads, device=device, cache=not no_cache)
    options = BuildOptions(inputs=inputs, goal=goal, machine=machine, output=output)
    with chosen_model(model, model_args or ()), render.Reporter(quiet) as notify:
        report = run(options, budget or [], notify)
    render.show_assumed(report.assumed)
    if json:
        render.data(to_json(report))
    else:
        render_tables.show_plan(report)
