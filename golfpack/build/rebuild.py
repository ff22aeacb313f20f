"""`golfpack build --from`: a report's options, the check of its inputs, and of what came out."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from golfpack.base.documents import versions
from golfpack.base.files import file_sha256
from golfpack.build.options import AIMS, NAMES, BuildOptions, read_options, told_options
from golfpack.build.prepare import Prepared
from golfpack.build.replay import Replay
from golfpack.build.report import InputFile
from golfpack.errors import UsageError
from golfpack.models.folder import checkpoint_stem
from golfpack.models.model import Model
from golfpack.packer.aim import Budget
from golfpack.packer.state import PackState

# Options of a run and not of its result; the rest goes into the report.
_NOT_RECORDED = frozenset(
    {"threads", "strict", "cache", "dry_run", "force", "plan", "argv", "replay"}
)
# The option that names the files of each use.
_OPTION_OF = {
    "checkpoint": "checkpoint", "calibration": "calib", "tokenizer": "tokenizer", "code": "code",
    "model": "model",
}  # fmt: skip
# Float matrix products round differently from one CPU to the next: libraries choose their kernels by it.
_SAME_VERSIONS = (
    "all versions in the report are the same, so it was another kind of CPU, whose matrix products "
    "round differently"
)


def recorded_options(options: BuildOptions, budget: Budget | None) -> dict[str, Any]:
    """What was asked for, as JSON, for the report. A plan's budget is recorded as one."""
    table = {n: _as_json(v) for n, v in told_options(options).items() if n not in _NOT_RECORDED}
    if budget is not None and options.goal.aim is None:
        table["budget"] = str(budget.total)
    return table


