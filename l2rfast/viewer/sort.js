"use strict";
// Tables that a click on a head sorts. Heads become buttons here, so that without scripts there are none that do nothing.

const words = new Intl.Collator("en", { numeric: true });

function sortable(table) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  function sort(head) {
    const column = heads.indexOf(head), first = head.dataset.first, numbers = head.className == "n";
    const order = head.getAttribute("aria-sort") != first ? first : first == "ascending" ? "descending" : "ascending";
    const sign = order == "ascending" ? 1 : -1;
    const keyed = [...body.rows].map((row) => {
      const text = row.cells[column].textContent;
      return [numbers ? parseFloat(text) : text, row];
    });
    keyed.sort(([a], [b]) => numbers ? isNaN(a) - isNaN(b) || sign * (a - b) : sign * words.compare(a, b));
    for (const [, row] of keyed) body.append(row);
    for (const each of heads) each.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
  }
  for (const head of heads.filter((each) => each.dataset.first)) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(head));
    head.append(button);
  }
}

document.querySelectorAll("table.sortable").forEach(sortable);
