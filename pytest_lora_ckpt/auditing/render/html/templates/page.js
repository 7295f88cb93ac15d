"use strict";
// Without this script the page says the same; it adds the copy buttons, and says each cell of a picture in words.
for (const button of document.querySelectorAll("button.copy")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const code = button.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "Press Ctrl+C";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
}

for (const picture of document.querySelectorAll(".picture")) {
  const readout = picture.querySelector(".readout");
  if (!readout) continue;
  const tell = (cell) => {
    const row = cell.parentElement, table = cell.closest("table");
    const module = table.tHead ? nameOf(table, cell.cellIndex - 1) : row.cells[1].textContent;
    const where = table.tHead ? `layer ${row.cells[0].textContent}, ${module}` : module;
    const inSizes = cell.className[0] === "u" && /^u\d$/.test(cell.className);
    const unit = picture.querySelector(".shades")?.textContent.includes("%") ? " %" : "";
    const keys = `${cell.textContent} ${cell.textContent === "1" ? "key" : "keys"}`;
    const what = inSizes ? `update ${cell.textContent}${unit}` : `${cell.className}, ${keys}`;
    readout.textContent = `${where}: ${what}${cell.title ? ` (${cell.title})` : ""}`;
  };
  const cellOf = (event) => event.target.closest?.("tbody td[class]");
  for (const kind of ["mouseover", "focusin", "click"]) {
    picture.addEventListener(kind, (event) => { const cell = cellOf(event); if (cell) tell(cell); });
  }
  picture.addEventListener("mouseleave", () => { if (!picture.contains(document.activeElement)) readout.textContent = ""; });
  // One stop of the tab key for each table; the arrow keys go on from there.
  for (const table of picture.querySelectorAll("table.map")) {
    const first = table.querySelector("tbody td[class]");
    if (first) first.tabIndex = 0;
    table.addEventListener("keydown", (event) => {
      const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
      const cell = cellOf(event);
      if (!step || !cell) return;
      const row = table.tBodies[0].rows[cell.parentElement.sectionRowIndex + step[0]];
      const next = row?.cells[cell.cellIndex + step[1]];
      if (next?.localName !== "td") return;
      event.preventDefault();
      cell.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    });
  }
}

function nameOf(table, at) {
  const leaf = table.tHead.rows[1].cells[at].textContent;
  let seen = 0;
  for (const head of [...table.tHead.rows[0].cells].slice(1)) {
    seen += head.colSpan;
    if (at < seen) return head.textContent ? `${head.textContent}.${leaf}` : leaf;
  }
  return leaf;
}
