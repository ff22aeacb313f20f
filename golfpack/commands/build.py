"""`golfpack build`: its options, and what it prints."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from golfpack.base.defaults import CALIB_TOKENS
from golfpack.commands.export import show_submission
from golfpack.commands.options import (
    CHECKPOINT_HELP,
    CORES,
    Calib,
    CalibTokens,
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
    Strict,
    Threads,
    Tokenizer,
    Ttt,
    WithTokenizer,
    given_options,
)
from golfpack.commands.render.console import (
    Reporter,
    note,
    out,
    show_assumed,
    show_json,
    show_notes,
    warn,
)
from golfpack.commands.render.tensors import read_group, show_tensors
from golfpack.commands.report import write_page
from golfpack.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from golfpack.base.progress import Notify
    from golfpack.build.options import BuildOptions
    from golfpack.build.report import BuildReport, FailedBuild, TextLoss
    from golfpack.submission.build import Shared

_WHERE = {"held out": "there", "own": "on text the model wrote"}

EXAMPLES = (
    "Examples: golfpack build ckpt.pt --budget 16MB | golfpack build ckpt.pt --budget 3.5bpw "
    "--calib train.bin -o small.golf | golfpack build ckpt.pt --target-kl 0.01 --calib train.bin | "
    "golfpack build --from ckpt.report.json | golfpack build ckpt.pt --budget 16MB --table tensor | "
    "golfpack build ckpt.pt --budget 16MB --submission dir --ttt sgd | golfpack build ckpt.pt --budget "
    "16MB --code train_gpt.py --pack"
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
    calib_tokens: CalibTokens = CALIB_TOKENS,
    tokenizer: Tokenizer = None,
    with_tokenizer: WithTokenizer = False,
    code: Code = None,
    pack: Annotated[
        bool,
        typer.Option("--pack", help="Count each --code FILE packed: NAME.packed.py, beside it."),
    ] = False,
    submission: Annotated[
        Path | None,
        typer.Option(help="Folder for a submission; its script comes off the budget first."),
    ] = None,
    ttt: Ttt = "none",
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
    force: Annotated[
        bool, typer.Option("--force", help="Replace another checkpoint's artifact or page, too.")
    ] = False,
    recalibrate: Annotated[
        bool, typer.Option("--recalibrate", help="Measure again behind quantized layers; slower.")
    ] = False,
    refine: Annotated[
        str,
        typer.Option(
            metavar="TOKENS|auto",
            help="Train on so many tokens what rounding leaves; auto: about as long as the rest takes.",
        ),
    ] = "0",
    refine_on: Annotated[
        str,
        typer.Option(
            metavar="kl|labels",
            help="What --refine lowers: the KL to the float model, or --calib's cross entropy, too.",
        ),
    ] = "kl",
    strict: Strict = False,
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
    from golfpack.build.attempt import output_of
    from golfpack.build.options import read_options
    from golfpack.build.planfile import read_plan
    from golfpack.build.rebuild import rebuild_options
    from golfpack.build.replay import read_replay
    from golfpack.page.make import check_page, page_path

    if checkpoint is None and source is None:
        raise UsageError("nothing to build", "give a checkpoint, or --from REPORT")
    group = read_group(table, each="tensor")
    asked = {
        "checkpoint": checkpoint, "budget": budget, "target_kl": target_kl, "target_bpb": target_bpb,
        "lossless": lossless, "output": output, "recipe": recipe,
        "plan": None if plan is None else read_plan(plan), "settings": tuple(settings or ()),
        "calib": calib, "calib_tokens": calib_tokens, "data_free": data_free, "blind": blind,
        "tokenizer": tokenizer, "with_tokenizer": with_tokenizer,
        "code": shipped(code or [], pack, output, dry_run),
        "model": model, "model_args": tuple(model_args or ()), "recalibrate": recalibrate,
        "refine": _tokens(refine), "refine_on": refine_on,
        "strict": strict, "dry_run": dry_run, "force": force, "device": device, "cache": not no_cache,
        "seed": seed, "threads": threads, "argv": tuple(sys.argv[1:]),
    }  # fmt: skip
    if source is None:
        options = read_options(asked)
    else:
        options = rebuild_options(asked, read_replay(source), given_options(context))
    if html and not dry_run:
        check_page(page_path(output_of(options)), force=force)
    failed: list[FailedBuild] = []
    try:
        with Reporter(quiet) as notify:
            report, shared = _built(options, submission, ttt, notify, failed)
    except Exception:
        if json and failed:
            show_json(failed[0])
        raise
    if report is None:
        return
    show_notes(report.notes)
    show_assumed(report.assumed)
    warn(report.warnings)
    if json:
        show_json(report)
    else:
        show_build(report, group, explain)
    if shared is not None and not json:
        show_submission(shared.submission)
    if html:
        write_page(report.artifact, force=force)


def _built(
    options: "BuildOptions",
    submission: Path | None,
    ttt: str,
    notify: "Notify",
    failed: "list[FailedBuild]",
) -> "tuple[BuildReport | None, Shared | None]":
    """What was built: nothing, in a process that helped another one."""
    if submission is None:
        from golfpack.build.together import build_together

        return build_together(options, notify, failed.append), None
    from golfpack.submission.build import build_submission

    shared = build_submission(options, submission, ttt, notify, failed.append)
    return shared.build, shared


def _tokens(text: str) -> int | str:
    """A count of tokens, or the word that stands in its place."""
    return int(text) if text.lstrip("-").isdecimal() else text


def shipped(code: list[Path], pack: bool, output: Path | None, dry_run: bool) -> tuple[Path, ...]:
    """The files of code that ship: those given, or (--pack) each packed, beside the artifact."""
    if not pack:
        return tuple(code)
    from golfpack.base.files import write_atomically
    from golfpack.submission.packed import packed_code

    if not code or dry_run:
        raise UsageError(
            "--pack writes the packed form of code that ships",
            "drop --dry-run" if code else "name it: --code FILE.py --pack",
        )
    packed: list[Path] = []
    for path in code:
        data = packed_code(path)
        to = (output or Path()).parent / f"{path.stem}.packed.py"
        write_atomically(to, data)
        note(f"packed {path}, {path.stat().st_size:,} bytes: {to}, {len(data):,} bytes")
        packed.append(to)
    return tuple(packed)


def show_build(report: "BuildReport", group: str | None = "role", explain: bool = False) -> None:
    """The summary of a build: its tensors by role, by block or each (None), then the budget."""
    show_tensors(report.tensors, group, explain=explain)
    code = f" + code {report.code_bytes:,}" if report.code_bytes else ""
    size = f"artifact {report.artifact_bytes:,}{code}"
    if report.tokenizer_bytes:
        size = f"artifact {report.artifact_bytes:,} (tokenizer {report.tokenizer_bytes:,}){code}"
    if report.budget_bytes is not None and report.headroom_bytes is not None:
        share = report.headroom_bytes / report.budget_bytes
        size += (
            f" of {report.budget_bytes:,} bytes, headroom {report.headroom_bytes:,} ({share:.3%})"
        )
    else:
        size += " bytes"
    bits = f"{report.bits_per_weight:.3f} bits per weight"
    if report.tokenizer_bytes:
        rest = 8 * (report.artifact_bytes - report.tokenizer_bytes) / report.parameters
        bits += f", {rest:.3f} without the tokenizer"
    out.print(f"{size}, {bits}")
    if report.measured_kl is not None:
        expected = ""
        if report.refined is not None:
            expected = f" ({report.refined.rounded_kl:.5f} before --refine)"
        elif report.predicted_kl is not None:
            expected = f" (predicted {report.predicted_kl:.5f})"
        out.print(
            f"KL to the float model {report.measured_kl:.5f} nats per token on held-out calibration "
            f"tokens{expected}"
        )
    if report.losses:
        out.print(told_losses(report.losses))
    out.print(f"sha256 {report.artifact_sha256}")
    if report.artifact:
        out.print(f"wrote {report.artifact}")


def told_losses(losses: "Sequence[TextLoss]") -> str:
    """One line: the rise of the cross entropy on each text, with its spread, and the KL on own text."""
    rises = [f"{x.ce_rise:+.5f} ± {x.ce_rise_error:.5f} {_WHERE[x.text]}" for x in losses]
    kls = "".join(f", where the KL is {x.kl:.5f}" for x in losses if x.text == "own")
    return f"cross entropy {', '.join(rises)}{kls}"
