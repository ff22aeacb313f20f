// Draw everything, once.

drawSummary(byId("summary"));
drawBudget(byId("budget"));
drawTreemap(byId("bytes"));
drawErrors(byId("errors"));
drawFrontier(byId("frontier"));
drawTable(byId("tensors"));
drawEvaluation(byId("evaluation"));
drawBuilt(byId("built"));
byId("foot").append(`Made by ${DATA.made_by}. This page is one file: it fetches nothing, and works without a network.`);
document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideDetails(); });
