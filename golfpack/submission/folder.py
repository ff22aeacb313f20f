"""`golfpack export --submission`: a folder in the challenge's form, out of an artifact."""

from golfpack.artifact import model_of, open_original
from golfpack.base.documents import SCHEMA_VERSION
from golfpack.base.files import write_atomically
from golfpack.base.progress import Notify, silent
from golfpack.base.sizes import parse_size
from golfpack.errors import BudgetError, UsageError, unreadable
from golfpack.eval.choose import load_ttt
from golfpack.export.decoder import uses
from golfpack.packer.format.loader import Artifact, load
from golfpack.submission.count import (
    ARTIFACT,
    LOGS,
    README,
    REQUIREMENTS,
    SCRIPT,
    TABLE,
    counts,
)
from golfpack.submission.logs import Logs, read_logs
from golfpack.submission.make import Training, make_script
from golfpack.submission.parts import Parts, SubmissionOptions
from golfpack.submission.report import SubmissionReport
from golfpack.submission.words import readme, requirements, table


def write_submission(options: SubmissionOptions, notify: Notify = silent) -> SubmissionReport:
    """Write a folder that runs without golfpack: artifact, script, what is to be said of them, logs.

    Raises:
        UsageError: bad input, a model of another family, or a folder that holds something else.
        CorruptError: a damaged artifact. BudgetError: artifact and code together are over the budget.
    """
    check_folder(options)
    parts = _parts(options, notify)
    if parts.total > parts.budget:
        over = parts.total - parts.budget
        raise BudgetError(
            f"artifact {len(parts.files[ARTIFACT]):,} + code {parts.code:,} = {parts.total:,} bytes, "
            f"{over:,} over the budget of {parts.budget:,}",
            "golfpack build CKPT --budget SIZE --submission DIR takes the code off the budget first",
            shortfall=over,
        )
    notify("write", 0, 0, str(options.folder))
    texts = {
        README: readme(parts, options),
        TABLE: table(parts, options),
        REQUIREMENTS: requirements(parts.artifact),
    }
    files = parts.files | {name: text.encode() for name, text in texts.items()}
    files |= {f"{LOGS}/{path.name}": path.read_bytes() for path in options.logs}
    for name, data in files.items():
        path = options.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
    return _report(parts, options)


def check_folder(options: SubmissionOptions) -> None:
    """Raise UsageError where a folder cannot be written, or would count what is not a submission's."""
    folder = options.folder
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file", "name a folder to write")
    if not folder.parent.is_dir():
        raise UsageError(f"the folder {folder.parent} does not exist", "make it first")
    mine = {SCRIPT, ARTIFACT, *(p.name for p in options.code)}
    present = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    strangers = sorted(n for n in present if counts(n) and n not in mine)
    if strangers:
        raise UsageError(
            f"{folder} holds {strangers[0]}, which would count as code",
            "choose an empty folder, or name the file with --code",
        )
    if present and not options.force:
        raise UsageError(f"{folder} is not empty", "add --force to replace its submission")


def _parts(options: SubmissionOptions, notify: Notify) -> Parts:
    notify("read", 0, 0, options.artifact.name)
    of_ttt = [s.removeprefix("ttt.") for s in options.settings if s.startswith("ttt.")]
    of_model = tuple(s for s in options.settings if not s.startswith("ttt."))
    if of_model and options.checkpoint is None:
        raise UsageError(f"--set {of_model[0]!r} is of a checkpoint", "add --checkpoint CKPT")
    recipe = load_ttt(options.ttt, of_ttt)
    artifact = load(options.artifact)
    model = model_of(artifact, options.artifact)
    training = Training.of(recipe, model)
    original = None
    if options.checkpoint is not None:
        original = open_original(model, options.checkpoint, of_model)
    logs = read_logs(options.logs, options.baseline)
    notify("script", 0, 0, "bundled, minified and packed")
    script = make_script(uses(artifact), model, training)
    files = {SCRIPT: script, ARTIFACT: options.artifact.read_bytes()}
    for path in options.code:
        if not path.is_file():
            raise unreadable(path, what="code ")
        if path.name in files or not counts(path.name):
            raise UsageError(f"{path.name} is a name of the submission's own", "rename the file")
        files[path.name] = path.read_bytes()
    budget = parse_size(str(options.budget), model.spec.numel)
    warnings = _warnings(artifact, logs)
    return Parts(files, artifact, model, training, original, budget, logs, warnings)


def _warnings(artifact: Artifact, logs: Logs) -> tuple[str, ...]:
    if not logs.evaluations:
        return ("no evaluation among the logs: README.md and submission.json tell no score",)
    sha256 = artifact.container.sha256
    if all(e.get("model_sha256") != sha256 for e in logs.evaluations.values()):
        return ("none of the evaluations is of this very artifact",)
    return ()


def _report(parts: Parts, options: SubmissionOptions) -> SubmissionReport:
    artifact = len(parts.files[ARTIFACT])
    return SubmissionReport(
        folder=str(options.folder),
        artifact_bytes=artifact,
        script_bytes=len(parts.files[SCRIPT]),
        code_bytes=parts.code,
        total_bytes=parts.total,
        budget_bytes=parts.budget,
        headroom_bytes=parts.budget - parts.total,
        artifact_sha256=parts.sha256(ARTIFACT),
        script_sha256=parts.sha256(SCRIPT),
        checkpoint_sha256=None if parts.original is None else parts.original.sha256,
        ttt=parts.training.name,
        logs=[str(p) for p in options.logs],
        val_loss=parts.logs.mean("val_loss"),
        val_bpb=parts.logs.mean("val_bpb"),
        val_bpb_std=parts.logs.std("val_bpb"),
        warnings=list(parts.warnings),
        schema_version=SCHEMA_VERSION,
    )
