// The own account: password, where one is signed in, tokens for one's own programs. Fetched when first opened.
import { html, useEffect, useSignal } from "../../vendor/core.js";
import { get, post, read, remove } from "../session.js";
import { language, number, t } from "../i18n.js";
import { CopyButton, Overlay, explain } from "./common.js";

const BROWSERS = { "Edg/": "Edge", "OPR/": "Opera", "Firefox/": "Firefox", "Chrome/": "Chrome", "Safari/": "Safari" };
const SYSTEMS = { Android: "Android", iPhone: "iPhone", iPad: "iPad", Windows: "Windows", "Mac OS": "macOS", CrOS: "ChromeOS", Linux: "Linux" };

const day = (seconds) => new Date(seconds * 1000).toLocaleDateString(language.value, { dateStyle: "medium" });
const moment = (seconds) =>
  new Date(seconds * 1000).toLocaleString(language.value, { dateStyle: "medium", timeStyle: "short" });

export function AccountPage({ close }) {
  const account = useSignal(null);
  const error = useSignal(null);
  useEffect(() => {
    get("/api/account").then((got) => (account.value = got), (failure) => (error.value = failure));
  }, []);
  return html`
    <${Overlay} title=${t("account.title")} class="page account" close=${close}>
      <${Failure} error=${error} />
      ${account.value && html`
        ${account.value.has_password && html`<${Password} />`}
        <${Sessions} />
        <${Tokens} account=${account.value} />
      `}
    <//>
  `;
}

const Failure = ({ error }) => html`<p class="form-error" role="alert">${error.value && explain(error.value)}</p>`;

function Password() {
  const error = useSignal(null);
  const done = useSignal(false);
  const submit = async (event) => {
    event.preventDefault();
    const form = event.target;
    error.value = null;
    done.value = false;
    try {
      await post("/api/account/password", { current: form.elements.current.value, new: form.elements.next.value });
      form.reset();
      done.value = true;
    } catch (failure) {
      error.value = failure;
    }
  };
  return html`
    <section>
      <h3>${t("account.password")}</h3>
      <form class="login" onSubmit=${submit}>
        <label><span>${t("account.password.current")}</span><input name="current" type="password" required autocomplete="current-password" /></label>
        <label><span>${t("account.password.new")}</span><input name="next" type="password" required minlength="10" maxlength="256" autocomplete="new-password" /></label>
        <button class="button">${t("account.password.change")}</button>
        <p class="small muted" role="status">${t(done.value ? "account.password.done" : "account.password.note")}</p>
        <${Failure} error=${error} />
      </form>
    </section>
  `;
}

/** A list behind an address, read again after each change. */
function useList(path, name) {
  const list = useSignal([]);
  const error = useSignal(null);
  const act = async (work) => {
    error.value = null;
    try {
      await work();
      list.value = (await get(path))[name];
    } catch (failure) {
      error.value = failure;
    }
  };
  useEffect(() => void act(() => {}), []);
  return { list, error, act };
}

function Sessions() {
  const { list, error, act } = useList("/api/account/sessions", "sessions");
  const end = (id) => act(() => remove(`/api/account/sessions/${id}`));
  return html`
    <section>
      <h3>${t("account.sessions")}</h3>
      <ul class="entries">
        ${list.value.map((session) => html`
          <li key=${session.id}>
            <span>
              ${session.current ? html`<b>${t("account.sessions.this")}</b>` : t("account.sessions.seen", { when: moment(session.seen_at) })}
              <small class="muted" title=${session.user_agent}>${session.address} · ${device(session.user_agent)}</small>
            </span>
            ${!session.current && html`<button type="button" class="button" onClick=${() => end(session.id)}>${t("account.sessions.end")}</button>`}
          </li>
        `)}
      </ul>
      <${Failure} error=${error} />
    </section>
  `;
}

/** Browser and system as people call them; what neither is known of stays as it is. The first that is found counts. */
function device(agent) {
  const found = [BROWSERS, SYSTEMS].map((names) => Object.keys(names).find((mark) => agent.includes(mark)));
  return found.every(Boolean) ? `${BROWSERS[found[0]]} · ${SYSTEMS[found[1]]}` : agent;
}

function Tokens({ account }) {
  const { list, error, act } = useList("/api/account/tokens", "tokens");
  const made = useSignal(null);
  const make = (event) => {
    event.preventDefault();
    const days = event.target.elements.days.valueAsNumber;
    return act(async () => (made.value = await read(await post("/api/account/tokens", { days }))));
  };
  const revoke = (id) => act(() => remove(`/api/account/tokens/${id}`));
  return html`
    <section>
      <h3>${t("account.tokens")}</h3>
      <p class="small muted">${t("account.tokens.note")}</p>
      <form class="row" onSubmit=${make}>
        <label class="field">
          <span>${t("account.tokens.days")}</span>
          <input name="days" type="number" required min="1" max=${account.max_token_days} step="1" defaultValue="90" />
        </label>
        <button class="button">${t("account.tokens.make")}</button>
      </form>
      ${made.value && html`
        <p role="status">${t("account.tokens.once")}</p>
        <p class="row"><code class="secret">${made.value.token}</code><${CopyButton} text=${() => made.value.token} label=${t("copy")} /></p>
      `}
      <ul class="entries">
        ${list.value.map((token) => html`
          <li key=${token.id} data-state=${token.state}>
            <span>
              <code>${token.id}</code> ${t(`account.state.${token.state}`, { when: day(token.expires_at) })}
              <small class="muted">${[token.scopes.join(" "), token.models.join(" "), limits(token)].filter(Boolean).join(" · ")}</small>
            </span>
            ${token.state === "active" && html`<button type="button" class="button" onClick=${() => revoke(token.id)}>${t("account.tokens.revoke")}</button>`}
          </li>
        `)}
      </ul>
      <${Failure} error=${error} />
    </section>
  `;
}

/** What a token may use, in words; the limits are its member's, shared with everything else of theirs. */
const limits = ({ limits: plan }) => limitTexts(plan).join(", ");

/** The limits of a plan, one text each. */
export function limitTexts(plan) {
  const shown = ["requests_per_minute", "tokens_per_minute", "concurrent_requests", "tokens_per_day", "tokens_per_month", "max_tokens"];
  return shown.filter((name) => plan?.[name] != null).map((name) => t(`limit.${name}`, { n: number(plan[name]) }));
}
