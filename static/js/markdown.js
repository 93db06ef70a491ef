// Markdown to DOM. While an answer streams, only the tail that can still change is parsed again.
import { DOMPurify, MarkdownIt, cjkFriendly } from "../vendor/markdown.js";

const md = new MarkdownIt({ html: false, linkify: true }).use(cjkFriendly);
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
DOMPurify.addHook("uponSanitizeAttribute", (_node, data) => {
  if (data.attrName === "class") data.keepAttr = /^(?:language-[\w+#.-]+|align-(?:left|center|right))$/.test(data.attrValue);
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

/** Draw `text` into `root` at once. */
export function renderMarkdown(root, text, labels) {
  root.replaceChildren(toFragment(md.render(normalise(text)), labels));
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
    this.#drawTail(text.slice(this.#stable));
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
    this.#drawTail(lines.slice(0, settled));
    this.#stable += settled;
    this.#kept = this.#root.childNodes.length;
  }

  #drawTail(tail) {
    while (this.#root.childNodes.length > this.#kept) this.#root.lastChild.remove();
    if (tail !== "") this.#root.append(toFragment(md.render(tail, this.#env), this.#labels));
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
