// One turn: a question, or an answer with what continues it; the text as it grows and what can be done with it.
import { html, signal, useEffect, useRef, useSignal, useSignalEffect } from "../../vendor/core.js";
import { showBranch, startNew } from "../chats.js";
import { compose, split } from "../drafts.js";
import { has, language, number, span, t } from "../i18n.js";
import { renderMarkdown } from "../markdown.js";
import { stop } from "../conversation.js";
import { answerAgain, askInstead, goOn, hold } from "../sending.js";
import { effective, range, ui } from "../settings.js";
import { CopyButton, IconButton, Icon, copyText, explain, isPlainEnter, isTouch, toast, useNow } from "./common.js";

const AT_ONCE = 4096; // characters of a stored answer that are drawn without a break

export function Turn({ conversation, turn }) {
  const [first] = turn;
  return first.role === "user"
    ? html`<${Question} conversation=${conversation} message=${first} />`
    : html`<${Answer} conversation=${conversation} turn=${turn} />`;
}

const isBusy = (conversation) => conversation.running.value !== undefined || hold.value !== null;

function Question({ conversation, message }) {
  const editing = useSignal(false);
  const content = message.content.value;
  if (editing.value) return html`<${Edit} message=${message} done=${() => (editing.value = false)} />`;
  return html`
    <article class="message question" id=${message.id} aria-label=${t("you")}>
      <${Bubble} content=${content} />
      <footer class="actions">
        <${Branches} conversation=${conversation} message=${message} />
        <${CopyButton} text=${() => split(content).text} label=${t("copy")} />
        <${IconButton} icon="edit" label=${t("question.edit")} disabled=${isBusy(conversation)} onClick=${() => (editing.value = true)} />
      </footer>
    </article>
  `;
}

/** What the user wrote, with the files before it. */
export function Bubble({ content }) {
  const { files, text } = split(content);
  return html`
    ${files.map((file) => html`
      <details class="attachment">
        <summary><${Icon} name="file" />${file.name} <small>${t("kilobytes", { n: number(file.text.length / 1024, 1) })}</small></summary>
        <pre tabindex="0">${file.text}</pre>
      </details>
    `)}
    ${text !== "" && html`<div class="bubble">${text}</div>`}
  `;
}

function Edit({ message, done }) {
  const field = useRef(null);
  const { files, text } = split(message.content.peek());
  useEffect(() => {
    field.current.focus();
    field.current.setSelectionRange(text.length, text.length);
  }, []);
  const send = (event) => {
    event?.preventDefault();
    const changed = field.current.value;
    done();
    if (!isTouch()) document.getElementById("composer-input").focus();
    if (changed.trim() !== "" && changed !== text) askInstead(message, compose(changed, files));
  };
  const onKeyDown = (event) => {
    if (event.key === "Escape") done();
    else if (isPlainEnter(event) && !isTouch()) send(event);
  };
  return html`
    <form class="message edit" onSubmit=${send} aria-label=${t("question.edit")}>
      <textarea ref=${field} class="growing" aria-label=${t("question.edit")} defaultValue=${text} onKeyDown=${onKeyDown} />
      <div class="card-actions">
        <button type="button" class="button" onClick=${done}>${t("cancel")}</button>
        <button class="button primary">${t("send")}</button>
      </div>
    </form>
  `;
}

function Answer({ conversation, turn }) {
  const last = turn.at(-1);
  const status = last.status.value;
  const { finish } = last.stats.value;
  const isRunning = status === "running";
  return html`
    <article class="message answer" id=${turn[0].id} aria-label=${t("assistant")} aria-busy=${isRunning} data-status=${status}>
      ${turn.map((message) => html`<${Reasoning} key=${message.id} message=${message} />`)}
      <${Markdown} turn=${turn} />
      ${isRunning && html`<${Phase} message=${last} />`}
      ${status === "stopped" && html`<p class="aside">${t("answer.stopped")}</p>`}
      ${finish === "length" && html`<${LengthNotice} conversation=${conversation} message=${last} />`}
      ${hasFailed(last) && html`<${Failure} conversation=${conversation} message=${last} />`}
      ${!isRunning && html`<${Actions} conversation=${conversation} turn=${turn} />`}
    </article>
  `;
}

/** Whether a card says so and offers to try again. */
const hasFailed = ({ status }) => ["failed", "interrupted"].includes(status.value);

const textOf = (turn, read) => turn.map((message) => read(message.content)).join("");

const streaming = signal(null); // the class that draws what grows, once it is fetched

/** Fetch what draws growing answers, and long ones. */
export async function fetchStreaming() {
  if (streaming.peek() !== null) return;
  try {
    streaming.value = (await import("../streaming.js")).StreamingMarkdown;
  } catch (error) {
    console.warn("until it is fetched, a growing answer is drawn as plain text", error);
  }
}

const due = []; // long stored answers to be drawn, the newest last: it is in sight, and comes first
let isDrawing = false;

