"""Every JSON document that golfpack writes, by the command that prints it under --json."""

from dataclasses import replace
from inspect import getdoc
from typing import Any, get_args

from golfpack.base.schema import field_table, nested
from golfpack.build.demo import DemoRow
from golfpack.build.plan_report import PlanReport
from golfpack.build.report import BuildReport, FailedBuild
from golfpack.compare.report import CompareReport
from golfpack.eval.report import EvalReport, StatsReport
from golfpack.export.export import ExportReport
from golfpack.generate.report import GenerateReport
from golfpack.inspect.diff_report import DiffReport
from golfpack.inspect.environment import EnvReport
from golfpack.inspect.importing import ImportReport
from golfpack.inspect.inspect import InspectReport, UnpackReport
from golfpack.inspect.listing import ListReport
from golfpack.inspect.train_plan import TrainPlan
from golfpack.inspect.verify import VerifyReport
from golfpack.kv.tune_report import TuneReport
from golfpack.measure.columns import COLUMNS, Column
from golfpack.page.page import PageReport
from golfpack.probe.probe import ProbeReport
from golfpack.runlog.report import RunReport
from golfpack.size.report import SizeReport
from golfpack.submission.report import SubmissionReport
from golfpack.train.report import TrainReport

# Command -> a report dataclass, or a list of one. docs/reports.md has a section for each.
REPORTS: dict[str, Any] = {
    "build": BuildReport,
    "plan": PlanReport,
    "probe": ProbeReport,
    "eval": EvalReport,
    "generate": GenerateReport,
    "tune-cache": TuneReport,
    "stats": StatsReport,
    "compare": CompareReport,
    "sweep": CompareReport,
    "train": TrainReport,
    "size": SizeReport,
    "runreport": RunReport,
    "report": PageReport,
    "inspect": InspectReport,
    "diff": DiffReport,
    "verify": VerifyReport,
    "export": ExportReport,
    "unpack": UnpackReport,
    "import": ImportReport,
    "demo": list[DemoRow],
    "list": ListReport,
    "env": EnvReport,
}
# Documents that are written to files, and what commands print under further options; a build that fails
# prints its own under --json, too.
FILES: dict[str, Any] = {
    "NAME.failed.report.json": FailedBuild,
    "golfpack train --print-plan --json": TrainPlan,
    "golfpack export --submission --json": SubmissionReport,
}


def reference() -> str:
    """The generated part of docs/reports.md: every document, key by key, and the table's columns."""
    documents = [(f"`golfpack {name} --json`", kind) for name, kind in REPORTS.items()]
    documents += [(f"`{name}`", kind) for name, kind in FILES.items()]
    parts: list[str] = []
    told: set[type] = set()
    for title, kind in documents:
        parts.append(f"## {title}")
        if get_args(kind):
            parts.append("A list of the following.")
        for part in nested(kind):
            if part not in told:
                told.add(part)
                parts.append(f"### {part.__name__}\n\n{_about(part)}\n\n{field_table(part)}")
            elif part is nested(kind)[0]:
                parts.append(f"As {part.__name__} above.")
    rows = [f"| {c.header} | `{c.name}` | {c.explain} |" for c in _escaped()]
    head = ["## Columns of the tables", "", "| header | name | meaning |", "|---|---|---|"]
    return "\n\n".join(parts) + "\n\n" + "\n".join([*head, *rows]) + "\n"


def _about(kind: type) -> str:
    """What a class's docstring says before its attributes."""
    return (getdoc(kind) or "").partition("\n\nAttributes:")[0]


def _escaped() -> list[Column]:
    return [replace(c, explain=c.explain.replace("|", r"\|")) for c in COLUMNS.values()]
