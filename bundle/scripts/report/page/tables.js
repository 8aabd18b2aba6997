// Tables: a click on a heading sorts, and a choice of region hides the lines of the others.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const value = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? cell.textContent.trim() : Number(cell.dataset.value);
  };
  const compare = (x, y, sign) => typeof x !== typeof y ? (typeof x === "number" ? -1 : 1)  // a missing value is last
    : sign * (typeof x === "number" ? x - y : x.localeCompare(y, undefined, {numeric: true}));
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => compare(value(a, column), value(b, column), down ? -1 : 1));
    table.tBodies[0].append(...rows);
  }));
}
for (const region of document.querySelectorAll("select.region")) {
  const rows = region.closest(".table").querySelectorAll("tr[data-region]");
  const choose = () => rows.forEach(row => { row.hidden = row.dataset.region !== region.value; });
  region.addEventListener("change", choose);
  choose();
}
