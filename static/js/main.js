// Start: config and session are asked for together, then the page is drawn once, in its language.
import { effect, html, render } from "../vendor/ui.js";
import { open } from "./conversation.js";
import { watchEngine } from "./engine.js";
import { watchLanguage } from "./i18n.js";
import { checkSession, user } from "./session.js";
import { config, loadConfig } from "./settings.js";
import { App } from "./view/app.js";

await Promise.all([loadConfig().then(watchLanguage), checkSession()]);
effect(() => {
  document.title = config.value.title;
});
effect(() => open(user.value?.name ?? null));
watchEngine();
render(html`<${App} />`, document.getElementById("app"));
