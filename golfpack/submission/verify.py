"""`golfpack verify DIR`: a submission counted as the rules do, and run with nothing but what counts."""

import json
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from golfpack.base.convert import from_json
from golfpack.base.documents import read_json
from golfpack.base.progress import Notify, silent
from golfpack.data.shards import read_tokens
from golfpack.data.stream import is_text
from golfpack.errors import CorruptError, GolfpackError, UsageError
from golfpack.eval.evaluate import evaluate
from golfpack.eval.inputs import EvalOptions, read_inputs
from golfpack.inspect.verify import Checks, VerifyReport, verify
from golfpack.submission.bare import required, run_bare
from golfpack.submission.count import ARTIFACT, REQUIREMENTS, SCRIPT, TABLE, Count, count

# Bits per byte by which a script and golfpack may differ: both add float32 losses in float64.
TOLERANCE = 1e-6
_LINE = re.compile(r"(\w+) val_loss:(\S+) val_bpb:(\S+) tokens:(\d+) bytes:(\d+)")


@dataclass(frozen=True)
class _Ttt:
    """Test-time training in `submission.json`."""

    kind: str
    options: dict[str, Any]


@dataclass(frozen=True)
class _Origin:
    """What golfpack says of itself in `submission.json`."""

    budget: int
    artifact_sha256: str
    script_sha256: str
    ttt: _Ttt


@dataclass(frozen=True)
class _Told:
    """What this reads of `submission.json`."""

    bytes_total: int
    bytes_model: int
    bytes_code: int
    golfpack: _Origin


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """What to score.

    Attributes:
        tokens: shard, or a glob of shards.
        tokenizer: SentencePiece model.
        limit: tokens to read.
        window, stride: of the windows; None for the script's own.
        threads: of the CPU.
    """

    tokens: str
    tokenizer: Path
    limit: int | None = None
    window: int | None = None
    stride: int | None = None
    threads: int = 1


def verify_submission(
    folder: Path, stretch: Stretch | None, notify: Notify = silent
) -> VerifyReport:
    """Count a folder, look at its artifact, run its script and hold its scores to golfpack's own.

    Args:
        stretch: what to score; None counts and looks, and runs nothing.

    Raises:
        UsageError: it is no submission, its submission.json is none of golfpack's, or what is to be
            scored is not for its model. CorruptError: the byte audit of the tokenizer failed.
            What is wrong with a submission raises nothing: it is what the checks say.
    """
    if stretch is not None:
        if is_text(stretch.tokens):
            raise UsageError(
                f"{stretch.tokens} is text", "a submission's script reads token shards: name those"
            )
        read_tokens(stretch.tokens, 1)
    told = from_json(
        _Told, read_json(folder / TABLE, "golfpack export --submission"), str(folder / TABLE)
    )
    counted, artifact = count(folder), folder / ARTIFACT
    whole = verify(artifact, notify=notify)
    checks = Checks(notify)
    checks.done += whole.checks
    checks.run("count", lambda: _count(counted, told.golfpack.budget))
    checks.run("table", lambda: _table(counted, told, whole.sha256))
    if stretch is None:
        checks.skip("scores", "nothing ran: give --tokens and --tokenizer")
    elif any(c.status == "failed" for c in checks.done):
        checks.skip("scores", "an earlier check failed")
    else:
        # Tokens, a tokenizer or windows that are not the model's are no fault of the folder.
        read_inputs(_options("sliding", artifact, told.golfpack.ttt, stretch))
        found = checks.run("bare run", lambda: _bare(folder, counted, stretch))
        for name, score in (found or {}).items():
            checks.run(name, lambda n=name, s=score: _same(n, s, artifact, told, stretch))
    return VerifyReport(
        path=str(folder),
        bytes=counted.total,
        sha256=whole.sha256,
        report=None,
        against=None,
        passed=all(c.status != "failed" for c in checks.done),
        checks=checks.done,
    )


def _count(counted: Count, budget: int) -> tuple[bool, str]:
    others = "".join(f" + {name} {size:,}" for name, size in counted.others.items())
    told = (
        f"{ARTIFACT} {counted.artifact:,} + {SCRIPT} {counted.script:,}{others} = {counted.total:,}"
    )
    left = budget - counted.total
    if left < 0:
        raise CorruptError(f"{told} bytes, {-left:,} over the limit of {budget:,}")
    return True, f"{told} of {budget:,} bytes, {left:,} ({left / budget:.3%}) left"


