"""What to build, in three parts: what is read, what is wanted, and what works on it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from golfpack.base.convert import check_counts, check_seed, make, require, to_type, unknown_option
from golfpack.base.defaults import CALIB_TOKENS
from golfpack.build.planfile import PlanFile
from golfpack.build.replay import Replay
from golfpack.errors import UsageError
from golfpack.models.folder import find_tokenizer
from golfpack.packer.aim import Aim, Bpb, Bytes, Kl, Lossless


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a build reads.

    Attributes:
        checkpoint: the float model.
        calib: token shard or text to calibrate on; None lets the model write its own.
        calib_tokens: how many of its tokens.
        data_free: no calibration at all.
        tokenizer: of calibration text, and for losses in bits per byte; that of the checkpoint's
            folder where none is given.
        with_tokenizer: put it into the artifact, where it counts towards the budget.
        code: files that ship beside the artifact and count towards the budget, as they are.
        settings: "pass.option=value" and "model.option=value".
        model, model_args: a family by name, or FILE.py:CLASS and its keyword arguments.
    """

    checkpoint: Path
    calib: str | None = None
    calib_tokens: int = CALIB_TOKENS
    data_free: bool = False
    tokenizer: Path | None = None
    with_tokenizer: bool = False
    code: tuple[Path, ...] = ()
    settings: tuple[str, ...] = ()
    model: str | None = None
    model_args: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        both = self.data_free and self.calib is not None
        require(not both, "a data-free build reads no calibration", "leave one of the two out")
        check_counts(calib_tokens=(self.calib_tokens, 2))


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What is wanted, and by which method.

    Attributes:
        aim: how large or how good; None for the budget of the plan.
        recipe: name or .toml file; None for the default, or what the plan brings.
        plan: replay this plan: its passes and its scheme for every tensor, and its budget unless
            another is given.
        replay: repeat the build of a report: its passes, and its inputs must be the same.
        seed: of everything random.
        recalibrate: measure the statistics again behind the quantized layers, and quantize again.
        refine: train what rounding leaves by self-distillation on this many tokens; 0: not at all;
            "auto": on as many as take about as long as the rest of the build.
        refine_on: what for: "kl" (the float model's predictions), or "labels" (the cross entropy of
            calibration's text, too).
        blind: take fewer than 3 bits per weight without calibration, too.
        strict: turn warnings into errors.
    """

    aim: Aim | None = None
    recipe: str | None = None
    plan: PlanFile | None = None
    replay: Replay | None = None
    seed: int = 0
    recalibrate: bool = False
    refine: int | Literal["auto"] = 0
    refine_on: Literal["kl", "labels"] = "kl"
    blind: bool = False
    strict: bool = False

    def __post_init__(self) -> None:
        enough = self.refine == "auto" or self.refine >= 0
        require(enough, f"refine is {self.refine}", "give a number of tokens, 0 or auto")
        check_seed(self.seed)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What works on it, which changes no result (but on another device, and by rounding alone).

    Attributes:
        threads: of the CPU.
        device: "auto", "cpu" or "cuda": where calibration, rounding and the KL are worked out.
        batched: work in batches as on CUDA, wherever it is; None for what suits the device.
        cache: keep statistics, and text that the model wrote, for the next build.
    """

    threads: int = 1
    device: str = "cpu"
    batched: bool | None = None
    cache: bool = True

    def __post_init__(self) -> None:
        check_counts(threads=(self.threads, 1))


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What to build; see `golfpack build --help`.

    Attributes:
        inputs: what is read.
        goal: what is wanted.
        machine: what works on it.
        output: None for the checkpoint's name with .golf, in the current folder.
        dry_run: everything but writing files.
        force: replace an artifact of another checkpoint, or a file that is none.
        argv: the command line, for the report.
    """

    inputs: Inputs
    goal: Goal = field(default_factory=Goal)
    machine: Machine = field(default_factory=Machine)
    output: Path | None = None
    dry_run: bool = False
    force: bool = False
    argv: tuple[str, ...] = ()

    @property
    def lossless(self) -> bool:
        """Whether every float is kept."""
        return isinstance(self.goal.aim, Lossless)

    @property
    def unmeasured(self) -> bool:
        """Whether nothing is calibrated, so that tensors without a known network will do."""
        return self.inputs.data_free or self.lossless

    def changed(self, **table: Any) -> "BuildOptions":
        """These options with others in place, by `read_options` names; a new aim replaces the old."""
        unset = AIMS if AIMS.keys() & table.keys() else {}
        return read_options({**told_options(self), **unset, **table})


# The options' parts, by their field.
_PARTS = {"inputs": Inputs, "goal": Goal, "machine": Machine}
# Fields of BuildOptions itself.
_OWN = ("output", "dry_run", "force", "argv")
# How an aim is told in one table with everything else, and what stands for: not so.
AIMS: dict[str, Any] = {"budget": None, "target_kl": None, "target_bpb": None, "lossless": False}
# Every option by the name that the command line, the API and reports have for it.
NAMES: frozenset[str] = frozenset(
    {f.name for kind in _PARTS.values() for f in fields(kind)} - {"aim"} | {*AIMS, *_OWN}
)


def read_options(table: Mapping[str, Any], what: str = "a build") -> BuildOptions:
    """The options in one flat table, as the command line, the API and reports have them.

    Args:
        what: whose options they are, for messages.

    Raises:
        UsageError: an unknown option, a value of another type, or two aims.
    """
    for name in table:
        if name not in NAMES:
            raise unknown_option(name, sorted(NAMES), what)
    aim = read_aim(**{name: table.get(name, unset) for name, unset in AIMS.items()})
    whole = {**table, "aim": aim}
    parts = {
        part: make(kind, {f.name: whole[f.name] for f in fields(kind) if f.name in whole}, what)
        for part, kind in _PARTS.items()
    }
    inputs = parts["inputs"]
    if inputs.tokenizer is None:
        parts["inputs"] = replace(inputs, tokenizer=find_tokenizer(inputs.checkpoint))
    own = {name: table[name] for name in _OWN if name in table}
    return make(BuildOptions, {**parts, **own}, what)


def read_aim(
    *,
    budget: str | int | None = None,
    target_kl: float | None = None,
    target_bpb: float | None = None,
    lossless: bool = False,
) -> Aim | None:
    """The one aim that was given; None where none was.

    Raises:
        UsageError: more than one, or a target that cannot be.
    """
    given: list[Aim] = []
    if budget is not None:
        given.append(Bytes(to_type(str | int, budget, "the budget")))
    if target_kl is not None:
        given.append(Kl(to_type(float, target_kl, "the target KL")))
    if target_bpb is not None:
        given.append(Bpb(to_type(float, target_bpb, "the target in bits per byte")))
    if lossless:
        given.append(Lossless())
    if len(given) > 1:
        raise no_one_aim()
    return given[0] if given else None


def no_one_aim() -> UsageError:
    """The error for no aim, or for more than one."""
    return UsageError(
        "say how large or how good the artifact is to be",
        "give exactly one of --budget, --target-kl, --target-bpb and --lossless",
    )


def told_options(options: BuildOptions) -> dict[str, Any]:
    """The options as one flat table: what `read_options` reads."""
    table: dict[str, Any] = {name: getattr(options, name) for name in _OWN}
    for part in _PARTS:
        table |= vars(getattr(options, part))
    aim = table.pop("aim")
    return table | _told_aim(aim)


def _told_aim(aim: Aim | None) -> dict[str, Any]:
    match aim:
        case Bytes(size):
            return {**AIMS, "budget": str(size)}
        case Kl(target):
            return {**AIMS, "target_kl": target}
        case Bpb(target):
            return {**AIMS, "target_bpb": target}
        case Lossless():
            return {**AIMS, "lossless": True}
        case None:
            return dict(AIMS)
