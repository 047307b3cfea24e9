// Search, copy buttons, and the two lists of links, which narrow screens fold.
"use strict";

const docs = document.body.dataset.docs;
const wide = matchMedia("(min-width: 60rem)");
const wider = matchMedia("(min-width: 80rem)");

// ---------------------------------------------------------------- lists of links

function unfold() {
  const [site, contents] = [".site details", ".contents details"].map((path) => document.querySelector(path));
  if (site) site.open = wide.matches;
  if (contents) contents.open = wider.matches;
}

for (const media of [wide, wider]) media.addEventListener("change", unfold);
unfold();
document.querySelector(".site [aria-current]")?.scrollIntoView({ block: "nearest" });

// The section that the reader sees is marked in the table of contents.
const entries = new Map(
  [...document.querySelectorAll(".contents a")].map((link) => [decodeURIComponent(link.hash.slice(1)), link]),
);

function mark() {
  let current;
  for (const [id, link] of entries) {
    const top = document.getElementById(id)?.getBoundingClientRect().top;
    if (top !== undefined && top < 140) current = link;
  }
  for (const link of entries.values()) {
    if (link === current) link.setAttribute("aria-current", "location");
    else link.removeAttribute("aria-current");
  }
}

let marking = false;
if (entries.size) {
  addEventListener("scroll", () => {
    if (marking) return;
    marking = true;
    requestAnimationFrame(() => { marking = false; mark(); });
  }, { passive: true });
  mark();
}

// ---------------------------------------------------------------- copy buttons

for (const block of document.querySelectorAll("pre")) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(block.innerText);
      button.textContent = "Copied";
    } catch { // no permission, or a page without TLS: the reader copies the selection
      getSelection().selectAllChildren(block);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  const frame = document.createElement("div");
  frame.className = "code";
  block.replaceWith(frame);
  frame.append(block, button);
}

// ---------------------------------------------------------------- search

const HITS_MAX = 12;
const form = document.querySelector(".search");
const input = form.querySelector("input");
const box = form.querySelector(".hits");
const list = box.querySelector("ol");
const status = box.querySelector("[role=status]");
let index;

/** Every section of the documentation. Asked for once, when somebody begins to search. */
function sections() {
  index ??= fetch(`${docs}search.json`).then(async (answer) => {
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    return (await answer.json()).flatMap(({ page, title, sections: parts }) =>
      parts.map(([heading, anchor, text], number) => ({
        page, title, heading, text, anchor: number ? anchor : "",
        low: { title: title.toLowerCase(), heading: heading.toLowerCase(), text: text.toLowerCase() },
      })));
  });
  index.catch(() => { index = undefined; });
  return index;
}

/** How well a section answers, or 0 when a word is missing in it. Words count at their beginning, and less within. */
function score(section, words) {
  let sum = 0;
  for (const word of words) {
    const best = Math.max(
      weight(section.low.heading, word, 12), weight(section.low.title, word, 6), weight(section.low.text, word, 2),
    );
    if (!best) return 0;
    sum += best + Math.min(section.low.text.split(word).length - 1, 6) * 0.4;
  }
  const phrase = words.join(" ");
  if (words.length > 1 && section.low.heading.includes(phrase)) sum += 20;
  if (words.length > 1 && section.low.text.includes(phrase)) sum += 6;
  if (section.low.heading === phrase) sum += 20;
  if (section.page.startsWith("decisions/")) sum *= 0.5;
  return sum;
}

function weight(text, word, most) {
  const at = text.indexOf(word);
  if (at < 0) return 0;
  for (let from = at; from >= 0; from = text.indexOf(word, from + 1)) {
    if (from === 0 || !/[a-z0-9]/.test(text[from - 1])) return most;
  }
  return most / 3;
}

function excerpt(section, words) {
  const first = Math.min(...words.map((word) => section.low.text.indexOf(word)).filter((at) => at >= 0));
  if (!Number.isFinite(first)) return section.text.slice(0, 140);
  const begin = first < 60 ? 0 : section.text.indexOf(" ", first - 60) + 1;
  const end = section.text.indexOf(" ", begin + 140);
  return (begin ? "… " : "") + (end < 0 ? section.text.slice(begin) : `${section.text.slice(begin, end)} …`);
}

/** The text as nodes, with the words in <mark>. */
function marked(text, words) {
  const escaped = words.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  return text.split(new RegExp(`(${escaped.join("|")})`, "i")).map((part, number) => {
    if (number % 2 === 0) return part;
    const found = document.createElement("mark");
    found.textContent = part;
    return found;
  });
}

function shown(section, words) {
  const link = document.createElement("a");
  link.href = docs + section.page + (section.anchor ? `#${section.anchor}` : "");
  const heading = document.createElement("strong");
  heading.append(...marked(section.heading, words));
  const page = document.createElement("span");
  page.textContent = section.anchor ? section.title : "";
  const text = document.createElement("small");
  text.append(...marked(excerpt(section, words), words));
  link.append(heading, page, text);
  const item = document.createElement("li");
  item.append(link);
  return item;
}

async function search() {
  const asked = input.value;
  const words = asked.toLowerCase().split(/\s+/).filter(Boolean);
  box.hidden = words.length === 0;
  if (box.hidden) return;
  let all;
  try {
    all = await sections();
  } catch {
    status.textContent = "The search index did not load. Try again.";
    return;
  }
  if (asked !== input.value) return; // a later key press searches
  const found = all
    .map((section) => ({ section, score: score(section, words) }))
    .filter((hit) => hit.score > 0)
    .sort((one, other) => other.score - one.score);
  list.replaceChildren(...found.slice(0, HITS_MAX).map((hit) => shown(hit.section, words)));
  const more = found.length > HITS_MAX ? `, the best ${HITS_MAX} are shown` : "";
  status.textContent = found.length ? `${found.length} ${found.length === 1 ? "section" : "sections"}${more}` : "Nothing found.";
}

function close() {
  box.hidden = true;
}

form.hidden = false;
input.addEventListener("focus", () => { sections().catch(() => {}); search(); });
input.addEventListener("input", search);
form.addEventListener("submit", (event) => {
  event.preventDefault();
  list.querySelector("a")?.click();
});
form.addEventListener("keydown", (event) => {
  const links = [...list.querySelectorAll("a")];
  const at = links.indexOf(document.activeElement);
  if (event.key === "Escape") { close(); input.blur(); }
  if (event.key === "ArrowDown" && links[at + 1]) { event.preventDefault(); links[at + 1].focus(); }
  if (event.key === "ArrowUp" && at >= 0) { event.preventDefault(); (links[at - 1] ?? input).focus(); }
});
list.addEventListener("click", close);
document.addEventListener("click", (event) => { if (!form.contains(event.target)) close(); });
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select")) return;
  event.preventDefault();
  input.focus();
});
