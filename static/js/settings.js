// What the operator configured and what the user changed: config → user settings.
import { computed, signal } from "../vendor/ui.js";
import { get } from "./api.js";

const KEY = "gatehouse.settings";
const EFFORTS = ["low", "medium", "high"];
const RANGES = { temperature: [0, 2], max_tokens: [1, 131072] };
const FALLBACK = {
  title: "Gatehouse",
  languages: ["en", "zh-CN"],
  model: null,
  defaults: {},
  ranges: {},
  ui: { sendKey: "enter", showReasoning: true, showStats: true, flushMs: 40 },
  build: null,
};

export const config = signal(FALLBACK);
/** {theme, language, params}: only what the user chose; kept in this browser. */
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

/** Change one request parameter; undefined takes the operator's default again. */
export function changeParam(name, value) {
  change({ params: { ...settings.value.params, [name]: clamp(name, value) } });
}

export const range = (name) => config.value.ranges[name] ?? RANGES[name];

/** The parameters of the next request: temperature, max_tokens, reasoning_effort, system_prompt, as far as set. */
export const params = computed(() => {
  const merged = {};
  for (const source of [config.value.defaults, settings.value.params ?? {}]) {
    for (const [name, value] of Object.entries(source)) merged[name] = clamp(name, value) ?? merged[name];
  }
  return merged;
});

function clamp(name, value) {
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
