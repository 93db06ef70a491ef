// Small pieces that several components share.
import { html, signal, useEffect, useSignal } from "../../vendor/ui.js";
import { has, t } from "../i18n.js";

const ICONS = {
  brand: "M5 21V10l7-6 7 6v11M9 21v-6a3 3 0 0 1 6 0v6",
  send: "M12 19V5M6 11l6-6 6 6",
  stop: "M7 7h10v10H7z",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  done: "M5 13l4 4L19 7",
  retry: "M20 11a8 8 0 1 0-2.3 5.7M20 5v6h-6",
  sliders: "M4 7h9M17 7h3M15 5v4M4 17h3M11 17h9M9 15v4",
  add: "M12 5v14M5 12h14",
  user: "M12 12a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM4 21a8 8 0 0 1 16 0",
  down: "M12 5v14M6 13l6 6 6-6",
  left: "M15 6l-6 6 6 6",
  right: "M9 6l6 6-6 6",
  close: "M6 6l12 12M18 6L6 18",
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
