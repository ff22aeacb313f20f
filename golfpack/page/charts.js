// The bars of errors, the frontier, the histogram of a tensor's codes.

const ERRORS = [
  ["kl_share", "KL share", ".1%", "the part of the predicted KL that the tensor causes"],
  ["rel_err", "relative error", ".4f", "|W - Wq| / |W|"],
  ["hessian_err", "Hessian error", ".3g", "the error weighted by the inputs it meets"],
].filter(([key]) => TENSORS.some((t) => t[key] > 0));
const BARS_FIRST = 12;

function drawErrors(root) {
  if (!ERRORS.length) {
    root.append(note(TENSORS.some((t) => known(t.rel_err))
      ? "Every tensor decodes to exactly the floats it was made from."
      : "The errors are not known here: they need the float checkpoint; name it with --float."));
    return;
  }
  const list = el("ol", { class: "bars" });
  const lead = el("p", { class: "lead" });
  const odd = note("");
  const more = el("button", { type: "button", class: "more" });
  let [by, all] = [ERRORS[0][0], false];
  const draw = () => {
    const [, , spec, why] = ERRORS.find(([name]) => name === by);
    const rows = TENSORS.filter((t) => known(t[by])).sort((a, b) => b[by] - a[by]);
    const percent = (t) => `${clamp((100 * t[by]) / (rows[0][by] || 1), 0, 100)}%`;
    const marked = new Set(rows.length > 5 ? rows.slice(0, 5) : []);
    odd.textContent = DATA.odd[by] || "";
    lead.textContent = `The longer, the worse: ${why}.${marked.size ? " The worst five are marked." : ""}`;
    list.replaceChildren(...rows.slice(0, all ? rows.length : BARS_FIRST).map((t) => el("li", {},
      el("button", {
        type: "button", class: `error ${marked.has(t) ? "worst" : ""}`, "data-tensor": t.name,
        onclick: (event) => showDetails(t, event),
      },
      el("span", { class: "error-name", title: t.name }, roleSwatch(t), el("bdi", {}, tail(t.name, 34))),
      el("span", { class: "error-track" }, el("span", { class: "error-bar", vars: { width: percent(t) } })),
      el("span", { class: "error-value" }, format(t[by], spec),
        marked.has(t) ? heard(" among the worst five") : null)))));
    more.hidden = rows.length <= BARS_FIRST;
    more.textContent = all ? "Show fewer" : `Show all ${rows.length}`;
  };
  more.addEventListener("click", () => { all = !all; draw(); });
  const choose = (name) => { by = name; draw(); };
  root.append(lead, ERRORS.length > 1 ? segmented("Sort by", ERRORS, by, choose) : "", list, more, odd);
  draw();
}

// Round numbers that cover a range: 1, 2 or 5 times a power of ten apart.
function ticks(least, most, count) {
  const raw = (most - least) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
  const found = [];
  for (let v = Math.ceil(least / step) * step; v <= most + step / 1e6; v += step) found.push(v);
  return found;
}

// The same for logarithms: of powers of ten, and of 2 and 5 times them where there are few.
function decades(least, most) {
  const found = [];
  for (let power = Math.floor(least); power <= most; power += 1) {
    for (const m of most - least > 3 ? [1] : [1, 2, 5]) found.push(power + Math.log10(m));
  }
  return found.filter((v) => v >= least && v <= most);
}

function frontierPoints() {
  const points = (BUILD.frontier || []).map((p) => ({ bytes: p.bytes, kl: p.predicted_kl }));
  return points.filter((p) => p.kl > 0 && p.bytes > 0).sort((a, b) => a.bytes - b.bytes);
}

function drawFrontier(root) {
  const points = frontierPoints();
  const swept = sweptLines("kl");
  if (points.length < 2 && !swept.length) {
    root.append(note("No frontier is known here: it needs the report of a build that was calibrated with "
      + "gradients. golfpack plan shows one without building, golfpack sweep measures one, for --sweep."));
    return;
  }
  const here = [
    ["predicted", BUILD.predicted_kl, "this build, predicted"],
    ["measured", BUILD.measured_kl, "this build, measured"],
  ].map(([kind, kl, name]) => ({ kind, y: kl, name, bytes: BUILD.artifact_bytes }))
    .filter((p) => p.y > 0 && p.bytes > 0);
  const predicted = { kind: "", name: "predicted", points: points.map((p) => ({ bytes: p.bytes, y: p.kl })) };
  const charts = el("div", { class: "charts" });
  root.append(el("p", { class: "lead" }, frontierSentence(points)), charts,
    el("div", { class: "map-legend" }, points.length > 1 ? key("dot-line", "predicted at other sizes") : "",
      swept.map((line) => key("dot-swept", `measured by golfpack sweep, recipe ${line.name}`)),
      here.map((p) => key(`dot-${p.kind}`, p.name))),
    el("details", {}, el("summary", {}, "The same as figures"), frontierFigures(points)));
  charts.append(chart({
    title: "KL to the float model, nats per token", lines: points.length > 1 ? [predicted, ...swept] : swept,
    here, logarithmic: true, spec: ".3g",
  }));
  const gaps = sweptLines("gap");
  if (gaps.length) {
    const gap = DATA.eval && known(DATA.eval.quant_gap)
      ? [{ kind: "measured", y: DATA.eval.quant_gap, name: "this build, evaluated", bytes: BUILD.artifact_bytes }] : [];
    charts.append(chart({
      title: "loss in bits per byte", lines: gaps, here: gap, logarithmic: false, spec: "+.5f",
    }));
  }
}

