// The treemap: blocks in the order of the network, in each its tensors by size. Every box is a button.

const COLOURINGS = [
  ["role", "role"], ["bpw", "bits per weight"], ["rel_err", "relative error"], ["kl_share", "KL share"],
].filter(([key]) => key === "role" || TENSORS.some((t) => t[key] > 0));
const LABEL = 18; // pixels for a block's name
const SMALLEST = 0.04; // of the largest group: smaller ones are drawn this large, or nobody could hit them

// Squarified layout (Bruls, Huizing, van Wijk, 2000): rows along the shorter side, each extended while
// its worst aspect ratio gets better. items: [{size, ...}]; sets x, y, w, h on each.
function squarify(items, x, y, w, h) {
  const total = sum(items.map((i) => i.size));
  if (!items.length || !(total > 0)) return;
  let scale = (w * h) / total;
  let rest = items;
  while (rest.length) {
    const side = Math.min(w, h);
    let count = 1;
    while (count < rest.length && worst(rest, count + 1, side, scale) <= worst(rest, count, side, scale)) count += 1;
    const row = rest.slice(0, count);
    const area = sum(row.map((i) => i.size)) * scale;
    const thick = side > 0 ? area / side : 0;
    let at = w >= h ? y : x;
    for (const item of row) {
      const long = thick > 0 ? (item.size * scale) / thick : 0;
      Object.assign(item, w >= h ? { x, y: at, w: thick, h: long } : { x: at, y, w: long, h: thick });
      at += long;
    }
    if (w >= h) { x += thick; w -= thick; } else { y += thick; h -= thick; }
    rest = rest.slice(count);
  }
}

function worst(items, count, side, scale) {
  const sizes = items.slice(0, count).map((i) => i.size * scale);
  const area = sum(sizes);
  const [most, least] = [Math.max(...sizes), Math.min(...sizes)];
  return Math.max((side * side * most) / (area * area), (area * area) / (side * side * least));
}

function blockGroups() {
  const groups = new Map();
  for (const t of TENSORS) {
    const key = known(t.block) ? String(t.block) : "";
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(t);
  }
  return [...groups].sort(([a], [b]) => (a === "" ? -1 : b === "" ? 1 : a.localeCompare(b, "en", { numeric: true })))
    .map(([key, tensors]) => ({
      key, tensors: tensors.slice().sort((a, b) => b.bytes - a.bytes),
      size: Math.max(sum(tensors.map((t) => t.bytes)), 1),
    }));
}

// A tensor's name without its block: "blocks.3.attn.c_q.weight" -> "attn.c_q".
function shortName(t) {
  const marker = `.${t.block}.`;
  const at = known(t.block) ? `.${t.name}`.indexOf(marker) : -1;
  return (at < 0 ? t.name : t.name.slice(at + marker.length - 1)).replace(/\.weight$/, "");
}

function drawTreemap(root) {
  if (!TENSORS.length) {
    root.append(note("The report lists no tensors."));
    return;
  }
  const map = el("div", { class: "treemap", role: "group", "aria-label": "Tensors by bytes" });
  const cells = new Map();
  const groups = blockGroups();
  for (const g of groups) {
    g.label = el("div", { class: "block-label" }, el("span", {}, g.key === "" ? "outside blocks" : `block ${g.key}`),
      el("span", {}, short(g.size)));
    map.append(g.label);
    for (const t of g.tensors) {
      const cell = el("button", {
        type: "button", class: `cell ${roleClass(t.role)}`, tabindex: "-1", "data-tensor": t.name,
        "aria-label": `${t.name}, ${t.role}, ${bytes(t.bytes)}`,
        title: `${t.name}\n${t.role}, ${t.scheme}\n${bytes(t.bytes)}, ${ofFile(t)}`,
        onclick: (event) => showDetails(t, event),
      }, el("span", { class: "cell-name" }, shortName(t)), el("span", { class: "cell-size" }, short(t.bytes)));
      cells.set(t, cell);
      map.append(cell);
    }
  }
  const order = groups.flatMap((g) => g.tensors);
  cells.get(order[0]).tabIndex = 0;
  map.addEventListener("keydown", (event) => moveFocus(event, order, cells));
  const legend = el("div", { class: "map-legend" });
  root.append(
    COLOURINGS.length > 1 ? segmented("Colour by", COLOURINGS, "role", (key) => colour(key, cells, legend)) : "",
    map, legend);
  colour("role", cells, legend);
  let width = -1;
  new ResizeObserver(() => {
    if (map.clientWidth === width) return;
    width = map.clientWidth;
    layOut(map, groups, cells);
  }).observe(map);
}

