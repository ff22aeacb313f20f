// The headline, the budget, the evaluation, how it was built.

function drawSummary(root) {
  const failed = BUILD.status === "failed";
  root.append(
    el("div", { class: "title" },
      el("h1", {}, DATA.title),
      statusPill(failed)),
    el("p", { class: "sub" }, [
      BUILD.family && `family ${BUILD.family}`,
      known(BUILD.parameters) && `${group(BUILD.parameters)} parameters`,
      TENSORS.length > 0 && `${group(TENSORS.length)} ${TENSORS.length === 1 ? "tensor" : "tensors"}`,
      BUILD.recipe && `recipe ${BUILD.recipe}`,
    ].filter(Boolean).join("  ·  ")),
    failed ? el("div", { class: "callout bad", role: "alert" },
      el("strong", {}, "The build failed: "), unbroken(BUILD.error || ""),
      BUILD.hint ? el("p", {}, el("strong", {}, "What helps: "), unbroken(BUILD.hint)) : "") : "",
    DATA.verdict ? el("p", { class: `verdict ${DATA.verdict.grade}`, id: "verdict" }, unbroken(DATA.verdict.says)) : "",
    el("div", { class: "tiles" }, tiles()),
    BUILD.artifact_sha256 ? el("p", { class: "hash" }, "sha256 ", code(BUILD.artifact_sha256)) : "");
  const warnings = [...(BUILD.warnings || []), ...((DATA.eval && DATA.eval.warnings) || [])];
  if (warnings.length) {
    root.append(el("div", { class: "callout warn", id: "warnings" },
      el("strong", {}, warnings.length === 1 ? "Warning" : `${warnings.length} warnings`),
      el("ul", {}, warnings.map((w) => el("li", {}, unbroken(w))))));
  }
  if (DATA.missing.length) {
    root.append(el("details", { class: "missing" },
      el("summary", {}, "What this page cannot show, and why"),
      el("ul", {}, DATA.missing.map((m) => el("li", {}, unbroken(m))))));
  }
}

function statusPill(failed) {
  if (failed) return el("span", { class: "pill bad" }, "failed");
  if (!known(BUILD.headroom_bytes)) return "";
  const fits = BUILD.headroom_bytes >= 0;
  return el("span", { class: `pill ${fits ? "good" : "bad"}` }, fits ? "within budget" : "over budget");
}

function tiles() {
  const evaluation = DATA.eval;
  if (!known(BUILD.artifact_bytes)) {
    return [["Budget", BUILD.budget_bytes, "bytes"], ["Too few by", BUILD.shortfall, "bytes"]]
      .filter(([, value]) => known(value)).map(([name, value, more]) => tile(name, group(value), more));
  }
  const spare = share(BUILD.headroom_bytes, BUILD.budget_bytes);
  const size = known(BUILD.headroom_bytes)
    ? `of ${group(BUILD.budget_bytes)}; ${group(BUILD.headroom_bytes)} to spare (${spare})`
    : BUILD.recipe ? "without a budget" : "of a budget that is not known here";
  const found = [["Bytes", format(BUILD.artifact_bytes, ",d"),
    BUILD.code_bytes ? `+ ${group(BUILD.code_bytes)} of code, ${size}` : size]];
  found.push(["Bits per weight", format(BUILD.bits_per_weight, ".3f"), "the whole file over all parameters"]);
  if (known(BUILD.measured_kl)) {
    const predicted = known(BUILD.predicted_kl) ? `; ${format(BUILD.predicted_kl, ".5f")} predicted` : "";
    const cost = known(BUILD.measured_bpb) ? `; about ${format(BUILD.measured_bpb, "+.5f")} bits per byte` : "";
    found.push(["KL to the float model", format(BUILD.measured_kl, ".5f"), `nats per token${predicted}${cost}`]);
  }
  if (evaluation) {
    const gap = known(evaluation.quant_gap) ? `; ${format(evaluation.quant_gap, "+.4f")} from quantizing` : "";
    found.push(known(evaluation.val_bpb)
      ? ["Bits per byte", format(evaluation.val_bpb, ".4f"), `${evaluation.mode || ""} evaluation${gap}`]
      : ["Nats per token", format(evaluation.val_loss, ".4f"), `${evaluation.mode || ""} evaluation, without a tokenizer`]);
  }
  return found.map(([name, value, more]) => tile(name, value, more));
}

const tile = (name, value, more) => el("div", { class: "tile" },
  el("div", { class: "tile-name" }, name), el("div", { class: "tile-value" }, value),
  el("div", { class: "tile-more" }, more));

