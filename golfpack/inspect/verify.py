"""`golfpack verify`: is a file whole, does it decode, and is it what its report says?"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from golfpack.artifact import model_of, names_artifact, open_original, whole_config
from golfpack.base.documents import SCHEMA_VERSION, versions
from golfpack.base.progress import Notify, silent
from golfpack.build.reportfile import read_build_report
from golfpack.errors import CorruptError, UsageError, unreadable
from golfpack.models.base import Family
from golfpack.models.model import Model
from golfpack.packer.format.container import DIGEST, Frame, divide
from golfpack.packer.format.loader import Artifact, loads
from golfpack.packer.format.reencode import encode_again

T = TypeVar("T")
# "differs" is no fault of the file: other software may write other bytes for the same tensors.
Status = Literal["ok", "failed", "differs", "skipped"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: "frame", "stream codes", "tensors", ...
        status: "differs" where this software would write other bytes for the same tensors, "skipped"
            where an earlier check failed, so that there was nothing to look at.
        detail: what was found, in words.
    """

    name: str
    status: Status
    detail: str


@dataclass(frozen=True)
class VerifyReport:
    """What `golfpack verify` found.

    Attributes:
        path: of the file, or of a submission's folder.
        bytes: its size; of a folder, of what counts in it.
        sha256: of all of them, as they are; of a folder, of its artifact.
        report: the build report it was held to; None without.
        against: the checkpoint it was held to; None without.
        passed: whether no check failed.
        checks: in the order in which they were made.
    """

    path: str
    bytes: int
    sha256: str
    report: str | None
    against: str | None
    passed: bool
    checks: list[Check]
    versions: dict[str, str] = field(default_factory=versions)
    schema_version: int = SCHEMA_VERSION


def verify(
    path: Path,
    report: Path | None = None,
    against: Path | None = None,
    settings: tuple[str, ...] = (),
    notify: Notify = silent,
    family: Family | None = None,
) -> VerifyReport:
    """Look at everything that can be wrong with an artifact, one check after the other.

    Args:
        report: the build's report, which must be of this file.
        against: the checkpoint it was built from, which must have the same tensors.
        settings: "model.option=value" of the checkpoint.
        family: what `--model` says the artifact is; None takes its word.

    Raises:
        UsageError: a file that is not there, or is something else. A damaged artifact raises
            nothing: it is what the checks say.
    """
    if not path.is_file():
        raise unreadable(path)
    if against is not None and not against.exists():
        raise unreadable(against)
    if not names_artifact(path):
        raise UsageError(f"{path} is not an artifact", "verify takes a .golf file")
    told = None if report is None else read_build_report(report)
    blob, checks = path.read_bytes(), Checks(notify)
    artifact = _whole(blob, checks)
    model = checks.run("model", lambda: _model(_there(artifact), path, family))
    checks.run("encoding", lambda: _encoding(_there(artifact), blob))
    if told is not None:
        checks.run("report", lambda: _report(told, _there(artifact)))
    if against is not None:
        checks.run("checkpoint", lambda: _checkpoint(_there(model), against, settings, told))
    return VerifyReport(
        path=str(path),
        bytes=len(blob),
        sha256=hashlib.sha256(blob).hexdigest(),
        report=None if report is None else str(report),
        against=None if against is None else str(against),
        passed=all(c.status != "failed" for c in checks.done),
        checks=checks.done,
    )


class _NotReached(Exception):
    """An earlier check failed, so that there is nothing to look at."""


class _Differs(Exception):
    """The file is not what was expected, and that is no fault of it."""


class Checks:
    """Runs checks and keeps what they found."""

    def __init__(self, notify: Notify) -> None:
        self.notify = notify
        self.done: list[Check] = []

    def run(self, name: str, look: Callable[[], tuple[T, str]]) -> T | None:
        """What `look` found, or None where it could not; its words go into the list of checks."""
        self.notify("verify", len(self.done), 0, name)
        found = None
        try:
            found, detail = look()
        except CorruptError as e:
            check = Check(name, "failed", e.message)
        except UsageError as e:  # a checkpoint that cannot be read as the artifact's model
            check = Check(name, "failed", "; ".join(filter(None, (e.message, e.hint))))
        except _NotReached:
            check = Check(name, "skipped", "an earlier check failed")
        except _Differs as e:
            check = Check(name, "differs", str(e))
        else:
            check = Check(name, "ok", detail)
        self.done.append(check)
        return found

    def skip(self, name: str, why: str) -> None:
        """Note that something was not looked at."""
        self.done.append(Check(name, "skipped", why))


def _there(found: T | None) -> T:
    if found is None:
        raise _NotReached
    return found