// What golfpack sweep measured, a line per recipe; `of` is "kl" or "gap", the loss in bits per byte.
function sweptLines(of) {
  const rows = DATA.sweep ? DATA.sweep.rows.filter((r) => known(r[of]) && (of !== "kl" || r.kl > 0)) : [];
  return [...new Set(rows.map((r) => r.recipe))].map((recipe) => ({
    kind: "swept", name: recipe,
    points: rows.filter((r) => r.recipe === recipe).map((r) => ({ bytes: r.bytes, y: r[of] })),
  }));
}

function frontierFigures(points) {
  const perNat = known(BUILD.measured_bpb) && BUILD.measured_kl > 0 ? BUILD.measured_bpb / BUILD.measured_kl : null;
  const loss = (kl) => (perNat === null ? [] : [format(perNat * kl, "+.5f")]);
  const found = [];
  if (points.length > 1) {
    found.push(figures(["bytes", "bits per weight", "predicted KL", ...(perNat === null ? [] : ["bits per byte"])],
      points.map((p) => [group(p.bytes), bitsPerWeight(p.bytes), format(p.kl, ".3g"), ...loss(p.kl)])));
  }
  if (DATA.sweep) {
    found.push(el("p", { class: "note" }, `Measured by golfpack sweep; the KL on ${DATA.sweep.kl_source}:`),
      figures(["recipe", "budget", "bytes", "bits per weight", "KL", "bits per byte", "loss"],
        DATA.sweep.rows.map((r) => [r.recipe, r.budget, group(r.bytes), bitsPerWeight(r.bytes), format(r.kl, ".3g"),
          format(r.bpb, ".4f"), format(r.gap, "+.5f")])));
  }
  return found;
}

const bitsPerWeight = (size) => (BUILD.parameters ? format((8 * size) / BUILD.parameters, ".2f") : "–");

// What a tenth more would buy, in the words of golfpack sweep, by what it measured where that is given: log
// KL is close to linear in bytes between two points.
function frontierSentence(points) {
  const size = BUILD.artifact_bytes || 0;
  const own = DATA.sweep ? DATA.sweep.rows.filter((r) => r.recipe === BUILD.recipe && r.kl > 0) : [];
  const measured = own.length > 1 && klAt(own, size) && klAt(own, 1.1 * size);
  const by = measured ? own : points;
  const [now, then] = by.length ? [klAt(by, size), klAt(by, 1.1 * size)] : [];
  const scale = "The KL to the float model is in nats per token, on a logarithmic scale.";
  if (!now || !then) return scale;
  const why = measured ? "as golfpack sweep measured" : "golfpack sweep builds other sizes and measures";
  return `${measured ? "" : "Predicted: "}10% more (${group(0.1 * size)} bytes) would take ${format(1 - then / now, ".0%")} `
    + `off the KL (${format(now, ".3g")} to ${format(then, ".3g")}); ${why}. ${scale}`;
}

function klAt(points, size) {
  const i = points.findIndex((p) => p.bytes >= size);
  if (i < 0 || size < points[0].bytes) return null;
  const [a, b] = [points[Math.max(i - 1, 0)], points[i]];
  const part = b.bytes > a.bytes ? (size - a.bytes) / (b.bytes - a.bytes) : 0;
  return Math.exp(Math.log(a.kl) + part * (Math.log(b.kl) - Math.log(a.kl)));
}

// A chart that fills its place, and is drawn again where that changes.
function chart(shown) {
  const holder = el("div", { class: "chart" });
  let width = -1;
  new ResizeObserver(() => {
    if (holder.clientWidth === width) return;
    width = holder.clientWidth;
    holder.replaceChildren(curves(shown, width));
  }).observe(holder);
  return el("figure", {}, el("figcaption", {}, shown.title), holder);
}

