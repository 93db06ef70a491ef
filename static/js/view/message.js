// One message: the text as it grows, the thinking before it, and what can be done with it afterwards.
import { html, useEffect, useRef, useSignal, useSignalEffect } from "../../vendor/ui.js";
import { clear, show, siblings } from "../conversation.js";
import { language, number, t } from "../i18n.js";
import { StreamingMarkdown, renderMarkdown } from "../markdown.js";
import { active, hold, retry } from "../run.js";
import { config, range } from "../settings.js";
import { CopyButton, IconButton, copyText, explain, useNow } from "./common.js";

export function MessageView({ message }) {
  return message.role === "user" ? html`<${Question} message=${message} />` : html`<${Answer} message=${message} />`;
}

const Question = ({ message }) => html`
  <article class="message question" aria-label=${t("you")}>
    <div class="bubble">${message.content}</div>
    <${CopyButton} text=${() => message.content.peek()} label=${t("copy")} />
  </article>
`;

function Answer({ message }) {
  const status = message.status.value;
  const { finish } = message.stats.value;
  return html`
    <article class="message answer" aria-label=${t("assistant")} aria-busy=${status === "active"} data-status=${status}>
      ${status === "active" && html`<${Phase} message=${message} />`}
      <${Reasoning} message=${message} />
      <${Markdown} message=${message} />
      ${status === "stopped" && html`<p class="aside">${t("answer.stopped")}</p>`}
      ${finish === "length" && html`<${LengthNotice} message=${message} />`}
      ${status === "failed" && html`<${ErrorCard} message=${message} />`}
      ${status !== "active" && html`<${Actions} message=${message} />`}
    </article>
  `;
}

/** What happens before the first token: the engine loads, or reads the prompt. */
function Phase({ message }) {
  const now = useNow();
  if (active.value?.answer !== message || !["loading", "prefill"].includes(active.value.phase)) return null;
  const seconds = Math.max(0, Math.floor((now - active.value.since) / 1000));
  return html`<p class="phase"><span class="pulse" />${t(`run.${active.value.phase}`)}<${Elapsed} seconds=${seconds} /></p>`;
}

const Elapsed = ({ seconds }) => seconds > 0 && html` · ${t("seconds", { n: seconds })}`;

function Reasoning({ message }) {
  const chosen = useSignal(null); // what the reader chose; until then it is open while the model thinks
  const lines = useRef(null);
  const some = message.reasoning.value !== "";
  const thinking = message.status.value === "active" && active.value?.phase === "thinking";
  const isOpen = chosen.value ?? (thinking && config.value.ui.showReasoning);

  // One element per line: a single text node of many kilobytes is laid out anew with every token.
  useEffect(() => {
    const root = lines.current;
    if (!root) return;
    const wanted = message.reasoning.value.split("\n");
    const from = Math.max(0, root.childElementCount - 1);
    for (let index = from; index < wanted.length; index += 1) {
      const line = root.children[index] ?? root.appendChild(document.createElement("div"));
      line.textContent = wanted[index];
    }
  }, [message.reasoning.value, some]);

  if (!some) return null;
  const toggle = (event) => {
    event.preventDefault();
    chosen.value = !isOpen;
  };
  return html`
    <details class="reasoning" open=${isOpen}>
      <summary onClick=${toggle}>
        ${thinking ? html`<${ThinkingTimer} since=${active.value.since} />` : html`<${Thought} message=${message} />`}
      </summary>
      <div class="reasoning-lines" ref=${lines} />
    </details>
  `;
}

function ThinkingTimer({ since }) {
  const seconds = Math.max(0, Math.floor((useNow() - since) / 1000));
  return html`<span class="pulse" />${t("run.thinking")}<${Elapsed} seconds=${seconds} />`;
}

function Thought({ message }) {
  const { thoughtMs } = message.stats.value;
  return thoughtMs === undefined ? t("thought") : t("thought.for", { n: number(thoughtMs / 1000, 1) });
}

