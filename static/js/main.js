// Start: config and session are asked for together, then the page is drawn once, in its language.
import { effect, html, render } from "../vendor/core.js";
import { current, openChats, startNew, watchChats } from "./chats.js";
import { watchEngine } from "./engine.js";
import { watchLanguage } from "./i18n.js";
import { connect, disconnect } from "./link.js";
import { forgetAll, openOutbox } from "./drafts.js";
import { watchSending } from "./sending.js";
import { checkSession, expired, user } from "./session.js";
import { config, loadConfig, settings } from "./settings.js";
import { App } from "./view/app.js";
import { showPage } from "./view/common.js";

// Keys for what is done often. They count outside text fields only, and can be switched off.
const focus = (id) => document.getElementById(id)?.focus();
const begin = () => {
  startNew();
  focus("composer-input");
};

/** Key → what it does; the names of the texts are those of the list under "?". */
export const SHORTCUTS = {
  "?": { name: "list", run: () => showPage(() => import("./view/preferences.js").then((module) => module.ShortcutsPage)) },
  n: { name: "new", run: begin },
  "/": { name: "search", run: () => focus("search") },
  c: { name: "composer", run: () => focus("composer-input") },
};

function watchShortcuts() {
  addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (settings.peek().shortcuts === false) return;
    if (event.target.closest?.("input, textarea, select, [contenteditable]")) return;
    const shortcut = SHORTCUTS[event.key];
    if (!shortcut || document.querySelector("dialog:modal")) return; // this search goes through all of a long chat: last
    event.preventDefault();
    shortcut.run();
  });
}

await Promise.all([loadConfig().then(watchLanguage), checkSession()]);
effect(() => {
  const title = current.value.row.value?.title;
  document.title = title ? `${title} · ${config.value.title}` : config.value.title;
});
watchChats();
let signedIn;
effect(() => {
  const name = user.value?.name ?? null;
  if (name === signedIn) return;
  if (name === null && signedIn !== undefined) forgetAll();
  signedIn = name;
  openOutbox(name);
  openChats(name);
  if (name === null) disconnect();
});
effect(() => {
  if (user.value !== null && !expired.value) connect();
});
watchSending();
watchEngine();
watchShortcuts();
render(html`<${App} />`, document.getElementById("app"));
