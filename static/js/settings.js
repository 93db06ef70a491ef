// What the operator configured and what the user changed: config → user settings.
import { computed, signal } from "../vendor/core.js";
import { get } from "./session.js";

const KEY = "gatehouse.settings";
/** How hard the model may think. */
export const EFFORTS = ["low", "medium", "high"];
const RANGES = {
  temperature: [0, 2],
  top_p: [0, 1],
  max_tokens: [1, 131072],
  frequency_penalty: [-2, 2],
  presence_penalty: [-2, 2],
};
const FALLBACK = {
  title: "Gatehouse",
  languages: ["en", "zh-CN"],
  model: null,
  defaults: {},
  ranges: {},
  presets: [],
  ui: { sendKey: "enter", showReasoning: true, showStats: true, flushMs: 40, maxAttachKB: 256 },
  limits: { message_bytes: 262_144 },
  features: {},
  build: null,
};

export const config = signal(FALLBACK);
/** {theme, language, params, sendKey, showReasoning, showStats, shortcuts, sidebar}: only what the user chose; kept in this browser. */
export const settings = signal(read());

/** A missing config.json is no reason to show nothing. */
export async function loadConfig() {
  try {
    const loaded = await get("/static/config.json");
    config.value = { ...FALLBACK, ...loaded, ui: { ...FALLBACK.ui, ...loaded.ui } };
  } catch (error) {
    console.warn("config.json could not be read; built-in values are used", error);
  }
}

export function change(values) {
  settings.value = { ...settings.value, ...values };
  try {
    localStorage.setItem(KEY, JSON.stringify(settings.value));
  } catch {
    // Private browsing or a full disk: the choice lasts as long as the page.
  }
  window.applyTheme();
}

/** What the page does, by the operator's configuration or the user's choice: sendKey, showReasoning, showStats, flushMs. */
export const ui = computed(() => {
  const { sendKey, showReasoning, showStats } = settings.value;
  const chosen = Object.entries({ sendKey, showReasoning, showStats }).filter(([, value]) => value !== undefined);
  return { ...config.value.ui, ...Object.fromEntries(chosen) };
});

export const range = (name) => config.value.ranges[name] ?? RANGES[name];

/** The parameters of the next request, by precedence: configuration, the user's own, the chat's. */
export function effective(chatParams) {
  const merged = {};
  for (const source of [config.value.defaults, settings.value.params ?? {}, chatParams]) {
    for (const [name, value] of Object.entries(source)) merged[name] = clamp(name, value) ?? merged[name];
  }
  return merged;
}

/** What a run must be told beyond what the server knows by itself: the user's own, where the chat says nothing. */
export function runParams(chatParams) {
  const own = Object.entries(settings.peek().params ?? {}).filter(([name]) => chatParams[name] == null);
  return Object.fromEntries(own.map(([name, value]) => [name, clamp(name, value)]).filter(([, value]) => value !== undefined));
}

/** The value within its range; undefined when it is none, so that the layer below counts. */
export function clamp(name, value) {
  if (value === undefined || value === null) return undefined;
  if (name === "reasoning_effort") return EFFORTS.includes(value) ? value : undefined;
  const bounds = range(name);
  if (bounds === undefined) return value;
  const number = Number(value);
  if (!Number.isFinite(number)) return undefined;
  const within = Math.min(bounds[1], Math.max(bounds[0], number));
  return name === "max_tokens" ? Math.round(within) : within;
}

function read() {
  try {
    return JSON.parse(localStorage.getItem(KEY)) ?? {};
  } catch {
    return {};
  }
}
