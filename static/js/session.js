// Who is signed in. The cookie is HttpOnly: this page never sees a token, it only learns the user's name.
import { signal } from "../vendor/core.js";
import { get, post } from "./api.js";

/** {name, display_name, team, plan, admin}, or null when nobody is signed in. */
export const user = signal(null);
/** The session ended under an open chat: the login lies over it, so that nothing typed is lost. */
export const expired = signal(false);
/** What is left of the day's or the month's tokens: {period, limit, remaining}; null where they are not limited or not known. */
export const quota = signal(null);
/** The gateway did not answer when the page was opened. */
export const unreachable = signal(false);

export async function checkSession() {
  try {
    user.value = (await get("/auth/session")).user;
    unreachable.value = false;
  } catch (error) {
    unreachable.value = error.status !== 401;
  }
}

/** Throws the ApiError of a refused login. */
export async function login(username, password) {
  const response = await post("/auth/login", { username, password });
  user.value = (await response.json()).user;
  expired.value = false;
}

export async function logout() {
  try {
    await post("/auth/logout");
  } catch (error) {
    if (error.status !== 401) throw error;
  }
  user.value = null;
  expired.value = false;
}

export function expire() {
  if (user.value !== null) expired.value = true;
}

/** Remember what an answer's headers say about the tokens that are left. */
export function noteQuota(headers) {
  for (const period of ["day", "month"]) {
    const [limit, remaining] = ["limit", "remaining"].map((name) => headers.get(`x-ratelimit-${name}-tokens-${period}`));
    if (limit !== null && remaining !== null) {
      quota.value = { period, limit: Number(limit), remaining: Number(remaining) };
      return;
    }
  }
}
