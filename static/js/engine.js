// The engine's state, asked for often while it is not ready and seldom when it is.
import { effect, signal } from "../vendor/core.js";
import { expire, expired, get, user } from "./session.js";

const NOT_READY_MS = 1500;
const READY_MS = 30_000;
const LONGEST_MS = 30_000;

/** {state, phase, percent, elapsed_s, eta_s, reason, model, simulated}; null until the first answer. */
export const engine = signal(null);
let timer = 0;
let failures = 0;

/** Poll while somebody is signed in; a regained network or a tab shown again asks at once. */
export function watchEngine() {
  effect(() => {
    clearTimeout(timer);
    if (user.value !== null && !expired.value) timer = setTimeout(ask, 0);
  });
  addEventListener("online", askSoon);
  document.addEventListener("visibilitychange", () => document.hidden || askSoon());
}

/** Ask now: a request was just answered with "engine loading", or the network came back. */
export function askSoon() {
  if (user.value === null) return;
  clearTimeout(timer);
  timer = setTimeout(ask, 0);
}

async function ask() {
  let wait = NOT_READY_MS;
  try {
    engine.value = await get("/api/engine");
    failures = 0;
    if (engine.value.state === "ready") wait = READY_MS;
  } catch (error) {
    if (error.status === 401) return expire();
    failures += 1;
    // Jitter, so that a team's browsers do not all come back in the same instant.
    wait = Math.min(LONGEST_MS, 1000 * 2 ** failures) * (0.5 + Math.random() / 2);
  }
  clearTimeout(timer);
  if (user.value !== null && !expired.value) timer = setTimeout(ask, wait);
}
