// The page: the login alone, or the chats beside the thread, its composer and the parameters.
import { html, useEffect, useRef, useSignal } from "../../vendor/core.js";
import { current, refresh, startNew } from "../chats.js";
import { engine } from "../engine.js";
import { has, span, t } from "../i18n.js";
import { line, outdated } from "../link.js";
import { checkSession, expired, unreachable, user } from "../session.js";
import { change, config, settings } from "../settings.js";
import { Announcer, IconButton, Later, Page, Toasts, roomForPanel, roomForSidebar } from "./common.js";
import { Composer } from "./composer.js";
import { Sidebar } from "./sidebar.js";
import { Thread } from "./thread.js";

export function App() {
  if (unreachable.value && user.value === null) return html`<${Unreachable} />`;
  if (user.value === null) return html`<${Later} importing=${() => import("./login.js").then((module) => module.LoginPage)} />`;
  return html`
    <${Chat} />
    <${Page} />
    ${expired.value && html`<${Later} importing=${() => import("./login.js").then((module) => module.LoginOverlay)} />`}
    <${Toasts} />
    <${Announcer} />
  `;
}

function Chat() {
  const panel = useSignal(false);
  const drawer = useSignal(false);
  const sidebarShown = roomForSidebar.value ? settings.value.sidebar !== false : drawer.value;
  const leave = (byButton) => {
    if (!roomForSidebar.peek()) drawer.value = false;
    else if (byButton === true) change({ sidebar: false });
  };
  const showSidebar = () => (roomForSidebar.peek() ? change({ sidebar: true }) : (drawer.value = true));
  return html`
    <div class="chat">
      ${sidebarShown && roomForSidebar.value && html`<${Sidebar} leave=${leave} />`}
      ${sidebarShown && !roomForSidebar.value && html`<${Drawer} label=${t("chats")} close=${() => (drawer.value = false)}><${Sidebar} leave=${leave} /><//>`}
      <div class="middle">
        <header class="bar">
          ${!(sidebarShown && roomForSidebar.value) && html`<${IconButton} icon="sidebar" label=${t("sidebar.show")} onClick=${showSidebar} />`}
          <${Title} />
          <span class="spring" />
          <${Model} />
          ${!(sidebarShown && roomForSidebar.value) && html`<${IconButton} icon="add" label=${t("chat.new")} onClick=${() => startNew()} />`}
          <${IconButton} icon="sliders" label=${t("panel.title")} aria-expanded=${panel.value} onClick=${() => (panel.value = !panel.value)} />
        </header>
        <main class="column">
          <${Notices} />
          <${Thread} />
          <${Composer} />
        </main>
      </div>
      ${panel.value && html`<${Panel} close=${() => (panel.value = false)} />`}
    </div>
  `;
}

/** A sheet that slides in from the side and takes the focus; Escape and a click beside it close it. */
function Drawer({ label, close, side = "left", children }) {
  const dialog = useRef(null);
  useEffect(() => {
    dialog.current.showModal();
  }, []);
  return html`
    <dialog ref=${dialog} class="drawer ${side}" aria-label=${label} onClose=${close} onClick=${(event) => event.target === dialog.current && close()}>
      ${children}
    </dialog>
  `;
}

function Panel({ close }) {
  const panel = html`<${Later} importing=${() => import("./panel.js").then((module) => module.ParameterPanel)} close=${close} />`;
  if (roomForPanel.value) return html`<aside class="panel" aria-label=${t("panel.title")}>${panel}</aside>`;
  return html`<${Drawer} label=${t("panel.title")} side="right" close=${close}>${panel}<//>`;
}

const Title = () => html`<h1 class="chat-title">${current.value.row.value?.title || t("chat.new")}</h1>`;

function Model() {
  const { model, simulated, state } = engine.value ?? {};
  const name = config.value.model ?? model;
  return html`
    ${name && html`<span class="model" data-state=${state} title=${name}>${name}</span>`}
    ${simulated && html`<span class="tag" title=${t("engine.simulated.long")}>${t("engine.simulated")}</span>`}
  `;
}

/** One line above the thread, or nothing: no connection, an engine that is not ready, a new version. */
function Notices() {
  if (line.value === "lost") return html`<p class="notice" data-state="offline" role="status">${t("link.lost")}</p>`;
  return html`
    ${outdated.value && html`
      <p class="notice update"><span>${t("update")}</span> <button type="button" class="button" onClick=${() => location.reload()}>${t("update.reload")}</button></p>
    `}
    <${EngineNotice} />
    <${ChatNotice} />
  `;
}

function EngineNotice() {
  if (engine.value === null || engine.value.state === "ready") return null;
  const { state, phase, percent, elapsed_s: elapsed, reason } = engine.value;
  const stateText = t(has(`engine.${state}`) ? `engine.${state}` : "engine.other");
  const phaseText = has(`phase.${phase}`) ? t(`phase.${phase}`) : phase;
  const parts = [
    stateText,
    phaseText && (percent == null ? phaseText : `${phaseText} ${Math.round(percent)}\u00a0%`),
    elapsed != null && span(elapsed),
    state === "failed" && reason,
  ];
  return html`
    <div class="notice" data-state=${state}>
      <span>${parts.filter(Boolean).join(" · ")}</span>
      ${phaseText && percent != null && html`<progress max="100" value=${percent} aria-label=${phaseText ?? stateText} />`}
    </div>
  `;
}

/** A chat that is not there, or could not be read. */
function ChatNotice() {
  const conversation = current.value;
  const state = conversation.state.value;
  if (state === "missing") {
    return html`<p class="notice" role="status">${t("chat.missing")} <button type="button" class="button" onClick=${() => startNew()}>${t("chat.new")}</button></p>`;
  }
  if (state !== "failed") return null;
  return html`<p class="notice" role="status">${t("chat.failed")} <button type="button" class="button" onClick=${() => refresh(conversation)}>${t("retry")}</button></p>`;
}

const Unreachable = () => html`
  <main class="gate">
    <div class="gate-card">
      <p>${t("error.network")}</p>
      <button type="button" class="button primary" onClick=${checkSession}>${t("retry")}</button>
    </div>
  </main>
`;
