"""Schemas follow the dataclasses, and the page under docs/ follows both."""

import importlib.util
import json
from dataclasses import fields
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator, ValidationError

from golfpack.base.convert import from_json
from golfpack.base.documents import to_json
from golfpack.base.schema import descriptions, nested, schema_of
from golfpack.build.report import FrontierPoint
from golfpack.commands.documents import FILES, REPORTS
from golfpack.errors import UsageError
from golfpack.inspect.inspect import InspectReport
from golfpack.measure.columns import COLUMNS
from golfpack.measure.tensors import Histogram, TensorReport

DOCS = Path(__file__).resolve().parents[2] / "docs"
ROW = TensorReport(
    "w", "mlp_in", (2, 3), "int6 row", 10, 2, 13.3, 1.5, 0.5, histogram=Histogram(-1, [1, 4, 1])
)
REPORT = InspectReport("x.golf", "ab", 12, "golf", {"dim": 3}, {}, 6, {"codes": 10}, [ROW])


@pytest.mark.parametrize("kind", [*REPORTS.values(), *FILES.values()], ids=str)
def test_every_key_of_every_report_is_described(kind):
    Draft202012Validator.check_schema(schema_of(kind))
    for part in nested(kind):
        missing = {f.name for f in fields(part)} - set(descriptions(part))
        assert not missing, f"{part.__name__}'s docstring does not say what {missing} are"


def test_the_page_is_what_the_dataclasses_say():
    spec = importlib.util.spec_from_file_location("make_reports", DOCS / "make_reports.py")
    assert spec is not None
    assert spec.loader is not None
    make_reports = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_reports)
    text = make_reports.PAGE.read_text()
    assert text == make_reports.page(text), "run python docs/make_reports.py"
    assert all(f"golfpack {name} --json" in text for name in REPORTS)


def test_a_schema_accepts_the_report_and_nothing_else():
    validator = Draft202012Validator(schema_of(InspectReport))
    good = json.loads(to_json(REPORT))
    validator.validate(good)
    Draft202012Validator(schema_of(list[TensorReport])).validate(good["tensors"])
    row = good["tensors"][0]
    for bad in (
        {**good, "bytes": "12"},
        {**good, "more": 1},
        {k: v for k, v in good.items() if k != "sha256"},
        {**good, "streams": {"codes": 1.5}},
        {**good, "tensors": [{**row, "zeros": "half"}]},
        {**good, "tensors": [{**row, "histogram": {"first": 0}}]},
    ):
        with pytest.raises(ValidationError):
            validator.validate(bad)


def test_a_report_reads_back_as_it_was():
    data = json.loads(to_json(REPORT))
    assert from_json(InspectReport, {**data, "added later": 1}, "x") == REPORT
    assert from_json(FrontierPoint, {"bytes": 3, "predicted_kl": 1}, "x").predicted_kl == 1.0
    for change, says in (
        ({"bytes": True}, "x: bytes cannot be True"),
        ({"tensors": [{**data["tensors"][0], "shape": [1, "2"]}]}, "x: tensors[0]: shape[1]"),
    ):
        with pytest.raises(UsageError) as e:
            from_json(InspectReport, {**data, **change}, "x")
        assert says in e.value.message
    with pytest.raises(UsageError, match="no 'path'"):
        from_json(InspectReport, {}, "x")


def test_columns_show_what_tensors_have():
    shown = {f.name for f in fields(TensorReport)} - {"histogram"}
    assert shown <= set(COLUMNS)
    assert all(len(c.header) <= 9 and len(c.explain) <= 50 for c in COLUMNS.values())
    assert COLUMNS["shape"].text(ROW) == "2x3"
    assert COLUMNS["rel_err"].text(ROW) == "-"
