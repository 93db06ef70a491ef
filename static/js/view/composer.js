// Where the user writes. What stands here survives a reload, a refusal and the end of a session.
import { html, useEffect, useRef, useSignal } from "../../vendor/ui.js";
import { draft } from "../conversation.js";
import { t } from "../i18n.js";
import { active, hold, send, stop } from "../run.js";
import { config } from "../settings.js";
import { Icon, isPlainEnter, isTouch, useNow } from "./common.js";

export function Composer() {
  const input = useRef(null);
  const running = active.value !== null;

  useEffect(() => {
    if (!isTouch()) input.current.focus();
  }, []);
  useEffect(() => {
    const area = input.current;
    area.style.height = "auto";
    area.style.height = `${area.scrollHeight}px`;
  }, [draft.value]);

  const onKeyDown = (event) => {
    if (!isPlainEnter(event) || isTouch()) return; // on a touch keyboard Enter makes a new line
    if (config.value.ui.sendKey === "ctrl-enter" && !event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    if (!running) send(draft.value);
  };
  const submit = (event) => {
    event.preventDefault();
    if (running) stop();
    else send(draft.value);
  };

  return html`
    <div class="composer-area">
      ${hold.value && html`<${Hold} />`}
      <form class="composer" onSubmit=${submit}>
        <textarea
          id="composer-input" ref=${input} rows="1" value=${draft.value} aria-label=${t("composer.label")}
          placeholder=${t("composer.placeholder")} onInput=${(event) => (draft.value = event.target.value)}
          onKeyDown=${onKeyDown} enterkeyhint=${isTouch() ? "enter" : "send"}
        />
        <button
          class="send" aria-label=${t(running ? "stop" : "send")} title=${t(running ? "stop" : "send")}
          disabled=${!running && (hold.value !== null || draft.value.trim() === "")}
        >
          <${Icon} name=${running ? "stop" : "send"} />
        </button>
      </form>
      <p class="fine-print">${t("composer.note")}</p>
    </div>
  `;
}

/** Why nothing can be sent now, and when it can be again. The draft waits below. */
function Hold() {
  const { kind, until, message, again } = hold.value;
  const byItself = useSignal(false);
  const seconds = until === null ? null : Math.max(0, Math.ceil((until - useNow(250)) / 1000));

  const release = () => {
    hold.value = null;
    again();
  };
  useEffect(() => {
    if (seconds !== 0) return;
    if (byItself.value) release();
    else hold.value = null;
  }, [seconds === 0]);

  const text = { rate: "hold.rate", quota: seconds === null ? "hold.quota" : "hold.quota.until" }[kind];
  return html`
    <div class="card warn hold" role="status">
      <p>${t(text, { n: span(seconds) })}</p>
      ${kind === "quota" && message && html`<p class="small">${message}</p>`}
      ${kind === "rate"
        ? html`
            <label class="check">
              <input type="checkbox" checked=${byItself.value} onChange=${(event) => (byItself.value = event.target.checked)} />
              ${t("hold.resend")}
            </label>
          `
        : html`<button type="button" class="button" onClick=${() => (hold.value = null)}>${t("hold.dismiss")}</button>`}
    </div>
  `;
}

/** A length of time in the unit that reads best. */
function span(seconds) {
  if (seconds === null) return "";
  if (seconds < 120) return t("seconds", { n: seconds });
  if (seconds < 7200) return t("minutes", { n: Math.ceil(seconds / 60) });
  return t("hours", { n: Math.ceil(seconds / 3600) });
}
