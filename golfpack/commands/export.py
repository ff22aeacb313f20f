"""`golfpack export`: its options, and what it prints."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from golfpack.base.defaults import SUBMISSION_BYTES
from golfpack.commands.options import Code, Force, Json, Model, ModelArgs, Quiet, Set, Ttt
from golfpack.commands.render.console import Reporter, note, out, show_json, warn
from golfpack.errors import UsageError

if TYPE_CHECKING:
    from golfpack.export.export import ExportReport
    from golfpack.submission.report import SubmissionReport

EXAMPLES = (
    "Examples: golfpack export x.golf --out dist | golfpack export x.golf --out dist --minify | "
    "golfpack export x.golf --submission dir --checkpoint ckpt.pt --ttt sgd | golfpack export x.golf "
    "--submission dir --log seed1.json --log seed2.json --log seed3.json --baseline 1.0810"
)


def export(
    path: Annotated[Path, typer.Argument(help=".golf artifact.")],
    folder: Annotated[
        Path | None,
        typer.Option("--out", help="Folder to write into. Default: NAME.export."),
    ] = None,
    minify: Annotated[
        bool,
        typer.Option("--minify", help="The decoder in few bytes, for this very artifact alone."),
    ] = False,
    submission: Annotated[
        Path | None,
        typer.Option(help="Folder to write in the challenge's form instead (golf family)."),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Of a submission: its float model, compared and named.")
    ] = None,
    ttt: Ttt = "none",
    budget: Annotated[
        str, typer.Option(help="Of a submission: what its artifact and code may have together.")
    ] = str(SUBMISSION_BYTES),
    code: Code = None,
    log: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="Of a submission: a log; reports of eval --json tell its score."
        ),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Hold the scores of two or more logs against it: see stats.")
    ] = None,
    author: Annotated[str | None, typer.Option(help="Of submission.json: who submits.")] = None,
    github_id: Annotated[
        str | None, typer.Option(help="Of submission.json: their name there.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Of a submission: its name. Default: NAME.")
    ] = None,
    blurb: Annotated[
        str | None, typer.Option(help="Of a submission: what it is, in words.")
    ] = None,
    settings: Set = None,
    model: Model = None,
    model_args: ModelArgs = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write an artifact and one Python file that decodes it with numpy alone, or a submission."""
    if submission is not None:
        if folder is not None or minify or model is not None:
            raise UsageError(
                "--submission goes with none of --out, --minify and --model",
                "its script is always minified, and its model is of the golf family",
            )
        from golfpack.submission.folder import write_submission
        from golfpack.submission.parts import Author, SubmissionOptions

        options = SubmissionOptions(
            artifact=path, folder=submission, checkpoint=checkpoint, settings=tuple(settings or ()),
            ttt=ttt, budget=budget, code=tuple(code or ()), logs=tuple(log or ()),
            baseline=baseline, force=force,
            author=Author(*(text or "" for text in (author, github_id, name, blurb))),
        )  # fmt: skip
        with Reporter(quiet) as notify:
            written = write_submission(options, notify)
        warn(written.warnings)
        if json:
            show_json(written)
        else:
            show_submission(written)
        return
    of_submissions = {
        "--checkpoint": checkpoint, "--code": code, "--log": log, "--baseline": baseline,
        "--set": settings, "--ttt": None if ttt == "none" else ttt,
    }  # fmt: skip
    if given := [option for option, value in of_submissions.items() if value]:
        raise UsageError(f"{given[0]} is of a submission", "add --submission DIR, or leave it out")
    from golfpack.export.export import export as run
    from golfpack.models.choose import choose_family

    folder = folder or Path(f"{path.stem}.export")
    family = choose_family(model, model_args or ())
    with Reporter(quiet) as notify:
        report = run(path, folder, notify, minified=minify, family=family, force=force)
    if json:
        show_json(report)
    else:
        show_export(report)


def show_export(report: "ExportReport") -> None:
    """What was written, and what it takes to use it."""
    packages = ["numpy", *report.packages]
    total = report.artifact_bytes + report.decoder_bytes
    out.print(
        f"wrote {report.artifact}, {report.artifact_bytes:,} bytes\n"
        f"wrote {report.decoder}, {report.decoder_bytes:,} bytes; both {total:,}\n"
        f"it needs {', '.join(packages)}; {report.tensors:,} names, every bit as golfpack decodes them"
    )
    if report.packages:
        out.print(
            f"an artifact of recipe rd does without {' and '.join(report.packages)}: "
            "numpy alone reads it"
        )


def show_submission(report: "SubmissionReport") -> None:
    """What counts, of what, and the score where logs tell one."""
    left = report.headroom_bytes
    others = report.code_bytes - report.script_bytes
    out.print(
        f"artifact {report.artifact_bytes:,} + script {report.script_bytes:,}"
        + (f" + other code {others:,}" if others else "")
        + f" = {report.total_bytes:,} of {report.budget_bytes:,} bytes, headroom {left:,} "
        f"({left / report.budget_bytes:.3%})"
    )
    if report.val_bpb is not None:
        spread = (
            "" if report.val_bpb_std is None else f", standard deviation {report.val_bpb_std:.6f}"
        )
        out.print(f"score {report.val_bpb:.6f} bits per byte{spread}, as the logs have it")
    note(f"wrote {report.folder}; golfpack verify {report.folder} --tokens ... runs it")
