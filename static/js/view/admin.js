// For who runs this: the engine, what it serves now, the users, what was used. Needs the scope `admin`.
import { html, useEffect, useSignal } from "../../vendor/core.js";
import { get, patch, post } from "../session.js";
import { has, number, span, t } from "../i18n.js";
import { limitTexts } from "./account.js";
import { Choice, Overlay, explain } from "./common.js";
import { UsageTable } from "./usage.js";

const ASK_MS = 3000;
const TABS = { engine: Engine, requests: Requests, users: Users, usage: Usage, plans: Plans };

export function AdminPage({ close }) {
  const tab = useSignal("engine");
  return html`
    <${Overlay} title=${t("admin.title")} class="page admin" close=${close}>
      <${Choice} label=${t("admin.title")} options=${Object.keys(TABS).map((name) => [name, t(`admin.${name}`)])} value=${tab.value} onChoose=${(name) => (tab.value = name)} />
      <${TABS[tab.value]} key=${tab.value} />
    <//>
  `;
}

/** What an address answers, asked again every `everyMs`. */
function useAnswer(path, everyMs = 0) {
  const answer = useSignal(null);
  const error = useSignal(null);
  const read = () => get(path).then((got) => ([answer.value, error.value] = [got, null]), (failure) => (error.value = failure));
  useEffect(() => {
    read();
    if (everyMs === 0) return undefined;
    const timer = setInterval(read, everyMs);
    return () => clearInterval(timer);
  }, [path]);
  return { answer: answer.value, error: error.value, read };
}

const Failure = ({ error }) => error && html`<p class="form-error" role="alert">${explain(error)}</p>`;

function Engine() {
  const { answer, error, read } = useAnswer("/api/admin/engine?tail=50", ASK_MS);
  if (answer === null) return html`<${Failure} error=${error} />`;
  const { state, phase, percent, elapsed_s: elapsed, reason, model, version, restarts, tail, waiting } = answer;
  const facts = [
    [t("admin.state"), [inWords("engine", state), phase !== state && inWords("phase", phase), phase && `${Math.round(percent)} %`, phase && span(elapsed), reason].filter(Boolean).join(" · ")],
    [t("admin.model"), [model, version].filter(Boolean).join(" · ")],
    [t("admin.restarts"), number(restarts ?? 0)],
    [t("admin.waiting"), number(typeof waiting === "number" ? waiting : (waiting?.length ?? 0))],
  ];
  return html`
    <${Failure} error=${error} />
    <dl class="keys">${facts.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>
    <div class="card-actions">
      <${Command} name="restart" path="/api/admin/engine/restart" done=${read} />
      <${Command} name="drain" path="/api/admin/engine/drain" done=${read} />
      <${Command} name="reset" path="/api/admin/engine/reset-prefix-cache" done=${read} />
    </div>
    <section>
      <h3>${t("admin.tail")}</h3>
      <pre class="tail" tabindex="0">${(tail ?? []).join("\n")}</pre>
    </section>
  `;
}

const inWords = (kind, name) => (has(`${kind}.${name}`) ? t(`${kind}.${name}`) : name);

/** A button that asks once more before it does what others will notice. */
function Command({ name, path, done }) {
  const step = useSignal("idle"); // idle, asking, done, or an error
  const run = async () => {
    try {
      await post(path);
      step.value = "done";
    } catch (error) {
      step.value = error;
    }
    done();
  };
  if (step.value === "asking") {
    return html`
      <div class="card warn" role="alertdialog" aria-label=${t(`admin.${name}`)}>
        <p>${t("admin.confirm", { what: t(`admin.${name}.what`) })}</p>
        <div class="card-actions">
          <button type="button" class="button primary" onClick=${run}>${t("admin.yes")}</button>
          <button type="button" class="button" onClick=${() => (step.value = "idle")}>${t("cancel")}</button>
        </div>
      </div>
    `;
  }
  return html`
    <button type="button" class="button" onClick=${() => (step.value = "asking")}>${t(`admin.${name}`)}</button>
    <span role="status" class="small">${step.value === "done" ? t("admin.done") : step.value !== "idle" && explain(step.value)}</span>
  `;
}

