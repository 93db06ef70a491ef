// How the page behaves for this user, their chats as files, and the list of shortcuts.
import { html, useSignal } from "../../vendor/core.js";
import { request } from "../session.js";
import { loadChats } from "../chats.js";
import { number, t } from "../i18n.js";
import { SHORTCUTS } from "../main.js";
import { change, settings, ui } from "../settings.js";
import { Choice, LanguageChoice, Overlay, ThemeChoice, explain } from "./common.js";

export function PreferencesPage({ close }) {
  const keys = ["enter", "ctrl-enter"].map((value) => [value, t(`settings.send.${value}`)]);
  return html`
    <${Overlay} title=${t("settings.title")} class="page" close=${close}>
      <${ThemeChoice} />
      <${LanguageChoice} />
      <${Choice} label=${t("settings.send")} options=${keys} value=${ui.value.sendKey} onChoose=${(sendKey) => change({ sendKey })} />
      <${Check} label=${t("settings.reasoning")} value=${ui.value.showReasoning} set=${(showReasoning) => change({ showReasoning })} />
      <${Check} label=${t("settings.stats")} value=${ui.value.showStats} set=${(showStats) => change({ showStats })} />
      <${Check} label=${t("settings.shortcuts")} value=${settings.value.shortcuts !== false} set=${(shortcuts) => change({ shortcuts })} />
      <${Data} />
    <//>
  `;
}

const Check = ({ label, value, set }) => html`
  <label class="check"><input type="checkbox" checked=${value} onChange=${(event) => set(event.target.checked)} />${label}</label>
`;

function Data() {
  const said = useSignal("");
  const read = async (event) => {
    const [file] = event.target.files;
    event.target.value = "";
    let chats;
    try {
      chats = JSON.parse(await file.text());
    } catch {
      said.value = t("settings.import.failed", { message: t("settings.import.json") });
      return;
    }
    try {
      const response = await request("POST", "/api/import", chats);
      said.value = t("settings.imported", { n: number((await response.json()).chats.length) });
      await loadChats();
    } catch (error) {
      said.value = t("settings.import.failed", { message: `${explain(error)} ${error.message}` });
    }
  };
  return html`
    <section>
      <h3>${t("settings.data")}</h3>
      <div class="card-actions">
        <a class="button" href="/api/export" download>${t("settings.export")}</a>
        <label class="button file-button">${t("settings.import")}<input type="file" accept=".json,application/json" class="visually-hidden" onChange=${read} /></label>
      </div>
      <p class="small" role="status">${said}</p>
    </section>
  `;
}

export function ShortcutsPage({ close }) {
  const isCtrl = ui.value.sendKey === "ctrl-enter";
  const rows = [
    [isCtrl ? "Ctrl/⌘ + Enter" : "Enter", "send"],
    [isCtrl ? "Enter" : "Shift + Enter", "line"],
    ["Esc", "stop"],
    ...(settings.value.shortcuts === false ? [] : Object.entries(SHORTCUTS).map(([key, { name }]) => [key, name])),
  ];
  return html`
    <${Overlay} title=${t("shortcuts.title")} class="page" close=${close}>
      <dl class="keys">${rows.map(([key, name]) => html`<div><dt><kbd>${key}</kbd></dt><dd>${t(`shortcuts.${name}`)}</dd></div>`)}</dl>
      ${settings.value.shortcuts === false && html`<p class="small muted">${t("shortcuts.off")}</p>`}
    <//>
  `;
}