async function drawInTurn(draw) {
  due.push(draw);
  if (isDrawing) return;
  isDrawing = true;
  await null; // until all that are shown together are here
  while (due.length > 0) await due.pop()();
  isDrawing = false;
}

function Markdown({ turn: given }) {
  const turn = useSignal(given); // so that the drawing below follows an answer that is continued, too
  const root = useRef(null);
  const view = useRef(null);
  const shown = useRef(null);
  useEffect(() => {
    if (given.some((message, index) => message !== turn.peek()[index])) turn.value = given;
  }, [given]);
  useSignalEffect(() => {
    const labels = { copy: t("copy"), code: t("code") };
    const text = textOf(turn.value, (content) => content.value);
    const isRunning = turn.value.at(-1).status.value === "running";
    const wanted = language.value + text;
    if (!isRunning && shown.current === wanted) return;
    shown.current = isRunning ? null : wanted;
    const isNew = view.current?.language !== language.value;
    if (isNew) {
      view.current?.drawing.stop();
      view.current = null;
      if (!isRunning && text.length <= AT_ONCE) {
        renderMarkdown(root.current, text, labels);
        return;
      }
      if (streaming.value === null) {
        fetchStreaming();
        root.current.textContent = text;
        shown.current = null;
        return;
      }
      view.current = { language: language.value, drawing: new streaming.value(root.current, labels) };
    }
    const [box, now] = [root.current, view.current];
    now.whole = isRunning ? null : text;
    if (isRunning) {
      now.drawing.update(text);
      return;
    }
    box.ariaBusy = "true";
    const draw = async () => {
      if (view.current !== now || now.whole === null) return;
      await now.drawing.finish(now.whole);
      box.ariaBusy = null;
    };
    if (isNew) drawInTurn(draw);
    else draw();
  });
  useEffect(() => () => {
    view.current?.drawing.stop();
    view.current = null;
  }, []);
  return html`<div class="markdown" ref=${root} />`;
}

/** The output limit ended the answer. Without any text, the thinking alone used it up. */
function LengthNotice({ conversation, message }) {
  const { max_tokens: used } = message.stats.value.params ?? {};
  const larger = Math.min((used ?? effective(conversation.params.value).max_tokens ?? 1024) * 2, range("max_tokens")[1]);
  const isEmpty = message.content.value === "";
  const button = (text, act) => html`<button type="button" class="button" disabled=${isBusy(conversation)} onClick=${act}>${text}</button>`;
  if (conversation.path.value.at(-1) !== message) return null;
  return html`
    <div class="card warn">
      <p>${t(isEmpty ? "length.thinking" : "length.answer")}</p>
      <div class="card-actions">
        ${!isEmpty && button(t("length.continue"), () => goOn(message))}
        ${isEmpty && button(t("length.larger", { n: number(larger) }), () => answerAgain(message, { max_tokens: larger }))}
        ${isEmpty && button(t("length.lower"), () => answerAgain(message, { reasoning_effort: "low" }))}
      </div>
    </div>
  `;
}

function Failure({ conversation, message }) {
  const error = message.error.value ?? { code: message.status.value };
  const again = (more) => () => (message.continues ? goOn({ id: message.parent }) : answerAgain(message, {}, more));
  return html`
    <${ErrorCard} error=${error} kept=${message.content.value !== ""} retry=${again()} fit=${again({ fit: true })} disabled=${isBusy(conversation)} />
  `;
}

/** What went wrong in one plain sentence, with what can be done about it. */
export function ErrorCard({ error, kept = false, retry, fit, discard = null, disabled = false }) {
  const { code, status, message, request_id: requestId, details } = error;
  const isExplained = has(`error.${code}`) || status >= 500; // what the engine says is for who runs it; the details have it
  const isTooLong = code === "context_length_exceeded";
  const button = (text, act) => html`<button type="button" class="button" disabled=${disabled} onClick=${act}>${text}</button>`;
  const all = () => JSON.stringify({ ...error, time: new Date().toISOString() }, null, 2);
  return html`
    <div class="card error" role="group" aria-label=${t("error")}>
      <p>${kept ? t("error.kept", { error: explain(error) }) : explain(error)}</p>
      ${isTooLong && details?.prompt_tokens && html`
        <p class="small">${t("error.context.numbers", { prompt: number(details.prompt_tokens), output: number(details.output_tokens ?? 0), most: number(details.max_tokens) })}</p>
      `}
      ${message && !isExplained && html`<p class="small">${message}</p>`}
      ${requestId && html`<p class="small">${t("error.request")} <code>${requestId}</code></p>`}
      <div class="card-actions">
        ${isTooLong ? html`${button(t("error.fit"), fit)}${button(t("chat.new"), () => startNew())}` : button(t("retry"), retry)}
        ${discard && button(t("unsent.discard"), discard)}
        <button type="button" class="button quiet" onClick=${() => copyText(all())}>${t("error.copy")}</button>
      </div>
    </div>
  `;
}

