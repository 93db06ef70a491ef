// The messages, and a scroll position that follows the answer only while the reader is at its end.
import { html, signal, useEffect, useLayoutEffect, useRef, useSignal } from "../../vendor/core.js";
import { current } from "../chats.js";
import { engine } from "../engine.js";
import { named, t } from "../i18n.js";
import { user } from "../session.js";
import { config } from "../settings.js";
import { IconButton, announce, copyText } from "./common.js";
import { Unsent } from "./composer.js";
import { Turn, fetchStreaming } from "./message.js";

const NEAR_END_PX = 48;
const KEYS = { ArrowUp: -1, PageUp: -1, Home: -1, ArrowDown: 1, PageDown: 1, End: 1, " ": 1 }; // which way each takes the view
const STILL_ANSWERING_MS = 7000;
const FRAMES_TO_SETTLE = 4; // heights above a message become known when it is drawn

/** Whether the end is followed: as long as the reader has not turned back from it. */
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

/**
 * Keeps the end of `content` in view while it grows. What the reader's hand does says whether they leave, not where the view is:
 * a wheel or a finger begins with a few pixels, and an answer that grows would take those back in every frame.
 */
class Follower {
  #box;
  #observer;
  #top = 0; // where the view was last
  #mayReturn = true; // the reader's last move was none away from the end
  #finger = 0;

  constructor(box, content) {
    this.#box = box;
    this.#observer = new ResizeObserver(() => pinned.peek() && this.toEnd());
    for (const each of [content, box]) this.#observer.observe(each);
    const hear = (name, take) => box.addEventListener(name, take, { passive: true }); // no move waits for this page
    hear("wheel", ({ deltaX, deltaY, ctrlKey, target }) => Math.abs(deltaY) > Math.abs(deltaX) && !ctrlKey && this.#steer(deltaY, target));
    hear("touchstart", (event) => (this.#finger = event.touches[0].clientY));
    hear("touchmove", (event) => {
      const by = this.#finger - event.touches[0].clientY;
      this.#finger -= by;
      if (by !== 0) this.#steer(by, event.target);
    });
    hear("keydown", ({ key, shiftKey, target }) => {
      if (key in KEYS && !target.matches("input, textarea, select")) this.#steer(key === " " && shiftKey ? -1 : KEYS[key], target);
    });
    hear("pointerdown", ({ target, offsetX }) => target === box && offsetX >= box.clientWidth && this.#grasp());
    hear("scroll", () => this.#look());
  }

  stop() {
    this.#observer.disconnect();
  }

  toEnd() {
    const box = this.#box;
    this.#top = box.scrollHeight - box.clientHeight; // reading it back could mean another layout
    box.scrollTop = this.#top;
  }

  #steer(by, target) {
    this.#mayReturn = by > 0;
    if (by > 0 || !pinned.peek()) return;
    for (let at = target; at !== this.#box; at = at.parentElement) if (at.scrollTop > 0) return; // what moves is inside a message
    if (this.#box.scrollTop > 0) pinned.value = false;
  }

  /** The scroll bar is held: it goes either way, and nothing else moves the view meanwhile. */
  #grasp() {
    this.#mayReturn = true;
    pinned.value = false;
  }

  /** Whoever moves the view by other means, such as a search in the page, leaves the end by going far enough from it. */
  #look() {
    const { scrollTop, scrollHeight, clientHeight } = this.#box;
    const isNear = scrollHeight - scrollTop - clientHeight < NEAR_END_PX;
    if (scrollTop > this.#top && isNear && this.#mayReturn) pinned.value = true;
    else if (scrollTop < this.#top - 1 && !isNear) pinned.value = false; // some browsers stop between two pixels
    this.#top = scrollTop;
  }
}

export function Thread() {
  const scroller = useRef(null);
  const list = useRef(null);
  const follower = useRef(null);
  const conversation = current.value;
  const turns = conversation.turns.value;

  useLayoutEffect(() => {
    follower.current = new Follower(scroller.current, list.current);
    return () => follower.current.stop();
  }, []);

  useEffect(() => {
    if (conversation.state.peek() === "loading") fetchStreaming();
  }, [conversation]);

  // Another chat, and the reader's own question, bring the end into view.
  const last = turns.at(-1)?.[0];
  useLayoutEffect(() => {
    pinned.value = true;
    follower.current.toEnd();
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

  const isEmpty = turns.length === 0 && conversation.state.value === "ready";
  return html`
    <div class="scroller" ref=${scroller} tabindex="0" role="region" aria-label=${t("thread")}>
      ${conversation.older.value !== null && turns.length > 0 && html`<${Older} conversation=${conversation} scroller=${scroller} />`}
      <div class="thread" ref=${list} role="log" aria-live="off" aria-label=${t("messages")} onClick=${copyCode}>
        ${isEmpty && html`<${Greeting} conversation=${conversation} />`}
        ${turns.map((turn) => html`<${Turn} key=${turn[0].id} conversation=${conversation} turn=${turn} />`)}
        <${Unsent} conversation=${conversation} />
      </div>
      <${ToEnd} scroller=${scroller} />
    </div>
    <${SpokenProgress} key=${conversation} conversation=${conversation} />
  `;
}

/** The way back for who has left the end; it takes no room there. */
function ToEnd({ scroller }) {
  if (pinned.value) return null;
  const go = () => {
    pinned.value = true;
    scroller.current.scrollTo({ top: scroller.current.scrollHeight, behavior: "smooth" });
  };
  return html`<div class="at-end"><${IconButton} icon="down" class="to-end" label=${t("thread.end")} onClick=${go} /></div>`;
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