function budgetParts() {
  const fixed = BUILD.fixed_bytes || 0;
  const side = sum(TENSORS.map((t) => t.side_bytes || 0));
  const payload = (BUILD.artifact_bytes || 0) - fixed - side;
  return [
    ["payload", "Payload", payload, "the codes of all tensors, and floats kept as they are"],
    ["side", "Side information", side, "steps of rows and columns, orders of sorted rows"],
    ["header", "Header", fixed, "header, manifest, digests; a tokenizer, where one is inside"],
    ["code", "Code", BUILD.code_bytes || 0, "files that ship too"],
    ["headroom", "Headroom", known(BUILD.budget_bytes) ? BUILD.headroom_bytes || 0 : 0, "what is left of the budget"],
  ].filter(([part, , size]) => size > 0 || part === "payload"
    || (part === "headroom" && known(BUILD.budget_bytes)));
}

function drawBudget(root) {
  if (!BUILD.artifact_bytes) {
    root.append(note("There is no artifact, so nothing counts against the budget."));
    return;
  }
  const parts = budgetParts();
  const total = sum(parts.map(([, , size]) => size));
  const said = parts.map(([, name, size]) => `${name} ${bytes(size)}`);
  root.append(
    el("div", { class: "bar", role: "img", "aria-label": said.join(", ") },
      parts.filter(([, , size]) => size > 0).map(([part, name, size]) => el("div", {
        class: `part part-${part}`, vars: { "flex-grow": size / total }, title: `${name}: ${bytes(size)}`,
      }))),
    el("table", { class: "legend" }, el("tbody", {}, parts.map(([part, name, size, why]) => el("tr", {},
      el("th", { scope: "row" }, swatch(`part-${part}`), name),
      el("td", { class: "why" }, why),
      el("td", { class: "num", "data-part": part }, group(size)),
      el("td", { class: "num dim" }, share(size, total))))),
    el("tfoot", {}, el("tr", {},
      el("th", { scope: "row" }, known(BUILD.budget_bytes) ? "Budget" : "Total"), el("td", { class: "why" }),
      el("td", { class: "num", "data-part": "total" }, group(total)), el("td", { class: "num dim" }, "bytes")))),
    whatShips());
}

// The artifact and the code that ships beside it, against the total.
function whatShips() {
  if (!DATA.code.length) return "";
  const files = [{ path: DATA.title, bytes: BUILD.artifact_bytes, what: "the artifact" }, ...DATA.code];
  const total = sum(files.map((f) => f.bytes));
  const row = (name, what, size) => el("tr", {},
    el("td", {}, breakable(name)), el("td", { class: "dim" }, what), el("td", { class: "num" }, group(size)));
  return [el("h3", {}, "What ships, and counts"), el("table", { class: "plain", id: "ships" },
    el("tbody", {}, files.map((f) => row(f.path, f.what, f.bytes))),
    el("tfoot", {}, row("together", known(BUILD.budget_bytes)
      ? `of ${group(BUILD.budget_bytes)}, ${group(BUILD.budget_bytes - total)} to spare` : "", total)))];
}

function drawEvaluation(root) {
  const e = DATA.eval;
  if (!e) {
    root.append(note("No evaluation was given. golfpack eval with --json writes one; name it with --eval."));
    return;
  }
  const audit = e.byte_audit || {};
  const options = Object.entries(e.options || {}).filter(([, v]) => typeof v !== "object")
    .map(([k, v]) => `${k} ${format(v, "")}`).join(", ");
  root.append(facts([
    ["Bits per byte", known(e.val_bpb) ? format(e.val_bpb, ".6f") : null],
    ["of the float model", known(e.float_bpb) ? format(e.float_bpb, ".6f") : null],
    ["Quantization gap", known(e.quant_gap) ? format(e.quant_gap, "+.6f") : null],
    ["give or take", e.spread ? `${format(e.spread.quant_gap, ".6f")}; the float model ${
      format(e.spread.float_bpb, ".6f")}: standard errors over ${e.spread.stretches} stretches of the text` : null],
    ["Nats per token", format(e.val_loss, ".6f")],
    ["Mode", [e.mode, options].filter(Boolean).join(": ")],
    ["Test-time training", e.ttt],
    ["Targets scored", known(e.targets) ? `${group(e.scored_tokens)} of ${group(e.targets)}, once each` : null],
    ["Bytes scored", known(e.scored_bytes) ? group(e.scored_bytes) : null],
    ["Byte audit", known(audit.table_bytes)
      ? `${group(audit.table_bytes)} by the table, ${format(audit.decoded_bytes, ",d")} decoded` : null],
    ["Documents", known(e.documents) ? group(e.documents) : null],
    ["Tokens", breakable(e.tokens)], ["Tokenizer", known(e.tokenizer) ? breakable(e.tokenizer) : null],
  ]), e.tokens_sha256 ? el("p", { class: "hash" }, "tokens' sha256 ", code(e.tokens_sha256)) : "");
  if (e.legality) {
    root.append(el("h3", {}, "Legality, measured"), el("ul", { class: "checks" }, e.legality.map((c) =>
      el("li", { class: c.passed ? "good" : "bad" },
        el("strong", {}, c.passed ? "✓ " : "✗ ", String(c.name).replaceAll("_", " "),
          heard(c.passed ? " passed" : " failed")),
        el("span", { class: "dim" }, String(c.measured || ""))))));
  }
}

