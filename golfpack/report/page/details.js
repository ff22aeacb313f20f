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
      el("div", { class: "details-where" }, el("span", { class: `swatch ${roleClass(t.role)}` }), `${t.role}, ${blockText(t)}`),
      el("div", { class: "details-buttons" }, go(-1, "Previous tensor", "‹"), go(1, "Next tensor", "›"),
        el("button", { type: "button", class: "icon close", "aria-label": "Close details", title: "Close (Esc)", onclick: hideDetails }, "×"))),
    el("h2", { id: "details-name", "aria-live": "polite" }, t.name),
    el("p", { class: "sub" }, `${shapeText(t)}  ·  ${t.scheme}`),
    el("p", { class: "details-size" }, el("strong", {}, group(t.bytes)), ` bytes, ${share(t.bytes, BUILD.artifact_bytes)} of the file`),
    WORST.has(t) ? el("p", { class: "pill bad" }, `among the worst five by ${ERROR_KEY === "kl_share" ? "KL share" : "relative error"}`) : "",
    codesOf(t),
    facts(DATA.columns.filter((c) => !["name", "role", "shape", "scheme", "block", "bytes"].includes(c.name))
      .map((c) => [c.header, known(t[c.name]) ? format(t[c.name], c.format) : null, c.explain]), "facts dense"),
  ];
}

function codesOf(t) {
  const h = t.histogram;
  if (!h || !h.counts.length) {
    return note(h || known(t.entropy) ? "The distribution of its codes is not in this report." : "Kept as floats: it has no codes.");
  }
  const outside = h.below + h.above;
  return el("figure", {}, histogram(h), el("figcaption", {}, [
    known(h.least) ? `Codes from ${group(h.least)} to ${group(h.most)}` : "How often each code occurs",
    known(t.zeros) && `${format(t.zeros, ".1%")} are zero`,
    h.width > 1 && `${h.width} codes a bar`,
    outside && `${group(outside)} of them outside the picture`,
  ].filter(Boolean).join("; ") + "."));
}
