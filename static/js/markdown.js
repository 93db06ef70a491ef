// Markdown to DOM, all at once. How it is drawn while it grows is in streaming.js.
import { DOMPurify, MarkdownIt, cjkFriendly } from "../vendor/core.js";

const PART = 8; // blocks in a box
const LINES = 40; // lines of code in a box

export const md = new MarkdownIt({ html: false, linkify: true }).use(cjkFriendly).use(math);
// "example.com" and "a@b.c" stay text: models write many file names that look like hosts.
md.linkify.set({ fuzzyLink: false, fuzzyEmail: false });

// An image would be fetched from a place that the model names: it becomes a link that a person may follow.
md.renderer.rules.image = (tokens, index) => {
  const { attrs, content } = tokens[index];
  const { escapeHtml } = md.utils;
  const source = Object.fromEntries(attrs).src;
  return `<a href="${escapeHtml(source)}">${escapeHtml(content || source)}</a>`;
};

// markdown-it aligns table cells by a style attribute, which the page's policy forbids: a class does the same.
for (const rule of ["th_open", "td_open"]) {
  md.renderer.rules[rule] = (tokens, index, options, _env, self) => {
    const token = tokens[index];
    const align = /text-align:(\w+)/.exec(token.attrGet("style") ?? "")?.[1];
    if (align) token.attrs = [["class", `align-${align}`]];
    return self.renderToken(tokens, index, options);
  };
}

