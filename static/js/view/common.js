// Small pieces that several components share.
import { html, signal, useEffect, useRef, useSignal } from "../../vendor/core.js";
import { LANGUAGES, has, language, needTexts, t } from "../i18n.js";
import { fetchSheet } from "../session.js";
import { change, config, settings } from "../settings.js";

const TOAST_MS = 8000;

const ICONS = {
  brand: "M5 21V10l7-6 7 6v11M9 21v-6a3 3 0 0 1 6 0v6",
  send: "M12 19V5M6 11l6-6 6 6",
  stop: "M7 7h10v10H7z",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  done: "M5 13l4 4L19 7",
  retry: "M20 11a8 8 0 1 0-2.3 5.7M20 5v6h-6",
  sliders: "M4 7h9M17 7h3M15 5v4M4 17h3M11 17h9M9 15v4",
  add: "M12 5v14M5 12h14",
  chart: "M5 20v-8M12 20V4M19 20v-5",
  user: "M12 12a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM4 21a8 8 0 0 1 16 0",
  down: "M12 5v14M6 13l6 6 6-6",
  left: "M15 6l-6 6 6 6",
  right: "M9 6l6 6-6 6",
  close: "M6 6l12 12M18 6L6 18",
  sidebar: "M4 5h16v14H4zM10 5v14",
  search: "M11 18a7 7 0 1 0 0-14 7 7 0 0 0 0 14zM16 16l5 5",
  edit: "M4 20h4L20 8l-4-4L4 16zM14 6l4 4",
  clip: "M20 11l-8.5 8.5a5 5 0 0 1-7-7L13 4a3.3 3.3 0 0 1 4.7 4.7L9.4 17a1.7 1.7 0 0 1-2.4-2.4L14.5 7",
  more: "M5 12h.01M12 12h.01M19 12h.01",
  pin: "M9 4h6l-1 6 3 3v2H7v-2l3-3zM12 15v6",
  trash: "M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13",
  file: "M6 3h8l4 4v14H6zM14 3v4h4",
};

/** A decorative line drawing; the control around it carries the name. */
export const Icon = ({ name }) => html`
  <svg class="icon" data-icon=${name} viewBox="0 0 24 24" aria-hidden="true"><path d=${ICONS[name]} /></svg>
`;

/** A square button with an icon, a name for everybody and a tooltip. */
export const IconButton = ({ icon, label, class: extra = "", ...rest }) => html`
  <button type="button" class="icon-button ${extra}" aria-label=${label} title=${label} ...${rest}>
    <${Icon} name=${icon} />
  </button>
`;

/** Whether the window is at least so wide; components that read it follow. */
const wideEnough = (query) => {
  const media = matchMedia(query);
  const matches = signal(media.matches);
  media.addEventListener("change", () => (matches.value = media.matches));
  return matches;
};
export const roomForSidebar = wideEnough("(min-width: 768px)");
export const roomForPanel = wideEnough("(min-width: 1024px)");

/** A button that opens a menu of commands: [{icon, text, run, danger}]. */
export function Menu({ icon, label, items, id }) {
  const list = useRef(null);
  const isOpen = useSignal(false);
  const place = (event) => event.newState === "open" && placeBeside(list.current, list.current.previousElementSibling);
  const choose = (run) => () => {
    list.current.hidePopover();
    run();
  };
  return html`
    <${IconButton} icon=${icon} label=${label} popovertarget=${id} />
    <div
      id=${id} ref=${list} class="popover menu" popover role="group" aria-label=${label}
      onBeforeToggle=${(event) => (isOpen.value = event.newState === "open")} onToggle=${place}
    >
      ${isOpen.value && items.map(({ icon: name, text, run, danger }) => html`
        <button type="button" class=${danger ? "danger" : ""} onClick=${choose(run)}><${Icon} name=${name} />${text}</button>
      `)}
    </div>
  `;
}

/** Below its button where there is room, else above; never outside the window. */
export function placeBeside(popover, button) {
  const at = button.getBoundingClientRect();
  const { offsetWidth: width, offsetHeight: height } = popover;
  const below = at.bottom + 4 + height <= innerHeight;
  popover.style.left = `${Math.max(8, Math.min(at.left, innerWidth - width - 8))}px`;
  popover.style.top = `${Math.max(8, below ? at.bottom + 4 : at.top - height - 4)}px`;
}

/** A dialog over the page; Escape and a click beside it close it. */
export function Overlay({ title, close, class: extra = "", children }) {
  const dialog = useRef(null);
  useEffect(() => {
    dialog.current.showModal();
  }, []);
  const onClick = (event) => event.target === dialog.current && dialog.current.close();
  return html`
    <dialog ref=${dialog} class="overlay ${extra}" aria-label=${title} onClose=${close} onClick=${onClick}>
      <div class="overlay-body">
        <div class="panel-head">
          <h2>${title}</h2>
          <${IconButton} icon="close" label=${t("close")} onClick=${() => dialog.current.close()} />
        </div>
        ${children}
      </div>
    </dialog>
  `;
}

