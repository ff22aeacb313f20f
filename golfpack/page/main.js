// Draw everything, once. A part that cannot be drawn says so and leaves the others alone.

const PARTS = [
  ["summary", drawSummary], ["budget", drawBudget], ["bytes", drawTreemap], ["errors", drawErrors],
  ["frontier", drawFrontier], ["tensors", drawTable], ["evaluation", drawEvaluation], ["built", drawBuilt],
];
// Of a build that failed there is nothing to draw but why.
const OF_FAILURES = ["summary", "built"];

for (const [id, draw] of PARTS) {
  const section = byId(id);
  if (BUILD.status === "failed" && !OF_FAILURES.includes(id)) {
    section.remove();
    document.querySelector(`nav a[href="#${id}"]`).remove();
    continue;
  }
  try {
    draw(section);
  } catch (error) {
    console.error(error);
    section.append(el("p", { class: "callout bad" }, `This part cannot be drawn: ${error.message}`));
  }
}
byId("foot").append(`Made by ${DATA.made_by}. `
  + "This page is one file: it fetches nothing, and works without a network.");
document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideDetails(); });
