// What the user writes: a draft for each chat with the files in it, and a line of messages to be sent.
// Both stand in localStorage, which is written at once: what IndexedDB would write, a closing page may lose.
//
// What a file holds is part of the message's text, before what the user wrote:
//   <file name="notes.txt" length="5">
//   hello
//   </file>
// `length` in UTF-16 units says where it ends, so that a file may itself hold "</file>".
import { batch, signal } from "../vendor/core.js";
import { randomId } from "./session.js";

const PREFIX = "gatehouse.outbox.";
const DRAFTS = "gatehouse.draft.";

/** Messages to be sent, the oldest first: {id, key, at, parent, after, content, params, fit, error}; see sending.js. */
export const outbox = signal([]);
let owner = null;
let keeps = true; // whether all that was written is there: a browser may refuse, or be full

/**
 * Take over what `user` (a name) left; what somebody else left in this browser is deleted. Null, who is not signed in or
 * whose gateway does not answer now, finds everything again later. The page before this one may have been left while it
 * edited a message, or by that have lost the answer to one: both are due.
 */
export function openOutbox(user) {
  owner = user;
  for (const key of keys(PREFIX, DRAFTS)) if (user !== null && !key.includes(`.${user}/`)) localStorage.removeItem(key);
  read();
  batch(() => {
    for (const { id } of outbox.peek()) change(id, { waits: undefined, notBefore: undefined, paused: undefined });
  });
}

/** Who signs out leaves nothing here. */
export function forgetAll() {
  for (const key of keys(PREFIX, DRAFTS)) localStorage.removeItem(key);
}

export const itemsOf = (key) => outbox.value.filter((item) => item.key === key);

export function add(item) {
  outbox.value = [...outbox.peek(), item];
  store(nameOf(item.id), item);
}

/**
 * Change a message that still waits. One that another tab has delivered meanwhile, or the page that comes after this one, is
 * gone, and does not come back by what this page hears of its own attempt.
 */
export function change(id, values) {
  const item = outbox.peek().find((other) => other.id === id);
  if (item === undefined) return;
  if (keeps && localStorage.getItem(nameOf(id)) === null) return discard(id);
  const changed = { ...item, ...values };
  outbox.value = outbox.peek().map((other) => (other === item ? changed : other));
  store(nameOf(id), changed);
}

export function discard(id) {
  outbox.value = outbox.peek().filter((item) => item.id !== id);
  localStorage.removeItem(nameOf(id));
}

const nameOf = (id) => `${PREFIX}${owner}/${id}`;

export function newItem(key, values) {
  return { ...values, id: randomId(), key, at: Date.now() };
}

/** Chats that are not begun share one draft: their names do not outlive the page. */
const draftName = (key) => `${DRAFTS}${owner}/${key.startsWith("new-") ? "new" : key}`;

/** What stands in the composer of the chat `key`. */
export function loadDraft(key) {
  return parse(localStorage.getItem(draftName(key))) ?? { text: "", files: [] };
}

export function saveDraft(key, draft) {
  if (owner === null) return;
  const name = draftName(key);
  if (draft.text === "" && draft.files.length === 0) localStorage.removeItem(name);
  else store(name, draft);
}

/** A chat that got its id: what was filed under the page's own name for it goes with it. */
export function rename(from, to) {
  batch(() => {
    for (const item of outbox.peek()) if (item.key === from) change(item.id, { key: to });
  });
  saveDraft(to, loadDraft(from));
  localStorage.removeItem(draftName(from));
}

// Another tab of the same browser added, changed or sent one.
addEventListener("storage", ({ key }) => {
  if (owner !== null && (key === null || key.startsWith(PREFIX))) read();
});

function read() {
  const found = owner === null ? [] : keys(`${PREFIX}${owner}/`).map((key) => parse(localStorage.getItem(key)));
  outbox.value = found.filter((item) => item !== null).sort((one, other) => one.at - other.at);
}

function keys(...prefixes) {
  return Object.keys(localStorage).filter((key) => prefixes.some((prefix) => key.startsWith(prefix)));
}

function store(key, value) {
  try {
    localStorage.setItem(key, JSON.stringify(value));
  } catch (error) {
    keeps = false;
    console.warn("this browser keeps no drafts now; they last as long as the page", error);
  }
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** The text to send. */
export function compose(text, files) {
  return files.map((file) => `<file name="${file.name}" length="${file.text.length}">\n${file.text}\n</file>\n\n`).join("") + text;
}

/** The files and the text that `compose` made one of. */
export function split(content) {
  const files = [];
  let rest = content;
  for (;;) {
    const opening = /^<file name="([^"\n]*)" length="(\d+)">\n/.exec(rest);
    if (!opening) break;
    const start = opening[0].length;
    const end = start + Number(opening[2]);
    if (!rest.startsWith("\n</file>\n\n", end)) break;
    files.push({ name: opening[1], text: rest.slice(start, end) });
    rest = rest.slice(end + "\n</file>\n\n".length);
  }
  return { files, text: rest };
}

/** Read a File as {name, text}. Throws Error("size") or Error("text") when it is too large or no text. */
export async function readFile(file, maxBytes) {
  if (file.size > maxBytes) throw new Error("size");
  const bytes = await file.arrayBuffer();
  let text;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new Error("text");
  }
  if (text.includes("\0")) throw new Error("text");
  return { name: file.name.replace(/["<>\n\r]/g, "_"), text };
}