def _whole(blob: bytes, checks: Checks) -> Artifact | None:
    """The artifact, where every digest matches and every tensor decodes."""
    frame = checks.run("frame", lambda: _frame(blob))
    for name, data, digest in [] if frame is None else frame.parts:
        checks.run(f"stream {name}", lambda d=data, told=digest: _digest(d, told))
    # Not the sha256 of the file, which takes in this digest.
    before = " before the digest at its end"
    checks.run("file", lambda: _digest(blob[:-DIGEST], _there(frame).digest, before))
    whole = all(c.status == "ok" for c in checks.done)
    return checks.run("tensors", lambda: _tensors(_there(blob if whole else None)))


def _frame(blob: bytes) -> tuple[Frame, str]:
    frame = divide(blob)
    detail = f"format version {frame.version}, {len(blob):,} bytes as the manifest says"
    return frame, f"{detail}, {len(frame.parts)} streams"


def _digest(data: bytes, told: bytes, where: str = "") -> tuple[bool, str]:
    found = hashlib.sha256(data)
    if found.digest()[: len(told)] != told:
        raise CorruptError(
            f"the sha256 of its {len(data):,} bytes{where} is not what the file says"
        )
    return True, f"{len(data):,} bytes{where}, sha256 {found.hexdigest()[:16]}"


def _tensors(blob: bytes) -> tuple[Artifact, str]:
    artifact = loads(blob)
    weights = artifact.weights()
    bad = [name for name, w in weights.items() if not np.isfinite(w).all()]
    if bad:
        raise CorruptError(f"weights of {bad[0]} are not finite")
    numel = sum(w.size for w in weights.values())
    return artifact, f"{len(weights)} decode to {numel:,} finite weights"


def _model(artifact: Artifact, path: Path, family: Family | None) -> tuple[Model, str]:
    model = model_of(artifact, path, family)
    return model, f"family {artifact.family}, its config and tensors belong together"


def _encoding(artifact: Artifact, blob: bytes) -> tuple[bool, str]:
    again = encode_again(artifact)
    if again == blob:
        return True, "the tensors encode to the same bytes again"
    before, after = artifact.weights(), loads(again).weights()
    if any(not np.array_equal(w, after[name]) for name, w in before.items()):
        raise CorruptError("the tensors encode to a file that decodes to others")
    raise _Differs(
        f"the tensors encode to {len(again):,} other bytes, which decode to the same: another "
        "version of golfpack or of a codec's library wrote the file"
    )


def _report(told: dict[str, Any], artifact: Artifact) -> tuple[bool, str]:
    """Hold a build report to the file. Raises CorruptError at the first figure that is another."""
    size = artifact.container.size
    found = {
        "artifact_bytes": size,
        "family": artifact.family,
        "config": whole_config(artifact),
        "parameters": sum(w.size for w in artifact.weights().values()),
        "tensors": [[name, list(entry.shape)] for name, (entry, _) in artifact.tensors.items()],
    }
    said = {**told, "tensors": [[row["name"], row["shape"]] for row in told["tensors"]]}
    budget = told.get("budget_bytes")
    if budget is not None:
        found["headroom_bytes"] = budget - told["code_bytes"] - size
    sha256 = artifact.container.sha256
    if told["artifact_sha256"] != sha256:
        where = f", written to {told['artifact']}" if isinstance(told.get("artifact"), str) else ""
        raise CorruptError(
            f"the report is of another artifact{where}: sha256 {told['artifact_sha256'][:16]}, and this "
            f"file's is {sha256[:16]}"
        )
    for key, value in found.items():
        if said.get(key) != value:
            shown = "" if isinstance(value, dict | list) else f": {said.get(key)}, not {value}"
            raise CorruptError(f"the report has another {key}{shown}")
    if budget is None:
        return True, "sha256, bytes, config and tensors agree; it had no budget"
    if found["headroom_bytes"] < 0:
        raise CorruptError(f"the file is {-found['headroom_bytes']:,} bytes over its budget")
    return True, f"sha256, bytes, config and tensors agree; within the budget of {budget:,} bytes"


def _checkpoint(
    model: Model, path: Path, settings: tuple[str, ...], told: dict[str, Any] | None
) -> tuple[bool, str]:
    original = open_original(model, path, settings)
    if told is not None and told["checkpoint_sha256"] != original.sha256:
        raise CorruptError("the report is of a build from another checkpoint")
    errors, energy = {}, {}
    for name, w in original.weights.items():
        exact = w.astype(np.float64)
        errors[name] = float(np.sum((model.weights[name] - exact) ** 2))
        energy[name] = float(np.sum(exact**2))
    relative = {n: (e / energy[n]) ** 0.5 for n, e in errors.items() if energy[n]}
    total = (sum(errors.values()) / max(sum(energy.values()), 1e-300)) ** 0.5
    worst = max(relative, key=lambda n: relative[n], default=None)
    if not total:
        return True, "the same tensors, shapes and weights, to the bit"
    detail = f"the same tensors and shapes; rel_err {total:.4f} over all weights"
    if worst is not None:
        detail += f", at worst {relative[worst]:.4f} in {worst}"
    return True, detail
