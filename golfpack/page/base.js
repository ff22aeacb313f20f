// Making elements, formatting figures. Text is only ever set as text: names come from untrusted files.

const DATA = JSON.parse(document.getElementById("data").textContent);
const BUILD = DATA.build;
const TENSORS = DATA.tensors;
const SVG = "http://www.w3.org/2000/svg";

// el("p", {class: "x", onclick: f}, "text", child, null): attributes, listeners, children.
function el(tag, props, ...children) {
  return fill(document.createElement(tag), props, children);
}

function svg(tag, props, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

function fill(node, props, children) {
  for (const [key, value] of Object.entries(props || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "vars") for (const [k, v] of Object.entries(value)) node.style.setProperty(k, v);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined));
  return node;
}

const byId = (id) => document.getElementById(id);
const known = (value) => value !== null && value !== undefined;
const sum = (values) => values.reduce((a, b) => a + b, 0);
const clamp = (value, least, most) => Math.min(Math.max(value, least), most);
const group = (n) => n.toLocaleString("en-US", { maximumFractionDigits: 0 });

// A figure by a format as Python writes it: ",d", ".2f", "+.4f", ".1%", ".3g", ".2e".
function format(value, spec) {
  if (!known(value)) return "–";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value !== "number" || !spec) return String(value);
  const [, plus, , digits, kind] = /^(\+?)(,?)(?:\.(\d+))?([a-z%]?)$/.exec(spec) || [];
  const places = digits === undefined ? 0 : Number(digits);
  const sign = plus && value >= 0 ? "+" : "";
  if (kind === "d") return sign + group(value);
  if (kind === "%") return sign + (100 * value).toFixed(places) + "%";
  if (kind === "g") return sign + general(value, places || 6);
  if (kind === "e") return sign + value.toExponential(places);
  return sign + value.toFixed(places);
}

function general(value, digits) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-4 || size >= 1e6) return value.toExponential(Math.max(digits - 1, 0));
  return String(Number(value.toPrecision(digits)));
}

const bytes = (n) => (known(n) ? `${group(n)} bytes` : "–");

// Short, for axes and boxes: 178.8 kB, 15.98 MB.
function short(n) {
  if (n >= 1e6) return `${general(n / 1e6, 4)} MB`;
  if (n >= 1e4) return `${general(n / 1e3, 4)} kB`;
  return group(n);
}

// A share of a whole: whole per cents, finer where small.
function share(part, whole) {
  if (!whole) return "–";
  const percent = (100 * part) / whole;
  if (percent === 0) return "0%";
  if (Math.abs(percent) < 0.001) return "<0.001%";
  return `${percent.toFixed(percent < 0.1 ? 3 : percent < 1 ? 2 : 1)}%`;
}

// A name for places that are too narrow for a long one: its end tells tensors apart.
const tail = (name, most) => (name.length <= most ? name : `…${name.slice(1 - most)}`);

// A name or a path that breaks, where it must, behind a dot or a slash, and behind an underscore only
// where a part alone is long: never within a word that fits on a line.
const LONG_PART = 14;
function breakable(text) {
  return String(text).split(/(?<=[./])/).flatMap((part) => (part.length > LONG_PART ? part.split(/(?<=_)/) : [part]))
    .flatMap((part, i) => (i ? [el("wbr"), part] : [part]));
}

// Text in which no option, such as --json, is torn at its hyphens.
function unbroken(text) {
  return String(text).split(/(\s+)/).map((word) => (/^-+\w/.test(word) ? el("span", { class: "word" }, word) : word));
}

const shapeText = (t) => t.shape.join("×") || "scalar";
const numel = (t) => t.shape.reduce((a, b) => a * b, 1);
const ofFile = (t) => `${share(t.bytes, BUILD.artifact_bytes)} of the file`;
const blockText = (t) => (known(t.block) ? `block ${t.block}` : "outside the blocks");

// Roles in the order of the network; others come last and are drawn as "vector" is.
const ROLES = [
  "embed", "attn_q", "attn_k", "attn_v", "attn_out", "mlp_in", "mlp_out", "head", "vector",
];
const roleClass = (role) => (ROLES.includes(role) ? `role-${role}` : "role-vector");
const rolesHere = ROLES.concat(TENSORS.map((t) => t.role))
  .filter((r, i, all) => all.indexOf(r) === i && TENSORS.some((t) => t.role === r));

// What tells the worst five: the KL a tensor causes where that is known, else its relative error.
const ERROR_KEY = ["kl_share", "rel_err"].find((k) => TENSORS.some((t) => t[k] > 0)) || null;
const worstBy = (key) => TENSORS.filter((t) => t[key] > 0)
  .sort((a, b) => b[key] - a[key]).slice(0, 5);
const WORST = ERROR_KEY && TENSORS.length > 5 ? new Set(worstBy(ERROR_KEY)) : new Set();

// A row of buttons of which one is pressed; choose(value) runs at every change.
function segmented(label, choices, chosen, choose) {
  const buttons = choices.map(([value, text]) => el("button", {
    type: "button",
    "aria-pressed": String(value === chosen),
    onclick: () => {
      buttons.forEach((b, i) => b.setAttribute("aria-pressed", String(choices[i][0] === value)));
      choose(value);
    },
  }, text));
  return el("div", { class: "segmented", role: "group", "aria-label": label },
    el("span", { class: "segmented-label" }, label), buttons);
}

const note = (text) => el("p", { class: "note" }, unbroken(text));

// A list of names and values; [name, value, explanation?], without values that are not known.
function facts(pairs, kind) {
  return el("dl", { class: kind || "facts" }, pairs.filter(([, value]) => known(value)).map(
    ([name, value, why]) => el("div", { title: why }, el("dt", {}, name), el("dd", {}, value))));
}

const swatch = (kind) => el("span", { class: `swatch ${kind}` });
const roleSwatch = (t) => swatch(roleClass(t.role));
// For those who hear the page instead of seeing its colours.
const heard = (text) => el("span", { class: "hidden" }, text);
// An entry of a legend.
const key = (kind, ...text) => el("span", { class: "key" }, swatch(kind), text);

// A small table of figures.
function figures(headers, rows) {
  return el("table", { class: "plain" },
    el("thead", {}, el("tr", {}, headers.map((h) => el("th", { scope: "col", class: "num" }, h)))),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map((v) => el("td", { class: "num" }, v))))));
}

const code = (text) => el("code", {}, unbroken(text));
