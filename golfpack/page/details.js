// The panel of one tensor. It stays beside the page, or at its foot where there is no room beside.

let shown = null;
let opener = null;

function showDetails(t, event) {
  const panel = byId("details");
  shown = t;
  const from = event && event.currentTarget;
  if (from && !panel.contains(from)) opener = from.matches("button") ? from : from.querySelector("button");
  panel.replaceChildren(...detailsOf(t));
  panel.hidden = false;
  panel.scrollTop = 0;
  document.body.classList.add("with-details");
  for (const node of document.querySelectorAll("[data-tensor]")) {
    node.classList.toggle("chosen", node.getAttribute("data-tensor") === t.name);
  }
  // From the keyboard: go there, and come back with Escape. A mouse stays free to choose the next.
  if (event && event.detail === 0) panel.querySelector(".close").focus();
}

function hideDetails() {
  const panel = byId("details");
  if (panel.hidden) return;
  const inside = panel.contains(document.activeElement);
  panel.hidden = true;
  shown = null;
  document.body.classList.remove("with-details");
  for (const node of document.querySelectorAll(".chosen")) node.classList.remove("chosen");
  if (inside && opener) opener.focus();
}

const errorName = ERROR_KEY === "kl_share" ? "KL share" : "relative error";

function detailsOf(t) {
  const order = TENSORS;
  const at = order.indexOf(t);
  const go = (step, name, sign) => el("button", {
    type: "button", class: "icon", "aria-label": name, title: name, disabled: !order[at + step],
    onclick: () => {
      showDetails(order[at + step], null);
      byId("details").querySelector(`[aria-label="${name}"]`).focus();
    },
  }, sign);
  return [
    el("div", { class: "details-head" },
      el("div", { class: "details-where" }, roleSwatch(t), `${t.role}, ${blockText(t)}`),
      el("div", { class: "details-buttons" }, go(-1, "Previous tensor", "‹"), go(1, "Next tensor", "›"),
        el("button", {
          type: "button", class: "icon close", "aria-label": "Close details", title: "Close (Esc)",
          onclick: hideDetails,
        }, "×"))),
    el("h2", { id: "details-name", "aria-live": "polite" }, breakable(t.name)),
    el("p", { class: "sub" }, `${shapeText(t)}  ·  ${t.scheme}`),
    el("p", { class: "details-size" }, el("strong", {}, group(t.bytes)), ` bytes, ${ofFile(t)}`),
    WORST.has(t) ? el("p", { class: "pill bad" }, `among the worst five by ${errorName}`) : "",
    codesOf(t),
    figuresOf(t),
    Object.entries(DATA.odd).filter(([name]) => isOdd(name, t[name])).map(([, says]) => note(says)),
  ].flat();
}

// Values that look wrong: relative errors above 1, bits below a bound.
const isOdd = (name, value) => known(value) && (name === "rel_err" ? value > 1 : value < 0);

// Every figure of its row, with what it means.
function figuresOf(t) {
  const above = ["name", "role", "shape", "scheme", "block", "bytes"];
  const columns = DATA.columns.filter((c) => !above.includes(c.name) && known(t[c.name]));
  return el("dl", { class: "facts dense" }, columns.map((c) => el("div", {},
    el("dt", {}, c.header, el("small", {}, c.explain)), el("dd", {}, format(t[c.name], c.format)))));
}

function codesOf(t) {
  const h = t.histogram;
  if (!h || !h.counts.length) {
    return note(known(t.entropy)
      ? "The distribution of its codes is not in this report." : "Kept as floats: it has no codes.");
  }
  const outside = h.below + h.above;
  return el("figure", {}, histogram(h), el("figcaption", {}, [
    known(h.least) ? `Codes from ${group(h.least)} to ${group(h.most)}` : "How often each code occurs",
    known(t.zeros) && `${format(t.zeros, ".1%")} are zero`,
    h.width > 1 && `${h.width} codes a bar`,
    outside && `${group(outside)} of them outside the picture`,
  ].filter(Boolean).join("; ") + "."));
}
