"""Whether an artifact is good enough, in words: its loss beside what texts do to the float model."""

from dataclasses import dataclass
from typing import Literal

from golfpack.build.report import BuildReport
from golfpack.eval.report import EvalReport

# A gap within so many of its own standard errors may be none.
SURE = 2.0
# A gap beyond so many times what another text does to the float model is a large one.
LARGE = 4.0
_ASK = "golfpack eval X.golf --float CKPT ... --json > FILE, then --eval FILE, says whether that shows."


@dataclass(frozen=True)
class Verdict:
    """What to make of the loss.

    Attributes:
        grade: "good", "fair" or "bad"; "open" where what is known does not tell.
        says: in a sentence or two.
    """

    grade: Literal["good", "fair", "bad", "open"]
    says: str


def verdict(build: BuildReport | None, evaluation: EvalReport | None) -> Verdict | None:
    """The verdict on an artifact; None where nothing is known of its loss.

    Args:
        build: its build report.
        evaluation: of the artifact, best beside its float model (`--float`).
    """
    if build is not None and build.measured_kl == 0:
        return Verdict(
            "good", "Nothing is lost: the artifact predicts exactly what the float model does."
        )
    if evaluation is not None and evaluation.quant_gap is not None:
        return _of_gap(evaluation, evaluation.quant_gap)
    if build is not None and build.measured_kl is not None:
        return _of_kl(build.measured_kl, build.measured_bpb)
    if evaluation is not None:
        return Verdict(
            "open", f"What quantizing cost is not known: only the artifact was scored. {_ASK}"
        )
    return None


def _of_gap(e: EvalReport, gap: float) -> Verdict:
    assert e.float_bpb is not None
    cost = (
        f"{gap:+.4f} bits per byte, {gap / e.float_bpb:+.2%} of the float model's {e.float_bpb:.4f}"
    )
    if e.spread is None:
        return Verdict(
            "open",
            f"Quantizing cost {cost}, on {e.targets:,} targets: too few to say how sure that is.",
        )
    unsure, text = SURE * e.spread.quant_gap, e.spread.float_bpb
    if gap <= unsure:
        return Verdict(
            "good",
            f"No loss shows: {cost}, and a gap as small as {unsure:.4f} may be chance on these "
            f"{e.targets:,} targets.",
        )
    other = f"another text of this kind and length moves the float model itself by {text:.4f}"
    if gap <= text:
        return Verdict("good", f"The loss is small: {cost}; {other}, {_times(text / gap)} as much.")
    times = f"{other}; this is {_times(gap / text)} as much"
    if gap <= LARGE * text:
        return Verdict("fair", f"The loss shows: {cost}. {times[0].upper()}{times[1:]}.")
    return Verdict(
        "bad",
        f"The loss is large: {cost}. {times[0].upper()}{times[1:]}: give it more bytes if you can.",
    )


def _times(ratio: float) -> str:
    return f"{ratio:.1f} times" if ratio < 10 else f"{ratio:,.0f} times"


def _of_kl(kl: float, bpb: float | None) -> Verdict:
    cost = f"a KL of {kl:.2g} nats per token to the float model"
    if bpb is not None:
        cost += f", about {bpb:+.2g} bits per byte"
    return Verdict("open", f"By held-out calibration text quantizing cost {cost}. {_ASK}")
