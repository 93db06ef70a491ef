// One chat as this page knows it: messages in a tree, append-only, so that a second answer never overwrites the first;
// and the runs that make its answers. The gateway owns those: a page only watches, and may go away and come back.
import { batch, computed, signal } from "../vendor/core.js";
import { askSoon, engine } from "./engine.js";
import { subscribe } from "./link.js";
import { get, giveBack, remove } from "./session.js";
import { config } from "./settings.js";

const PAGE = 60; // messages; older ones come when the reader scrolls up to them

/** One message. What changes while an answer arrives is a signal, so that only that spot is drawn again. */
export class Message {
  constructor(row) {
    this.id = row.id;
    this.parent = row.parent; // the id of the message before it; null for the first
    this.role = row.role; // "user" or "assistant"
    this.continues = row.continues ?? false; // goes on where its parent, an answer too, stopped
    this.at = row.created_at;
    this.content = signal("");
    this.reasoning = signal("");
    this.status = signal("done"); // running, done, stopped, failed, interrupted
    this.error = signal(null); // {code, message, request_id, status, details}
    this.stats = signal({}); // {finish, usage, ttft_ms, tok_s, queued_ms, thought_ms, params}
    this.phase = signal(null); // while running: {name, since, …}: waiting, loading, queued, prefill, thinking, streaming
    this.take(row);
  }

  /** What the server has of it. The text of a running answer may be behind what has arrived by frames. */
  take(row) {
    this.version = row.version;
    batch(() => {
      if (row.status !== "running" || this.content.peek() === "") this.content.value = row.content;
      if (row.status !== "running" || this.reasoning.peek() === "") this.reasoning.value = row.reasoning ?? "";
      this.error.value = row.error ?? null;
      const { finish, usage, ttft_ms, tok_s, queued_ms, thought_ms, params } = row;
      this.stats.value = { finish, usage, ttft_ms, tok_s, queued_ms, thought_ms, params };
      this.status.value = row.status;
    });
  }
}

/** A chat on screen, or one that is not begun: its `id` is null until the server has made it. */
export class Conversation {
  constructor(key, row = null) {
    this.key = key; // names drafts and what waits to be sent: the chat's id, or the page's own name for a new one
    this.row = signal(row); // the chat as the list shows it
    this.nodes = signal(new Map());
    this.leaf = signal(null);
    this.state = signal(row === null ? "ready" : "loading"); // ready, loading, missing, failed
    this.params = signal(row?.params ?? {});
    this.older = signal(null); // cursor of the messages before those that are here
    this.version = 0;
    this.head = null; // the newest leaf that was shown as such: who sees it goes on with what is added

    /** The messages on screen, from the first to the chosen leaf. */
    this.path = computed(() => {
      const found = [];
      for (let at = this.nodes.value.get(this.leaf.value); at; at = this.nodes.value.get(at.parent)) found.push(at);
      return found.reverse();
    });
    /** The path, with an answer and what continues it in one. */
    this.turns = computed(() => {
      const turns = [];
      for (const message of this.path.value) {
        if (message.continues && turns.length > 0) turns.at(-1).push(message);
        else turns.push([message]);
      }
      return turns;
    });
    /** The answer under way on this branch, or undefined. */
    this.running = computed(() => this.path.value.find((message) => message.status.value === "running"));
  }

  isAnswering() {
    return [...this.nodes.peek().values()].some((message) => message.status.peek() === "running");
  }

  get id() {
    return this.row.peek()?.id ?? null;
  }

  /** Read it for the first time, or what is new since. Throws ApiError. */
  async load() {
    const first = this.state.peek() !== "ready";
    const query = first ? `limit=${PAGE}` : `limit=1000&since=${this.version}`;
    const { chat, messages, more } = await get(`/api/chats/${this.id}?${query}`);
    batch(() => {
      const followed = this.leaf.peek() === this.head;
      this.merge(messages);
      if (first) this.older.value = more;
      this.version = Math.max(this.version, chat.version);
      if (!first && chat.version < this.row.peek().version) return; // it was read before what has been heard since
      this.row.value = chat;
      this.params.value = chat.params;
      if (first || followed) this.leaf.value = chat.head;
      this.head = chat.head;
      this.state.value = "ready";
    });
    while (this.path.peek().length === 0 && this.older.peek() !== null) await this.loadOlder();
  }

  /** Read one message anew, and whatever else is. Throws ApiError. */
  async loadAgain(message) {
    this.version = Math.min(this.version, message.version - 1);
    await this.load();
  }

  /** Read a page of older messages. Throws ApiError. */
  async loadOlder() {
    const before = this.older.peek();
    if (before === null) return;
    const { messages, more } = await get(`/api/chats/${this.id}?limit=${PAGE}&before=${encodeURIComponent(before)}`);
    if (this.older.peek() !== before) return; // asked for twice
    batch(() => {
      this.merge(messages);
      this.older.value = more;
    });
  }

  merge(rows) {
    if (rows.length === 0) return;
    const nodes = new Map(this.nodes.peek());
    for (const row of rows) {
      const known = nodes.get(row.id);
      if (known?.version > row.version) continue;
      if (known) known.take(row);
      else nodes.set(row.id, new Message(row));
    }
    this.nodes.value = nodes;
  }