function Markdown({ message }) {
  const root = useRef(null);
  const stream = useRef(null);
  useSignalEffect(() => {
    const labels = { copy: t("copy"), code: t("code") };
    const text = message.content.value;
    if (message.status.value === "active") {
      if (stream.current?.language !== language.value) {
        stream.current = { language: language.value, view: new StreamingMarkdown(root.current, labels) };
      }
      stream.current.view.update(text);
    } else if (stream.current) {
      stream.current.view.finish(text);
      stream.current = null;
    } else {
      renderMarkdown(root.current, text, labels);
    }
  });
  return html`<div class="markdown" ref=${root} />`;
}

/** The output limit ended the answer. Without any text, the thinking alone used it up. */
function LengthNotice({ message }) {
  const { maxTokens } = message.stats.value;
  const larger = Math.min((maxTokens ?? 1024) * 2, range("max_tokens")[1]);
  const blocked = active.value !== null || hold.value !== null;
  const empty = message.content.value === "";
  return html`
    <div class="card warn">
      <p>${t(empty ? "length.thinking" : "length.answer")}</p>
      <div class="card-actions">
        <button type="button" class="button" disabled=${blocked} onClick=${() => retry(message, { max_tokens: larger })}>
          ${t("length.larger", { n: number(larger) })}
        </button>
        ${empty && html`
          <button type="button" class="button" disabled=${blocked} onClick=${() => retry(message, { reasoning_effort: "low" })}>
            ${t("length.lower")}
          </button>
        `}
      </div>
    </div>
  `;
}

function ErrorCard({ message }) {
  const error = message.error.value;
  if (!error) return null;
  const details = JSON.stringify({ ...error, time: new Date().toISOString() }, null, 2);
  const blocked = active.value !== null || hold.value !== null;
  const tooLong = error.code === "context_length_exceeded";
  return html`
    <div class="card error" role="group" aria-label=${t("error")}>
      <p>${explain(error)}${message.content.value !== "" && ` ${t("error.kept")}`}</p>
      ${error.message && error.code !== "interrupted" && html`<p class="small">${error.message}</p>`}
      ${error.requestId && html`<p class="small">${t("error.request")} <code>${error.requestId}</code></p>`}
      <div class="card-actions">
        ${tooLong
          ? html`<button type="button" class="button" onClick=${clear}>${t("chat.new")}</button>`
          : html`<button type="button" class="button" disabled=${blocked} onClick=${() => retry(message)}>${t("retry")}</button>`}
        <button type="button" class="button quiet" onClick=${() => copyText(details)}>${t("error.copy")}</button>
      </div>
    </div>
  `;
}

function Actions({ message }) {
  const blocked = active.value !== null || hold.value !== null;
  return html`
    <footer class="actions">
      ${message.content.value !== "" && html`<${CopyButton} text=${() => message.content.peek()} label=${t("copy")} />`}
      ${message.status.value !== "failed" && html`
        <${IconButton} icon="retry" label=${t("answer.again")} disabled=${blocked} onClick=${() => retry(message)} />
      `}
      <${Branches} message=${message} disabled=${blocked} />
      ${config.value.ui.showStats && html`<${Stats} message=${message} />`}
    </footer>
  `;
}

/** ‹2/3›: the other answers to the same question. */
function Branches({ message, disabled }) {
  const all = siblings(message);
  if (all.length < 2) return null;
  const at = all.indexOf(message);
  const go = (step) => () => show(all[at + step]);
  return html`
    <span class="branches">
      <${IconButton} icon="left" label=${t("answer.previous")} disabled=${disabled || at === 0} onClick=${go(-1)} />
      <span>${at + 1}/${all.length}</span>
      <${IconButton} icon="right" label=${t("answer.next")} disabled=${disabled || at === all.length - 1} onClick=${go(1)} />
    </span>
  `;
}

function Stats({ message }) {
  const { ttftMs, tokensPerSecond, usage } = message.stats.value;
  const parts = [
    ttftMs !== undefined && t("stats.ttft", { n: number(ttftMs / 1000, 2) }),
    tokensPerSecond !== undefined && t("stats.speed", { n: number(tokensPerSecond, tokensPerSecond < 10 ? 1 : 0) }),
    usage && t("stats.tokens", { prompt: number(usage.prompt_tokens), completion: number(usage.completion_tokens) }),
  ].filter(Boolean);
  return parts.length > 0 && html`<small class="stats">${parts.join(" · ")}</small>`;
}
