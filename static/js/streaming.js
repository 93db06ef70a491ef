// Markdown to DOM while it grows: only the tail that can still change is parsed again, and only what differs is touched.
// Fetched when the first answer begins.
import { addLines, decorate, md, normalise, place, toFragment } from "./markdown.js";

const SLICE = 512; // characters drawn at a time; of a long block more, for each time all of it is parsed
const BUDGET_MS = 2; // of drawing before the page may do something else,
const PAUSE_MS = 12; // and how long it has for that: a frame,
const SHARE = 4; // or so many times as long as a drawing that took longer
const BACKLOG = 4096; // characters; with more to draw than that, nothing is shown until it is done
const SCREEN = 4; // boxes that surely fill the window
const ITEMS = 40; // of a long list are shown at a time
const LONG = 2048; // characters of a list or table after which what is complete of it is not parsed again
const OPENING = /^ {0,3}(?:\$\$|\\\[)/m; // of a formula, if it is closed later: until then its lines are something else

/**
 * Draws a growing text into `root`. `update(text)` takes the whole text so far, `finish(text)` the final one, which may
 * grow on nevertheless; after that the DOM is what `renderMarkdown` makes of it in one go. What comes at once, as after a
 * reload in mid-answer, is drawn in slices, so that the page stays at hand meanwhile.
 */
export class StreamingMarkdown {
  #root;
  #labels;
  #env; // link definitions seen so far
  #known; // how many there were before
  #text = "";
  #drawn = 0; // characters of it that are on screen
  #resolve = null; // of the promise that `finish` gave
  #timer = null; // of the next slice
  #isBehind = false; // so far that what is drawn is hidden until all of it is
  #stable = 0; // characters drawn for good
  #parsed = 0; // characters that were looked through for what is
  #tail = []; // the nodes that may still change
  #fence = null; // the open code fence that the tail is, if it is one
  #grown = null; // of the long list or table that the tail is: what of it is drawn for good

  constructor(root, labels, env = {}) {
    this.#root = root;
    this.#labels = labels;
    this.#env = env;
    this.#known = countOf(env.references);
    root.replaceChildren();
  }

  update(received) {
    this.#resolve = null;
    this.#take(received.replace(/\r$/, "")); // its "\n" may still come
  }

  /** Resolves when all of it is drawn. */
  finish(received) {
    return new Promise((resolve) => {
      this.#resolve = resolve;
      this.#take(received);
    });
  }

  /** Nothing more is drawn; who waits for the end need not. */
  stop() {
    clearTimeout(this.#timer);
    this.#timer = Infinity;
    this.#resolve?.();
  }

  #take(received) {
    const text = normalise(received);
    if (!text.startsWith(this.#text)) this.#restart(); // what was stored is not what was heard
    this.#text = text;
    if (this.#timer === null) this.#work();
  }

  #restart() {
    [this.#drawn, this.#stable, this.#parsed, this.#tail, this.#fence, this.#grown] = [0, 0, 0, [], null, null];
    this.#root.replaceChildren();
  }

  #work() {
    this.#isBehind ||= this.#text.length - this.#drawn > BACKLOG;
    const began = performance.now();
    do {
      const slice = Math.max(SLICE, (this.#drawn - this.#stable) >> 1);
      this.#drawn = Math.min(this.#text.length, this.#drawn + slice);
      this.#draw(this.#text.slice(0, this.#drawn));
    } while (this.#drawn < this.#text.length && performance.now() < began + BUDGET_MS);
    const took = performance.now() - began;
    if (this.#drawn === this.#text.length && (!this.#isBehind || this.#showMore())) {
      if (this.#resolve) this.#end();
      else if (took > PAUSE_MS) this.#later(took * SHARE);
    } else this.#later(this.#isBehind && this.#drawn < this.#text.length ? 0 : PAUSE_MS);
  }

  #later(wait) {
    this.#timer = setTimeout(() => {
      this.#timer = null;
      if (this.#drawn < this.#text.length || this.#isBehind || this.#resolve) this.#work();
    }, wait);
  }

  /** Show what was drawn hidden, from its end upwards: a screen of it in steps, then the rest. True when all is shown. */
  #showMore() {
    const parts = [...this.#root.children];
    const hidden = parts.filter((part) => part.hidden);
    const below = parts.length - 1 - parts.indexOf(hidden.at(-1));
    for (const part of below < SCREEN ? hidden.slice(-1) : hidden) part.hidden = false;
    const items = [...this.#root.querySelectorAll(":is(li, tr)[hidden]")];
    for (const item of items.slice(-ITEMS)) item.hidden = false;
    this.#isBehind = (hidden.length > 1 && below < SCREEN) || items.length > ITEMS;
    return !this.#isBehind;
  }

  #draw(text) {
    this.#settle(text);
    if (this.#growFence(text)) return;
    const read = this.#read(text.length, this.#soFar());
    this.#drawTail(read);
    this.#fence = openFence(text, this.#stable, this.#tail);
    this.#keep(read);
  }

  async #end() {
    const resolve = this.#resolve;
    this.#resolve = this.#fence = null;
    this.#drawTail(this.#read(this.#text.length, this.#env), true);
    // A link definition may stand after the text that uses it: only then is everything drawn again.
    if (countOf(this.#env.references) > this.#known) {
      this.#known = countOf(this.#env.references);
      const again = document.createElement("div");
      await new StreamingMarkdown(again, this.#labels, this.#env).finish(this.#text);
      this.#root.replaceChildren(...again.childNodes);
      decorate([...this.#root.children], true);
    }
    resolve();
  }

  /** A copy of the link definitions: one that is not complete yet must not stay. */
  #soFar() {
    return { references: { ...this.#env.references } };
  }

  /** Draw for good every block but the last among the complete lines: no later line can change those. */
  #settle(text) {
    const end = text.lastIndexOf("\n") + 1;
    if (this.#fence || end <= this.#parsed) return;
    this.#parsed = end;
    const { tokens, offset } = this.#read(end, this.#soFar());
    const last = tokens.findLast((token) => token.level === 0 && token.map && token.nesting >= 0);
    if (!last || last.map[0] === 0) return;
    const settled = offset(last.map[0]);
    this.#drawTail(this.#read(settled, this.#env), true);
    [this.#tail, this.#grown] = [[], null];
    this.#stable = settled;
  }

  /** Parse what is not drawn for good, as far as `upTo`; `offset` says where in the text a line of it begins. */
  #read(upTo, env) {
    const { head, end } = this.#grown ?? { head: "", end: this.#stable };
    const source = head + this.#text.slice(end, upTo);
    const tokens = md.parse(source, env);
    if (this.#grown && !isMore(this.#grown, tokens)) {
      this.#grown = null;
      return this.#read(upTo, env);
    }
    return { tokens, env, source, offset: (line) => end - head.length + offsetOfLine(source, line) };
  }

  /** Rows and items that are complete stay as they are: of a long table or list only the last is parsed from now on. */
  #keep({ tokens, source, offset }) {
    if (source.length < LONG) return;
    const grown = growing(tokens, source, this.#grown);
    if (grown === null) return;
    const into = partsIn(this.#tail[0]);
    const end = offset(grown.line);
    this.#read(end, this.#env); // for the link definitions in it
    this.#grown = { ...grown, into, end, kept: [...into.childNodes].indexOf([...into.children].at(-grown.left)) };
  }

  /** In place of a block that grows come the parts of it that are new or may still change. */
  #growParts(nodes) {
    const { into, kept, skip } = this.#grown;
    const parts = [...(partsIn(nodes[0])?.childNodes ?? [])];
    const fresh = parts.slice(1 + 2 * skip); // "\n" stands before each
    const more = fresh.slice(grow([...into.childNodes].slice(kept), fresh));
    if (this.#isBehind) for (const part of more) part.hidden = true;
    into.append(...more);
    nodes[0] = this.#tail[0];
    return [...into.childNodes].slice(kept);
  }

  #drawTail({ tokens, env }, isSettled = false) {
    const nodes = [...toFragment(md.renderer.render(tokens, md.options, env), this.#labels).childNodes];
    const parts = this.#grown && this.#growParts(nodes);
    const kept = grow(this.#tail, nodes);
    while (this.#root.lastElementChild?.hasChildNodes() === false) this.#root.lastElementChild.remove();
    this.#tail.splice(kept, Infinity, ...nodes.slice(kept));
    place(this.#root, nodes.slice(kept), this.#isBehind);
    decorate(isSettled || !parts ? this.#tail : [...parts, ...this.#tail.slice(1)], isSettled);
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
    if (lines !== "") addLines(fence.code, lines);
    fence.end = Math.max(fence.end, end);
    return true;
  }
}

const countOf = (references) => Object.keys(references ?? {}).length;

/**
 * How the list or table that `tokens` are goes on without what is complete of it: from `line` on, where the first of the `left`
 * last parts begins, after `head`, which is parsed for what the first lines say about all others, and the first `skip` parts
 * of what comes out are not drawn. Null for any other block, or more than one.
 */
function growing(tokens, source, before) {
  if (tokens.length === 0) return null;
  const [{ type, markup }] = tokens;
  const isTable = type === "table_open";
  const isTight = isTable || tightness(tokens);
  if (!(isTable || type.endsWith("list_open")) || isTight === undefined) return null;
  if (tokens.filter((token) => token.level === 0 && token.nesting >= 0).length > 1 || OPENING.test(source)) return null;
  const parts = tokens.filter((token) => (isTable ? token.type === "tr_open" : token.type === "list_item_open" && token.level === 1));
  const left = source.endsWith("\n") ? 1 : 2; // what a line is, is certain when it has ended
  const line = parts.at(-left)?.map[0];
  if (parts.length < left + 2) return null;
  if (isTable) return { type, line, left, skip: 0, head: before?.head ?? source.slice(0, offsetOfLine(source, 2)) };
  const [indent] = /^ */.exec(source.slice(offsetOfLine(source, line)));
  return { type, line, left, skip: 1, isTight, head: `${indent}${type === "ordered_list_open" ? "1" : ""}${markup} x\n${isTight ? "" : "\n"}` };
}

/** Whether the paragraphs in a list's items are bare: that is decided for all of them together. */
const tightness = (tokens) => tokens.find((token) => token.type === "paragraph_open" && token.level === 2)?.hidden;

/** Whether `tokens` go on with what has grown: a blank line between two items changes all of them. */
const isMore = (grown, tokens) => tokens[0].type === grown.type && (grown.skip === 0 || tightness(tokens) === grown.isTight);

/** The element that holds a list's items or a table's rows. */
const partsIn = (node) => (node.matches("ul, ol") ? node : node.querySelector(":scope > table > tbody"));

/** Whether the tail is one code fence still open: its element, how it would close, how far it is drawn. */
function openFence(text, start, nodes) {
  const opening = /^(`{3,}|~{3,})[^\n]*\n/.exec(text.slice(start));
  const code = nodes.findLast((node) => node.nodeType === Node.ELEMENT_NODE)?.querySelector(":scope > pre > code");
  if (!opening || !code) return null;
  const [mark] = opening[1];
  if (mark === "`" && opening[0].slice(opening[1].length).includes("`")) return null;
  const closing = new RegExp(`^ {0,3}${mark}{${opening[1].length},}[ \\t]*$`, "m");
  const end = text.lastIndexOf("\n") + 1;
  const lines = text.slice(start + opening[0].length, end);
  if (closing.test(lines)) return null;
  code.replaceChildren();
  addLines(code, lines);
  return { code, closing, end };
}

/**
 * Make the first of the nodes `had` what `has` are, by touching only what differs, and remove the rest of them: a long list or
 * table is not laid out anew for each of its rows. Returns how many of `has` are there now; those after them are the caller's to add.
 */
function grow(had, has) {
  let same = 0;
  while (same < had.length && same < has.length && isAlike(had[same], has[same])) same += 1;
  if (same < had.length && same < has.length && isSameBox(had[same], has[same])) {
    const inner = [...has[same].childNodes];
    had[same].append(...inner.slice(grow([...had[same].childNodes], inner)));
    same += 1;
  }
  for (const node of had.slice(same)) node.remove();
  return same;
}

/** Whether a node on screen shows what a fresh one would: a drawn formula shows its source. */
function isAlike(had, has) {
  if (had === has || had.isEqualNode(has)) return true;
  if (had.nodeType !== Node.ELEMENT_NODE || has.nodeType !== Node.ELEMENT_NODE || had.className !== has.className) return false;
  if (had.dataset.source !== undefined) return had.dataset.source === has.textContent;
  const [one, other] = [had.childNodes, has.childNodes];
  return isSameBox(had, has) && one.length === other.length && [...one].every((node, index) => isAlike(node, other[index]));
}

const isSameBox = (one, other) => one.nodeType === Node.ELEMENT_NODE && one.cloneNode(false).isEqualNode(other.cloneNode(false));

function offsetOfLine(text, line) {
  let offset = 0;
  for (let count = 0; count < line; count += 1) offset = text.indexOf("\n", offset) + 1;
  return offset;
}
