// Runs: answers that the gateway is making. A page only watches them; it may go away and come back at any time.
import { batch } from "../vendor/core.js";
import { remove } from "./api.js";
import { engine } from "./engine.js";
import { subscribe } from "./link.js";
import { config } from "./settings.js";

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
