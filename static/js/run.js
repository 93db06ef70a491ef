// One run: from a question to the end of its answer, with every way in which it can go wrong.
import { batch, signal } from "../vendor/ui.js";
import { complete } from "./completion.js";
import { Message, append, draft, find, path, withdraw } from "./conversation.js";
import { askSoon, engine } from "./engine.js";
import { expire } from "./session.js";
import { config, params } from "./settings.js";

const LOADING_RETRY_MS = 2000;

/** {answer, phase, since, stop} while an answer is on its way; phase: loading, prefill, thinking, streaming. */
export const active = signal(null);
/** Why nothing may be sent now: {kind: "rate" | "quota", until, message, again}; `until` in epoch ms or null. */
export const hold = signal(null);

/** Send `text` as the next message. What the gateway refuses outright goes back into the composer. */
export function send(text) {
  if (active.value || hold.value || text.trim() === "") return;
  const shown = path.value.at(-1)?.id ?? null;
  const question = append(new Message({ role: "user", parent: shown, content: text }));
  draft.value = "";
  generate(question, {
    refused() {
      withdraw(question, shown);
      draft.value = draft.value === "" ? text : `${text}\n\n${draft.value}`;
      return () => send(draft.value);
    },
  });
}

/** Ask for another answer beside `answer`, which stays; `changes` go over the parameters for this once. */
export function retry(answer, changes = {}) {
  if (active.value || hold.value) return;
  generate(find(answer.parent), { changes, shown: answer.id, refused: () => () => retry(answer, changes) });
}

export function stop() {
  active.value?.stop();
}

async function generate(question, { changes = {}, shown = question.id, refused }) {
  const chosen = { ...params.value, ...changes };
  const answer = append(new Message({ role: "assistant", parent: question.id, status: "active" }));
  const controller = new AbortController();
  const meter = new Meter(answer, chosen);
  setPhase("prefill");
  active.value = { ...active.value, answer, stop: () => controller.abort() };
  const pending = new Pending(answer);
  try {
    for await (const frame of attempts(requestBody(question, chosen), controller.signal, meter)) {
      meter.see(frame);
      if (frame.t === "r") pending.add("reasoning", frame.text);
      if (frame.t === "c") pending.add("content", frame.text);
      if (frame.t === "r" && active.value.phase === "prefill") setPhase("thinking");
      if (frame.t === "c" && active.value.phase !== "streaming") setPhase("streaming");
      if (frame.t === "end") settle("done");
      if (frame.t === "error") settle("failed", frame);
    }
  } catch (error) {
    if (controller.signal.aborted) settle("stopped");
    else refuse(error);
  }

  function settle(status, error = null) {
    batch(() => {
      pending.flush();
      meter.close();
      if (error) answer.error.value = { code: error.code, status: error.status ?? 200, message: error.message, requestId: error.requestId };
      answer.status.value = status;
      active.value = null;
    });
  }

  /** The gateway said no before anything came: the cases where the question is still unsent, then the rest. */
  function refuse(error) {
    if (error.status !== 401 && error.status !== 429) return settle("failed", describe(error));
    batch(() => {
      active.value = null;
      withdraw(answer, shown);
      const again = refused();
      if (error.status === 401) return expire();
      const quota = error.code === "insufficient_quota";
      const wait = error.retryAfterMs ?? (quota ? null : LOADING_RETRY_MS);
      hold.value = {
        kind: quota ? "quota" : "rate",
        until: wait === null ? null : Date.now() + wait,
        message: error.message,
        again,
      };
    });
  }
}

/** While the engine loads, the same request is tried again by itself; Stop ends the waiting too. */
async function* attempts(body, signal, meter) {
  for (;;) {
    try {
      return yield* complete(body, { signal });
    } catch (error) {
      if (error.code !== "engine_loading") throw error;
      setPhase("loading");
      askSoon();
      await sleep(error.retryAfterMs ?? LOADING_RETRY_MS, signal);
      setPhase("prefill");
      meter.restart();
    }
  }
}

function requestBody(question, { system_prompt: systemPrompt, ...rest }) {
  const messages = [];
  if (systemPrompt?.trim()) messages.push({ role: "system", content: systemPrompt });
  const before = [];
  for (let at = question; at; at = find(at.parent)) before.unshift(at);
  for (const { role, content } of before) if (content.value !== "") messages.push({ role, content: content.value });
  return { model: config.value.model ?? engine.value?.model, messages, ...rest };
}

function setPhase(phase) {
  active.value = { ...active.value, phase, since: Date.now() };
}

/** Collects tokens and writes them to the message every flushMs: drawing each one would cost more than it shows. */
class Pending {
  #text = { reasoning: "", content: "" };
  #timer = 0;

  constructor(answer) {
    this.answer = answer;
  }

  add(field, text) {
    this.#text[field] += text;
    if (this.#timer === 0) this.#timer = setTimeout(() => this.flush(), config.value.ui.flushMs);
  }

  flush() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    batch(() => {
      for (const field of ["reasoning", "content"]) {
        if (this.#text[field] !== "") this.answer[field].value += this.#text[field];
        this.#text[field] = "";
      }
    });
  }
}

/** Times and tokens of one answer, measured here: TTFT from sending to the first token, thinking or not. */
class Meter {
  constructor(answer, chosen) {
    this.answer = answer;
    this.values = { finish: null, effort: chosen.reasoning_effort, maxTokens: chosen.max_tokens };
    this.restart();
  }

  restart() {
    this.sentAt = performance.now();
    this.firstAt = this.contentAt = this.lastAt = null;
    this.reasoned = false;
  }

  see(frame) {
    const now = performance.now();
    if (frame.t === "r" || frame.t === "c") {
      this.firstAt ??= now;
      this.lastAt = now;
      this.reasoned ||= frame.t === "r";
    }
    if (frame.t === "c") {
      if (this.contentAt === null) this.#thought(now);
      this.contentAt ??= now;
    }
    if (frame.t === "usage") this.values.usage = frame.usage;
    if (frame.t === "end") this.values.finish = frame.finish;
  }

  close() {
    if (this.firstAt !== null) {
      this.values.ttftMs = this.firstAt - this.sentAt;
      if (this.contentAt === null) this.#thought(this.lastAt);
      const tokens = this.values.usage?.completion_tokens ?? 0;
      const seconds = (this.lastAt - this.firstAt) / 1000;
      if (tokens > 1 && seconds > 0) this.values.tokensPerSecond = (tokens - 1) / seconds;
    }
    this.answer.stats.value = { ...this.values };
  }

  #thought(until) {
    if (!this.reasoned) return;
    this.values.thoughtMs = until - this.firstAt;
    this.answer.stats.value = { ...this.values };
  }
}

const describe = (error) =>
  "status" in error ? error : { status: 0, code: "page_error", message: String(error), requestId: null };

function sleep(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}
