// The conversation: messages in a tree, append-only, so that a second answer never overwrites the first.
// Until the server keeps the history, the transcript and the draft outlive a reload in this tab's storage.
import { computed, effect, signal } from "../vendor/ui.js";

const SAVE_MS = 300;

/** One message. What changes while an answer arrives is a signal, so that only that spot is drawn again. */
export class Message {
  constructor({ id = crypto.randomUUID?.() ?? fallbackId(), parent, role, ...rest }) {
    this.id = id;
    this.parent = parent; // the id of the message before it; null for the first
    this.role = role; // "user" or "assistant"
    this.content = signal(rest.content ?? "");
    this.reasoning = signal(rest.reasoning ?? "");
    this.status = signal(rest.status ?? "done"); // active, done, stopped, failed
    this.error = signal(rest.error ?? null); // {code, status, message, requestId}
    this.stats = signal(rest.stats ?? {}); // {finish, usage, ttftMs, thoughtMs, tokensPerSecond, effort}
  }

  toJSON() {
    const { id, parent, role, content, reasoning, status, error, stats } = this;
    return { id, parent, role, content, reasoning, status, error, stats };
  }
}

const nodes = signal([]);
const leaf = signal(null);
/** What stands in the composer. */
export const draft = signal("");

/** The messages on screen, from the first to the chosen leaf. */
export const path = computed(() => {
  const byId = new Map(nodes.value.map((message) => [message.id, message]));
  const found = [];
  for (let at = byId.get(leaf.value); at; at = byId.get(at.parent)) found.unshift(at);
  return found;
});

export const find = (id) => nodes.value.find((message) => message.id === id);
export const siblings = (message) =>
  nodes.value.filter((other) => other.parent === message.parent && other.role === message.role);

/** Add a message and show the branch that it ends. */
export function append(message) {
  nodes.value = [...nodes.value, message];
  leaf.value = message.id;
  return message;
}

/** Take back a message that the server never accepted, and show the branch that was shown before. */
export function withdraw(message, shown) {
  nodes.value = nodes.value.filter((other) => other !== message);
  leaf.value = shown;
}

/** Show the branch through `message`, down to its newest leaf. */
export function show(message) {
  let at = message;
  for (;;) {
    const next = nodes.value.findLast((other) => other.parent === at.id);
    if (next === undefined) break;
    at = next;
  }
  leaf.value = at.id;
}

export function clear() {
  nodes.value = [];
  leaf.value = null;
}

let storageKey = null;
let timer = 0;

/** Show what this tab kept for the user called `name`; null shows nothing and forgets what was kept. */
export function open(name) {
  if (name === null) {
    if (storageKey !== null) sessionStorage.removeItem(storageKey);
    storageKey = null;
    clear();
    draft.value = "";
    return;
  }
  const key = `gatehouse.chat.${name}`;
  if (key === storageKey) return;
  storageKey = key;
  for (const other of Object.keys(sessionStorage)) {
    if (other.startsWith("gatehouse.chat.") && other !== key) sessionStorage.removeItem(other); // somebody else's
  }
  const kept = read(key);
  nodes.value = (kept.nodes ?? []).map((fields) => new Message(orphaned(fields)));
  leaf.value = kept.leaf ?? null;
  draft.value = kept.draft ?? "";
}

// Everything below `JSON.stringify` is a signal, so this follows every change; the timer keeps it cheap.
effect(() => {
  leaf.value;
  draft.value;
  for (const { content, reasoning, status, stats } of nodes.value) content.value, reasoning.value, status.value, stats.value;
  if (timer === 0) timer = setTimeout(save, SAVE_MS);
});
addEventListener("pagehide", save);

function save() {
  clearTimeout(timer);
  timer = 0;
  if (storageKey === null) return;
  try {
    const kept = { nodes: nodes.peek(), leaf: leaf.peek(), draft: draft.peek() };
    sessionStorage.setItem(storageKey, JSON.stringify(kept));
  } catch (error) {
    console.warn("the transcript does not fit this tab's storage", error);
  }
}

function read(key) {
  try {
    return JSON.parse(sessionStorage.getItem(key)) ?? {};
  } catch {
    return {};
  }
}

/** An answer that was arriving when the page went away is an interrupted one now. */
function orphaned(fields) {
  if (fields.status !== "active") return fields;
  return { ...fields, status: "failed", error: { code: "interrupted", message: "" } };
}

/** randomUUID needs a secure context; a LAN without TLS has none. */
function fallbackId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
