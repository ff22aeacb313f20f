"""The report page in a real browser: drawn, clicked, sorted, read with the keyboard; nothing fetched.

Needs Chromium (`apt-get install chromium`) and playwright; nothing is downloaded.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import asked
from page.test_page import sweep_of
from safetensors.numpy import save_file

from golfpack.base.documents import to_json
from golfpack.build.run import build
from golfpack.page.make import PageOptions, report

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
if CHROMIUM is None:
    pytest.skip("needs Chromium: apt-get install chromium", allow_module_level=True)
playwright = pytest.importorskip(
    "playwright.sync_api", reason="needs playwright: pip install -c constraints.txt '.[dev]'"
)

ARGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
VIEWS = [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")]
HOSTILE = "</script><img src=x onerror=alert(1)>.weight"


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Any]:
    with playwright.sync_playwright() as p:
        # Chromium keeps its state in a fresh folder that playwright makes and removes.
        started = p.chromium.launch(executable_path=CHROMIUM, headless=True, args=ARGS)
        yield started
        started.close()


@dataclass
class Opened:
    """A page, and what it complained about or asked for besides itself."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture
def opened(browser) -> Iterator[Any]:
    """opened(path, width, scheme) -> the page in a window; afterwards checks that all went well."""
    contexts = []

    def open_(path: Path, width: int = 1280, scheme: str = "light") -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
        )
        context.set_default_timeout(10_000)
        found = Opened(context.new_page())
        contexts.append((context, found, path.as_uri()))
        found.page.on("console", lambda m: found.complaints.append(f"{m.type}: {m.text}"))
        found.page.on("pageerror", lambda e: found.complaints.append(str(e)))
        found.page.on("dialog", lambda d: (found.complaints.append(d.message), d.dismiss()))
        found.page.on("request", lambda r: found.requests.append(r.url))
        found.page.goto(path.as_uri())
        return found.page

    yield open_
    for context, found, uri in contexts:
        context.close()
        assert found.complaints == []
        assert [r for r in found.requests if not r.startswith("data:")] == [uri]


@dataclass(frozen=True)
class Tiny:
    page: Path
    tensors: list[dict[str, Any]]
    bytes: dict[str, int]


@pytest.fixture(scope="module")
def tiny_page(tiny_path, tiny_shard, tmp_path_factory) -> Tiny:
    path = tmp_path_factory.mktemp("browser") / "tiny.golf"
    found = build(asked(tiny_path, "20000", path, calib=str(tiny_shard), calib_tokens=512))
    report(PageOptions(path))
    side = sum(t.side_bytes for t in found.tensors)
    parts = {
        "payload": found.artifact_bytes - found.fixed_bytes - side,
        "side": side,
        "header": found.fixed_bytes,
        "headroom": found.headroom_bytes or 0,
        "total": 20_000,
    }
    return Tiny(path.with_suffix(".html"), [asdict(t) for t in found.tensors], parts)


@pytest.mark.parametrize(("width", "scheme"), VIEWS)
def test_a_click_on_a_tensor_shows_its_details(opened, tiny_page, width, scheme):
    page = opened(tiny_page.page, width, scheme)
    # Nothing sticks out to the right of the window.
    assert page.evaluate("document.documentElement.scrollWidth") == width
    luminance = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]")
    assert (int(luminance) > 128) == (scheme == "light")
    cells = page.locator(".cell")
    assert cells.count() == len(tiny_page.tensors)
    boxes = [cells.nth(i).bounding_box() for i in range(cells.count())]
    assert all(b and b["width"] > 0 and b["height"] > 0 for b in boxes)
    largest = max(tiny_page.tensors, key=lambda t: t["bytes"])
    details = page.locator("#details")
    assert details.is_hidden()
    page.locator(f'.cell[data-tensor="{largest["name"]}"]').click()
    assert details.locator("h2").inner_text() == largest["name"]
    assert f"{largest['bytes']:,} bytes" in details.inner_text()
    assert f"{largest['rel_err']:.4f}" in details.inner_text()
    assert details.locator(".histogram rect").count() > 5
    page.keyboard.press("Escape")
    assert details.is_hidden()