// Lines and this build's own points over bytes; `y` is a KL on a logarithmic scale, or a loss.
function curves({ title, lines, here, logarithmic, spec }, width) {
  const height = clamp(width * 0.5, 240, 360);
  const [left, right, top, bottom] = [64, 16, 12, 40];
  const all = [...lines.flatMap((line) => line.points), ...here];
  const scaled = (p) => (logarithmic ? Math.log10(p.y) : p.y);
  const xs = all.map((p) => p.bytes);
  const ys = logarithmic ? all.map(scaled) : [0, ...all.map(scaled)];
  const [x0, x1] = padded(Math.min(...xs), Math.max(...xs));
  const [y0, y1] = padded(Math.min(...ys), Math.max(...ys));
  const x = (v) => left + ((v - x0) / (x1 - x0)) * (width - left - right);
  const y = (v) => top + ((y1 - v) / (y1 - y0)) * (height - top - bottom);
  const marks = logarithmic ? decades(y0, y1).map((v) => [v, general(10 ** v, 2)])
    : ticks(y0, y1, 5).map((v) => [v, general(Math.abs(v) < 1e-12 ? 0 : v, 2)]);
  const dot = (kind, r, p, name) => svg("circle", { class: kind, cx: x(p.bytes), cy: y(scaled(p)), r },
    svg("title", {}, `${name}: ${bytes(p.bytes)}, ${bitsPerWeight(p.bytes)} bits per weight, ${format(p.y, spec)}`));
  return svg("svg", {
    viewBox: `0 0 ${width} ${height}`, width, height, role: "img",
    "aria-label": `${title} against bytes; the figures are in the table below`,
  },
    marks.map(([v, text]) => [
      svg("line", { class: "grid", x1: left, x2: width - right, y1: y(v), y2: y(v) }),
      svg("text", { class: "tick", x: left - 8, y: y(v) + 4, "text-anchor": "end" }, text)]),
    ticks(x0, x1, width < 500 ? 3 : 8).map((v) => [
      svg("line", { class: "grid", x1: x(v), x2: x(v), y1: top, y2: height - bottom }),
      svg("text", { class: "tick", x: x(v), y: height - bottom + 18, "text-anchor": "middle" }, short(v))]),
    svg("text", { class: "tick", x: width - right, y: height - 4, "text-anchor": "end" }, "bytes of the artifact"),
    lines.map((line) => [
      svg("polyline", {
        class: `line ${line.kind}-line`, points: line.points.map((p) => `${x(p.bytes)},${y(scaled(p))}`).join(" "),
      }),
      line.points.map((p) => dot(`dot ${line.kind}`, 3.5, p, line.name))]),
    here.map((p) => dot(p.kind, p.kind === "measured" ? 5.5 : 7, p, p.name)));
}

function padded(least, most) {
  const pad = 0.05 * (most - least || Math.abs(most) || 1);
  return [least - pad, most + pad];
}

// How often each code occurs. Bars are of `width` codes each.
function histogram(h) {
  const [width, height, bottom] = [320, 120, 18];
  const step = width / h.counts.length;
  const most = Math.max(...h.counts, 1);
  const end = h.first + h.width * h.counts.length - 1;
  const last = known(h.most) ? Math.min(end, h.most) : end;
  const label = (code, x, anchor) => svg("text", {
    class: "tick", x, y: height - 4, "text-anchor": anchor,
  }, String(code));
  const zero = ((0.5 - h.first) / h.width) * step;
  const roomForZero = zero > 30 && zero < width - 30;
  const bin = (n, i) => {
    const [from, to] = [h.first + i * h.width, h.first + (i + 1) * h.width - 1];
    const tall = n ? Math.max(((height - bottom - 4) * n) / most, 0.75) : 0;
    return svg("rect", {
      class: from <= 0 && to >= 0 ? "bin zero" : "bin", x: i * step, y: height - bottom - tall,
      width: Math.max(step - (step > 3 ? 1 : 0), 0.5), height: tall,
    }, svg("title", {}, `${from === to ? `code ${from}` : `codes ${from} to ${to}`}: ${group(n)}`));
  };
  return svg("svg", {
    viewBox: `0 0 ${width} ${height}`, class: "histogram", role: "img",
    "aria-label": `How often the codes ${h.first} to ${last} occur`,
  },
  h.counts.map(bin),
  svg("line", { class: "grid", x1: 0, x2: width, y1: height - bottom, y2: height - bottom }),
  label(h.first, 0, "start"), roomForZero ? label(0, zero, "middle") : null, label(last, width, "end"));
}
