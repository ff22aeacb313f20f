"""`golfpack verify`: its options, and what it prints."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from golfpack.commands.options import (
    CORES,
    Json,
    Model,
    ModelArgs,
    Quiet,
    Set,
    Threads,
    Window,
)
from golfpack.commands.render.console import Reporter, out, show_json
from golfpack.commands.render.tables import plain_table
from golfpack.errors import CorruptError

if TYPE_CHECKING:
    from golfpack.inspect.verify import VerifyReport

EXAMPLES = (
    "Examples: golfpack verify x.golf | golfpack verify x.golf --report x.report.json "
    "--against ckpt.pt --json | golfpack verify dir --tokens val.bin --tokenizer bpe.model --limit 16385"
)

# What to do about the first check that failed, where the file itself has passed all of its own.
_NEXT = {
    "report": "the file is whole; give the .report.json of its own build, or build it again",
    "checkpoint": "the file is whole; give the checkpoint it was built from, or build it again",
}


def verify(
    path: Annotated[Path, typer.Argument(help=".golf artifact, or a submission's folder.")],
    report: Annotated[
        Path | None, typer.Option(help="Its build report: sha256, bytes and budget must agree.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="The checkpoint it was built from: tensors must agree.")
    ] = None,
    tokens: Annotated[
        str | None,
        typer.Option(help="Of a submission: shard or glob of shards that its script is to score."),
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Of a submission: SentencePiece model of the tokens.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=2, help="Of a submission: tokens to read.")
    ] = None,
    window: Window = None,
    stride: Annotated[
        int | None, typer.Option(min=1, help="Of a submission: of its sliding windows.")
    ] = None,
    threads: Threads = CORES,
    model: Model = None,
    model_args: ModelArgs = None,
    settings: Set = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check an artifact, every digest and tensor; or a submission, which is counted and run bare."""
    from golfpack.models.choose import choose_family
    from golfpack.submission.verify_any import Asked, Scores, verify_any

    asked = Asked(
        report=report, against=against, settings=tuple(settings or ()),
        family=choose_family(model, model_args or ()),
    )  # fmt: skip
    scores = Scores(
        tokens=tokens,
        tokenizer=tokenizer,
        limit=limit,
        window=window,
        stride=stride,
        threads=threads,
    )
    with Reporter(quiet) as notify:
        found = verify_any(path, asked, scores, notify)
    if json:
        show_json(found)
    else:
        show_verify(found)
    if not found.passed:
        failed = [c for c in found.checks if c.status == "failed"]
        raise CorruptError(
            f"{path}: {failed[0].name}: {failed[0].detail}",
            _NEXT.get(
                failed[0].name,
                "get the file again, or build it again; the checks above say what is still whole",
            ),
        )


def show_verify(report: "VerifyReport") -> None:
    """A line per check, then the verdict."""
    table = plain_table()
    for check in report.checks:
        status = "FAILED" if check.status == "failed" else check.status
        table.add_row(check.name, status, check.detail)
    out.print(table)
    if report.passed:
        unscored = any((c.name, c.status) == ("scores", "skipped") for c in report.checks)
        out.print(
            f"{report.path} is whole: {report.bytes:,} bytes"
            + ("; its script was not run" if unscored else "")
        )
        out.print(f"sha256 of the file, digest included: {report.sha256}")
