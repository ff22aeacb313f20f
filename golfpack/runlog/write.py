"""`golfpack runreport`: a training run's folder -> its Run Report or Run Summary."""

from dataclasses import dataclass
from pathlib import Path

from golfpack.base.files import write_atomically
from golfpack.errors import StrictError, UsageError
from golfpack.runlog.make import make_report
from golfpack.runlog.markdown import report_markdown
from golfpack.runlog.notes import read_notes
from golfpack.runlog.read import read_run
from golfpack.runlog.report import RunReport
from golfpack.runlog.summary import check_summary, summary_markdown, summary_of

FORMS = ("report", "summary")


@dataclass(frozen=True)
class RunReportOptions:
    """What to report on, and how; see `golfpack runreport --help`.

    Attributes:
        form: "report" or "summary".
        output: the markdown file to write, or None.
        notes: markdown with prose for the report's sections.
        strict: fail on warnings: missing steps, errors in the log and the like.
    """

    run_dir: Path
    form: str = "report"
    output: Path | None = None
    notes: Path | None = None
    strict: bool = False
    force: bool = False


def runreport(options: RunReportOptions) -> tuple[RunReport, str]:
    """The report, and the document in markdown, written where `options` say.

    Raises:
        UsageError: no readable run there, notes for no section, or a file that exists.
        CorruptError: a broken line of the log. StrictError: a warning, under `strict`.
    """
    _check(options)
    notes = {} if options.notes is None else read_notes(options.notes)
    run = read_run(options.run_dir)
    report = make_report(options.run_dir, run, _files(options.run_dir), notes)
    if options.strict and report.warnings:
        raise StrictError(f"--strict: {report.warnings[0]}", "drop --strict to accept it")
    if options.form == "summary":
        check_summary(report)
        text = summary_markdown(summary_of(report))
    else:
        text = report_markdown(report)
    if options.output is not None:
        write_atomically(options.output, text.encode())
    return report, text


def _check(options: RunReportOptions) -> None:
    if options.form not in FORMS:
        raise UsageError(f"unknown --format {options.form!r}", f"choose {' or '.join(FORMS)}")
    if options.notes is not None and options.form == "summary":
        raise UsageError("a Run Summary has no place for notes", "use --format report")
    if options.output is not None and options.output.exists() and not options.force:
        raise UsageError(f"{options.output} exists", "name another file, or add --force")


def _files(folder: Path) -> dict[str, int]:
    """Bytes of the files in a folder, by name."""
    return {p.name: p.stat().st_size for p in sorted(folder.iterdir()) if p.is_file()}