// A word for a POSIX shell.
const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);

function drawBuilt(root) {
  if (!BUILD.recipe) {
    root.append(note("Without the build report nobody can say how this artifact was made."));
  }
  if (BUILD.argv && BUILD.argv.length) {
    root.append(el("pre", { class: "command", tabindex: "0", "aria-label": "Command" },
      unbroken(`golfpack ${BUILD.argv.map(quoted).join(" ")}`)));
  }
  if (DATA.source && BUILD.status === "built") {
    root.append(el("p", { class: "note" }, "To build it again, to the same sha256, from the same files: ",
      code(`golfpack build --from ${quoted(DATA.source)}`)));
  }
  const calibration = BUILD.calibration;
  root.append(facts([
    ["Recipe", BUILD.recipe], ["Plan", BUILD.plan],
    ["Settings", BUILD.settings && BUILD.settings.length ? BUILD.settings.join(", ") : null],
    ["Seed", known(BUILD.seed) ? String(BUILD.seed) : null],
    ["Dial", known(BUILD.dial) ? format(BUILD.dial, ".6g") : null],
    ["Checkpoint", known(BUILD.checkpoint) ? breakable(BUILD.checkpoint) : null],
    ["its sha256", BUILD.checkpoint_sha256 ? code(BUILD.checkpoint_sha256) : null],
    ["Calibration", calibration
      ? `${format(calibration.tokens, ",d")} tokens, ${format(calibration.source, "")}` : null],
    ["its sha256", calibration && calibration.sha256 ? code(format(calibration.sha256, "")) : null],
    ["Versions", BUILD.versions ? entries(BUILD.versions, " ") : null],
    ["Seconds", BUILD.seconds ? entries(BUILD.seconds, " ", (v) => format(v, ".1f")) : null],
  ], "facts wide"));
  root.append(inputFiles());
  if (BUILD.notes && BUILD.notes.length) {
    root.append(el("h3", {}, "Notes"), el("ul", {}, BUILD.notes.map((n) => el("li", {}, unbroken(n)))));
  }
  root.append(fold("The model's options", BUILD.config, BUILD.assumed), passes(), searchRounds());
}

// With blanks in it, so that it breaks at them.
const plain = (value) => (typeof value === "object"
  ? JSON.stringify(value, null, 1).replace(/\n */g, " ").replace(/([[{]) /g, "$1").replace(/ ([\]}])/g, "$1") : String(value));

function entries(object, joint, text = plain) {
  return Object.entries(object).map(([name, value]) => name + joint + text(value)).join(", ");
}

function fold(title, config, assumed) {
  if (!config || !Object.keys(config).length) return "";
  const guessed = assumed && Object.keys(assumed).length
    ? note(`Assumed, as shapes cannot tell: ${entries(assumed, "=")}.`) : "";
  return el("details", {}, el("summary", {}, title), guessed, el("p", { class: "mono" }, entries(config, "=")));
}

function inputFiles() {
  if (!BUILD.inputs || !BUILD.inputs.length) return "";
  return el("div", { class: "scroll loose" }, el("table", { class: "plain" },
    el("thead", {}, el("tr", {}, ["used as", "file", "bytes", "sha256"].map((h) => el("th", { scope: "col" }, h)))),
    el("tbody", {}, BUILD.inputs.map((f) => el("tr", {}, el("td", {}, f.use), el("td", {}, f.path),
      el("td", { class: "num" }, group(f.bytes)), el("td", {}, code(f.sha256)))))));
}

// The recipe as it ran: every pass, with the options it had.
function passes() {
  if (!BUILD.passes || !BUILD.passes.length) return "";
  return el("details", {}, el("summary", {}, `The recipe's ${BUILD.passes.length} passes`),
    el("ol", { class: "mono" }, BUILD.passes.map(({ id, ...options }) => el("li", {},
      el("strong", {}, String(id)), ` ${entries(options, "=")}`))));
}

function searchRounds() {
  if (!BUILD.trace || BUILD.trace.length < 2) return "";
  const rounds = BUILD.trace.map(([dial, size], i) => [String(i + 1), format(dial, ".6g"), format(size, ",d")]);
  return el("details", {}, el("summary", {}, `The search for the budget: ${rounds.length} rounds`),
    figures(["round", "dial", "bytes"], rounds));
}
