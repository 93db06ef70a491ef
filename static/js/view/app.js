// The page: the login alone, or the chat with its bar, thread and composer.
import { html, useSignal } from "../../vendor/ui.js";
import { clear, path } from "../conversation.js";
import { engine, offline } from "../engine.js";
import { LANGUAGES, has, language, t } from "../i18n.js";
import { active, stop } from "../run.js";
import { checkSession, expired, logout, unreachable, user } from "../session.js";
import { change, config, settings } from "../settings.js";
import { Announcer, Icon, IconButton } from "./common.js";
import { Composer } from "./composer.js";
import { LoginOverlay, LoginPage } from "./login.js";
import { Thread } from "./thread.js";

export function App() {
  if (unreachable.value && user.value === null) return html`<${Unreachable} />`;
  if (user.value === null) return html`<${LoginPage} choices=${html`<${LanguageChoice} />`} />`;
  return html`
    <${Chat} />
    ${expired.value && html`<${LoginOverlay} />`}
    <${Announcer} />
  `;
}

function Chat() {
  const Panel = useSignal(null);
  const panelOpen = useSignal(false);
  const togglePanel = async () => {
    Panel.value ??= (await import("./panel.js")).ParameterPanel;
    panelOpen.value = !panelOpen.value;
  };
  const startNew = () => {
    stop();
    clear();
    document.getElementById("composer-input")?.focus();
  };
  return html`
    <div class="chat">
      <header class="bar">
        <span class="brand"><${Icon} name="brand" /><b>${config.value.title}</b></span>
        <${Model} />
        <span class="spring" />
        <${IconButton} icon="add" label=${t("chat.new")} onClick=${startNew} disabled=${path.value.length === 0} />
        <${IconButton} icon="sliders" label=${t("panel.title")} aria-expanded=${panelOpen.value} onClick=${togglePanel} />
        <${Account} />
      </header>
      <main class="column">
        <${EngineNotice} />
        <${Thread} />
        <${Composer} />
      </main>
      ${panelOpen.value && html`<${Panel.value} close=${() => (panelOpen.value = false)} />`}
    </div>
  `;
}

function Model() {
  const { model, simulated, state } = engine.value ?? {};
  const name = config.value.model ?? model;
  return html`
    ${name && html`<span class="model" data-state=${state} title=${name}>${name}</span>`}
    ${simulated && html`<span class="tag" title=${t("engine.simulated.long")}>${t("engine.simulated")}</span>`}
  `;
}

/** Loading with its progress, a lost connection, a failed engine: one line above the thread, or nothing. */
function EngineNotice() {
  if (offline.value) return html`<p class="notice" role="status">${t("engine.offline")}</p>`;
  if (engine.value === null || engine.value.state === "ready") return null;
  const { state, phase, percent, elapsed_s: elapsed, reason } = engine.value;
  const stateText = t(has(`engine.${state}`) ? `engine.${state}` : "engine.other");
  const phaseText = has(`phase.${phase}`) ? t(`phase.${phase}`) : phase;
  const parts = [
    stateText,
    phaseText && (percent == null ? phaseText : `${phaseText} ${Math.round(percent)}\u00a0%`),
    elapsed != null && t("seconds", { n: Math.round(elapsed) }),
    state === "failed" && reason,
  ];
  return html`
    <div class="notice" data-state=${state}>
      <span>${parts.filter(Boolean).join(" · ")}</span>
      ${phaseText && percent != null && html`<progress max="100" value=${percent} aria-label=${phaseText ?? stateText} />`}
    </div>
  `;
}

function Account() {
  const failed = useSignal(false);
  const Page = useSignal(null);
  const pageOpen = useSignal(false);
  const openPage = async () => {
    document.getElementById("account").hidePopover();
    Page.value ??= (await import("./account.js")).AccountPage;
    pageOpen.value = true;
  };
  const leave = async () => {
    if (active.value) stop();
    failed.value = await logout().then(() => false, () => true);
  };
  const { name, display_name: displayName, team, plan } = user.value ?? {}; // null for a moment while signing out
  return html`
    <${IconButton} icon="user" label=${t("account")} popovertarget="account" />
    <div id="account" class="popover" popover>
      <p class="who"><b>${displayName || name}</b><small>${[team, plan].filter(Boolean).join(" · ")}</small></p>
      <${Choice}
        label=${t("theme")}
        options=${["auto", "light", "dark"].map((value) => [value, t(`theme.${value}`)])}
        value=${settings.value.theme ?? "auto"}
        onChoose=${(theme) => change({ theme })}
      />
      <${LanguageChoice} />
      <button type="button" class="button wide" onClick=${openPage}>${t("account.page")}</button>
      <button type="button" class="button wide" onClick=${leave}>${t("logout")}</button>
      ${failed.value && html`<p class="form-error" role="alert">${t("error.network")}</p>`}
    </div>
    ${pageOpen.value && html`<${Page.value} close=${() => (pageOpen.value = false)} />`}
  `;
}

function LanguageChoice() {
  const offered = config.value.languages.filter((tag) => tag in LANGUAGES);
  if (offered.length < 2) return null;
  return html`
    <${Choice}
      label=${t("language")}
      options=${offered.map((tag) => [tag, LANGUAGES[tag]])}
      value=${language.value}
      onChoose=${(tag) => change({ language: tag })}
    />
  `;
}

/** A few exclusive options as one row of radio buttons. */
export function Choice({ label, options, value, onChoose }) {
  const group = `choice-${label}`;
  return html`
    <fieldset class="choice">
      <legend>${label}</legend>
      <div>
        ${options.map(
          ([option, text]) => html`
            <label key=${option} lang=${option in LANGUAGES ? option : undefined}>
              <input type="radio" name=${group} checked=${option === value} onChange=${() => onChoose(option)} />
              <span>${text}</span>
            </label>
          `,
        )}
      </div>
    </fieldset>
  `;
}

const Unreachable = () => html`
  <main class="gate">
    <div class="gate-card">
      <p>${t("error.network")}</p>
      <button type="button" class="button primary" onClick=${checkSession}>${t("retry")}</button>
    </div>
  </main>
`;