let styled = null;

/** The style sheet of what opens beside or over the chat. */
function needStyles() {
  styled ??= fetchSheet("css/pages.css");
  styled.catch(() => (styled = null)); // the next page that is opened tries again
  return styled;
}

const fetched = async (importing) => (await Promise.all([importing(), needTexts(), needStyles()]))[0];

/** A component that is fetched, with its texts and styles, when it is first shown. */
export function Later({ importing, ...rest }) {
  const component = useSignal(null);
  useEffect(() => {
    fetched(importing).then((found) => (component.value = found), () => toast(t("error.network")));
  }, []);
  return component.value && html`<${component.value} ...${rest} />`;
}

/** What lies over the chat: a component that takes `close`, or null. */
const page = signal(null);

/** Fetch a page with its texts, and show it. `importing` resolves to a component. */
export async function showPage(importing) {
  try {
    page.value = { component: await fetched(importing) };
  } catch (error) {
    console.warn("the page could not be fetched", error);
    toast(t("error.network"));
  }
}

export const Page = () => page.value && html`<${page.value.component} close=${() => (page.value = null)} />`;

/** A few exclusive options as one row of radio buttons. */
export function Choice({ label, options, value, onChoose }) {
  const group = `choice-${label}`;
  return html`
    <fieldset class="choice">
      <legend>${label}</legend>
      <div>
        ${options.map(([option, text]) => html`
          <label key=${option} lang=${option in LANGUAGES ? option : undefined}>
            <input type="radio" name=${group} checked=${option === value} onChange=${() => onChoose(option)} />
            <span>${text}</span>
          </label>
        `)}
      </div>
    </fieldset>
  `;
}

export const ThemeChoice = () => html`
  <${Choice}
    label=${t("theme")} options=${["auto", "light", "dark"].map((value) => [value, t(`theme.${value}`)])}
    value=${settings.value.theme ?? "auto"} onChoose=${(theme) => change({ theme })}
  />
`;

export function LanguageChoice() {
  const offered = config.value.languages.filter((tag) => tag in LANGUAGES);
  if (offered.length < 2) return null;
  return html`
    <${Choice}
      label=${t("language")} options=${offered.map((tag) => [tag, LANGUAGES[tag]])} value=${language.value}
      onChoose=${(tag) => change({ language: tag })}
    />
  `;
}

/** The time in epoch ms, drawn again every `everyMs` while the component is on screen. */
export function useNow(everyMs = 1000) {
  const now = useSignal(Date.now());
  useEffect(() => {
    const timer = setInterval(() => (now.value = Date.now()), everyMs);
    return () => clearInterval(timer);
  }, [everyMs]);
  return now.value;
}

/** Whether this Enter is a command. During composition it only confirms the input method's candidate. */
export const isPlainEnter = (event) =>
  event.key === "Enter" && !event.isComposing && event.keyCode !== 229 && !event.shiftKey && !event.altKey;

export const isTouch = () => matchMedia("(pointer: coarse)").matches;

/** One plain sentence for an ApiError-like {code, status, message}. */
export function explain(error) {
  for (const key of [`error.${error.code}`, `error.http_${error.status}`]) if (has(key)) return t(key);
  return t("error.other");
}

/** Put text on the clipboard. A page without TLS has no Clipboard API; the old command works there. */
export async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "visually-hidden";
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

export function CopyButton({ text, label }) {
  const copied = useSignal(false);
  const onClick = async () => {
    await copyText(text());
    announce(t("copied"));
    copied.value = true;
    setTimeout(() => (copied.value = false), 1500);
  };
  return html`<${IconButton} icon=${copied.value ? "done" : "copy"} label=${label} onClick=${onClick} />`;
}

const announcement = signal("");

/** Say something to screen readers, politely; the same text twice is said twice. */
export function announce(text) {
  announcement.value = text === announcement.peek() ? `${text}\u00a0` : text;
}

export const Announcer = () => html`
  <div class="visually-hidden" role="status" aria-live="polite">${announcement}</div>
`;

const toasts = signal([]);

/** Tell the user something for a while, with a command ({text, run}) or without; `stay` until it is closed. */
export function toast(text, { action = null, stay = false } = {}) {
  const entry = { text, action, key: Math.random() };
  toasts.value = [...toasts.peek(), entry];
  announce(text);
  if (!stay) setTimeout(() => dismiss(entry), TOAST_MS);
}

function dismiss(entry) {
  toasts.value = toasts.peek().filter((other) => other !== entry);
}

export const Toasts = () => html`
  <div class="toasts">
    ${toasts.value.map((entry) => html`
      <div class="toast" key=${entry.key}>
        <span>${entry.text}</span>
        ${entry.action && html`
          <button type="button" class="button" onClick=${() => (dismiss(entry), entry.action.run())}>${entry.action.text}</button>
        `}
        <${IconButton} icon="close" label=${t("close")} onClick=${() => dismiss(entry)} />
      </div>
    `)}
  </div>
`;
