// The table of all tensors: sorted by any column, grouped, filtered.

const ESSENTIAL = ["name", "role", "shape", "scheme", "bytes", "bpw", "rel_err", "sqnr_db", "kl_share", "zeros"];
const GROUPS = [["", "nothing"], ["block", "block"], ["role", "role"], ["scheme", "scheme"]];
const view = { sort: "", down: false, group: "", all: false, filter: "" };

// Columns that any tensor has a value in.
const COLUMNS = DATA.columns.filter((c) => TENSORS.some((t) => known(t[c.name])));
const isText = (c) => TENSORS.every((t) => !known(t[c.name]) || typeof t[c.name] !== "number");

const numeric = new Map(COLUMNS.map((c) => [c.name, !isText(c)]));

function sortKey(t, name) {
  return name === "shape" ? numel(t) : t[name];
}

const byText = (x, y) => String(x).localeCompare(String(y), "en", { numeric: true });

function sorted(rows) {
  if (!view.sort) return rows;
  const sign = view.down ? -1 : 1;
  return rows.slice().sort((a, b) => {
    const [x, y] = [sortKey(a, view.sort), sortKey(b, view.sort)];
    if (!known(x) || !known(y)) return known(x) ? -1 : known(y) ? 1 : 0; // what is not known comes last
    return sign * (typeof x === "number" && typeof y === "number" ? x - y : byText(x, y));
  });
}

function drawTable(root) {
  if (!TENSORS.length) {
    root.append(note("The report lists no tensors."));
    return;
  }
  const table = el("table", { class: "tensors" });
  const draw = () => table.replaceChildren(...tableParts(draw));
  const search = el("input", {
    type: "search", placeholder: "Filter by name", "aria-label": "Filter by name",
    oninput: (event) => { view.filter = event.target.value.toLowerCase(); draw(); },
  });
  root.append(
    el("div", { class: "tools" }, search,
      segmented("Group by", GROUPS, "", (g) => { view.group = g; draw(); }),
      COLUMNS.length > ESSENTIAL.length
        ? segmented("Columns", [[false, "essential"], [true, "all"]], false, (a) => { view.all = a; draw(); }) : ""),
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table of tensors" }, table),
    columnsLegend());
  draw();
}

function tableParts(redraw) {
  const columns = COLUMNS.filter((c) => view.all || ESSENTIAL.includes(c.name));
  const rows = sorted(TENSORS.filter((t) => t.name.toLowerCase().includes(view.filter)));
  const groups = new Map();
  for (const t of rows) {
    const key = view.group === "block" ? blockText(t) : view.group ? String(t[view.group]) : "";
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(t);
  }
  const bodies = [...groups].map(([key, found]) => el("tbody", {},
    view.group ? totals(key, found, columns, "group") : null, found.map((t) => tensorRow(t, columns))));
  if (!rows.length) {
    const cell = el("td", { colspan: columns.length }, "No tensor has that in its name.");
    bodies.push(el("tbody", {}, el("tr", {}, cell)));
  }
  return [tableHead(columns, redraw), ...bodies, tableFoot(rows, columns)];
}

function tableHead(columns, redraw) {
  return el("thead", {}, el("tr", {}, columns.map((c) => {
    const chosen = view.sort === c.name;
    return el("th", {
      scope: "col", class: numeric.get(c.name) ? "num" : null,
      "aria-sort": chosen ? (view.down ? "descending" : "ascending") : null,
    }, el("button", {
      type: "button", title: c.explain, "data-column": c.name,
      onclick: () => {
        // Figures first go down, texts up; a second click turns them round.
        view.down = chosen ? !view.down : numeric.get(c.name);
        view.sort = c.name;
        redraw();
        document.querySelector(`[data-column="${c.name}"]`).focus();
      },
    }, c.header, el("span", { class: "arrow", "aria-hidden": "true" }, chosen ? (view.down ? "↓" : "↑") : "")));
  })));
}

function tensorRow(t, columns) {
  const open = (event) => showDetails(t, event);
  return el("tr", { class: WORST.has(t) ? "worst" : null, "data-tensor": t.name, onclick: open }, columns.map((c) => {
    if (c.name === "name") {
      return el("th", { scope: "row" }, el("button", { type: "button", title: t.name },
        el("bdi", {}, breakable(tail(t.name, 44))), WORST.has(t) ? heard(", among the worst five") : null));
    }
    return el("td", { class: numeric.get(c.name) ? "num" : null },
      c.name === "role" ? roleSwatch(t) : null,
      c.name === "shape" ? shapeText(t) : format(t[c.name], c.format));
  }));
}

// A row of sums: what adds up is added, all else stays empty.
function totals(name, rows, columns, kind) {
  const size = sum(rows.map((t) => t.bytes));
  const weights = sum(rows.map(numel));
  return sumRow(kind, columns, {
    name: `${name} (${rows.length})`,
    bytes: group(size),
    bpw: weights ? format((8 * size) / weights, ".2f") : "",
    side_bytes: group(sum(rows.map((t) => t.side_bytes || 0))),
    kl_share: format(sum(rows.map((t) => t.kl_share || 0)), ".1%"),
  });
}

function sumRow(kind, columns, cells) {
  return el("tr", { class: kind }, columns.map((c) => (c.name === "name"
    ? el("th", { scope: "row" }, cells.name)
    : el("td", { class: numeric.get(c.name) ? "num" : null }, cells[c.name] || ""))));
}

// Below the tensors: what else is in the file, up to its exact size.
function tableFoot(rows, columns) {
  if (rows.length < TENSORS.length) return el("tfoot", {}, totals("shown", rows, columns, "sum"));
  const fixed = BUILD.fixed_bytes || 0;
  const other = (BUILD.artifact_bytes || 0) - sum(TENSORS.map((t) => t.bytes)) - fixed;
  const line = (name, size) => sumRow("sum", columns, { name, bytes: group(size) });
  return el("tfoot", {}, totals("all tensors", TENSORS, columns, "sum"), BUILD.artifact_bytes ? [
    line("header", fixed),
    other ? line("not told apart", other) : null,
    line("the file", BUILD.artifact_bytes),
  ] : null);
}

function columnsLegend() {
  const absent = DATA.columns.filter((c) => !COLUMNS.includes(c)).map((c) => c.header);
  return el("details", {}, el("summary", {}, "What the columns mean"),
    facts(COLUMNS.map((c) => [c.header, c.explain]), "facts wide"),
    Object.values(DATA.odd).map(note),
    absent.length ? note(`Not known here: ${absent.join(", ")}.`) : "");
}
