// One way to talk to the gateway, JSON out, a Response or an ApiError back; and who does: the cookie is HttpOnly, so
// this page never sees a token, it only learns the user's name.
import { signal } from "../vendor/core.js";

/** What went wrong, in one shape for HTTP errors, errors inside a stream and a network that is away. */
export class ApiError extends Error {
  /** `status` 0 means that no answer came; `retryAfterMs` is null when the server named no time. */
  constructor({ status, code, message, requestId = null, retryAfterMs = null, details = null }) {
    super(message);
    Object.assign(this, { status, code, requestId, retryAfterMs, details });
  }
}

/** Send `body` (undefined: none) and return the Response; anything but 2xx throws an ApiError. */
export async function request(method, path, body, { signal } = {}) {
  const headers = body === undefined ? {} : { "Content-Type": "application/json" };
  let response;
  try {
    response = await fetch(path, { method, headers, body: JSON.stringify(body), signal, cache: "no-store" });
  } catch (error) {
    throw noAnswer(error);
  }
  if (response.ok) return response;
  throw await errorOf(response);
}

/** What a Response holds. One that breaks off, as when the page is left between its head and its end, was no answer. */
export async function read(response) {
  try {
    return await response.json();
  } catch (error) {
    throw noAnswer(error);
  }
}

const noAnswer = (error) => (error.name === "AbortError" ? error : new ApiError({ status: 0, code: "network", message: String(error) }));

export const get = async (path, options) => read(await request("GET", path, undefined, options));
export const post = (path, body = {}, options) => request("POST", path, body, options);
export const patch = async (path, body) => read(await request("PATCH", path, body));
export const remove = (path) => request("DELETE", path, {});

async function errorOf(response) {
  const text = await response.text().catch(() => "");
  let error = {};
  try {
    error = JSON.parse(text).error ?? {};
  } catch {
    // A proxy's HTML page, for instance; the status says enough.
  }
  return new ApiError({
    status: response.status,
    code: codeOf(error) ?? `http_${response.status}`,
    message: error.message ?? (text.slice(0, 500) || response.statusText),
    requestId: response.headers.get("x-request-id"),
    retryAfterMs: retryAfterMs(response.headers),
    details: error.details ?? null,
  });
}

/** The stable code. vLLM repeats the status there; of its refusals only the full context matters here. */
function codeOf({ code, message = "" }) {
  if (typeof code === "string") return code;
  return message.includes("maximum context length") ? "context_length_exceeded" : undefined;
}

/** `retry-after-ms` (exact) before `retry-after` (seconds or a date, RFC 9110 §10.2.3); null when neither is there. */
function retryAfterMs(headers) {
  const exact = headers.get("retry-after-ms");
  if (exact !== null && Number.isFinite(Number(exact))) return Number(exact);
  const coarse = headers.get("retry-after");
  if (coarse === null) return null;
  const wait = /^\d+$/.test(coarse) ? Number(coarse) * 1000 : Date.parse(coarse) - Date.now();
  return Number.isFinite(wait) ? Math.max(0, wait) : null;
}

/** A style sheet, by its path below static/, that is not needed at first; resolves when it is in force. */
export function fetchSheet(path) {
  return new Promise((resolve, reject) => {
    const href = new URL(`../${path}`, import.meta.url);
    document.head.append(Object.assign(document.createElement("link"), { rel: "stylesheet", href, onload: resolve, onerror: reject }));
  });
}

/** A name that nobody else makes. randomUUID needs a secure context; a LAN without TLS has none. */
export function randomId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

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
  user.value = (await read(response)).user;
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

/** An answer took fewer tokens than were set aside for it when it began. */
export function giveBack(tokens) {
  if (quota.value !== null) quota.value = { ...quota.value, remaining: Math.min(quota.value.limit, quota.value.remaining + Math.max(0, tokens)) };
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