def lines_of(page, selector: str) -> list[int]:
    """Of every text node under elements of this selector, over how many lines it runs."""
    return page.evaluate(
        """selector => [...document.querySelectorAll(selector)].flatMap((root) => {
          const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
          const found = [];
          while (walker.nextNode()) {
            const range = document.createRange();
            range.selectNodeContents(walker.currentNode);
            found.push(new Set([...range.getClientRects()].map((r) => Math.round(r.top))).size);
          }
          return found;
        })""",
        selector,
    )


def test_on_a_telephone_nothing_is_torn_or_cut(opened, tiny_page):
    page = opened(tiny_page.page, 390)
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    # Names break between their parts, and have room for what hangs below the line.
    names = page.locator(".tensors tbody th button bdi")
    assert names.all_text_contents() == [t["name"] for t in tiny_page.tensors]
    assert set(lines_of(page, ".tensors tbody th button bdi")) == {1}
    buttons = "[...document.querySelectorAll('.tensors tbody th button')]"
    assert page.evaluate(f"{buttons}.every((b) => b.scrollHeight <= b.clientHeight)")
    assert set(page.evaluate(f"{buttons}.map((b) => b.clientHeight)")) == {20, 40}
    # Rows of whole pixels: else the fixed column hides a line between rows.
    heights = page.evaluate(
        """[...document.querySelectorAll(".tensors tbody tr, .tensors tfoot tr")].map(
          (r) => r.getBoundingClientRect().height)"""
    )
    assert [h for h in heights if h % 1] == []
    # Options stay whole, and the text with them in it is what it was.
    words = page.locator(".word").all_text_contents()
    assert {"--json", "--eval", "--from"} <= set(words)
    assert set(lines_of(page, ".word")) == {1}
    missing = page.locator(".missing li").first
    assert missing.inner_text() == (
        "no evaluation: golfpack eval ... --json > FILE, then --eval FILE"
    )
    # A size is shown in full or not at all.
    assert page.evaluate(
        """[...document.querySelectorAll(".cell:not(.no-size):not(.no-name) .cell-size")].every(
          (s) => s.scrollWidth <= s.clientWidth)"""
    )


def test_a_name_breaks_at_dots_slashes_and_in_long_parts_at_underscores(opened, tiny_page):
    page = opened(tiny_page.page, 390)
    for name, parts in (
        ("blocks.0.attn.c_q.weight", ["blocks.", "0.", "attn.", "c_q.", "weight"]),
        ("a/b.pt", ["a/", "b.", "pt"]),
        ("h.self_attn_layer_norm.b", ["h.", "self_", "attn_", "layer_", "norm.", "b"]),
        ("plain", ["plain"]),
    ):
        found = page.evaluate("n => breakable(n).filter((p) => typeof p === 'string')", name)
        assert found == parts
    for text in ("a --json > x", "  -q\n--two  words ", "", "none-at-all - 5"):
        assert page.evaluate("t => el('p', {}, unbroken(t)).textContent", text) == text


@pytest.mark.parametrize("width", [1280, 390])
def test_the_table_sorts_by_its_headers_groups_and_filters(opened, tiny_page, width):
    page = opened(tiny_page.page, width)
    rows = page.locator(".tensors tbody tr[data-tensor]")
    stored = [t["name"] for t in tiny_page.tensors]

    def names() -> list[str]:
        return [rows.nth(i).get_attribute("data-tensor") for i in range(rows.count())]

    assert names() == stored
    header = page.locator('.tensors [data-column="bytes"]')
    assert "share of the file" in header.get_attribute("title")
    header.click()
    sizes = {t["name"]: t["bytes"] for t in tiny_page.tensors}
    assert [sizes[n] for n in names()] == sorted(sizes.values(), reverse=True)
    assert page.locator('th[aria-sort="descending"]').inner_text().startswith("bytes")
    page.locator('.tensors [data-column="bytes"]').click()
    assert [sizes[n] for n in names()] == sorted(sizes.values())
    page.get_by_role("group", name="Group by").get_by_text("role").click()
    assert page.locator(".tensors .group").count() == len({t["role"] for t in tiny_page.tensors})
    page.get_by_role("searchbox").fill("mlp")
    assert set(names()) == {n for n in stored if "mlp" in n}
    rows.first.locator("button").click()
    assert "mlp" in page.locator("#details h2").inner_text()