  /** Messages that the server has just added: the last of them ends the branch that is shown. */
  append(rows) {
    this.merge(rows);
    this.leaf.value = this.head = rows.at(-1).id;
  }

  /** The messages that stand for the same step, the oldest first: other answers, or other wordings of a question. */
  siblings(message) {
    return this.#ordered(
      (other) => other.parent === message.parent && other.role === message.role && other.continues === message.continues,
    );
  }

  /** Show the branch through `message`, down to its newest leaf. */
  show(message) {
    let at = message;
    for (let next = message; next; next = this.#ordered((other) => other.parent === at.id).at(-1)) at = next;
    this.leaf.value = this.head = at.id;
  }

  #ordered(wanted) {
    return [...this.nodes.value.values()].filter(wanted).sort((one, other) => one.at - other.at);
  }
}

const REPLAY_MS = 300;
const RETRY_MS = 3000;

const watched = new Map(); // run → Run

/** Follow every answer of `conversation` that is under way. */
export function watchRuns(conversation) {
  for (const message of conversation.nodes.peek().values()) {
    if (message.status.peek() === "running" && !watched.has(message.id)) watched.set(message.id, new Run(message, conversation));
  }
}

/** End a run; what has come so far stays. Throws ApiError. */
export const stop = (message) => remove(`/api/runs/${message.id}`);

class Run {
  #reasoning = "";
  #content = "";
  #timer = 0;
  #firstAt = null;

  constructor(message, conversation) {
    this.message = message;
    this.conversation = conversation;
    this.#enter("waiting");
    subscribe(message.id, 0, (frame) => this.#take(frame));
  }

  #take(frame) {
    const { message } = this;
    switch (frame.t) {
      case "loading":
        engine.value = { ...engine.peek(), ...only(frame, ["state", "phase", "percent", "elapsed_s", "eta_s", "reason"]) };
        return this.#enter("loading");
      case "queued":
        return this.#enter("queued", { ahead: frame.ahead, eta: frame.eta_s });
      case "started":
        return this.#enter("prefill");
      case "r":
        this.#reasoning += frame.text;
        return this.#grow("thinking");
      case "c":
        if (this.#content === "") message.stats.value = { ...message.stats.peek(), ...this.#thought() };
        this.#content += frame.text;
        return this.#grow("streaming");
      case "usage":
        return this.#measure(frame.completion_tokens);
      case "error":
        message.error.value = only(frame, ["code", "message", "status", "retry_after", "request_id", "details"]);
        askSoon(); // it may be gone
        return undefined;
      case "end":
        return this.#end(frame);
      default:
        return this.#gone();
    }
  }

  #enter(name, more = {}) {
    const before = this.message.phase.peek();
    this.message.phase.value = { ...before, since: before?.name === name ? before.since : Date.now(), ...more, name };
  }

  #grow(phase) {
    this.#firstAt ??= Date.now();
    if (this.message.phase.peek()?.name !== phase) this.#enter(phase);
    if (this.#timer === 0) this.#timer = setTimeout(() => this.#draw(), config.peek().ui.flushMs);
  }

  /** Tokens are drawn together every `flushMs`: drawing each one would cost more than it shows. */
  #draw() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    batch(() => {
      longer(this.message.reasoning, this.#reasoning);
      longer(this.message.content, this.#content);
    });
  }

  #measure(tokens) {
    const seconds = (Date.now() - (this.#firstAt ?? Date.now())) / 1000;
    if (seconds >= 1) this.#enter(this.message.phase.peek().name, { rate: tokens / seconds });
  }

  /** How long it thought, seen from here; unknown when this is a replay, which comes all at once. */
  #thought() {
    const thought_ms = this.#firstAt === null ? 0 : Date.now() - this.#firstAt;
    return thought_ms > REPLAY_MS ? { thought_ms } : {};
  }

  #end(frame) {
    watched.delete(this.message.id);
    clearTimeout(this.#timer);
    const { finish, usage, ttft_ms, tok_s, queued_ms, thought_ms } = frame;
    const { message } = this;
    giveBack((message.stats.peek().params?.max_tokens ?? 0) - (usage?.completion_tokens ?? 0));
    batch(() => {
      message.reasoning.value = this.#reasoning;
      message.content.value = this.#content;
      message.stats.value = { ...message.stats.peek(), finish, usage, ttft_ms, tok_s, queued_ms, thought_ms };
      message.phase.value = null;
      message.status.value = frame.status;
    });
  }

  /** Its frames are no longer kept, or the gateway that made it is gone: what was stored is the answer. */
  async #gone() {
    watched.delete(this.message.id);
    clearTimeout(this.#timer);
    this.#enter("resyncing");
    try {
      await this.conversation.loadAgain(this.message);
    } catch {
      setTimeout(() => this.#gone(), RETRY_MS);
      return;
    }
    batch(() => {
      this.message.phase.value = null;
      if (this.message.status.peek() !== "running") return;
      this.message.error.value = { code: "interrupted", message: "", request_id: null };
      this.message.status.value = "interrupted";
    });
  }
}

/** While frames are replayed the text that was stored stays on screen until they have caught up with it. */
function longer(shown, text) {
  if (text.length > shown.peek().length) shown.value = text;
}

const only = (values, names) => Object.fromEntries(names.filter((name) => name in values).map((name) => [name, values[name]]));
