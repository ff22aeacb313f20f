"""`golfpack report`: an artifact, and what is known of its making, as one HTML page."""

from dataclasses import dataclass
from pathlib import Path

from golfpack.artifact import names_artifact
from golfpack.base.files import write_atomically
from golfpack.build.report import BuildReport, FailedBuild
from golfpack.errors import UsageError
from golfpack.inspect.inspect import inspect
from golfpack.models.base import Family
from golfpack.packer.format.loader import load
from golfpack.page.checked import read_build, read_code, read_eval, read_sweep
from golfpack.page.data import page_data
from golfpack.page.page import PAGE_START, PageReport, is_page, page_html

REPORT_SUFFIX = ".report.json"


@dataclass(frozen=True)
class PageOptions:
    """What the page is made of.

    Attributes:
        path: the artifact; or a build report, as of a build that failed.
        report: the artifact's build report; None for the one beside it, if there is one.
        evaluation: what `golfpack eval --json` printed of the artifact.
        sweep: the report of `golfpack sweep` or `compare` of the same checkpoint.
        against: the float checkpoint, for errors that no report tells.
        output: the page; None for NAME.html beside `path`.
        settings: "model.option=value" of the float checkpoint.
        force: replace a file that is no page of ours, too.
        family: what `--model` says the artifact is; None takes its word.
    """

    path: Path
    report: Path | None = None
    evaluation: Path | None = None
    sweep: Path | None = None
    against: Path | None = None
    output: Path | None = None
    settings: tuple[str, ...] = ()
    force: bool = False
    family: Family | None = None


def report(options: PageOptions) -> PageReport:
    """Write the page.

    Raises:
        UsageError: a file that cannot be read, is no such report, or belongs to another artifact.
        CorruptError: a damaged artifact.
    """
    path, found = options.path, options.report
    artifact = None
    if path.suffix == ".json":
        _check_alone(options)
        found = path
    else:
        _check_artifact(path)
        artifact = load(path)
        found = found or _beside(path)
    build = None if found is None else read_build(found)
    evaluation = None if options.evaluation is None else read_eval(options.evaluation)
    sweep = None if options.sweep is None else read_sweep(options.sweep)
    code = [] if found is None or build is None else read_code(found, build)
    inspected = None
    if artifact is not None and (build is None or options.against is not None):
        inspected = inspect(path, options.against, options.settings, options.family)
    source = None if found is None else found.name
    data = page_data(
        _title(path, build), build, artifact, inspected, evaluation, source, sweep, code
    )
    page = page_html(data).encode()
    output = options.output or page_path(path)
    _check_output(output, options)
    replaced = output.exists()
    write_atomically(output, page)
    return PageReport(
        page=str(output),
        page_bytes=len(page),
        replaced=replaced,
        report=None if found is None else str(found),
        evaluation=None if options.evaluation is None else str(options.evaluation),
        sweep=None if options.sweep is None else str(options.sweep),
        artifact_sha256=None if artifact is None else artifact.container.sha256,
        missing=data["missing"],
    )


def _check_artifact(path: Path) -> None:
    if path.is_file() and not names_artifact(path):
        raise UsageError(
            f"{path}: this is not a .golf artifact; report takes one",
            "build one first, or see `golfpack inspect`",
        )


def _beside(path: Path) -> Path | None:
    beside = path.with_suffix(REPORT_SUFFIX)
    return beside if beside.is_file() else None


def _title(path: Path, build: BuildReport | FailedBuild | None) -> str:
    """The artifact's name; of a build that wrote none, its checkpoint's."""
    if path.suffix != ".json" or build is None:
        return path.name
    artifact = build.artifact if isinstance(build, BuildReport) else None
    return Path(artifact or build.checkpoint).name


def page_path(path: Path) -> Path:
    """Where the page of an artifact, or of the report of a build that failed, goes unless told."""
    name = path.name.removesuffix(REPORT_SUFFIX) if path.suffix == ".json" else path.stem
    return path.with_name(name + ".html")


def _check_alone(options: PageOptions) -> None:
    for value, option in (
        (options.report, "--report"), (options.against, "--float"),
        (options.evaluation, "--eval"), (options.sweep, "--sweep"),
    ):  # fmt: skip
        if value is not None:
            raise UsageError(
                f"{option} goes with an artifact, and {options.path} is a report",
                f"leave {option} out, or name the artifact",
            )


def _check_output(output: Path, options: PageOptions) -> None:
    """Raise UsageError where the page would replace a file it is made of, or one that is no page.

    A page is made again and again, with an evaluation, or after another build: pages are replaced.
    """
    sources = (
        options.path, options.report, options.evaluation, options.sweep, options.against,
    )  # fmt: skip
    for source in sources:
        if source is not None and output.exists() and output.samefile(source):
            raise UsageError(f"{output} is what the page is made of", "choose another --output")
    check_page(output, force=options.force)


def check_page(output: Path, *, force: bool) -> None:
    """Raise UsageError where a file that is no page of ours is in the place of one."""
    if output.is_file() and not force:
        with output.open("rb") as file:
            if not is_page(file.read(PAGE_START)):
                raise UsageError(
                    f"{output} exists and is no page of golfpack report",
                    "choose another --output, or add --force",
                )
