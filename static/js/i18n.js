// Two complete languages; the one in use is fetched, the other on demand.
import { effect, signal } from "../vendor/core.js";
import { config, settings } from "./settings.js";

export const LANGUAGES = { en: "English", "zh-CN": "简体中文" };

/** The language on screen, changed only once its texts are there. */
export const language = signal("en");
const texts = signal({});
const parts = new Set([""]); // what of the page is in use: "" is the chat, "pages." what opens over it

/**
 * The text of `key` with `{name}` replaced from `values`, and `{name|one|more}` by the word that stands after that number;
 * components that call it follow the language.
 */
export function t(key, values = {}) {
  const text = texts.value[key];
  if (text === undefined) console.error(`no text for ${key} in ${language.value}`);
  return (text ?? key).replace(/\{(\w+)(?:\|([^|}]*)\|([^|}]*))?\}/g, (_, name, one, more) => {
    if (one === undefined) return values[name];
    return values[name] === number(1) ? one : more;
  });
}

export const has = (key) => key in texts.value;

/** The operator's own word for something, from {tag: text}; undefined where there is none. */
export const named = (words) => words[language.value] ?? words.en;

/** A length of time in the unit that reads best. */
export function span(seconds) {
  if (seconds < 120) return t("seconds", { n: Math.ceil(seconds) });
  if (seconds < 7200) return t("minutes", { n: Math.ceil(seconds / 60) });
  return t("hours", { n: Math.ceil(seconds / 3600) });
}

export const number = (value, digits = 0) =>
  value.toLocaleString(language.value, { minimumFractionDigits: digits, maximumFractionDigits: digits });

/** Fetch the texts of what opens over the chat. */
export async function needTexts() {
  if (parts.has("pages.")) return;
  await load(language.peek(), ["", "pages."]);
  parts.add("pages.");
}

/** Resolves when the first language is there, and follows the user's choice from then on. */
export function watchLanguage() {
  return new Promise((resolve) => {
    effect(() => {
      const wanted = choose();
      load(wanted).then(resolve, (error) => console.warn("language not loaded", error));
    });
  });
}

function choose() {
  const offered = config.value.languages.filter((tag) => tag in LANGUAGES);
  for (const tag of [settings.value.language, ...navigator.languages]) {
    const match = offered.find((candidate) => candidate === tag || candidate.split("-")[0] === tag?.split("-")[0]);
    if (match) return match;
  }
  return offered[0] ?? "en";
}

async function load(tag, wanted = parts) {
  const modules = await Promise.all([...wanted].map((part) => import(`./locales/${part}${tag}.js`)));
  if (choose() !== tag) return;
  texts.value = Object.assign({}, ...modules.map((module) => module.default));
  language.value = tag;
  document.documentElement.lang = tag;
}