function layOut(map, groups, cells) {
  const [width, height] = [map.clientWidth, map.clientHeight];
  const largest = Math.max(...groups.map((g) => g.size));
  const boxes = groups.map((g) => ({ g, size: Math.max(g.size, SMALLEST * largest) }));
  squarify(boxes, 0, 0, width, height);
  for (const { g, x, y, w, h } of boxes) {
    const labelled = groups.length > 1 && w > 56 && h > 44;
    const top = labelled ? LABEL : 0;
    place(g.label, x, y, labelled ? w : 0, labelled ? LABEL : 0);
    g.label.lastChild.hidden = w < 150;
    // A byte more for each, so that empty tensors can be seen and hit as well.
    const items = g.tensors.map((t) => ({ t, size: Math.max(t.bytes, 0) + g.size * 0.002 + 1 }));
    squarify(items, x + 1, y + top, Math.max(w - 3, 1), Math.max(h - top - 3, 1));
    for (const item of items) {
      const cell = cells.get(item.t);
      place(cell, item.x, item.y, item.w, item.h);
      cell.classList.toggle("no-name", item.w < 40 || item.h < 18);
      // Half a figure would be another figure; a digit takes up to 7.7 pixels, a comma half.
      cell.classList.toggle("no-size", item.w < 14 + 7 * short(item.t.bytes).length || item.h < 36);
    }
  }
}

function place(node, x, y, w, h) {
  node.hidden = w <= 0 || h <= 0;
  node.style.left = `${x}px`;
  node.style.top = `${y}px`;
  node.style.width = `${w}px`;
  node.style.height = `${h}px`;
}

function moveFocus(event, order, cells) {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  const ends = { Home: 0, End: order.length - 1 }[event.key];
  if (step === undefined && ends === undefined) return;
  event.preventDefault();
  const at = order.findIndex((t) => cells.get(t) === document.activeElement);
  const to = ends === undefined ? clamp(at + step, 0, order.length - 1) : ends;
  if (at >= 0) cells.get(order[at]).tabIndex = -1;
  cells.get(order[to]).tabIndex = 0;
  cells.get(order[to]).focus();
}

// Colour all boxes by a figure, or by "role".
function colour(by, cells, legend) {
  const values = TENSORS.map((t) => t[by]).filter((v) => typeof v === "number");
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const scaled = by !== "role";
  for (const [t, cell] of cells) {
    const at = !scaled || !known(t[by]) || most === least ? 0 : (t[by] - least) / (most - least);
    cell.style.setProperty("--at", `${Math.round(100 * at)}%`);
    cell.classList.toggle("scaled", scaled);
    cell.classList.toggle("high", at > 0.65);
  }
  if (scaled) {
    const spec = by === "kl_share" ? ".1%" : ".3g";
    const ramp = el("span", { class: "ramp" });
    legend.replaceChildren(el("span", { class: "key" }, format(least, spec), ramp, format(most, spec)));
    return;
  }
  legend.replaceChildren(...rolesHere.map((role) => {
    const size = sum(TENSORS.filter((t) => t.role === role).map((t) => t.bytes));
    return key(roleClass(role), role, el("span", { class: "dim" }, short(size)));
  }));
}
