// The little Markdown that answers use, as DOM nodes. Text stays text: nothing a model writes becomes HTML or a link.

const INLINE = /\*\*([^*]+)\*\*|\*([^*\s][^*]*)\*|`([^`]+)`/g;
const MARKER = /^(?:[-*]|(\d+)\.)\s+/;

/** Shows the text in the element. Blocks that have not changed keep their nodes, and with them a selection. */
export function show(element, text) {
  const blocks = blocksOf(text);
  const shown = [...element.children];
  blocks.forEach((block, at) => {
    if (shown[at]?.source === block) return;
    const made = rendered(block);
    made.source = block;
    if (shown[at]) shown[at].replaceWith(made);
    else element.append(made);
  });
  for (const left of shown.slice(blocks.length)) left.remove();
}

function blocksOf(text) {
  const blocks = [];
  let code = false;
  let open = false;
  for (const line of text.split("\n")) {
    const fence = line.startsWith("```");
    if (!code && !line.trim()) {
      open = false;
      continue;
    }
    const list = MARKER.test(line);
    const starts = !code && (fence || line.startsWith("#") || (open && list !== MARKER.test(blocks.at(-1)) && !line.startsWith(" ")));
    if (open && !starts) blocks[blocks.length - 1] += `\n${line}`;
    else blocks.push(line);
    open = !(fence && code) && !line.startsWith("#");
    if (fence) code = !code;
  }
  return blocks;
}

function rendered(block) {
  if (block.startsWith("```")) {
    const pre = document.createElement("pre");
    pre.tabIndex = 0; // it may scroll
    pre.append(made("code", "", block.replace(/^```[^\n]*\n?/, "").replace(/\n?```$/, "")));
    return pre;
  }
  if (block.startsWith("#")) return inline(document.createElement("h2"), block.replace(/^#+\s*/, ""));
  const first = MARKER.exec(block);
  if (!first) return inline(document.createElement("p"), block);
  const list = document.createElement(first[1] ? "ol" : "ul");
  if (first[1]) list.start = Number(first[1]);
  for (const item of block.split(/\n(?=(?:[-*]|\d+\.)\s)/)) list.append(inline(document.createElement("li"), item.replace(MARKER, "")));
  return list;
}

function inline(element, text) {
  let at = 0;
  for (const found of text.matchAll(INLINE)) {
    const [whole, strong, emphasis, code] = found;
    element.append(text.slice(at, found.index));
    element.append(strong ? made("strong", "", strong) : emphasis ? made("em", "", emphasis) : made("code", "", code));
    at = found.index + whole.length;
  }
  element.append(text.slice(at));
  return element;
}

/** An element with a class and a text. */
export function made(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}
