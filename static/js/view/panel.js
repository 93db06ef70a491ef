// The parameters of this chat. Fetched when first opened.
import { html, useSignal } from "../../vendor/core.js";
import { change as changeChat, current } from "../chats.js";
import { named, number, t } from "../i18n.js";
import { EFFORTS, change, clamp, config, effective, range, settings } from "../settings.js";
import { Choice, IconButton, explain, toast } from "./common.js";

const SAVE_MS = 400;
let timer = 0;

export function ParameterPanel({ close }) {
  const conversation = current.value;
  const own = conversation.params.value;
  const values = effective(own);
  const preset = useSignal("");

  /** Show it now; the server hears of it once the hand rests. */
  const set = (params) => {
    conversation.params.value = params;
    clearTimeout(timer);
    if (conversation.id === null) return;
    timer = setTimeout(() => {
      changeChat(conversation.row.peek(), { params }).catch((error) => toast(explain(error)));
    }, SAVE_MS);
  };
  const put = (name, value) => set({ ...own, [name]: clamp(name, value) ?? null });
  const take = (id) => {
    preset.value = id;
    const chosen = config.value.presets.find((candidate) => candidate.id === id);
    if (chosen) set({ ...chosen.params });
  };
  const keep = () => {
    const mine = Object.fromEntries(Object.entries({ ...settings.value.params, ...own }).filter(([, value]) => value != null));
    change({ params: mine });
    toast(t("panel.kept"));
  };
  const reset = () => {
    change({ params: {} });
    preset.value = "";
    set({});
  };
  const efforts = EFFORTS.map((value) => [value, t(`effort.${value}`)]);
  return html`
    <div class="panel-body">
      <div class="panel-head">
        <h2>${t("panel.title")}</h2>
        <${IconButton} icon="close" label=${t("close")} onClick=${close} />
      </div>
      ${config.value.presets.length > 0 && html`
        <label class="field">
          <span>${t("panel.preset")}</span>
          <select value=${preset} onChange=${(event) => take(event.target.value)}>
            <option value="">${t("panel.preset.none")}</option>
            ${config.value.presets.map(({ id, name }) => html`<option value=${id}>${named(name) ?? id}</option>`)}
          </select>
        </label>
      `}
      <${Choice} label=${t("panel.effort")} options=${efforts} value=${values.reasoning_effort} onChoose=${(value) => put("reasoning_effort", value)} />
      <label class="field">
        <span>${t("panel.system")}</span>
        <textarea name="system_prompt" rows="5" value=${values.system_prompt ?? ""} onInput=${(event) => put("system_prompt", event.target.value)} />
      </label>
      <${Amount} name="max_tokens" value=${values.max_tokens} put=${put} />
      <${Slider} name="temperature" value=${values.temperature} start=${1} put=${put} />
      <details class="more">
        <summary>${t("panel.more")}</summary>
        <${Slider} name="top_p" value=${values.top_p} start=${1} put=${put} step=${0.05} />
        <${Slider} name="frequency_penalty" value=${values.frequency_penalty} start=${0} put=${put} />
        <${Slider} name="presence_penalty" value=${values.presence_penalty} start=${0} put=${put} />
        <${Amount} name="seed" value=${values.seed} put=${put} />
        <label class="field">
          <span>${t("panel.stop")}</span>
          <textarea
            name="stop" rows="2" value=${(values.stop ?? []).join("\n")}
            onChange=${(event) => put("stop", event.target.value.split("\n").filter(Boolean).slice(0, 16))}
          />
        </label>
      </details>
      <p class="small muted">${t("panel.note", { title: config.value.title })}</p>
      <button type="button" class="button wide" onClick=${keep}>${t("panel.keep")}</button>
      <button type="button" class="button wide" onClick=${reset}>${t("panel.reset")}</button>
    </div>
  `;
}

function Amount({ name, value, put }) {
  const [least, most] = range(name) ?? [0, 2 ** 31 - 1];
  return html`
    <label class="field">
      <span>${t(`panel.${name}`)}</span>
      <input
        type="number" name=${name} min=${least} max=${most} step="1" value=${value ?? ""} placeholder=${t("panel.default")}
        onChange=${(event) => put(name, event.target.value === "" ? null : Math.trunc(event.target.valueAsNumber))}
      />
    </label>
  `;
}

function Slider({ name, value, start, put, step = 0.1 }) {
  const [least, most] = range(name);
  return html`
    <label class="field">
      <span>${t(`panel.${name}`)} <output>${value == null ? t("panel.default") : number(value, step < 0.1 ? 2 : 1)}</output></span>
      <input type="range" name=${name} min=${least} max=${most} step=${step} value=${value ?? start} onInput=${(event) => put(name, event.target.valueAsNumber)} />
    </label>
  `;
}
