// The user's chats: the list as the server has it, what of them is open here, and what changes elsewhere.
import { batch, computed, signal } from "../vendor/core.js";
import { outbox } from "./drafts.js";
import { onNews } from "./link.js";
import { Conversation, watchRuns } from "./conversation.js";
import { get, patch, post, randomId, read, remove, user } from "./session.js";

const BEGUN = "gatehouse.begun.";
const PAGE = 50;
const REFRESH_MS = 1000;
const MOST_OPEN = 12; // conversations kept in memory; an older one is read again when it is opened again

const rows = signal(new Map()); // id → chat, as far as the list is loaded
const next = signal(null); // cursor of the next page
/** The list could not be read: an ApiError, or null. */
export const listError = signal(null);
export const listed = signal(false);

/** Open conversations by key, and the one on screen. */
export const conversations = signal(new Map());
export const current = signal(newConversation());

export const more = computed(() => next.value !== null);

/** The list in groups, each the last changed first: [["pinned", chats], ["today", …], ["yesterday", …], ["earlier", …]]. */
export const groups = computed(() => {
  const midnight = new Date().setHours(0, 0, 0, 0) / 1000;
  const group = (chat) => (chat.pinned ? "pinned" : chat.updated_at >= midnight ? "today" : chat.updated_at >= midnight - 86_400 ? "yesterday" : "earlier");
  const found = { pinned: [], today: [], yesterday: [], earlier: [] };
  const begun = [...rows.value.values()].filter((chat) => chat.head !== null || chat.runs.length > 0);
  const sorted = begun.sort((one, other) => other.updated_at - one.updated_at);
  for (const chat of sorted) found[group(chat)].push(chat);
  return Object.entries(found).filter(([, chats]) => chats.length > 0);
});

function newConversation() {
  return new Conversation(`new-${randomId()}`);
}

/** Read the first page of the list. */
export async function loadChats() {
  try {
    const page = await get(`/api/chats?limit=${PAGE}`);
    batch(() => {
      rows.value = byId([...page.pinned, ...page.chats]);
      next.value = page.next;
      listError.value = null;
      listed.value = true;
    });
  } catch (error) {
    listError.value = error;
  }
}

export async function loadMore() {
  const cursor = next.peek();
  if (cursor === null) return;
  const page = await get(`/api/chats?limit=${PAGE}&cursor=${encodeURIComponent(cursor)}`);
  if (next.peek() !== cursor) return;
  batch(() => {
    rows.value = new Map([...rows.peek(), ...byId(page.chats)]);
    next.value = page.next;
  });
}

const byId = (chats) => new Map(chats.map((chat) => [chat.id, chat]));

/** A chat as the server has it now. `made` is the conversation that it was made for. */
export function takeChat(chat, made = conversations.peek().get(chat.id)) {
  batch(() => {
    const known = new Map(rows.peek());
    if (chat.deleted || chat.archived) known.delete(chat.id);
    else known.set(chat.id, chat);
    rows.value = known;
    if (!made) return;
    if (made.key !== chat.id) adopt(made, chat.id);
    made.row.value = chat;
    made.params.value = chat.params;
    if (chat.deleted && made === current.peek()) startNew();
  });
}

/** The page's own new chat got its id. */
function adopt(conversation, id) {
  const open = new Map(conversations.peek());
  open.delete(conversation.key);
  conversation.key = id;
  conversations.value = open.set(id, conversation);
  if (conversation !== current.peek()) return;
  history.replaceState(null, "", addressOf(id));
  rememberBegun();
}

/**
 * The chat on screen was begun in this tab. A page that is being left still gets answers, but its address is no longer
 * heard: sessionStorage, which is this tab's and is written at once, tells the page that comes after it.
 */
export function rememberBegun() {
  try {
    sessionStorage.setItem(BEGUN + user.peek().name, current.peek().key);
  } catch (error) {
    console.warn("a reload before the chat has its address will not find it", error);
  }
}

/** Show the chat that the page before this one had just begun. */
async function resume(key) {
  const isUnmade = key.startsWith("new-");
  if (isUnmade && outbox.peek().some((item) => item.key === key)) {
    current.value = keep(new Conversation(key)); // it is sent from here
    return;
  }
  const blank = current.peek();
  const id = isUnmade ? (await read(await post("/api/chats", { client_id: key }))).id : key;
  if (current.peek() !== blank) return;
  history.replaceState(null, "", addressOf(id));
  await open(id, { push: false });
}