const PURIFY = {
  RETURN_DOM_FRAGMENT: true,
  ALLOWED_TAGS: (
    "a blockquote br code del em h1 h2 h3 h4 h5 h6 hr li ol p pre s strong table tbody td th thead tr ul"
  ).split(" "),
  ALLOWED_ATTR: ["class", "href", "start", "title"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  ALLOW_ARIA_ATTR: false,
  ALLOW_DATA_ATTR: false,
};
const CLASSES = /^(?:language-[\w+#.-]+|align-(?:left|center|right)|math(?: display)?|hljs-[\w-]+(?: [\w-]+)*)$/;
DOMPurify.addHook("uponSanitizeAttribute", (_node, data) => {
  if (data.attrName === "class") data.keepAttr = CLASSES.test(data.attrValue);
});

/** The only sink: HTML comes in, a sanitised DocumentFragment with our own controls around it comes out. */
export function toFragment(markup, labels) {
  const fragment = DOMPurify.sanitize(markup, PURIFY);
  for (const link of fragment.querySelectorAll("a[href]")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer nofollow";
  }
  for (const table of fragment.querySelectorAll("table")) wrap(table, "table-box").tabIndex = 0;
  for (const pre of fragment.querySelectorAll("pre")) frameCode(pre, labels);
  return fragment;
}

function wrap(node, className) {
  const box = document.createElement("div");
  box.className = className;
  node.replaceWith(box);
  box.append(node);
  return box;
}

function frameCode(pre, labels) {
  const box = wrap(pre, "code-box");
  const bar = document.createElement("div");
  bar.className = "code-bar";
  const name = document.createElement("span");
  const code = pre.firstElementChild;
  name.textContent = /language-(\S+)/.exec(code?.className ?? "")?.[1] ?? labels.code;
  const copy = document.createElement("button");
  copy.type = "button";
  copy.className = "copy-code";
  copy.textContent = labels.copy;
  bar.append(name, copy);
  pre.tabIndex = 0; // a region that scrolls sideways must be reachable by keyboard
  box.prepend(bar);
  if (code) {
    const text = code.textContent;
    code.textContent = "";
    addLines(code, text);
  }
}

/** Append whole lines to a listing. After the first LINES each LINES have a box of their own, for what `place` says. */
export function addLines(code, text) {
  const lines = text.split(/(?<=\n)/);
  while (lines.length > 0) {
    let box = code.lastChild ?? code.appendChild(new Text());
    let room = LINES - (box.textContent.split("\n").length - 1);
    if (room <= 0) {
      box = code.appendChild(document.createElement("span"));
      box.className = "lines";
      box.append(new Text());
      room = LINES;
    }
    (box.firstChild ?? box).appendData(lines.splice(0, room).join(""));
  }
}

/**
 * Append nodes to `root`, every PART of the blocks in a box. The browser lays out the last box when something is added,
 * and skips those that are out of sight: what an answer costs while it grows does not depend on its length.
 */
export function place(root, nodes, hidden = false) {
  for (const node of nodes) {
    let part = root.lastElementChild;
    if (part === null || (node.nodeType === Node.ELEMENT_NODE && part.childElementCount >= PART)) {
      part = root.appendChild(document.createElement("div"));
      part.className = "part";
      part.hidden = hidden;
    }
    part.append(node);
  }
}

let enrich = null;
let loadingEnrich = null;

/** Formulas and code in `nodes` get drawn and coloured, by a module that is fetched when it is first needed. */
export function decorate(nodes, isSettled) {
  if (!nodes.some((node) => node.querySelector?.("code.math, pre > code[class]"))) return;
  const work = () => {
    const elements = nodes.filter((node) => node.nodeType === Node.ELEMENT_NODE);
    enrich.drawFormulas(elements);
    if (isSettled) enrich.colour(elements);
  };
  if (enrich) return work();
  loadingEnrich ??= import("./enrich.js");
  loadingEnrich.then(
    (module) => {
      enrich = module;
      work();
    },
    (error) => {
      loadingEnrich = null; // the next answer tries again
      console.warn("formulas and code stay plain", error);
    },
  );
}

/** Draw `text` into `root` at once. */
export function renderMarkdown(root, text, labels) {
  root.replaceChildren();
  place(root, [...toFragment(md.render(normalise(text)), labels).childNodes]);
  decorate([...root.children], true);
}

/** One kind of line end, so that lines can be counted by it. */
export const normalise = (text) => text.replace(/\r\n?/g, "\n");

// Formulas, $…$ and \(…\) in a line, $$…$$ and \[…\] as blocks, come out as <code class="math">; who draws them is
// enrich.js. Until it has, and where it cannot, the reader sees their source.
const FORMULA_BLOCKS = [
  ["$$", "$$"],
  ["\\[", "\\]"],
];

function math(md) {
  md.inline.ruler.before("escape", "math", inline);
  md.block.ruler.before("fence", "math", block, { alt: ["paragraph", "reference", "blockquote", "list"] });
  md.renderer.rules.math = (tokens, index) => code(md, tokens[index].content, "math");
  md.renderer.rules.math_block = (tokens, index) => `<p>${code(md, tokens[index].content, "math display")}</p>\n`;
}

const code = (md, source, name) => `<code class="${name}">${md.utils.escapeHtml(source)}</code>`;

/**
 * A `$` opens a formula when no space follows it, and closes one when no space stands before it and no digit follows:
 * "it costs $5 or $6" has none (the rule of pandoc's tex_math_dollars).
 */
function inline(state, silent) {
  const { src, pos } = state;
  let open, close;
  if (src.startsWith("\\(", pos)) [open, close] = ["\\(", src.indexOf("\\)", pos + 2)];
  else if (src.startsWith("\\[", pos)) [open, close] = ["\\[", src.indexOf("\\]", pos + 2)];
  else if (src.startsWith("$$", pos)) [open, close] = ["$$", src.indexOf("$$", pos + 2)];
  else if (src[pos] === "$") [open, close] = ["$", closingDollar(src, pos + 1)];
  else return false;
  const content = close < 0 ? "" : src.slice(pos + open.length, close).trim();
  if (content === "" || close + open.length > state.posMax) {
    // "$$" must not become an opening "$" one character later
    if (open !== "$$") return false;
    if (!silent) state.pending += open;
    state.pos += open.length;
    return true;
  }
  if (!silent) state.push("math", "code", 0).content = content;
  state.pos = close + open.length;
  return true;
}

function closingDollar(src, from) {
  if (/\s/.test(src[from] ?? " ")) return -1;
  for (let at = from; at < src.length; at += 1) {
    if (src[at] === "\\") at += 1;
    else if (src[at] === "$") return /\s/.test(src[at - 1]) || /\d/.test(src[at + 1] ?? "") ? -1 : at;
  }
  return -1;
}

/** A block opens at the start of a line and closes at the end of one. A blank line before that makes it plain text. */
function block(state, startLine, endLine, silent) {
  if (state.sCount[startLine] - state.blkIndent >= 4) return false;
  const text = (line) => state.src.slice(state.bMarks[line] + state.tShift[line], state.eMarks[line]).trimEnd();
  const first = text(startLine);
  const marks = FORMULA_BLOCKS.find(([open]) => first.startsWith(open));
  if (!marks) return false;
  const [open, close] = marks;
  const lines = [];
  for (let line = startLine; line < endLine; line += 1) {
    const found = line === startLine ? first.slice(open.length) : text(line);
    if (line > startLine && (found === "" || state.sCount[line] < state.blkIndent)) return false;
    if (!found.endsWith(close)) {
      lines.push(found);
      continue;
    }
    lines.push(found.slice(0, -close.length));
    const content = lines.join("\n").trim();
    if (content === "" || content.includes(close)) return false;
    if (silent) return true;
    const token = state.push("math_block", "code", 0);
    token.block = true;
    token.content = content;
    token.map = [startLine, line + 1];
    state.line = line + 1;
    return true;
  }
  return false;
}