def test_the_budget_adds_up_to_the_byte(opened, tiny_page):
    page = opened(tiny_page.page)
    cells = page.locator("#budget [data-part]")
    shown = {
        cells.nth(i).get_attribute("data-part"): int(cells.nth(i).inner_text().replace(",", ""))
        for i in range(cells.count())
    }
    assert shown == tiny_page.bytes
    assert sum(n for part, n in shown.items() if part != "total") == shown["total"]
    last = page.locator(".tensors tfoot tr").last.inner_text()
    assert f"{20_000 - shown['headroom']:,}" in last


def test_the_worst_five_stand_out_and_the_frontier_has_the_build(opened, tiny_page):
    page = opened(tiny_page.page)
    worst = sorted(tiny_page.tensors, key=lambda t: -(t["kl_share"] or 0))[:5]
    marked = page.locator(".error.worst")
    assert [marked.nth(i).get_attribute("data-tensor") for i in range(5)] == [
        t["name"] for t in worst
    ]
    assert marked.count() == 5
    assert page.locator(".tensors tr.worst").count() == 5
    assert page.locator("#frontier circle.dot").count() > 3
    assert page.locator("#frontier circle.measured").count() == 1
    # What more bytes would buy, as a prediction and in the words of `golfpack sweep`.
    known = json.loads(tiny_page.page.with_suffix(".report.json").read_text())
    size, points = known["artifact_bytes"], known["frontier"]
    logs = [np.log(p["predicted_kl"]) for p in points]
    then = np.exp(np.interp(1.1 * size, [p["bytes"] for p in points], logs))
    share = 1 - then / next(p["predicted_kl"] for p in points if p["bytes"] == size)
    told = page.locator("#frontier .lead").inner_text()
    assert f"Predicted: 10% more ({round(size / 10):,} bytes) would take {share:.0%} off" in told
    assert "golfpack sweep builds other sizes" in told


def test_what_a_sweep_measured_stands_beside_the_prediction(opened, tiny_page, tmp_path):
    artifact, sweep = tiny_page.page.with_suffix(".golf"), tmp_path / "sweep.report.json"
    known = json.loads(artifact.with_suffix(".report.json").read_text())
    sweep.write_text(to_json(sweep_of(SimpleNamespace(**known))))
    report(PageOptions(artifact, sweep=sweep, output=tmp_path / "x.html"))
    page = opened(tmp_path / "x.html")
    assert page.locator("#frontier svg").count() == 2
    assert page.locator("#frontier figcaption").all_inner_texts() == [
        "KL to the float model, nats per token", "loss in bits per byte",
    ]  # fmt: skip
    assert page.locator("#frontier circle.swept").count() == 2 * 2
    share = 1 - (0.01 / 0.05) ** (0.1 * known["artifact_bytes"] / 5_000)
    told = page.locator("#frontier .lead").inner_text()
    assert f"would take {share:.0%} off" in told
    assert "as golfpack sweep measured" in told
    assert page.locator("#verdict.open").inner_text().startswith("By held-out calibration text")


def test_everything_is_reached_with_the_keyboard(opened, tiny_page):
    page = opened(tiny_page.page)
    page.locator('.cell[tabindex="0"]').focus()
    before = page.evaluate("document.activeElement.dataset.tensor")
    page.keyboard.press("ArrowRight")
    after = page.evaluate("document.activeElement.dataset.tensor")
    assert before != after
    page.keyboard.press("Enter")
    assert page.locator("#details h2").inner_text() == after
    assert page.evaluate("document.activeElement.className") == "icon close"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.dataset.tensor") == after


def test_hostile_names_are_shown_as_they_are(opened, tmp_path):
    rng = np.random.default_rng(0)
    weights = {HOSTILE: rng.standard_normal((40, 24)).astype(np.float32)}
    save_file(weights, tmp_path / "x.safetensors")
    build(asked(tmp_path / "x.safetensors", "4bpw", tmp_path / "x.golf", data_free=True))
    report(PageOptions(tmp_path / "x.golf"))
    page = opened(tmp_path / "x.html")
    page.locator(".cell").click()
    assert page.locator("#details h2").inner_text() == HOSTILE
    assert page.locator("img").count() == 0


def test_the_page_of_a_failed_build_says_why(opened, tiny_path, tmp_path):
    with pytest.raises(Exception, match="budget"):
        build(asked(tiny_path, "100", tmp_path / "x.golf", data_free=True))
    report(PageOptions(tmp_path / "x.failed.report.json"))
    page = opened(tmp_path / "x.failed.html")
    assert "The build failed" in page.locator('[role="alert"]').inner_text()