/** Rows under names of columns, in a box that scrolls. */
const Table = ({ label, columns, rows }) => html`
  <div class="table-box" tabindex="0" role="region" aria-label=${label}>
    <table>
      <thead><tr>${columns.map((name) => html`<th>${name}</th>`)}</tr></thead>
      <tbody>${rows.map((cells) => html`<tr>${cells.map((cell) => html`<td>${cell}</td>`)}</tr>`)}</tbody>
    </table>
  </div>
`;

function Requests() {
  const { answer, error } = useAnswer("/api/admin/requests", ASK_MS);
  if (answer === null) return html`<${Failure} error=${error} />`;
  if (answer.requests.length === 0) return html`<p class="muted">${t("admin.none")}</p>`;
  const columns = ["subject", "team", "route", "doing", "age"].map((name) => t(`admin.col.${name}`));
  const rows = answer.requests.map((request) => [request.subject, request.team ?? "–", request.route, request.doing, span(request.age_s)]);
  return html`<${Failure} error=${error} /><${Table} label=${t("admin.requests")} columns=${columns} rows=${rows} />`;
}

function Users() {
  const { answer, error, read } = useAnswer("/api/admin/users");
  const { answer: plans } = useAnswer("/api/admin/plans");
  const failed = useSignal(null);
  const change = async (name, values) => {
    failed.value = await patch(`/api/admin/users/${encodeURIComponent(name)}`, values).then(() => null, (failure) => failure);
    await read();
  };
  if (answer === null) return html`<${Failure} error=${error} />`;
  const columns = [...["name", "team", "plan"].map((name) => t(`admin.col.${name}`)), ""];
  const rows = answer.users.map((user) => [
    html`<b>${user.name}</b> ${user.disabled_at && html`<span class="tag">${t("admin.disabled")}</span>`}`,
    user.team ?? "–",
    html`
      <select aria-label=${`${t("admin.col.plan")} · ${user.name}`} value=${user.plan} onChange=${(event) => change(user.name, { plan: event.target.value })}>
        ${Object.keys(plans?.plans ?? { [user.plan]: {} }).map((plan) => html`<option value=${plan} selected=${plan === user.plan}>${plan}</option>`)}
      </select>
    `,
    html`<button type="button" class="button" onClick=${() => change(user.name, { disabled: !user.disabled_at })}>${t(user.disabled_at ? "admin.enable" : "admin.disable")}</button>`,
  ]);
  return html`<${Failure} error=${failed.value ?? error} /><${Table} label=${t("admin.users")} columns=${columns} rows=${rows} />`;
}

function Usage() {
  const by = useSignal("subject");
  const { answer, error } = useAnswer(`/api/admin/usage?days=30&by=${by.value}`);
  const names = { subject: t("admin.col.subject"), team: t("admin.col.team"), model: t("usage.col.model"), day: t("usage.col.day") };
  return html`
    <${Choice} label=${t("admin.usage")} options=${Object.entries(names)} value=${by.value} onChoose=${(name) => (by.value = name)} />
    <${Failure} error=${error} />
    ${answer?.by.includes(by.value) && html`<${UsageTable} rows=${answer.data} by=${[by.value]} />`}
  `;
}

function Plans() {
  const { answer, error } = useAnswer("/api/admin/plans");
  if (answer === null) return html`<${Failure} error=${error} />`;
  const rows = Object.entries(answer.plans).map(([name, plan]) => [html`<b>${name}</b>`, limitTexts(plan).join(", ") || t("admin.unlimited")]);
  return html`<${Table} label=${t("admin.plans")} columns=${[t("admin.col.plan"), t("admin.col.limits")]} rows=${rows} />`;
}
