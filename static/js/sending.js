// Sending: takes messages from the outbox, one at a time for each chat, and turns what comes back into messages.
import { batch, effect, signal } from "../vendor/core.js";
import { conversations, current, find, rememberBegun, takeChat } from "./chats.js";
import { add, change, compose, discard, loadDraft, newItem, outbox, rename, saveDraft, split } from "./drafts.js";
import { askSoon } from "./engine.js";
import { line } from "./link.js";
import { watchRuns } from "./conversation.js";
import { expire, expired, noteQuota, post, randomId, read, user } from "./session.js";
import { runParams } from "./settings.js";

const RETRY_MS = 3000;
const WAITS = new Set(["engine_loading", "engine_unavailable", "shutting_down", "limits_unavailable", "http_502", "http_503", "http_504"]);

/** The ids of items on their way to the server now. */
export const sending = signal(new Set());
/** Why nothing may be sent now: {kind: "rate" | "quota", until, message, resend}; `until` in epoch ms or null. */
export const hold = signal(null);
/** What stands in the composer: {text, files: [{name, text}]}. */
export const draft = signal({ text: "", files: [] });

/** Send a question at the end of the current chat, as soon as it is its turn. */
export function ask(content) {
  const conversation = current.peek();
  add(newItem(conversation.key, { content, params: runParams(conversation.params.peek()) }));
  if (conversation.id === null) rememberBegun();
  pump();
}

/** Ask the same place of the conversation again with other words: a branch beside `question`. */
export function askInstead(question, content) {
  begin({ parent: question.parent, content }, question.parent);
}

/** Another answer beside `answer`, which stays; `changes` go over the parameters for this once. */
export function answerAgain(answer, changes = {}, more = {}) {
  begin({ parent: answer.parent, params: changes, ...more }, answer.parent);
}

/** Go on where `answer` stopped. */
export function goOn(answer, changes = {}) {
  begin({ parent: answer.id, params: changes }, answer.id);
}

function begin(values, leaf) {
  const conversation = current.peek();
  const item = newItem(conversation.key, { ...values, params: { ...runParams(conversation.params.peek()), ...values.params }, shown: conversation.leaf.peek() });
  conversation.leaf.value = leaf;
  add(item);
  pump();
}

/** Try a message that was refused once more, with changes to it. */
export function sendAgain(item, changes = {}) {
  add({ ...item, ...changes, id: randomId(), error: null });
  discard(item.id);
  pump();
}

let later = 0; // the timer of what is not due yet

/** Send what is due: the first of each chat's line, when nothing is being answered there. */
export function pump() {
  if (user.peek() === null || expired.peek() || hold.peek() || line.peek() === "lost") return;
  clearTimeout(later);
  const seen = new Set();
  let next = Infinity;
  for (const item of outbox.peek()) {
    if (seen.has(item.key)) continue;
    seen.add(item.key);
    if (sending.peek().has(item.id) || item.error || item.paused) continue;
    if (item.notBefore > Date.now()) next = Math.min(next, item.notBefore);
    else if (!isAnswering(conversations.peek().get(item.key), item)) send(item);
  }
  if (next < Infinity) later = setTimeout(pump, next - Date.now() + 10);
}

/** An answer is under way, and not to `item` itself: of one that was on its way when a reload cut it off only the server knows. */
const isAnswering = (conversation, item) => conversation?.running.peek() && item.parent === undefined && item.after === undefined;

async function send(item) {
  mark(sending, item.id, true);
  try {
    const conversation = await find(item.key);
    if (isAnswering(conversation, item)) return;
    await deliver(item, conversation);
  } catch (error) {
    refuse(item, error);
  } finally {
    mark(sending, item.id, false);
  }
  pump();
}

async function deliver(item, conversation) {
  if (conversation.id === null) {
    const response = await post("/api/chats", { client_id: item.key, params: conversation.params.peek() });
    const chat = await read(response);
    rename(item.key, chat.id);
    takeChat(chat, conversation);
  }
  const { content, params: chosen, fit, parent = item.after === undefined ? conversation.leaf.peek() : item.after } = item;
  if (item.parent === undefined) change(item.id, { after: parent });
  const body = { parent, params: chosen, client_id: item.id };
  if (content !== undefined) body.content = content;
  if (fit) body.fit = true;
  const response = await post(`/api/chats/${conversation.id}/runs`, body);
  const { chat, messages } = await read(response);
  noteQuota(response.headers);
  batch(() => {
    conversation.append(messages);
    takeChat(chat, conversation);
    discard(item.id);
  });
  watchRuns(conversation);
}

/** The server said no, or nothing at all: wait, ask the user, or put the text back where it was written. */
function refuse(sent, error) {
  if (error.status === 401) return expire();
  const item = outbox.peek().find(({ id }) => id === sent.id); // its chat may have been made in the meantime
  if (item === undefined) return undefined; // discarded, or another tab has delivered it
  if (error.status !== 0) change(item.id, { after: undefined });
  if (error.status === 429 && (error.retryAfterMs !== null || error.code === "insufficient_quota")) return holdBack(item, error);
  if (error.status === 0 || WAITS.has(error.code)) {
    if (error.status !== 0) askSoon();
    return change(item.id, { waits: error.status === 0 ? "network" : "engine", notBefore: Date.now() + (error.retryAfterMs ?? RETRY_MS) });
  }
  const { code, status, message, requestId, details } = describe(error);
  restoreView(item);
  return change(item.id, { error: { code, status, message, request_id: requestId, details } });
}

/** A limit was reached: the text goes back into the composer, and everything waits. */
function holdBack(item, error) {
  const again = newItem(item.key, { ...item, after: undefined, notBefore: undefined });
  const isQuestion = item.content !== undefined && item.parent === undefined;
  batch(() => {
    restoreView(item);
    discard(item.id);
    if (isQuestion) putBack(item);
    const quota = error.code === "insufficient_quota";
    hold.value = {
      kind: quota ? "quota" : "rate",
      until: error.retryAfterMs === null ? null : Date.now() + error.retryAfterMs,
      message: error.message,
      resend: () => (isQuestion ? submit() : (add(again), pump())),
    };
  });
}

/** Send what stands in the composer. */
export function submit() {
  const { text, files } = draft.peek();
  if (text.trim() === "" && files.length === 0) return;
  draft.value = { text: "", files: [] };
  ask(compose(text, files));
}

function putBack(item) {
  const { text, files } = split(item.content);
  if (item.key !== current.peek().key) return saveDraft(item.key, { text, files });
  const now = draft.peek();
  draft.value = { text: now.text === "" ? text : `${text}\n\n${now.text}`, files: [...files, ...now.files] };
  return undefined;
}

function restoreView(item) {
  const conversation = conversations.peek().get(item.key);
  if (item.shown !== undefined && conversation) conversation.leaf.value = item.shown;
}

/** Put `id` into a signal's set, or take it out. */
export function mark(ids, id, on) {
  const next = new Set(ids.peek());
  if (on) next.add(id);
  else next.delete(id);
  ids.value = next;
}

const describe = (error) => ("status" in error ? error : { status: 0, code: "page_error", message: String(error), requestId: null, details: null });

/** Keep the draft of the chat on screen, and send whatever becomes due. */
export function watchSending() {
  effect(() => {
    const { key } = current.value;
    draft.value = user.value === null ? { text: "", files: [] } : loadDraft(key);
  });
  effect(() => saveDraft(current.peek().key, draft.value));
  effect(() => {
    for (const { key } of outbox.value) conversations.value.get(key)?.running.value;
    if (user.value && !expired.value && !hold.value && line.value !== "lost") setTimeout(pump);
  });
}
