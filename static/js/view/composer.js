// Where the user writes, and what is not yet with the server: all of it survives a reload, a refusal, a lost session.
import { html, signal, useEffect, useRef, useSignal } from "../../vendor/core.js";
import { change as changeChat, current } from "../chats.js";
import { change, compose, discard, itemsOf, readFile, split } from "../drafts.js";
import { number, span, t } from "../i18n.js";
import { line } from "../link.js";
import { draft, hold, mark, pump, sendAgain, sending, submit } from "../sending.js";
import { EFFORTS, effective, ui } from "../settings.js";
import { Icon, IconButton, explain, isPlainEnter, isTouch, toast, useNow } from "./common.js";
import { Bubble, ErrorCard, cancel } from "./message.js";

const SHARED = /^(?!Your budget).*?\.(?= |$)/; // the gateway's first sentence, when it says that the quota is not only the user's own

export function Composer() {
  const input = useRef(null);
  const chooser = useRef(null);
  const over = useSignal(false);
  const conversation = current.value;
  const running = conversation.running.value;
  const { text, files } = draft.value;
  const isEmpty = text.trim() === "" && files.length === 0;

  useEffect(() => {
    if (!isTouch()) input.current.focus({ preventScroll: true });
  }, [conversation]);
  useGrowing(input, text);

  const onKeyDown = (event) => {
    if (event.key === "Escape" && running) cancel(running);
    if (!isPlainEnter(event) || isTouch()) return; // on a touch keyboard Enter makes a new line
    if (ui.value.sendKey === "ctrl-enter" && !event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    if (hold.value === null) submit();
  };
  const attach = async (list) => {
    const limit = ui.value.maxAttachKB;
    for (const file of list) {
      try {
        const read = await readFile(file, limit * 1024);
        draft.value = { ...draft.value, files: [...draft.value.files, read] };
      } catch (error) {
        toast(t(`attach.${error.message === "size" ? "size" : "text"}`, { name: file.name, n: number(limit) }));
      }
    }
    input.current.focus();
  };
  const take = (transfer) => (event) => {
    over.value = false;
    const dropped = event[transfer]?.files;
    if (!dropped?.length) return;
    event.preventDefault();
    attach([...dropped]);
  };
  const drop = (name) => () => (draft.value = { ...draft.value, files: files.filter((file) => file !== name) });

  return html`
    <div class="composer-area">
      <${Waiting} conversation=${conversation} />
      ${hold.value && html`<${Hold} />`}
      <form
        class="composer" data-over=${over.value} onSubmit=${(event) => (event.preventDefault(), submit())} onPaste=${take("clipboardData")}
        onDrop=${take("dataTransfer")} onDragOver=${(event) => (event.preventDefault(), (over.value = true))} onDragLeave=${() => (over.value = false)}
      >
        ${files.length > 0 && html`
          <ul class="files">
            ${files.map((file) => html`
              <li><${Icon} name="file" /><span>${file.name}</span><${IconButton} icon="close" label=${t("attach.discard", { name: file.name })} onClick=${drop(file)} /></li>
            `)}
          </ul>
        `}
        <textarea
          id="composer-input" ref=${input} rows="1" value=${text} aria-label=${t("composer.label")} class="growing"
          placeholder=${t(running ? "composer.next" : "composer.placeholder")}
          onInput=${(event) => (draft.value = { ...draft.value, text: event.target.value })}
          onKeyDown=${onKeyDown} enterkeyhint=${isTouch() ? "enter" : "send"}
        />
        <div class="composer-tools">
          <input ref=${chooser} type="file" multiple hidden onChange=${(event) => (attach([...event.target.files]), (event.target.value = ""))} />
          <${IconButton} icon="clip" label=${t("attach")} onClick=${() => chooser.current.click()} />
          <${Effort} conversation=${conversation} />
          <span class="spring" />
          ${running && html`<button type="button" class="send stop" aria-label=${t("stop")} title=${t("stop")} onClick=${() => cancel(running)}><${Icon} name="stop" /></button>`}
          ${(!running || !isEmpty) && html`
            <button class="send" aria-label=${t(running ? "send.next" : "send")} title=${t(running ? "send.next" : "send")} disabled=${hold.value !== null || isEmpty}>
              <${Icon} name="send" />
            </button>
          `}
        </div>
      </form>
      <p class="fine-print">${t("composer.note")}</p>
    </div>
  `;
}

/** The field is as high as its text. Where style sheets cannot say that, it is measured. */
function useGrowing(input, text) {
  useEffect(() => {
    if (CSS.supports("field-sizing: content")) return;
    const area = input.current;
    area.style.height = "auto";
    area.style.height = `${area.scrollHeight}px`;
  }, [text]);
}

/** How hard the model thinks: of all parameters the one that people look for. */
function Effort({ conversation }) {
  const { reasoning_effort: effort } = effective(conversation.params.value);
  const choose = async (event) => {
    conversation.params.value = { ...conversation.params.peek(), reasoning_effort: event.target.value };
    if (conversation.id === null) return;
    await changeChat(conversation.row.peek(), { params: conversation.params.peek() }).catch((error) => toast(explain(error)));
  };
  return html`
    <label class="effort">
      <span>${t("effort")}</span>
      <select value=${effort} onChange=${choose}>
        ${effort === undefined && html`<option value="">${t("effort.auto")}</option>`}
        ${EFFORTS.map((value) => html`<option value=${value} selected=${value === effort}>${t(`effort.${value}`)}</option>`)}
      </select>
    </label>
  `;
}

/** Why nothing can be sent now, and when it can be again. The draft waits below. */
function Hold() {
  const { kind, until, message, resend } = hold.value;
  const byItself = useSignal(false);
  const seconds = until === null ? null : Math.max(0, Math.ceil((until - useNow(250)) / 1000));

  useEffect(() => {
    if (seconds !== 0) return;
    hold.value = null;
    if (byItself.value) resend();
  }, [seconds === 0]);

  const text = { rate: "hold.rate", quota: seconds === null ? "hold.quota" : "hold.quota.until" }[kind];
  return html`
    <div class="card warn hold" role="status">
      <p>${t(text, { n: seconds === null ? "" : span(seconds) })}</p>
      ${kind === "quota" && SHARED.test(message) && html`<p class="small">${SHARED.exec(message)}</p>`}
      ${kind === "rate"
        ? html`
            <label class="check">
              <input type="checkbox" checked=${byItself.value} onChange=${(event) => (byItself.value = event.target.checked)} />
              ${t("hold.resend")}
            </label>
          `
        : html`<div class="card-actions"><button type="button" class="button" onClick=${() => (hold.value = null)}>${t("hold.dismiss")}</button></div>`}
    </div>
  `;
}

/** The first in the line stands in the thread once it was tried; the rest wait above the composer. */
const isInThread = (item) => sending.value.has(item.id) || item.error || item.waits || item.parent !== undefined;

/** Whether the thread has the message already, from the gateway, which took it and has not yet been heard to say so. */
const isTaken = (conversation, { after, content }) =>
  after !== undefined &&
  [...conversation.nodes.value.values()].some((message) => message.role === "user" && message.parent === after && message.content.value === content);

/** The message on its way, below the thread. */
export function Unsent({ conversation }) {
  const [item] = itemsOf(conversation.key);
  if (item === undefined || !isInThread(item)) return null;
  if (!item.error && ((conversation.running.value && item.parent === undefined) || isTaken(conversation, item))) return null;
  return html`
    ${item.content !== undefined && html`<article class="message question unsent" aria-label=${t("you")}><${Bubble} content=${item.content} /></article>`}
    ${item.error
      ? html`
          <${ErrorCard}
            error=${item.error} retry=${() => sendAgain(item)} fit=${() => sendAgain(item, { fit: true })} discard=${() => (discard(item.id), pump())}
          />
        `
      : html`<p class="phase unsent-phase"><span class="pulse" />${t(item.waits ? `unsent.${item.waits}` : "unsent.sending")}${item.waits && html`
            <button type="button" class="button" onClick=${() => discard(item.id)}>${t("cancel")}</button>
          `}</p>`}
  `;
}

/** The next messages of this chat, each sent when the answer before it is there. */
export function Waiting({ conversation }) {
  const [first, ...rest] = itemsOf(conversation.key);
  if (first === undefined) return null;
  // while an answer runs, the message on its way is perhaps the one that is answered: a reload cut off that it was taken
  const isElsewhere = sending.value.has(first.id) || (isInThread(first) && (first.error || !conversation.running.value));
  const shown = isElsewhere ? rest : [first, ...rest];
  if (shown.length === 0) return null;
  return html`
    <section class="waiting" aria-label=${t("waiting")}>
      <h2>${t(line.value === "lost" ? "waiting.offline" : "waiting")}</h2>
      <ol>${shown.map((item) => html`<${Entry} key=${item.id} item=${item} />`)}</ol>
    </section>
  `;
}

/** The ids of messages that are edited on this page: one that leaves the list for a moment comes back as it was. */
const edited = signal(new Set());

function Entry({ item }) {
  const { text, files } = split(item.content ?? "");
  const edit = () => {
    change(item.id, { paused: true }); // it does not leave while it is edited
    mark(edited, item.id, true);
  };
  const save = (value) => {
    mark(edited, item.id, false);
    change(item.id, { paused: undefined, content: value === null ? item.content : compose(value, files) });
    pump();
  };
  if (edited.value.has(item.id)) return html`<li><${Edit} text=${text} save=${save} /></li>`;
  const names = files.map((file) => file.name).join(", ");
  return html`
    <li>
      <span class="waiting-text">${[names, text].filter(Boolean).join(" · ") || t("answer.again")}</span>
      ${item.content !== undefined && html`<${IconButton} icon="edit" label=${t("waiting.edit")} onClick=${edit} />`}
      <${IconButton} icon="close" label=${t("waiting.discard")} onClick=${() => discard(item.id)} />
    </li>
  `;
}

function Edit({ text, save }) {
  const field = useRef(null);
  useEffect(() => field.current.focus(), []);
  const take = () => save(field.current.value.trim() === "" ? null : field.current.value);
  const onKeyDown = (event) => {
    if (event.key === "Escape") save(null);
    else if (isPlainEnter(event) && !isTouch()) {
      event.preventDefault();
      take();
    }
  };
  return html`
    <textarea ref=${field} class="growing" aria-label=${t("waiting.edit")} defaultValue=${text} onKeyDown=${onKeyDown} />
    <${IconButton} icon="done" label=${t("save")} onClick=${take} />
  `;
}
