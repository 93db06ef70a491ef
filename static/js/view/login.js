// Signing in: as a page of its own, or over a chat whose session ended.
import { html, useEffect, useLayoutEffect, useRef, useSignal } from "../../vendor/core.js";
import { t } from "../i18n.js";
import { login, user } from "../session.js";
import { config } from "../settings.js";
import { Icon, LanguageChoice, explain, isTouch, useNow } from "./common.js";

export const LoginPage = () => html`
  <main class="gate">
    <div class="gate-card">
      <h1><${Icon} name="brand" /> ${config.value.title}</h1>
      <p class="muted">${t("login.lead")}</p>
      <${LoginForm} />
      <${SignInElsewhere} />
      <${LanguageChoice} />
    </div>
  </main>
`;

export function LoginOverlay() {
  const dialog = useRef(null);
  useLayoutEffect(() => {
    const box = dialog.current;
    box.showModal(); // before the form inside moves the focus
    if (isTouch()) document.activeElement.blur();
    return () => box.close(); // gives it back to where it was
  }, []);
  return html`
    <dialog ref=${dialog} class="overlay" aria-labelledby="expired-title" onCancel=${(event) => event.preventDefault()}>
      <div class="overlay-body">
        <h2 id="expired-title">${t("expired.title")}</h2>
        <p class="muted">${t("expired.lead")}</p>
        <${LoginForm} />
        <${SignInElsewhere} />
      </div>
    </dialog>
  `;
}

// back from an identity provider without a session: the reason stands behind `#`
const returned = /^#(sso_\w+|account_disabled)$/.exec(location.hash)?.[1];
if (returned) history.replaceState(null, "", location.pathname);

function SignInElsewhere() {
  const providers = config.value.features?.sso ?? [];
  const reason = { account_disabled: "account_disabled", sso_denied: "denied" }[returned] ?? "failed";
  return html`
    ${providers.map(({ title, url }) => html`<a class="button wide" href=${url}>${t("login.sso", { title })}</a>`)}
    ${returned && html`<p class="form-error" role="alert">${t(`login.sso.${reason}`)}</p>`}
  `;
}

function LoginForm() {
  const error = useSignal(null);
  const blockedUntil = useSignal(0);
  const busy = useSignal(false);
  const name = useRef(null);
  const password = useRef(null);
  const wait = Math.ceil((blockedUntil.value - useNow()) / 1000);

  useEffect(() => {
    if (isTouch()) return; // on a phone the keyboard would cover half the page unasked
    (user.value ? password : name).current.focus();
  }, []);

  const submit = async (event) => {
    event.preventDefault();
    if (busy.value || blockedUntil.value > Date.now()) return;
    busy.value = true;
    error.value = null;
    try {
      await login(name.current.value.trim(), password.current.value);
    } catch (failure) {
      error.value = failure;
      if (failure.status === 429) blockedUntil.value = Date.now() + (failure.retryAfterMs ?? 5000);
      password.current.select();
    } finally {
      busy.value = false;
    }
  };

  // A browser may take the Enter that confirms an input method's candidate for a submit.
  const guardComposition = (event) => {
    if (event.key === "Enter" && (event.isComposing || event.keyCode === 229)) event.preventDefault();
  };

  return html`
    <form class="login" method="post" onSubmit=${submit} onKeyDown=${guardComposition}>
      <label>
        <span>${t("login.name")}</span>
        <input
          ref=${name} name="username" required autocomplete="username" autocapitalize="none" spellcheck=${false}
          defaultValue=${user.value?.name ?? ""}
        />
      </label>
      <label>
        <span>${t("login.password")}</span>
        <input ref=${password} name="password" type="password" required autocomplete="current-password" />
      </label>
      <p class="form-error" role="alert">
        ${error.value && (error.value.status === 429
          ? t(wait > 0 ? "login.blocked" : "login.again", { n: wait })
          : error.value.status === 401 ? t("login.wrong") : explain(error.value))}
      </p>
      <button class="button primary wide" disabled=${busy.value || wait > 0}>${t("login.submit")}</button>
    </form>
  `;
}
