"""`golfpack plan`: what each budget would cost, before anything is built."""

import time

from golfpack.api.prepare import BuildOptions, code_bytes, load_inputs, prepare
from golfpack.errors import UsageError
from golfpack.packer.predict import Predictor, split_at_fit
from golfpack.packer.sizes import parse_size
from golfpack.packer.state import Budget, Notify, run_passes, silent
from golfpack.report.reports import PlanReport, PlanRow

# Without a budget: the range in which people build, in bits per weight.
DEFAULT_BUDGETS = ("2bpw", "2.5bpw", "3bpw", "3.5bpw", "4bpw", "5bpw", "6bpw")


def plan(options: BuildOptions, budgets: list[str], notify: Notify = silent) -> PlanReport:
    """Predict size, KL and loss of every budget from calibration alone.

    Raises:
        UsageError: bad input, or a recipe or calibration that gives nothing to predict from.
    """
    began = time.perf_counter()
    checkpoint, recipe = load_inputs(options)
    if not recipe.gradients or options.data_free:
        raise UsageError(
            f"recipe {recipe.name} measures no gradients, so its KL cannot be predicted",
            "plan with recipe rd, and without --data-free",
        )
    numel, code = checkpoint.spec.numel, code_bytes(options.code)
    sizes = [parse_size(b, numel) - code for b in budgets or DEFAULT_BUDGETS]
    before, fit = split_at_fit(recipe.passes)
    prepared = prepare(checkpoint, recipe, options, notify)
    state = prepared.state(Budget(max(sizes)), options.threads, notify)
    predictor = Predictor(run_passes(before, state), fit)
    rows = []
    for size in sorted(sizes):
        notify("plan", len(rows), len(sizes), f"{size:,} bytes")
        p = predictor.predict(size)
        rows.append(
            PlanRow(
                size + code, p.artifact_bytes, p.bits_per_weight, p.dial, p.kl, prepared.bpb(p.kl)
            )
        )
    return PlanReport(
        checkpoint=str(options.checkpoint),
        checkpoint_sha256=checkpoint.sha256,
        recipe=recipe.name,
        parameters=numel,
        calibration_tokens=0 if prepared.stats is None else prepared.stats.tokens,
        kl_ratio=predictor.kl_ratio,
        rows=rows,
        seconds=time.perf_counter() - began,
        assumed=checkpoint.assumed,
    )