def _as_json(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return [_as_json(v) for v in value] if isinstance(value, tuple) else value


def rebuild_options(
    asked: Mapping[str, Any], replay: Replay, given: frozenset[str]
) -> BuildOptions:
    """The options of a build to repeat: those of this command line where given, else the report's.

    Args:
        asked: this command line's, as `read_options` takes them.
        replay: the report.
        given: names of the options that were given on it.

    Raises:
        UsageError: the report's options make no sense, it names code of the user's that was not named
            again, its checkpoint is not there, or the recorded name is taken by something else.
    """
    given &= NAMES
    replay = replace(replay, given=given)
    recorded = {k: v for k, v in replay.recorded.options.items() if k not in _NOT_RECORDED}
    _check_code(recorded, asked, replay)
    options = read_options(_merged(recorded, asked, replay), f"{replay.path}: options")
    checkpoint = options.inputs.checkpoint
    if not checkpoint.exists():
        raise UsageError(
            f"{replay.path} was built from {checkpoint}, and there is no such file from here",
            f"name it: golfpack build CHECKPOINT --from {replay.path}; likewise --calib, --tokenizer "
            "and --code",
        )
    if "output" in given or options.dry_run:
        return options
    output = _recorded_output(options, replay)
    by_default = output == Path(checkpoint_stem(checkpoint) + ".golf")
    return replace(options, output=None if by_default else output)


def _merged(
    recorded: Mapping[str, Any], asked: Mapping[str, Any], replay: Replay
) -> dict[str, Any]:
    """The report's options with those of this command line on top, and what these imply."""
    given = replay.given
    table = {**recorded, **{n: asked[n] for n in _NOT_RECORDED | given if n in asked}}
    table["replay"] = replay
    if not given - (_NOT_RECORDED - {"plan"}):
        # Repeating tells nothing new: the report that is written stays that of the first build.
        table["argv"] = replay.recorded.argv or asked.get("argv", ())
    if given & AIMS.keys() or "plan" in given:
        # One aim replaces the recorded one.
        table |= {name: unset for name, unset in AIMS.items() if name not in given}
    if "settings" in given:
        table["settings"] = (*recorded.get("settings", ()), *asked["settings"])
    if "calib" in given and "data_free" not in given:
        table["data_free"] = False
    if "data_free" in given and "calib" not in given:
        table["calib"] = None
    if "plan" in given:
        table["recipe"] = asked.get("recipe")
    return table


def _check_code(recorded: Mapping[str, Any], asked: Mapping[str, Any], replay: Replay) -> None:
    """Raise UsageError where the build ran a file of the user's: no report makes that happen again."""
    model = recorded.get("model")
    if isinstance(model, str) and ":" in model and asked.get("model") is None:
        raise UsageError(
            f"the build of {replay.path} ran the model's code, {model}; a report alone does not run "
            "code",
            f"look at the file, then add --model {model}",
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
    if not path.is_file() or file_sha256(path) != sha256:
        raise UsageError(
            f"{path} exists and is not the artifact that {replay.path} describes",
            "give another --output, or the same one",
        )
    return path


def kept_apart(replay: Replay | None, output: Path, sha256: str) -> Path:
    """`output`, or a name beside it where a replay would replace what it did not reproduce."""
    if replay is None or "output" in replay.given or not output.is_file():
        return output
    return output if file_sha256(output) == sha256 else output.with_suffix(".replayed.golf")


def _changed(replay: Replay) -> frozenset[str]:
    """Options of this command line that may change the artifact; those that name inputs do so only
    where the inputs themselves differ, which `check_inputs` finds.
    """
    harmless = _NOT_RECORDED - {"plan"} | {"output", *_OPTION_OF.values()}
    return replay.given - harmless


def check_inputs(
    options: BuildOptions, model: Model, found: Sequence[InputFile]
) -> tuple[str, ...]:
    """Hold the inputs against those of the report that is replayed.

    Returns:
        warnings about inputs that this command line chose.

    Raises:
        UsageError: another input than the report's; all of them are named.
    """
    replay = options.goal.replay
    if replay is None:
        return ()
    recorded = replay.recorded
    differ = [
        (use, f"{use} {_named(new, old)} {_how(new, old)}")
        for use in ("calibration", "tokenizer", "code", "model")
        for new, old in [_of_use(use, found, recorded.inputs)]
        if [f.sha256 for f in new] != [f.sha256 for f in old]
    ]
    if recorded.checkpoint_sha256 not in (None, model.sha256):
        old, new = str(recorded.checkpoint_sha256)[:16], model.sha256[:16]
        differ.insert(
            0, ("checkpoint", f"checkpoint {options.inputs.checkpoint} (sha256 {new}, was {old})")
        )
    chosen = [text for use, text in differ if _OPTION_OF[use] in replay.given]
    wrong = [text for use, text in differ if _OPTION_OF[use] not in replay.given]
    wrong += _config_changes(model, replay)
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


def _config_changes(model: Model, replay: Replay) -> list[str]:
    """Options of the model that were different then, and that nobody changed just now."""
    if not replay.recorded.config or replay.given & {
        "settings",
        "model",
        "model_args",
        "checkpoint",
    }:
        return []
    then, now = replay.recorded.config, model.config
    return [
        f"model option {k} (now {now.get(k)}, was {then.get(k)})"
        for k in sorted({*then, *now})
        if then.get(k) != now.get(k)
    ]


def told_result(
    replay: Replay | None,
    state: PackState,
    prepared: Prepared,
    kl: float | None,
    differing: tuple[str, ...],
) -> PackState:
    """The state, with a warning where an unchanged replay gave another artifact than the report's.

    Args:
        replay: the report that was replayed, if any.
        state: of the finished artifact.
        prepared: what it was made from.
        kl: what it lost, where that was measured.
        differing: inputs that are known to differ, from `check_inputs`: then nothing needs explaining.
    """
    if replay is None or replay.recorded.artifact_sha256 is None or differing or _changed(replay):
        return state
    assert state.blob is not None
    recorded = replay.recorded
    found, expected = hashlib.sha256(state.blob).hexdigest(), recorded.artifact_sha256
    if found == expected:
        return state
    then, now = recorded.versions, versions()
    reasons = [f"{k} {then.get(k)} -> {now.get(k)}" for k in now if then.get(k) != now.get(k)]
    why = f"versions that differ: {', '.join(reasons)}" if reasons else _SAME_VERSIONS
    if prepared.calibration is not None and recorded.calibration is not None:
        same = prepared.calibration["sha256"] == recorded.calibration.get("sha256")
        why += "" if same else "; the calibration tokens differ, too"
    size = f"{state.size:,} bytes in place of {recorded.artifact_bytes or 0:,}"
    if kl is not None and recorded.measured_kl is not None:
        size += f", KL {kl:.6f} in place of {recorded.measured_kl:.6f}"
    return state.warn(
        f"this is not the artifact of {replay.path}: sha256 {found[:16]} in place of "
        f"{str(expected)[:16]}, {size}; {why}"
    )
