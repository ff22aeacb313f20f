"""`golfpack build --from`: a report's options, the check of its inputs, and of what came out."""

import hashlib
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from golfpack.artifact import checkpoint_stem
from golfpack.base.convert import make
from golfpack.base.documents import versions
from golfpack.build.prepare import (
    BuildOptions,
    Prepared,
)
from golfpack.build.replay import Replay
from golfpack.build.report import InputFile
from golfpack.errors import UsageError
from golfpack.models.model import Model
from golfpack.packer.state import (
    Budget,
    PackState,
)

# Options of a run and not of its result; the rest goes into the report.
_NOT_RECORDED = frozenset({"threads", "strict", "cache", "dry_run", "plan", "argv", "replay"})
# How large or how good the artifact is to be: one given on the command line replaces a recorded one.
_AIMS: dict[str, Any] = {"budget": None, "target_kl": None, "target_bpb": None, "lossless": False}
# The option that names the files of each use.
_OPTION_OF = {
    "checkpoint": "checkpoint", "calibration": "calib", "tokenizer": "tokenizer", "code": "code",
    "model": "model",
}  # fmt: skip
_SAME_VERSIONS = "all versions in the report are the same, so it was another kind of machine"


def recorded_options(options: BuildOptions, budget: Budget | None) -> dict[str, Any]:
    """What was asked for, as JSON, for the report. A plan's budget is recorded as one."""
    names = [f.name for f in fields(options) if f.name not in _NOT_RECORDED]
    found = {n: _as_json(getattr(options, n)) for n in names}
    aimed = any(found[n] not in (None, False) for n in _AIMS)
    if budget is not None and not aimed:
        found["budget"] = str(budget.total)
    return found


