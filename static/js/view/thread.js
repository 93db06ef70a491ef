// The messages, and a scroll position that follows the answer only while the reader is at its end.
import { html, signal, useEffect, useLayoutEffect, useRef, useSignal } from "../../vendor/core.js";
import { current } from "../chats.js";
import { engine } from "../engine.js";
import { named, t } from "../i18n.js";
import { user } from "../session.js";
import { config } from "../settings.js";
import { IconButton, announce, copyText } from "./common.js";
import { Unsent } from "./composer.js";
import { Turn } from "./message.js";

const NEAR_END_PX = 48;
const STILL_ANSWERING_MS = 7000;
const FRAMES_TO_SETTLE = 4; // heights above a message become known when it is drawn

/** Whether the end is followed: as long as the reader has not left it. */
const pinned = signal(true);

/** Bring a message into view and keep it there. */
export function reveal(id) {
  pinned.value = false;
  let left = FRAMES_TO_SETTLE;
  const step = () => {
    const spot = document.getElementById(id);
    spot?.scrollIntoView({ block: "center" });
    spot?.classList.add("found");
    if ((left -= 1) > 0) requestAnimationFrame(step);
    else setTimeout(() => spot?.classList.remove("found"), 2000);
  };
  requestAnimationFrame(step);
}

export function Thread() {
  const scroller = useRef(null);
  const list = useRef(null);
  const lastTop = useRef(0);
  const conversation = current.value;
  const turns = conversation.turns.value;

  useEffect(() => {
    const box = scroller.current;
    const observer = new ResizeObserver(() => {
      if (pinned.peek()) jumpToEnd(box);
    });
    observer.observe(list.current);
    observer.observe(box);
    return () => observer.disconnect();
  }, []);

  // Another chat, and the reader's own question, bring the end into view.
  const last = turns.at(-1)?.[0];
  useLayoutEffect(() => {
    pinned.value = true;
    jumpToEnd(scroller.current);
  }, [conversation, last?.role === "user" ? last : null]);

  // Older messages above must not move what is read. Browsers' own anchoring does not see to that at the very top, and
  // elsewhere not in every frame: it rests while this is done by hand.
  const seen = scroller.current?.querySelector("article.message");
  const top = seen?.getBoundingClientRect().top;
  useLayoutEffect(() => {
    if (pinned.peek() || !seen?.isConnected) return;
    const box = scroller.current;
    box.style.overflowAnchor = "none";
    box.scrollTop += seen.getBoundingClientRect().top - top;
    requestAnimationFrame(() => (box.style.overflowAnchor = ""));
  }, [turns[0]?.[0]]);

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

  const isEmpty = turns.length === 0 && conversation.state.value === "ready";
  return html`
    <div class="scroller" ref=${scroller} onScroll=${onScroll} tabindex="0" role="region" aria-label=${t("thread")}>
      ${conversation.older.value !== null && turns.length > 0 && html`<${Older} conversation=${conversation} scroller=${scroller} />`}
      <div class="thread" ref=${list} role="log" aria-live="off" aria-label=${t("messages")} onClick=${copyCode}>
        ${isEmpty && html`<${Greeting} conversation=${conversation} />`}
        ${turns.map((turn) => html`<${Turn} key=${turn[0].id} conversation=${conversation} turn=${turn} />`)}
        <${Unsent} conversation=${conversation} />
      </div>
      ${!pinned.value && html`<${IconButton} icon="down" class="to-end" label=${t("thread.end")} onClick=${toEnd} />`}
    </div>
    <${SpokenProgress} key=${conversation} conversation=${conversation} />
  `;
}

function jumpToEnd(scroller) {
  scroller.scrollTop = scroller.scrollHeight;
}

/** Older messages are read when the reader comes near them. */
function Older({ conversation, scroller }) {
  const mark = useRef(null);
  const cursor = conversation.older.value;
  useEffect(() => {
    const read = ([entry]) => {
      if (!entry.isIntersecting) return;
      observer.disconnect();
      conversation.loadOlder().catch(() => {});
    };
    const observer = new IntersectionObserver(read, { root: scroller.current, rootMargin: "400px 0px 0px 0px" });
    observer.observe(mark.current);
    return () => observer.disconnect();
  }, [cursor]);
  return html`<p ref=${mark} class="older muted small">${t("thread.older")}</p>`;
}

function Greeting({ conversation }) {
  const { presets } = config.value;
  const chosen = useSignal(null);
  const choose = (preset) => () => {
    chosen.value = chosen.value === preset.id ? null : preset.id;
    conversation.params.value = chosen.value === null ? {} : { ...preset.params };
    document.getElementById("composer-input")?.focus();
  };
  return html`
    <div class="greeting">
      <h2>${t("greeting", { name: user.value?.display_name || user.value?.name })}</h2>
      <p class="muted">${t(engine.value?.simulated ? "engine.simulated.long" : "greeting.lead")}</p>
      ${presets.length > 0 && html`
        <div class="presets" role="group" aria-label=${t("presets")}>
          ${presets.map((preset) => html`
            <button key=${preset.id} type="button" class="chip" aria-pressed=${chosen.value === preset.id} onClick=${choose(preset)}>
              ${named(preset.name) ?? preset.id}
            </button>
          `)}
        </div>
      `}
    </div>
  `;
}

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
function SpokenProgress({ conversation }) {
  const running = conversation.running.value;
  const { name, ahead } = running?.phase.value ?? {};
  const before = useRef(undefined);
  useEffect(() => {
    if (name) announce(name === "queued" ? t("run.spoken.queued", { n: ahead }) : t(`run.spoken.${name}`));
    else if (before.current) announce(t(`answer.spoken.${spokenEnd(before.current.status.peek())}`));
    before.current = running;
    if (name !== "streaming") return undefined;
    const timer = setInterval(() => announce(t("run.spoken.still")), STILL_ANSWERING_MS);
    return () => clearInterval(timer);
  }, [running, name, ahead]);
  return null;
}

const spokenEnd = (status) => (status === "done" || status === "stopped" ? status : "failed");
