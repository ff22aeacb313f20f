"""`golfpack probe`: its options, and what it prints."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from golfpack.commands.options import (
    CORES,
    Checkpoint,
    Json,
    Model,
    ModelArgs,
    Quiet,
    Set,
    Threads,
    Tokenizer,
)
from golfpack.commands.render.console import Reporter, note, out, show_json
from golfpack.commands.render.tables import plain_table

if TYPE_CHECKING:
    from golfpack.probe.probe import ProbeReport
    from golfpack.probe.trials import Trial

EXAMPLES = (
    "Examples: golfpack probe ckpt.pt --tokens val.bin | golfpack probe ckpt.pt --calib train.txt "
    "--tokenizer bpe.model --set model.seq_len=2048 | golfpack probe record.pt --tokens val.bin "
    "--tokenizer bpe.model -o record.config.json"
)


def probe(
    checkpoint: Checkpoint,
    tokens: Annotated[
        str,
        typer.Option("--tokens", "--calib", help="Shard, glob or text of the model's own domain."),
    ],
    tokenizer: Tokenizer = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Config to write. [default: <stem>.config.json]"),
    ] = None,
    limit: Annotated[int, typer.Option(min=2, help="Tokens to score at most.")] = 8192,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a config that says something else.")
    ] = False,
    model: Model = None,
    model_args: ModelArgs = None,
    settings: Set = None,
    threads: Threads = CORES,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find the options that shapes do not tell, by the model's own loss on text; write them down."""
    import torch

    from golfpack.models.choose import choose_family
    from golfpack.probe.probe import probe as run

    torch.set_num_threads(threads)
    family = choose_family(model, model_args or ())
    with Reporter(quiet) as notify:
        report = run(
            checkpoint, tokens, tokenizer, tuple(settings or ()), family,
            limit=limit, output=output, force=force, notify=notify,
        )  # fmt: skip
    if json:
        show_json(report)
    else:
        show_probe(report)


def show_probe(report: "ProbeReport") -> None:
    """A row for every value tried: first beside the start, then beside the end."""
    if report.changes:
        _show_trials("beside the options it began with", report.first)
        table = plain_table(("step", "option", "before", "after", "loss"))
        for i, c in enumerate(report.changes, 1):
            table.add_row(str(i), c.option, str(c.before), str(c.after), f"{c.loss:.4f}")
        out.print(table)
    _show_trials("beside the best", report.trials)
    unsure = sorted({t.option for t in report.trials if not t.worse})
    out.print(
        f"loss {report.loss_before:.4f} -> {report.loss_after:.4f} nats per token on "
        f"{report.tokens:,} tokens"
    )
    if unsure:
        note(f"note: text does not settle {', '.join(unsure)}: some of their values do as well")
    out.print(f"wrote {report.config_file}")


def _show_trials(where: str, trials: "list[Trial]") -> None:
    table = plain_table(("option", where, "loss", "gain", "in errors", "tokens", ""))
    for t in trials:
        verdict = "better" if t.better else "worse" if t.worse else "as good"
        table.add_row(
            t.option, str(t.value), f"{t.loss:.4f}", f"{t.gain:+.4f}", f"{t.errors:+.1f}",
            f"{t.tokens:,}", verdict,
        )  # fmt: skip
    out.print(table)
