// The worklist: asks for news every few seconds, changes rows where they stand, and never moves what is being looked at.
"use strict";

const EVERY_MS = 5000;
const rows = document.getElementById("rows");
const lost = document.getElementById("lost");

function films() {
  return Array.from(document.querySelectorAll("#rows tr.film"));
}

function takeFresh(from) {
  for (const part of ["problems", "scanned"]) {
    const there = document.querySelector(`body > #fresh > #${part}`);
    const now = from.querySelector(`#${part}`);
    if (there && now && there.innerHTML !== now.innerHTML) there.replaceChildren(...now.childNodes);
  }
}

function takeRows(from) {
  const seen = new Map(Array.from(from.querySelectorAll("tr.film"), (row) => [row.dataset.film, row]));
  const here = new Set();
  for (const row of films()) {
    here.add(row.dataset.film);
    const now = seen.get(row.dataset.film);
    row.classList.toggle("gone", !now);
    if (!now) continue;
    // cell by cell, so that the focus stays on the link in the first one
    Array.from(now.cells).forEach((cell, number) => {
      if (number > 0 && row.cells[number].innerHTML !== cell.innerHTML) row.cells[number].innerHTML = cell.innerHTML;
    });
  }
  const added = Array.from(seen.keys()).filter((film) => !here.has(film)).length;
  const news = document.getElementById("news");
  const link = news.querySelector("a");
  news.hidden = added === 0;
  const said = link.dataset.text.replace("#", added);
  if (link.textContent !== said) link.textContent = said;
}

async function ask() {
  try {
    const answer = await fetch(rows.dataset.news, { headers: { "X-Preread-Poll": "1" } });
    if (answer.status === 401) {
      location.reload();
      return;
    }
    lost.hidden = answer.ok;
    if (answer.ok) {
      const from = new DOMParser().parseFromString(await answer.text(), "text/html");
      showLocalTimes(from);
      takeFresh(from);
      takeRows(from);
    }
  } catch {
    lost.hidden = false;
  }
  setTimeout(ask, EVERY_MS);
}

if (rows) setTimeout(ask, EVERY_MS);

document.addEventListener("keydown", (event) => {
  if (isTyping(event)) return;
  const links = films().map((row) => row.querySelector("a"));
  const at = links.findIndex((link) => link === document.activeElement || link.closest("tr").contains(document.activeElement));
  if (event.key === "j" || event.key === "ArrowDown") links[Math.min(at + 1, links.length - 1)]?.focus();
  else if (event.key === "k" || event.key === "ArrowUp") links[Math.max(at - 1, 0)]?.focus();
  else if (event.key === "/") document.getElementById("search").focus();
  else if (event.key === "f") {
    const filters = document.getElementById("filters");
    filters.open = true;
    filters.querySelector("select").focus();
  } else if (event.key === "n") location.href = `/worklist/next?order=${rows?.dataset.order ?? "arrival"}`;
  else return;
  event.preventDefault();
});
