// Markdown to DOM. While an answer streams, only the tail that can still change is parsed again.
import { DOMPurify, MarkdownIt, cjkFriendly } from "../vendor/core.js";

const md = new MarkdownIt({ html: false, linkify: true }).use(cjkFriendly).use(math);
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
function toFragment(markup, labels) {
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
  name.textContent = /language-(\S+)/.exec(pre.firstElementChild?.className ?? "")?.[1] ?? labels.code;
  const copy = document.createElement("button");
  copy.type = "button";
  copy.className = "copy-code";
  copy.textContent = labels.copy;
  bar.append(name, copy);
  pre.tabIndex = 0; // a region that scrolls sideways must be reachable by keyboard
  box.prepend(bar);
}

let enrich = null;
let loadingEnrich = null;

/** Formulas and code in `nodes` get drawn and coloured, by a module that is fetched when it is first needed. */
function decorate(nodes, { settled, drawn }) {
  if (!nodes.some((node) => node.querySelector("code.math, pre > code[class]"))) return;
  const work = () => {
    enrich.drawFormulas(nodes, drawn);
    if (settled) enrich.colour(nodes);
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
  root.replaceChildren(toFragment(md.render(normalise(text)), labels));
  decorate([...root.children], { settled: true });
}

/**
 * Draws a growing text into `root`. `update(text)` takes the whole text so far, `finish(text)` the final one;
 * after that the DOM is what `renderMarkdown` makes of it in one go.
 */
export class StreamingMarkdown {
  #root;
  #labels;
  #stable = 0; // characters already drawn for good
  #kept = 0; // child nodes that they made
  #env = {}; // link definitions seen so far
  #fence = null; // the open code fence that the tail is, if it is one

  constructor(root, labels) {
    this.#root = root;
    this.#labels = labels;
    root.replaceChildren();
  }

  update(received) {
    const text = normalise(received.replace(/\r$/, "")); // its "\n" may still come
    this.#settle(text);
    if (this.#growFence(text)) return;
    this.#drawTail(text.slice(this.#stable));
    this.#fence = openFence(text, this.#stable, this.#root.lastElementChild);
  }

  finish(received) {
    const text = normalise(received);
    this.#fence = null;
    this.#settle(text);
    this.#drawTail(text.slice(this.#stable), true);
    // A link definition may stand after the text that uses it: only then is everything drawn again.
    if (Object.keys(this.#env.references ?? {}).length > 0) renderMarkdown(this.#root, text, this.#labels);
  }

  /** Draw for good every block but the last among the complete lines: no later line can change those. */
  #settle(text) {
    const end = text.lastIndexOf("\n") + 1;
    if (this.#fence || end <= this.#stable) return;
    const lines = text.slice(this.#stable, end);
    const tokens = md.parse(lines, this.#env);
    const last = tokens.findLast((token) => token.level === 0 && token.map && token.nesting >= 0);
    if (!last || last.map[0] === 0) return;
    const settled = offsetOfLine(lines, last.map[0]);
    this.#drawTail(lines.slice(0, settled), true);
    this.#stable += settled;
    this.#kept = this.#root.childNodes.length;
  }

  #drawTail(tail, settled = false) {
    const old = [];
    while (this.#root.childNodes.length > this.#kept) {
      old.push(this.#root.lastChild);
      this.#root.lastChild.remove();
    }
    const drawn = enrich?.harvest(old.filter((node) => node.nodeType === Node.ELEMENT_NODE));
    if (tail === "") return;
    const fragment = toFragment(md.render(tail, this.#env), this.#labels);
    const nodes = [...fragment.children];
    this.#root.append(fragment);
    decorate(nodes, { settled, drawn });
  }

  /** Append complete lines to an open fence without parsing; false when there is none or it may have ended. */
  #growFence(text) {
    const fence = this.#fence;
    if (!fence) return false;
    const end = text.lastIndexOf("\n") + 1;
    const lines = text.slice(fence.end, end);
    if (fence.closing.test(lines)) {
      this.#fence = null;
      this.#settle(text);
      return false;
    }
    fence.node.appendData(lines);
    fence.end = Math.max(fence.end, end);
    return true;
  }
}

/** Whether the tail is one code fence still open: its text node, how it would close, how far it is drawn. */
function openFence(text, start, element) {
  const opening = /^(`{3,}|~{3,})[^\n]*\n/.exec(text.slice(start));
  const code = element?.querySelector(":scope > pre > code");
  if (!opening || !code) return null;
  const [mark] = opening[1];
  if (mark === "`" && opening[0].slice(opening[1].length).includes("`")) return null;
  const closing = new RegExp(`^ {0,3}${mark}{${opening[1].length},}[ \\t]*$`, "m");
  const end = text.lastIndexOf("\n") + 1;
  if (closing.test(text.slice(start + opening[0].length, end))) return null;
  code.textContent = text.slice(start + opening[0].length, end);
  if (code.firstChild === null) code.append("");
  return { node: code.firstChild, closing, end };
}

/** One kind of line end, so that lines can be counted by it. */
const normalise = (text) => text.replace(/\r\n?/g, "\n");

function offsetOfLine(text, line) {
  let offset = 0;
  for (let count = 0; count < line; count += 1) offset = text.indexOf("\n", offset) + 1;
  return offset;
}

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
