// The parameters of the next request. Fetched when first opened.
import { html, useEffect, useRef } from "../../vendor/ui.js";
import { number, t } from "../i18n.js";
import { change, changeParam, config, params, range } from "../settings.js";
import { Choice } from "./app.js";
import { IconButton } from "./common.js";

/** A column beside the thread where there is room, a sheet over it on a phone. */
export function ParameterPanel({ close }) {
  const dialog = useRef(null);
  useEffect(() => {
    if (matchMedia("(min-width: 1024px)").matches) dialog.current.show();
    else dialog.current.showModal();
  }, []);
  const { temperature, max_tokens: maxTokens, reasoning_effort: effort, system_prompt: prompt } = params.value;
  const [coldest, hottest] = range("temperature");
  const [fewest, most] = range("max_tokens");
  const efforts = ["low", "medium", "high"].map((value) => [value, t(`effort.${value}`)]);
  return html`
    <dialog ref=${dialog} class="panel" aria-labelledby="panel-title" onClose=${close}>
      <div class="panel-head">
        <h2 id="panel-title">${t("panel.title")}</h2>
        <${IconButton} icon="close" label=${t("close")} onClick=${close} />
      </div>
      <${Choice} label=${t("panel.effort")} options=${efforts} value=${effort} onChoose=${(value) => changeParam("reasoning_effort", value)} />
      <label class="field">
        <span>${t("panel.max_tokens")}</span>
        <input
          type="number" min=${fewest} max=${most} step="1" value=${maxTokens ?? ""} placeholder=${t("panel.default")}
          onChange=${(event) => changeParam("max_tokens", event.target.value === "" ? undefined : event.target.valueAsNumber)}
        />
      </label>
      <label class="field">
        <span>${t("panel.temperature")} <output>${temperature === undefined ? t("panel.default") : number(temperature, 1)}</output></span>
        <input
          type="range" min=${coldest} max=${hottest} step="0.1" value=${temperature ?? 1}
          onInput=${(event) => changeParam("temperature", event.target.valueAsNumber)}
        />
      </label>
      <label class="field">
        <span>${t("panel.system")}</span>
        <textarea rows="6" value=${prompt ?? ""} onInput=${(event) => changeParam("system_prompt", event.target.value)} />
      </label>
      <p class="small muted">${t("panel.note", { title: config.value.title })}</p>
      <button type="button" class="button wide" onClick=${() => change({ params: {} })}>${t("panel.reset")}</button>
    </dialog>
  `;
}