function Actions({ conversation, turn }) {
  const [first, last] = [turn[0], turn.at(-1)];
  const isEmpty = textOf(turn, (content) => content.value) === "";
  return html`
    <footer class="actions">
      ${!isEmpty && html`<${CopyButton} text=${() => textOf(turn, (content) => content.peek())} label=${t("copy")} />`}
      ${!hasFailed(last) && html`
        <${IconButton} icon="retry" label=${t("answer.again")} disabled=${isBusy(conversation)} onClick=${() => answerAgain(first)} />
      `}
      <${Branches} conversation=${conversation} message=${first} />
      ${ui.value.showStats && html`<${Stats} message=${last} />`}
    </footer>
  `;
}

/** ‹2/3›: the other answers to the same question, or the other wordings of it. */
function Branches({ conversation, message }) {
  const all = conversation.siblings(message);
  if (all.length < 2) return null;
  const at = all.indexOf(message);
  const disabled = isBusy(conversation);
  const names = message.role === "user" ? "question" : "answer";
  const go = (step) => () => showBranch(conversation, all[at + step]);
  return html`
    <span class="branches">
      <${IconButton} icon="left" label=${t(`${names}.previous`)} disabled=${disabled || at === 0} onClick=${go(-1)} />
      <span>${at + 1}/${all.length}</span>
      <${IconButton} icon="right" label=${t(`${names}.next`)} disabled=${disabled || at === all.length - 1} onClick=${go(1)} />
    </span>
  `;
}

function Stats({ message }) {
  const { ttft_ms: ttft, tok_s: speed, queued_ms: queued, usage } = message.stats.value;
  const parts = [
    queued >= 500 && t("stats.queued", { n: span(queued / 1000) }),
    ttft != null && t("stats.ttft", { n: number(ttft / 1000, 2) }),
    speed != null && t("stats.speed", { n: number(speed, speed < 10 ? 1 : 0) }),
    usage && t("stats.tokens", { prompt: number(usage.prompt_tokens), completion: number(usage.completion_tokens) }),
  ].filter(Boolean);
  return parts.length > 0 && html`<small class="stats">${parts.join(" · ")}</small>`;
}

/** What is happening now, with its clock. */
function Phase({ message }) {
  const phase = message.phase.value;
  const now = useNow();
  if (phase === null) return null;
  const seconds = Math.max(0, Math.floor((now - phase.since) / 1000));
  const clock = seconds > 0 && ` · ${span(seconds)}`;
  if (phase.name === "thinking") return null; // the block of thoughts has its own
  if (phase.name === "streaming") {
    return ui.value.showStats && phase.rate !== undefined && html`<p class="phase small">${t("stats.speed", { n: number(phase.rate) })}</p>`;
  }
  return html`
    <p class="phase">
      <span class="pulse" />
      <span>${phase.name === "queued" ? queuedText(phase) : t(`run.${phase.name}`)}${clock}</span>
      ${phase.name === "queued" && html`<button type="button" class="button" onClick=${() => cancel(message)}>${t("cancel")}</button>`}
    </p>
  `;
}

function queuedText({ ahead, eta }) {
  if (ahead === 0) return t("run.queued.next");
  return eta == null ? t("run.queued", { n: number(ahead) }) : t("run.queued.eta", { n: number(ahead), span: span(eta) });
}

export const cancel = (message) => stop(message).catch((error) => toast(explain(error)));

/** The thoughts: open while the model thinks, folded when it answers, as the reader wants from then on. */
function Reasoning({ message }) {
  const chosen = useSignal(null);
  const lines = useRef(null);
  const text = message.reasoning.value;
  const phase = message.phase.value;
  const isThinking = message.status.value === "running" && phase?.name === "thinking";
  const isOpen = chosen.value ?? (isThinking && ui.value.showReasoning);

  // One element a line: a single text node of many kilobytes is laid out anew with every token.
  useEffect(() => {
    const root = lines.current;
    if (!root) return;
    const wanted = text.split("\n");
    while (root.childElementCount > wanted.length) root.lastElementChild.remove();
    for (let index = Math.max(0, root.childElementCount - 1); index < wanted.length; index += 1) {
      const line = root.children[index] ?? root.appendChild(document.createElement("div"));
      line.textContent = wanted[index];
    }
  }, [text]);

  if (text === "") return null;
  const toggle = (event) => {
    event.preventDefault();
    chosen.value = !isOpen;
  };
  return html`
    <details class="reasoning" open=${isOpen}>
      <summary onClick=${toggle}>${isThinking ? html`<${ThinkingClock} since=${phase.since} />` : html`<${Thought} message=${message} />`}</summary>
      <div class="reasoning-lines" ref=${lines} />
    </details>
  `;
}

function ThinkingClock({ since }) {
  const seconds = Math.max(0, Math.floor((useNow() - since) / 1000));
  return html`<span class="pulse" />${t("run.thinking")}${seconds > 0 && ` · ${span(seconds)}`}`;
}

function Thought({ message }) {
  const { thought_ms: time } = message.stats.value;
  return time == null ? t("thought") : t("thought.for", { n: number(time / 1000, 1) });
}
