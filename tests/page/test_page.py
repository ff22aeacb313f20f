"""The report page as text: complete, exact, safe with any name, and nothing in it leads outside."""

import base64
import hashlib
import html
import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import asked
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from safetensors.numpy import save_file

from golfpack.base.documents import to_json
from golfpack.base.schema import schema_of
from golfpack.build.run import build
from golfpack.compare.report import CompareReport, CompareRow
from golfpack.errors import UsageError
from golfpack.eval.report import Spread
from golfpack.packer.format.loader import load
from golfpack.page.data import BARS, bars
from golfpack.page.make import PageOptions, report
from golfpack.page.page import PageReport, embedded, is_page
from golfpack.page.verdict import verdict

HOSTILE = "</script><img src=x onerror=alert(1)>&amp;{{style}}.weight"


def data_of(page: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found is not None
    return json.loads(found[1])


def page_of(path, **options) -> str:
    found = report(PageOptions(path, **options))
    return (path.parent / found.page).read_text()


@pytest.fixture(scope="module")
def built(tiny_path, tiny_shard, tmp_path_factory):
    """The tiny model, built: its artifact, with the report beside it."""
    folder = tmp_path_factory.mktemp("page")
    path = folder / "tiny.golf"
    code = folder / "train.py"
    code.write_bytes(b"#" * 321)
    options = asked(tiny_path, "20000", path, calib=str(tiny_shard), calib_tokens=512, code=(code,))
    return SimpleNamespace(path=path, report=build(options))


@pytest.fixture(scope="module")
def folder(built):
    return built.path.parent


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """An artifact of two tensors whose names are not meant well, with its report."""
    folder = tmp_path_factory.mktemp("hostile")
    rng = np.random.default_rng(0)
    names = (HOSTILE, "layers.1.\u2028'\"`${alert(2)}")
    weights = {n: rng.standard_normal((40, 24)).astype(np.float32) for n in names}
    save_file(weights, folder / "x.safetensors")
    path = folder / "x.golf"
    build(asked(folder / "x.safetensors", "4bpw", path, data_free=True))
    return path


@pytest.fixture
def copied(built, tmp_path):
    """Copies the artifact to a folder of its own, with a report that is changed."""

    def copy(change=None):
        path = tmp_path / "copy.golf"
        path.write_bytes(built.path.read_bytes())
        if change is not None:
            data = json.loads(built.path.with_suffix(".report.json").read_text())
            change(data)
            path.with_suffix(".report.json").write_text(json.dumps(data))
        return path

    return copy


def test_the_page_holds_every_tensor_and_every_byte(built):
    data = data_of(page_of(built.path))
    size = built.path.stat().st_size
    tensors = data["tensors"]
    assert [t["name"] for t in tensors] == [t.name for t in built.report.tensors]
    assert sum(t["bytes"] for t in tensors) + data["build"]["fixed_bytes"] == size
    budget = data["build"]
    assert (
        size + budget["code_bytes"] + budget["headroom_bytes"] == budget["budget_bytes"] == 20_000
    )
    assert budget["code_bytes"] == 321
    assert budget["measured_kl"] == built.report.measured_kl
    artifact = load(built.path)
    for t in tensors:
        bins, codes = t["histogram"], artifact.tensors[t["name"]][1].codes
        assert sum(bins["counts"]) + bins["below"] + bins["above"] == codes.size
        assert (bins["least"], bins["most"]) == (codes.min(), codes.max())
    assert data["missing"] == ["no evaluation: golfpack eval ... --json > FILE, then --eval FILE"]


def test_the_commands_write_the_page_and_keep_stdout_for_data(inside, folder, tiny_path):
    done = inside("report", "tiny.golf", "--output", "named.html", "--json")
    Draft202012Validator(schema_of(PageReport)).validate(done.report)
    assert done.report["page"] == "named.html"
    assert done.report["page_bytes"] == (folder / "named.html").stat().st_size
    (folder / "tiny.html").unlink(missing_ok=True)
    done = inside("report", "tiny.golf")
    assert (done.returncode, done.stdout) == (0, "")
    assert "wrote tiny.html" in done.stderr
    # A page is replaced, and that is said; what is no page is not replaced unasked.
    done = inside("report", "tiny.report.json")
    assert "replaced tiny.html" in done.stderr
    assert data_of((folder / "tiny.html").read_text())["title"] == "tiny.golf"
    (folder / "mine.html").write_text("<title>mine</title>")
    done = inside("report", "tiny.golf", "-o", "mine.html")
    assert done.returncode == 2
    assert "mine.html exists and is no page of golfpack report" in done.stderr
    assert (folder / "mine.html").read_text() == "<title>mine</title>"
    done = inside("report", "tiny.golf", "-o", "mine.html", "--force", "--json")
    assert done.report["replaced"] is True
    done = inside(
        "build", tiny_path, "--budget", "4bpw", "--data-free", "-o", "b.golf", "--html", "-q"
    )
    assert done.returncode == 0, done.stderr
    assert data_of((folder / "b.html").read_text())["title"] == "b.golf"
    done = inside("report", "train.py")
    assert (done.returncode, done.stdout) == (2, "")


def test_an_artifact_alone_tells_what_it_can_and_the_page_says_what_it_cannot(
    built, copied, tiny_path
):
    path = copied()
    data = data_of(page_of(path))
    assert "budget_bytes" not in data["build"]
    assert len(data["missing"]) == 3
    assert sum(t["bytes"] for t in data["tensors"]) + data["build"]["fixed_bytes"] == (
        path.stat().st_size
    )
    data = data_of(page_of(path, against=tiny_path))
    told = {t.name: t.rel_err for t in built.report.tensors}
    for t in data["tensors"]:
        assert t["rel_err"] == pytest.approx(told[t["name"]], rel=1e-4)


def test_a_report_without_its_artifact_tells_nearly_all(built, tmp_path):
    path = tmp_path / "lone.report.json"
    path.write_bytes(built.path.with_suffix(".report.json").read_bytes())
    found = report(PageOptions(path))
    assert found.page == str(tmp_path / "lone.html")
    assert found.artifact_sha256 is None
    data = data_of((tmp_path / "lone.html").read_text())
    assert data["build"]["artifact_sha256"] == built.report.artifact_sha256
    for told, t in zip(built.report.tensors, data["tensors"], strict=True):
        assert t["bytes"] == told.bytes
        assert told.histogram is not None
        bins = t["histogram"]
        assert sum(bins["counts"]) + bins["below"] + bins["above"] == sum(told.histogram.counts)


def test_the_same_files_give_the_same_page(built, tmp_path):
    one, two = (page_of(built.path, output=tmp_path / name) for name in ("a.html", "b.html"))
    assert one == two


@pytest.mark.parametrize("which", ["built", "hostile"])
def test_nothing_on_the_page_leads_outside(request, which):
    found = request.getfixturevalue(which)
    page = page_of(found if which == "hostile" else found.path)
    markup = re.sub(r'(<script type="application/json" id="data">).*?(</script>)', r"\1\2", page)
    links = re.findall(r"""(?:src|href|action|data)\s*=\s*["']?([^"'\s>]*)""", markup)
    assert links
    assert all(link.startswith(("#", "data:")) for link in links)
    assert "url(" not in markup
    assert "@import" not in markup
    assert not re.search(r"\b(?:fetch|XMLHttpRequest|WebSocket|EventSource|sendBeacon)\b", markup)
    # The script never makes markup from text.
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", markup)


def test_the_policy_allows_this_style_and_this_script_only(built):
    page = page_of(built.path)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    allowed = html.unescape(policy[1])
    assert allowed.startswith("default-src 'none';")
    assert "unsafe" not in allowed
    for kind, tag in (("style-src", "style"), ("script-src", "script")):
        text = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.S)
        assert text is not None
        digest = base64.b64encode(hashlib.sha256(text[1].encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}';" in allowed


def test_hostile_names_stay_data(hostile):
    page = page_of(hostile)
    assert "<img" not in page
    assert page.count("</script>") == 2
    assert HOSTILE in [t["name"] for t in data_of(page)["tensors"]]


@settings(max_examples=40)
@given(st.recursive(st.text(), lambda c: st.lists(c) | st.dictionaries(st.text(), c), max_leaves=8))
def test_embedded_data_mean_nothing_in_html_and_come_back(value):
    text = embedded({"value": value})
    assert not set(text) & set("<>&")
    assert text.isascii()
    assert json.loads(text) == {"value": value}


CODES = st.dictionaries(
    st.integers(-(2**31), 2**31), st.integers(1, 10**6), min_size=1, max_size=300
)


@given(CODES)
def test_bars_count_every_code_once(found):
    h = bars(sorted(found.items()))
    total = sum(found.values())
    assert sum(h["counts"]) + h["below"] + h["above"] == total
    assert h["below"] <= 0.003 * total
    assert h["above"] <= 0.003 * total
    assert 1 <= len(h["counts"]) <= BARS
    assert h["counts"][0]
    if max(found) - min(found) < BARS:
        assert h["width"] == 1
        assert {h["first"] + i: n for i, n in enumerate(h["counts"]) if n} == found


def nested(depth: int) -> list:
    return [nested(depth - 1)] if depth else []


WRONG = {
    "no JSON": ("{", "is not JSON"),
    "a list": ("[]", "holds no JSON object"),
    "not a report": ("{}", "is not a build report: it has no artifact_sha256"),
    "another version": (lambda d: d.update(schema_version=99), "schema version 99"),
    "a figure that is text": (
        lambda d: d.update(artifact_bytes="many"),
        "artifact_bytes cannot be",
    ),
    "a tensor without a role": (lambda d: d["tensors"][1].pop("role"), "tensors[1] has no 'role'"),
    "nested without end": (lambda d: d.update(config={"a": nested(700)}), "more than 50 deep"),
    "of another build": (lambda d: d.update(artifact_sha256="0" * 64), "is of another build"),
    "a tensor left out": (lambda d: d["tensors"].pop(), "lists other tensors"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_broken_or_foreign_report_is_refused(copied, kind):
    broken, message = WRONG[kind]
    path = copied(broken if callable(broken) else lambda d: None)
    if not callable(broken):
        path.with_suffix(".report.json").write_text(broken)
    with pytest.raises(UsageError, match=re.escape(message)):
        report(PageOptions(path))
    assert not path.with_suffix(".html").exists()


def test_figures_that_are_no_numbers_become_unknown(copied):
    path = copied(lambda d: d.update(measured_kl=float("nan"), predicted_kl=float("inf")))
    found = data_of(page_of(path))["build"]
    assert found["measured_kl"] is None
    assert found["predicted_kl"] is None


def test_a_build_that_failed_has_a_page(tiny_path, tmp_path):
    options = asked(tiny_path, "9000", tmp_path / "x.golf", data_free=True, blind=True)
    with pytest.raises(Exception, match="budget"):
        build(options.changed(budget="100"))
    failed = tmp_path / "x.failed.report.json"
    found = data_of(page_of(failed))
    assert found["build"]["status"] == "failed"
    assert found["build"]["error"]
    assert found["tensors"] == []
    assert found["title"] == tiny_path.name
    kept = failed.rename(tmp_path / "kept.json")
    build(options)
    with pytest.raises(UsageError, match="a build that failed"):
        report(PageOptions(tmp_path / "x.golf", report=kept))
    with pytest.raises(UsageError, match="--float goes with an artifact"):
        report(PageOptions(kept, against=tiny_path))


def test_the_page_does_not_replace_what_it_is_made_of(built):
    with pytest.raises(UsageError, match="made of"):
        report(PageOptions(built.path, output=built.path))
    with pytest.raises(UsageError, match=r"not a \.golf artifact"):
        report(PageOptions(built.path.with_name("train.py")))


def test_a_page_is_known_by_its_title_however_long_the_name(copied):
    path = copied().rename(copied().with_name("&" * 240 + ".golf"))
    page = page_of(path)
    assert is_page(page.encode())
    assert not is_page(b"<title>golfpack</title>")


def test_a_page_of_120_tensors_is_small(tmp_path):
    rng = np.random.default_rng(0)
    weights = {
        f"model.layers.{i // 9}.part.{i % 9}.weight": rng.standard_normal((24, 32))
        for i in range(120)
    }
    save_file({n: w.astype(np.float32) for n, w in weights.items()}, tmp_path / "x.safetensors")
    build(asked(tmp_path / "x.safetensors", "6bpw", tmp_path / "x.golf", data_free=True))
    assert report(PageOptions(tmp_path / "x.golf")).page_bytes < 400_000


def evaluated(**changes):
    """An evaluation, as far as a verdict looks at it."""
    told = {"quant_gap": 0.01, "float_bpb": 2.0, "targets": 8192, "spread": Spread(32, 0.02, 0.001)}
    return SimpleNamespace(**{**told, **changes})


@pytest.mark.parametrize(
    ("gap", "grade", "says"),
    [
        (-0.001, "good", "No loss shows: -0.0010 bits per byte"),
        (0.0019, "good", "No loss shows"),
        (0.0025, "good", "moves the float model itself by 0.0200, 8.0 times as much"),
        (0.04, "fair", "The loss shows: +0.0400 bits per byte, +2.00% of the float model's 2.0000"),
        (0.3, "bad", "The loss is large"),
    ],
)
def test_the_verdict_holds_the_gap_to_the_float_models_own_spread(gap, grade, says):
    found = verdict(None, evaluated(quant_gap=gap))
    assert found.grade == grade
    assert says in found.says


def test_the_verdict_says_what_would_tell_where_nothing_does(built):
    assert verdict(None, None) is None
    assert verdict(built.report, None).grade == "open"
    assert "--float CKPT" in verdict(built.report, None).says
    assert "only the artifact was scored" in verdict(None, evaluated(quant_gap=None)).says
    assert "too few" in verdict(None, evaluated(spread=None)).says
    exact = replace(built.report, measured_kl=0.0)
    assert verdict(exact, evaluated()).says.startswith("Nothing is lost")
    by_kl = replace(built.report, measured_bpb=0.0123)
    assert "about +0.012 bits per byte" in verdict(by_kl, None).says


def sweep_of(build_report) -> CompareReport:
    """A sweep of the checkpoint of a build: three sizes, one without figures, and a refused budget."""
    rows = [
        CompareRow("rd", b, n, artifact_bytes=n, kl=k, val_bpb=k, quant_gap=k)
        for b, n, k in (("4bpw", 22_000, 0.01), ("3bpw", 17_000, 0.05), ("1bpw", 6_000, None))
    ]
    refused = CompareRow("rd", "0.1bpw", 500, refused="too few")
    return CompareReport(
        checkpoint="tiny.pt", checkpoint_sha256=build_report.checkpoint_sha256, family="golf",
        config={}, assumed={}, parameters=build_report.parameters, recipes=["rd"], settings=[],
        calibration=None, seed=0, code_bytes=0, tokens="val.bin", tokens_sha256=None, tokenizer="t",
        window=64, scored_tokens=100, float_bytes=1, float_loss=1.0, float_bpb=2.0,
        kl_source="evaluation tokens", kl_tokens=64, folder=None, rows=[*rows, refused], seconds=1.0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def swept(built, tmp_path_factory):
    """The file of such a sweep."""
    path = tmp_path_factory.mktemp("sweep") / "sweep.report.json"
    path.write_text(to_json(sweep_of(built.report)))
    return path


def test_a_sweep_adds_measured_sizes_and_has_to_be_of_the_same_checkpoint(built, swept, tmp_path):
    shown = data_of(page_of(built.path, sweep=swept))["sweep"]
    assert shown["kl_source"] == "evaluation tokens"
    assert [(r["bytes"], r["kl"], r["gap"]) for r in shown["rows"]] == [
        (6_000, None, None), (17_000, 0.05, 0.05), (22_000, 0.01, 0.01),
    ]  # fmt: skip
    other = json.loads(swept.read_text())
    for change, says in (
        ({"checkpoint_sha256": "0" * 64}, "is of another checkpoint"),
        ({"parameters": 7}, "is of another checkpoint"),
        ({"kl_source": "prediction"}, "measured nothing"),
        ({"rows": 1}, "rows"),
    ):
        wrong = tmp_path / "wrong.json"
        wrong.write_text(json.dumps({**other, **change}))
        with pytest.raises(UsageError, match=says):
            report(PageOptions(built.path, sweep=wrong))
    with pytest.raises(UsageError, match="is not the report of a sweep"):
        report(PageOptions(built.path, sweep=built.path.with_suffix(".report.json")))


def test_code_that_ships_is_listed_and_adds_up(built, copied):
    (file,) = data_of(page_of(built.path))["code"]
    assert (file["path"].endswith("train.py"), file["bytes"], file["what"]) == (True, 321, "--code")
    section = {
        "files": [{"path": "a.py", "bytes": 300, "what": "decoder"}, {"path": "b", "bytes": 21}]
    }
    told = data_of(page_of(copied(lambda d: d.update(code=section))))["code"]
    assert [(f["path"], f["bytes"], f["what"]) for f in told] == [
        ("a.py", 300, "decoder"), ("b", 21, ""),
    ]  # fmt: skip
    section["files"][0]["bytes"] = 299
    with pytest.raises(UsageError, match="do not add up"):
        page_of(copied(lambda d: d.update(code=section)))