def _as_json(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return [_as_json(v) for v in value] if isinstance(value, tuple) else value


def rebuild_options(asked: BuildOptions, replay: Replay, given: frozenset[str]) -> BuildOptions:
    """The options of a build to repeat: those of this command line where given, else the report's.

    Args:
        asked: this command line's.
        given: names of the options that were given on it.

    Raises:
        UsageError: the report's options make no sense, it names code of the user's that was not named
            again, its checkpoint is not there, or the recorded name is taken by something else.
    """
    replay = replace(replay, given=given)
    recorded = _restored(replay)
    always = _NOT_RECORDED | (given & _NAMES)
    changes: dict[str, Any] = {name: getattr(asked, name) for name in always}
    changes["replay"] = replay
    if not given & _NAMES - (_NOT_RECORDED - {"plan"}):
        # Repeating tells nothing new: the report that is written stays that of the first build.
        changes["argv"] = replay.recorded.argv or asked.argv
    if given & set(_AIMS) or "plan" in given:
        changes |= {name: aim for name, aim in _AIMS.items() if name not in given}
    if "settings" in given:
        changes["settings"] = (*recorded.settings, *asked.settings)
    if "calib" in given and "data_free" not in given:
        changes["data_free"] = False
    if "data_free" in given and "calib" not in given:
        changes["calib"] = None
    if "plan" in given:
        changes["recipe"] = asked.recipe
    _check_code(recorded, asked, replay)
    options = replace(recorded, **changes)
    if not options.checkpoint.exists():
        raise UsageError(
            f"{replay.path} was built from {options.checkpoint}, and there is no such file from here",
            f"name it: golfpack build CHECKPOINT --from {replay.path}; likewise --calib, --tokenizer "
            "and --code",
        )
    if "output" in given or asked.dry_run:
        return options
    output = _recorded_output(options, replay)
    by_default = output == Path(checkpoint_stem(options.checkpoint) + ".golf")
    return replace(options, output=None if by_default else output)


_NAMES = frozenset(f.name for f in fields(BuildOptions))


def _restored(replay: Replay) -> BuildOptions:
    """The recorded options. Raises UsageError for one that cannot be."""
    what = f"{replay.path}: options"
    table = {k: v for k, v in replay.recorded.options.items() if k not in _NOT_RECORDED}
    for name, value in table.items():
        if isinstance(value, list) and not all(isinstance(v, str) for v in value):
            raise UsageError(f"{what}: {name} is not a list of texts", "it was edited")
        if name in ("checkpoint", "tokenizer", "output") and isinstance(value, str):
            table[name] = Path(value)
        if name == "code" and isinstance(value, list):
            table[name] = tuple(Path(v) for v in value)
    if "checkpoint" not in table:
        raise UsageError(f"{what} name no checkpoint", "it was edited")
    return make(BuildOptions, table, what)


def _check_code(recorded: BuildOptions, asked: BuildOptions, replay: Replay) -> None:
    """Raise UsageError where the build ran a file of the user's: no report makes that happen again."""
    if recorded.model is not None and ":" in recorded.model and asked.model is None:
        raise UsageError(
            f"the build of {replay.path} ran the model's code, {recorded.model}; a report alone does "
            "not run code",
            f"look at the file, then add --model {recorded.model}",
        )


def _recorded_output(options: BuildOptions, replay: Replay) -> Path | None:
    """The name that the report has for the artifact, if nothing else lies there."""
    artifact, sha256 = replay.recorded.artifact, replay.recorded.artifact_sha256
    path = options.output if artifact is None else Path(artifact)
    if path is None or not path.exists():
        return path
    if _changed(replay):
        raise UsageError(
            f"{path} exists, and with options other than the report's the build may differ from it",
            "give another --output, or the same one",
        )
    if not path.is_file() or _sha256(path) != sha256:
        raise UsageError(
            f"{path} exists and is not the artifact that {replay.path} describes",
            "give another --output, or the same one",
        )
    return path


def kept_apart(options: BuildOptions, output: Path, sha256: str) -> Path:
    """`output`, or a name beside it where a replay would replace what it did not reproduce."""
    if options.replay is None or "output" in options.replay.given or not output.is_file():
        return output
    return output if _sha256(output) == sha256 else output.with_suffix(".replayed.golf")


def _changed(replay: Replay) -> frozenset[str]:
    """Options of this command line that may change the artifact; those that name inputs do so only
    where the inputs themselves differ, which `check_inputs` finds.
    """
    harmless = _NOT_RECORDED - {"plan"} | {"output", *_OPTION_OF.values()}
    return (replay.given & _NAMES) - harmless


def check_inputs(
    options: BuildOptions, checkpoint: Model, found: Sequence[InputFile]
) -> tuple[str, ...]:
    """Hold the inputs against those of the report that is replayed.

    Returns:
        warnings about inputs that this command line chose.

    Raises:
        UsageError: another input than the report's; all of them are named.
    """
    if options.replay is None:
        return ()
    replay, recorded = options.replay, options.replay.recorded
    differ = [
        (use, f"{use} {_named(new, old)} {_how(new, old)}")
        for use in ("calibration", "tokenizer", "code", "model")
        for new, old in [_of_use(use, found, recorded.inputs)]
        if [f.sha256 for f in new] != [f.sha256 for f in old]
    ]
    if recorded.checkpoint_sha256 not in (None, checkpoint.sha256):
        old, new = str(recorded.checkpoint_sha256)[:16], checkpoint.sha256[:16]
        differ.insert(
            0, ("checkpoint", f"checkpoint {options.checkpoint} (sha256 {new}, was {old})")
        )
    chosen = [text for use, text in differ if _OPTION_OF[use] in replay.given]
    wrong = [text for use, text in differ if _OPTION_OF[use] not in replay.given]
    wrong += _config_changes(checkpoint, replay)
    if wrong:
        raise UsageError(
            f"these inputs are not what {replay.path} was built from: {'; '.join(wrong)}",
            "bring back the inputs, or name those to take on the command line: CHECKPOINT, --calib, "
            "--tokenizer, --code, --model",
        )
    return tuple(f"not what {replay.path} was built from: {text}" for text in chosen)


def _of_use(
    use: str, new: Sequence[InputFile], old: Sequence[InputFile]
) -> tuple[list[InputFile], list[InputFile]]:
    return [f for f in new if f.use == use], [f for f in old if f.use == use]


def _named(new: Sequence[InputFile], old: Sequence[InputFile]) -> str:
    return ", ".join(dict.fromkeys(f.path for f in (new or old)))


def _how(new: Sequence[InputFile], old: Sequence[InputFile]) -> str:
    if not new:
        return "(missing)"
    if not old:
        return "(there was none)"
    now, then = (" ".join(f.sha256[:16] for f in files) for files in (new, old))
    return f"(sha256 {now}, was {then})"


def _config_changes(checkpoint: Model, replay: Replay) -> list[str]:
    """Options of the model that were different then, and that nobody changed just now."""
    if not replay.recorded.config or replay.given & {
        "settings",
        "model",
        "model_args",
        "checkpoint",
    }:
        return []
    then, now = replay.recorded.config, checkpoint.config
    return [
        f"model option {k} (now {now.get(k)}, was {then.get(k)})"
        for k in sorted({*then, *now})
        if then.get(k) != now.get(k)
    ]


def told_result(
    options: BuildOptions, state: PackState, prepared: Prepared, told: tuple[str, ...]
) -> PackState:
    """The state, with a warning where an unchanged replay gave another artifact than the report's.

    Args:
        told: inputs that are known to differ, from `check_inputs`: then nothing needs explaining.
    """
    replay = options.replay
    if replay is None or replay.recorded.artifact_sha256 is None or told or _changed(replay):
        return state
    assert state.blob is not None
    found, expected = hashlib.sha256(state.blob).hexdigest(), replay.recorded.artifact_sha256
    if found == expected:
        return state
    then, now = replay.recorded.versions, versions()
    reasons = [f"{k} {then.get(k)} -> {now.get(k)}" for k in now if then.get(k) != now.get(k)]
    why = f"versions that differ: {', '.join(reasons)}" if reasons else _SAME_VERSIONS
    if prepared.calibration is not None and replay.recorded.calibration is not None:
        same = prepared.calibration["sha256"] == replay.recorded.calibration.get("sha256")
        why += "" if same else "; the calibration tokens differ, too"
    return state.warn(
        f"this is not the artifact of {replay.path}: sha256 {found[:16]} in place of "
        f"{expected[:16]}; {why}"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
