// The messages, and a scroll position that follows the answer only while the reader is at its end.
import { html, useEffect, useRef, useSignal } from "../../vendor/ui.js";
import { path } from "../conversation.js";
import { engine } from "../engine.js";
import { t } from "../i18n.js";
import { active } from "../run.js";
import { user } from "../session.js";
import { IconButton, announce, copyText } from "./common.js";
import { MessageView } from "./message.js";

const NEAR_END_PX = 48;
const STILL_ANSWERING_MS = 7000;

export function Thread() {
  const scroller = useRef(null);
  const list = useRef(null);
  const pinned = useSignal(true);
  const lastTop = useRef(0);

  useEffect(() => {
    const box = scroller.current;
    const observer = new ResizeObserver(() => pinned.peek() && jumpToEnd(box));
    observer.observe(list.current);
    observer.observe(box);
    return () => observer.disconnect();
  }, []);

  // The reader's own question always brings the end back into view.
  const count = path.value.length;
  useEffect(() => {
    pinned.value = true;
    if (scroller.current) jumpToEnd(scroller.current);
  }, [count]);

  // Only the reader scrolls upwards; an answer that grows between two frames does not mean that they left the end.
  const onScroll = (event) => {
    const { scrollTop, scrollHeight, clientHeight } = event.currentTarget;
    if (scrollHeight - scrollTop - clientHeight < NEAR_END_PX) pinned.value = true;
    else if (scrollTop < lastTop.current) pinned.value = false;
    lastTop.current = scrollTop;
  };
  const toEnd = () => {
    pinned.value = true;
    scroller.current.scrollTo({ top: scroller.current.scrollHeight, behavior: "smooth" });
  };

  return html`
    <div class="scroller" ref=${scroller} onScroll=${onScroll} tabindex="0" role="region" aria-label=${t("thread")}>
      <div class="thread" ref=${list} role="log" aria-live="off" aria-label=${t("thread")} onClick=${copyCode}>
        ${count === 0 && html`<${Greeting} />`}
        ${path.value.map((message) => html`<${MessageView} key=${message.id} message=${message} />`)}
      </div>
      ${!pinned.value && html`<${IconButton} icon="down" class="to-end" label=${t("thread.end")} onClick=${toEnd} />`}
    </div>
    <${SpokenProgress} />
  `;
}

function jumpToEnd(scroller) {
  scroller.scrollTop = scroller.scrollHeight;
}

const Greeting = () => html`
  <div class="greeting">
    <h1>${t("greeting", { name: user.value?.display_name || user.value?.name })}</h1>
    <p class="muted">${t(engine.value?.simulated ? "engine.simulated.long" : "greeting.lead")}</p>
  </div>
`;

/** The copy buttons inside code blocks are plain DOM made by markdown.js. */
function copyCode(event) {
  const button = event.target.closest(".copy-code");
  if (!button) return;
  copyText(button.closest(".code-box").querySelector("pre").textContent);
  announce(t("copied"));
  button.textContent = t("copied");
  setTimeout(() => (button.textContent = t("copy")), 1500);
}

/** What a screen reader hears of an answer: its phases and its end, not its tokens. */
function SpokenProgress() {
  const phase = active.value?.phase;
  const before = useRef(undefined);
  useEffect(() => {
    if (phase) announce(t(`run.spoken.${phase}`));
    else if (before.current) announce(t(`answer.spoken.${path.peek().at(-1)?.status.peek() ?? "failed"}`));
    before.current = phase;
    if (phase !== "streaming") return undefined;
    const timer = setInterval(() => announce(t("run.spoken.still")), STILL_ANSWERING_MS);
    return () => clearInterval(timer);
  }, [phase]);
  return null;
}
