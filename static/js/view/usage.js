// What the caller may use and what they have used: the plan's limits, today, and a plot of the last days.
import { html, useEffect, useSignal } from "../../vendor/core.js";
import { get } from "../session.js";
import { language, number, t } from "../i18n.js";
import { limitTexts } from "./account.js";
import { Overlay, explain } from "./common.js";

const DAYS = 30;
const [WIDTH, HEIGHT, FOOT] = [640, 160, 20];

export function UsagePage({ close }) {
  const got = useSignal(null);
  const error = useSignal(null);
  useEffect(() => {
    Promise.all([get("/api/account"), get(`/v1/usage?days=${DAYS}`)]).then(
      ([account, usage]) => (got.value = { account, usage }),
      (failure) => (error.value = failure),
    );
  }, []);
  return html`
    <${Overlay} title=${t("usage.title")} class="page" close=${close}>
      ${error.value && html`<p class="form-error" role="alert">${explain(error.value)}</p>`}
      ${got.value && html`<${Limits} ...${got.value} /><${Used} usage=${got.value.usage} />`}
    <//>
  `;
}

const tokensOf = (row) => row.prompt_tokens + row.completion_tokens;

/** Tokens of each of the last days, the oldest first: [{day, tokens}]; days without use are there with 0. */
export function daily(rows, since, days = DAYS) {
  const sums = new Map();
  for (const row of rows) sums.set(row.day, (sums.get(row.day) ?? 0) + tokensOf(row));
  const first = Date.parse(`${since}T00:00:00Z`);
  return Array.from({ length: days }, (_, index) => {
    const day = new Date(first + index * 86_400_000).toISOString().slice(0, 10);
    return { day, tokens: sums.get(day) ?? 0 };
  });
}

function Limits({ account, usage }) {
  const texts = limitTexts(account.limits);
  const used = daily(usage.data, usage.since).at(-1).tokens;
  const limit = account.limits?.tokens_per_day;
  return html`
    <section>
      <h3>${t("usage.limits")} · ${t("usage.plan", { plan: account.plan })}</h3>
      ${limit == null
        ? html`<p>${t("usage.today.free", { used: number(used) })}</p>`
        : html`
            <p>${t("usage.today", { used: number(used), limit: number(limit) })}</p>
            <progress max=${limit} value=${Math.min(used, limit)} aria-label=${t("usage.today", { used: number(used), limit: number(limit) })} />
          `}
      ${texts.length === 0 ? html`<p>${t("limit.none")}</p>` : html`<ul class="plain">${texts.map((text) => html`<li>${text}</li>`)}</ul>`}
    </section>
  `;
}

function Used({ usage }) {
  const days = daily(usage.data, usage.since);
  const { total } = usage;
  if (!total?.requests) return html`<section><h3>${t("usage.plot", { n: DAYS })}</h3><p>${t("usage.none")}</p></section>`;
  return html`
    <section>
      <h3>${t("usage.plot", { n: DAYS })}</h3>
      <${Plot} days=${days} />
      <p class="small muted">${t("usage.total", { requests: number(total.requests), tokens: number(tokensOf(total)), n: DAYS })}</p>
      <details class="more">
        <summary>${t("usage.table")}</summary>
        <${UsageTable} rows=${[...usage.data].reverse()} by=${["day", "model"]} />
      </details>
    </section>
  `;
}

/** A bar for each day, with its number for who points at it; the table below says the same. */
export function Plot({ days }) {
  const most = Math.max(1, ...days.map(({ tokens }) => tokens));
  const step = WIDTH / days.length;
  const label = (day) => new Date(`${day}T00:00:00Z`).toLocaleDateString(language.value, { day: "numeric", month: "short", timeZone: "UTC" });
  return html`
    <svg class="plot" viewBox="0 0 ${WIDTH} ${HEIGHT + FOOT}" role="img" aria-label=${t("usage.plot", { n: days.length })}>
      <line x1="0" x2=${WIDTH} y1=${HEIGHT} y2=${HEIGHT} />
      <text x="0" y="12">${number(most)}</text>
      ${days.map(({ day, tokens }, index) => {
        const height = tokens === 0 ? 0 : Math.max(2, (tokens / most) * (HEIGHT - 20));
        return html`
          <rect x=${index * step + 2} y=${HEIGHT - height} width=${step - 4} height=${height} rx="2"><title>${t("usage.day", { day: label(day), n: number(tokens) })}</title></rect>
        `;
      })}
      <text x="0" y=${HEIGHT + 16}>${label(days[0].day)}</text>
      <text x=${WIDTH} y=${HEIGHT + 16} text-anchor="end">${label(days.at(-1).day)}</text>
    </svg>
  `;
}

/** Sums by what `by` names; as wide as it needs, in a box that scrolls. */
export function UsageTable({ rows, by }) {
  return html`
    <div class="table-box" tabindex="0" role="region" aria-label=${t("usage.table")}>
      <table>
        <thead><tr>
          ${by.map((name) => html`<th>${t(name === "day" || name === "model" ? `usage.col.${name}` : `admin.col.${name}`)}</th>`)}
          <th class="align-right">${t("usage.col.requests")}</th>
          <th class="align-right">${t("usage.col.prompt")}</th>
          <th class="align-right">${t("usage.col.completion")}</th>
        </tr></thead>
        <tbody>
          ${rows.map((row) => html`
            <tr>
              ${by.map((name) => html`<td>${row[name] ?? "–"}</td>`)}
              <td class="align-right">${number(row.requests)}</td>
              <td class="align-right">${number(row.prompt_tokens)}</td>
              <td class="align-right">${number(row.completion_tokens)}</td>
            </tr>
          `)}
        </tbody>
      </table>
    </div>
  `;
}