def _table(counted: Count, told: _Told, sha256: str) -> tuple[bool, str]:
    """Hold submission.json to the files."""
    found = {
        "bytes_total": counted.total,
        "bytes_model": counted.artifact,
        "bytes_code": counted.code,
    }
    for name, size in found.items():
        if getattr(told, name) != size:
            raise CorruptError(f"{TABLE} has {name} {getattr(told, name):,}, counted are {size:,}")
    if told.golfpack.artifact_sha256 != sha256:
        raise CorruptError(f"{TABLE} is of another artifact")
    return True, f"{TABLE} has these bytes and this artifact"


@dataclass(frozen=True)
class _Score:
    """A line of the script's."""

    loss: float
    bpb: float
    tokens: int
    bytes: int


def _bare(folder: Path, counted: Count, stretch: Stretch) -> tuple[dict[str, _Score], str]:
    """What the script scores, where there is nothing but the files that count."""
    told = {
        "VAL_FILES": str(Path(stretch.tokens).absolute()),
        "TOKENIZER_PATH": str(stretch.tokenizer.absolute()),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": str(stretch.threads),
    }
    asked = {"LIMIT": stretch.limit, "WINDOW": stretch.window, "STRIDE": stretch.stride}
    told |= {name: str(value) for name, value in asked.items() if value is not None}
    packages = required(_text(folder / REQUIREMENTS))
    with tempfile.TemporaryDirectory() as alone:
        for name in counted.files:
            to = Path(alone, name)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, to)
        try:
            printed = run_bare(Path(alone, SCRIPT), packages, told)
        except UsageError as e:
            raise CorruptError(e.message, e.hint) from e
    found = {
        m[1]: _Score(float(m[2]), float(m[3]), int(m[4]), int(m[5]))
        for m in _LINE.finditer(printed)
    }
    if not found:
        raise CorruptError(f"{SCRIPT} ran and printed no score")
    return found, f"{SCRIPT} scores {', '.join(found)} with {', '.join(packages)} alone"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise CorruptError(f"{path.name} cannot be read") from e


def _same(
    name: str, score: _Score, artifact: Path, told: _Told, stretch: Stretch
) -> tuple[bool, str]:
    """Hold a score of the script's to golfpack's."""
    try:
        own = evaluate(_options(name, artifact, told.golfpack.ttt, stretch))
    except GolfpackError as e:
        raise CorruptError(f"golfpack cannot score it: {e.message}") from e
    if (score.tokens, score.bytes) != (own.scored_tokens, own.scored_bytes):
        raise CorruptError(
            f"the script scores {score.tokens:,} tokens of {score.bytes:,} bytes, golfpack "
            f"{own.scored_tokens:,} of {own.scored_bytes:,}"
        )
    assert own.val_bpb is not None  # there was a tokenizer, or a count of bytes
    if not abs(score.bpb - own.val_bpb) <= TOLERANCE:
        raise CorruptError(
            f"the script scores {score.bpb:.8f} bits per byte, golfpack {own.val_bpb:.8f}"
        )
    illegal = [c["name"] for c in own.legality or () if not c["passed"]]
    if illegal:
        raise CorruptError(f"this way of scoring is not legal: {', '.join(map(str, illegal))}")
    return True, _agreed(score, own.val_bpb)


def _agreed(score: _Score, own_bpb: float) -> str:
    off = abs(score.bpb - own_bpb)
    return f"{score.bpb:.6f} bits per byte on {score.tokens:,} tokens, golfpack's own to {off:.0e}"


def _options(name: str, artifact: Path, ttt: _Ttt, stretch: Stretch) -> EvalOptions:
    options = EvalOptions(
        artifact, stretch.tokens, stretch.tokenizer, mode="plain", window=stretch.window,
        limit=stretch.limit, threads=stretch.threads,
    )  # fmt: skip
    if name == "plain":
        return options
    changed = dict(vars(options))
    if name == "sliding" or ttt.kind == "sgd":
        changed |= {"mode": "sliding", "stride": stretch.stride}
    if name == "ttt":
        settings = tuple(f"ttt.{k}={json.dumps(v)}" for k, v in ttt.options.items())
        changed |= {"ttt": ttt.kind, "settings": settings}
        if ttt.kind != "sgd":
            changed["window"] = None  # its options have one
    return EvalOptions(**changed)
