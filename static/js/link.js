// The page's one line to the gateway: a WebSocket that carries every run, or server-sent events where none gets through.
// Whoever subscribes gets each frame of a run once and in order, however often the line breaks in between.
import { signal } from "../vendor/core.js";
import { expire, expired, get, user } from "./session.js";
import { config } from "./settings.js";

const SILENCE_MS = 25_000; // two heartbeats and a half
const LONGEST_WAIT_MS = 30_000;
const REFUSALS_BEFORE_EVENTS = 2; // upgrades that never opened: a proxy does not let WebSockets through
const SESSION_OVER = 4401;

/** Whether frames can arrive now: "open", "connecting" for the first moments, then "lost". */
export const line = signal("connecting");
/** The server runs another build than this page: a reload would bring it. */
export const outdated = signal(false);

const subscriptions = new Map(); // run → {seq, receive, source}
const listeners = new Set();
let socket = null;
let viaEvents = false;
let failures = 0;
let refusals = 0;
let reconnecting = 0;
let watchdog = 0;
let heardAt = 0;

/** Call `receive` with each frame of `run` after number `from`; a second subscription replaces the first. */
export function subscribe(run, from, receive) {
  unsubscribe(run);
  const subscription = { seq: from, receive, source: null };
  subscriptions.set(run, subscription);
  if (viaEvents) listen(run, subscription);
  else if (line.peek() === "open") send({ t: "sub", run, from });
}

export function unsubscribe(run) {
  const subscription = subscriptions.get(run);
  if (!subscription) return;
  subscriptions.delete(run);
  subscription.source?.close();
  if (!viaEvents && line.peek() === "open") send({ t: "unsub", run });
}

/** Call `listener` with the frames that belong to no run: hello, chat, chats. */
export function onNews(listener) {
  listeners.add(listener);
}

/** Hold the line while somebody is signed in. */
export function connect() {
  clearTimeout(reconnecting);
  if (socket || user.peek() === null || expired.peek()) return;
  if (viaEvents) {
    for (const [run, subscription] of subscriptions) {
      if (subscription.source?.readyState === EventSource.CLOSED) listen(run, subscription);
    }
    return;
  }
  const opened = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/api/ws`);
  socket = opened;
  let greeted = false;
  opened.onmessage = ({ data }) => {
    if (socket !== opened) return;
    const frame = JSON.parse(data);
    heard();
    if (frame.t === "hello") {
      greeted = true;
      refusals = failures = 0;
      greet(frame);
    } else take(frame);
  };
  opened.onclose = ({ code }) => {
    if (socket !== opened) return;
    socket = null;
    if (code === SESSION_OVER) return expire();
    lose(greeted);
  };
  watch();
}

export function disconnect() {
  clearTimeout(reconnecting);
  clearTimeout(watchdog);
  for (const run of [...subscriptions.keys()]) unsubscribe(run);
  drop();
}

/** The network may be back, or somebody looks at the page again: do not wait for the next attempt. */
export function connectSoon() {
  if (socket && Date.now() - heardAt > SILENCE_MS / 2) drop();
  if (!socket) connect();
}

addEventListener("online", connectSoon);
addEventListener("focus", connectSoon);
document.addEventListener("visibilitychange", () => document.hidden || connectSoon());
addEventListener("offline", () => {
  drop();
  lose(true);
});

function greet(hello) {
  outdated.value = config.peek().build !== null && hello.build !== undefined && hello.build !== config.peek().build;
  for (const [run, { seq }] of subscriptions) send({ t: "sub", run, from: seq });
  line.value = "open";
  announceNews(hello);
}

function take(frame) {
  if (frame.run === undefined) return announceNews(frame);
  const subscription = subscriptions.get(frame.run);
  if (!subscription) return;
  if (frame.t === "gone") subscriptions.delete(frame.run);
  else if (frame.seq <= subscription.seq) return; // told before the line broke
  else if (frame.seq > subscription.seq + 1) return send({ t: "sub", run: frame.run, from: subscription.seq });
  else subscription.seq = frame.seq;
  if (frame.t === "end") {
    subscriptions.delete(frame.run);
    subscription.source?.close();
  }
  subscription.receive(frame);
}

function announceNews(frame) {
  for (const listener of listeners) listener(frame);
}

function send(frame) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(frame));
}

function heard() {
  heardAt = Date.now();
  watch();
}

function watch() {
  clearTimeout(watchdog);
  watchdog = setTimeout(() => {
    drop();
    lose(true);
  }, SILENCE_MS);
}

function drop() {
  const old = socket;
  socket = null;
  old?.close();
}

/** The line is gone: try again after a while that doubles, with jitter, so that a team does not come back at once. */
async function lose(greeted) {
  clearTimeout(watchdog);
  clearTimeout(reconnecting);
  if (user.peek() === null || expired.peek()) return;
  if (failures > 0 || !navigator.onLine) line.value = "lost";
  else if (line.peek() === "open") line.value = "connecting";
  const wait = Math.min(LONGEST_WAIT_MS, 1000 * 2 ** failures) * (0.5 + Math.random() / 2);
  failures += 1;
  reconnecting = setTimeout(connect, wait);
  if (greeted || !navigator.onLine) return;
  refusals = (await isAnswered()) ? refusals + 1 : 0;
  if (refusals >= REFUSALS_BEFORE_EVENTS) useEvents();
}

/** A refused upgrade does not tell its status; the session's own address does. */
async function isAnswered() {
  try {
    await get("/auth/session");
    return true;
  } catch (error) {
    if (error.status === 401) expire();
    return false;
  }
}

/** The second way in: one event stream for each run. Changes made elsewhere then show when the list is read anew. */
function useEvents() {
  clearTimeout(reconnecting);
  viaEvents = true;
  line.value = "open";
  for (const [run, subscription] of subscriptions) listen(run, subscription);
  announceNews({ t: "chats" });
}

function listen(run, subscription) {
  const source = new EventSource(`/api/runs/${run}/events?from=${subscription.seq}`);
  subscription.source = source;
  source.onopen = () => (line.value = "open");
  source.onmessage = ({ data }) => {
    const frame = JSON.parse(data);
    if (frame.t !== "hb") take(frame);
  };
  source.onerror = async () => {
    if (source.readyState !== EventSource.CLOSED) return (line.value = "lost"); // it tries again by itself
    if (subscriptions.get(run) === subscription && (await isAnswered())) take({ t: "gone", run });
  };
}