/** The open conversation with this key, read from the server if need be. Throws ApiError. */
export async function find(key) {
  const open = conversations.peek().get(key);
  if (open?.state.peek() === "ready") return open;
  if (key === current.peek().key && current.peek().id === null) return keep(current.peek());
  if (key.startsWith("new-")) return keep(new Conversation(key));
  const conversation = open ?? keep(new Conversation(key, rows.peek().get(key) ?? { id: key, params: {} }));
  await conversation.load();
  watchRuns(conversation);
  return conversation;
}

function keep(conversation) {
  conversations.value = new Map(conversations.peek()).set(conversation.key, conversation);
  return conversation;
}

/** Show a chat; the address follows. */
export async function open(id, { push = true } = {}) {
  if (push && current.peek().key !== id) history.pushState(null, "", addressOf(id));
  const known = conversations.peek().get(id) ?? keep(new Conversation(id, rows.peek().get(id) ?? { id, params: {} }));
  current.value = known;
  closeOldest();
  await refresh(known);
}

function closeOldest() {
  const kept = new Map(conversations.peek());
  for (const [key, conversation] of kept) {
    if (kept.size <= MOST_OPEN) break;
    if (conversation !== current.peek() && !conversation.isAnswering()) kept.delete(key);
  }
  conversations.value = kept;
}

export function startNew({ push = true } = {}) {
  if (push && location.hash !== "") history.pushState(null, "", location.pathname);
  if (current.peek().id === null && current.peek().nodes.peek().size === 0) return;
  current.value = newConversation();
  sessionStorage.removeItem(BEGUN + user.peek()?.name);
}

/** Read what is new in a conversation. Its state says what came of it. */
export async function refresh(conversation) {
  try {
    await conversation.load();
    watchRuns(conversation);
  } catch (error) {
    if (conversation.state.peek() === "ready") return;
    conversation.state.value = error.status === 404 ? "missing" : "failed";
  }
}

export const addressOf = (id) => `#/c/${id}`;

/** Show the branch through `message`; it is what other tabs see from now on, too. */
export function showBranch(conversation, message) {
  conversation.show(message);
  change(conversation.row.peek(), { head: conversation.leaf.peek() }).catch(() => {}); // the next one that is shown says it again
}

/** Show what the address names. */
export function followAddress() {
  const id = /^#\/c\/([\w-]{1,64})$/.exec(location.hash)?.[1];
  if (id) open(id, { push: false });
  else startNew({ push: false });
}

export const rename = (chat, title) => change(chat, { title });
export const pin = (chat, pinned) => change(chat, { pinned });
export const restore = (chat) => change(chat, { deleted: false });
export const change = async (chat, values) => takeChat(await patch(`/api/chats/${chat.id}`, values));

export async function erase(chat) {
  await remove(`/api/chats/${chat.id}`);
  takeChat({ ...chat, deleted: true });
}

/** Forget everything of the user who left, or begin with what the new one has. */
export function openChats(name) {
  batch(() => {
    rows.value = new Map();
    next.value = null;
    listed.value = false;
    conversations.value = new Map();
    current.value = newConversation();
  });
  if (name === null) return;
  loadChats();
  const begun = location.hash === "" && isReload() ? sessionStorage.getItem(BEGUN + name) : null;
  if (begun === null) followAddress();
  else resume(begun).catch(() => {}); // the list has it
}

const isReload = () => performance.getEntriesByType("navigation")[0]?.type === "reload";

export function watchChats() {
  let greeted = false;
  addEventListener("popstate", followAddress);
  onNews((frame) => {
    if (frame.t === "chat") {
      const open = conversations.peek().get(frame.chat.id);
      takeChat(frame.chat);
      if (open && !frame.chat.deleted && open.version < frame.chat.version) refreshSoon(open);
    } else if (frame.t === "chats" || (frame.t === "hello" && greeted)) reload();
    greeted ||= frame.t === "hello";
  });
}

const due = new WeakMap(); // conversation → when it may be read again; an answer under way changes its chat all the time

function refreshSoon(conversation) {
  const wait = (due.get(conversation) ?? 0) - Date.now();
  if (wait > REFRESH_MS) return; // one is coming
  due.set(conversation, Date.now() + Math.max(wait, 0) + REFRESH_MS);
  setTimeout(() => refresh(conversation), Math.max(wait, 0));
}

/** After a break nobody knows what was missed. */
function reload() {
  if (user.peek() === null) return;
  loadChats();
  for (const conversation of conversations.peek().values()) if (conversation.id !== null) refresh(conversation);
}
