// Where the chats are: new, search, the list in groups, and who is signed in.
import { html, useEffect, useRef, useSignal } from "../../vendor/core.js";
import { addressOf, current, erase, find, groups, listError, listed, loadChats, loadMore, more, open, pin, rename, restore, startNew } from "../chats.js";
import { number, t } from "../i18n.js";
import { get, logout, quota, user } from "../session.js";
import { config } from "../settings.js";
import { Icon, IconButton, LanguageChoice, Menu, ThemeChoice, explain, isPlainEnter, placeBeside, showPage, toast } from "./common.js";
import { reveal } from "./thread.js";

const SEARCH_MS = 250;
const usage = () => import("./usage.js").then((module) => module.UsagePage);

/** `leave` is called after a choice: the drawer on a phone then closes. */
export function Sidebar({ leave }) {
  const query = useSignal("");
  const go = (event, id, message) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey) return; // a new tab or window
    event.preventDefault();
    leave();
    show(id, message);
  };
  const begin = () => {
    startNew();
    leave();
    document.getElementById("composer-input")?.focus();
  };
  return html`
    <nav class="sidebar" aria-label=${t("chats")}>
      <div class="sidebar-head">
        <span class="brand"><${Icon} name="brand" /><b>${config.value.title}</b></span>
        <${IconButton} icon="sidebar" label=${t("sidebar.hide")} onClick=${() => leave(true)} />
      </div>
      <button type="button" class="button new-chat" onClick=${begin}><${Icon} name="add" />${t("chat.new")}</button>
      <label class="search-box">
        <${Icon} name="search" />
        <input
          id="search" type="search" value=${query} placeholder=${t("search")} aria-label=${t("search.label")}
          onInput=${(event) => (query.value = event.target.value)} onKeyDown=${(event) => event.key === "Escape" && (query.value = "")}
        />
      </label>
      <div class="chat-list">
        ${query.value.trim() === "" ? html`<${ChatList} go=${go} />` : html`<${Hits} query=${query.value.trim()} go=${go} />`}
      </div>
      <div class="sidebar-foot">
        <${AccountMenu} />
        <${IconButton} icon="chart" label=${t("account.usage")} onClick=${() => showPage(usage)} />
      </div>
    </nav>
  `;
}

/** Open a chat, and scroll to one of its messages where one is named. */
async function show(id, message) {
  await open(id);
  if (!message) return;
  const conversation = await find(id);
  while (!conversation.nodes.peek().has(message) && conversation.older.peek() !== null) await conversation.loadOlder();
  const found = conversation.nodes.peek().get(message);
  if (!found) return;
  if (!conversation.path.peek().includes(found)) conversation.show(found);
  reveal(found.id);
}

function ChatList({ go }) {
  const end = useRef(null);
  useEffect(() => {
    if (!end.current) return undefined;
    const observer = new IntersectionObserver(([entry]) => entry.isIntersecting && loadMore().catch(() => {}));
    observer.observe(end.current);
    return () => observer.disconnect();
  }, [more.value, groups.value.length]);
  if (listError.value && !listed.value) {
    return html`
      <div class="list-note"><p>${explain(listError.value)}</p><button type="button" class="button" onClick=${loadChats}>${t("retry")}</button></div>
    `;
  }
  if (listed.value && groups.value.length === 0) return html`<p class="list-note">${t("chats.none")}</p>`;
  return html`
    ${groups.value.map(([name, chats]) => html`
      <section key=${name} aria-label=${t(`chats.${name}`)}>
        <h2>${t(`chats.${name}`)}</h2>
        <ul>${chats.map((chat) => html`<${Entry} key=${chat.id} chat=${chat} go=${go} />`)}</ul>
      </section>
    `)}
    ${more.value && html`<p ref=${end} class="list-note">…</p>`}
  `;
}

function Entry({ chat, go }) {
  const renaming = useSignal(false);
  const title = chat.title || t("chat.untitled");
  const act = (work) => async () => {
    try {
      await work();
    } catch (error) {
      toast(explain(error));
    }
  };
  const discard = act(async () => {
    await erase(chat);
    toast(t("chat.deleted", { title }), { action: { text: t("undo"), run: act(() => restore(chat)) } });
  });
  const save = (format) => () => {
    const link = document.createElement("a");
    link.href = `/api/chats/${chat.id}/export?format=${format}`;
    link.download = "";
    link.click();
  };
  if (renaming.value) return html`<li><${Rename} chat=${chat} done=${() => (renaming.value = false)} /></li>`;
  return html`
    <li class="entry" aria-current=${current.value.row.value?.id === chat.id ? "page" : undefined}>
      <a href=${addressOf(chat.id)} onClick=${(event) => go(event, chat.id)} title=${title}>
        ${chat.runs.length > 0 && html`<span class="pulse" role="img" aria-label=${t("chat.running")} />`}
        <span class="entry-title">${title}</span>
      </a>
      <${Menu}
        icon="more" label=${t("chat.menu", { title })} id=${`menu-${chat.id}`}
        items=${[
          { icon: "edit", text: t("chat.rename"), run: () => (renaming.value = true) },
          { icon: "pin", text: t(chat.pinned ? "chat.unpin" : "chat.pin"), run: act(() => pin(chat, !chat.pinned)) },
          { icon: "file", text: t("chat.export.markdown"), run: save("markdown") },
          { icon: "file", text: t("chat.export.json"), run: save("json") },
          { icon: "trash", text: t("chat.delete"), run: discard, danger: true },
        ]}
      />
    </li>
  `;
}

function Rename({ chat, done }) {
  const field = useRef(null);
  useEffect(() => field.current.select(), []);
  const save = async () => {
    if (!field.current) return; // Enter was first; now the field is gone and blurs
    const title = field.current.value.trim().slice(0, 200);
    done();
    if (title === "" || title === chat.title) return;
    await rename(chat, title).catch((error) => toast(explain(error)));
  };
  const onKeyDown = (event) => {
    if (isPlainEnter(event)) save();
    else if (event.key === "Escape") done();
  };
  return html`
    <input ref=${field} class="rename" maxlength="200" aria-label=${t("chat.rename")} defaultValue=${chat.title} onKeyDown=${onKeyDown} onBlur=${save} />
  `;
}

function Hits({ query, go }) {
  const found = useSignal(null);
  const failed = useSignal(null);
  useEffect(() => {
    let over = false;
    const timer = setTimeout(async () => {
      try {
        const { hits } = await get(`/api/search?limit=50&q=${encodeURIComponent(query)}`);
        if (!over) [found.value, failed.value] = [hits, null];
      } catch (error) {
        if (!over) failed.value = error;
      }
    }, SEARCH_MS);
    return () => {
      over = true;
      clearTimeout(timer);
    };
  }, [query]);
  if (failed.value) return html`<p class="list-note" role="alert">${explain(failed.value)}</p>`;
  if (found.value === null) return null;
  if (found.value.length === 0) return html`<p class="list-note" role="status">${t("search.none")}</p>`;
  return html`
    <ul class="hits">
      ${found.value.map(({ chat, message, snippet }) => html`
        <li key=${message ?? chat.id} class="entry">
          <a href=${addressOf(chat.id)} onClick=${(event) => go(event, chat.id, message)}>
            <span class="entry-title">${chat.title || t("chat.untitled")}</span>
            ${message && html`<small><${Marked} text=${snippet} query=${query} /></small>`}
          </a>
        </li>
      `)}
    </ul>
  `;
}

/** The words that were searched for stand out. */
function Marked({ text, query }) {
  const words = query.split(/\s+/).map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  const parts = text.split(new RegExp(`(${words.join("|")})`, "gi"));
  return parts.map((part, index) => (index % 2 === 1 ? html`<mark>${part}</mark>` : part));
}

/** Who is signed in, what is left of their tokens, and the way to the rest of the account. */
function AccountMenu() {
  const popover = useRef(null);
  const button = useRef(null);
  const { name, display_name: displayName, team, plan, admin } = user.value ?? {}; // null for a moment while signing out
  const show = (importing) => () => {
    popover.current.hidePopover();
    showPage(importing);
  };
  const leave = () => logout().catch(() => toast(t("error.network")));
  const place = (event) => event.newState === "open" && placeBeside(popover.current, button.current);
  const shown = displayName || name || "";
  return html`
    <button ref=${button} type="button" class="who" popovertarget="account" aria-label=${t("account.of", { name: shown })}>
      <span class="avatar" aria-hidden="true">${[...shown][0]?.toUpperCase()}</span>
      <span class="who-name">
        <b>${shown}</b>
        <small>${quota.value ? t(`quota.${quota.value.period}`, { n: number((100 * quota.value.remaining) / quota.value.limit) }) : [team, plan].filter(Boolean).join(" · ")}</small>
      </span>
    </button>
    <div id="account" ref=${popover} class="popover" popover onToggle=${place}>
      <div class="menu">
        <button type="button" onClick=${show(() => import("./account.js").then((module) => module.AccountPage))}><${Icon} name="user" />${t("account.page")}</button>
        <button type="button" onClick=${show(() => import("./preferences.js").then((module) => module.PreferencesPage))}><${Icon} name="sliders" />${t("account.settings")}</button>
        ${admin && html`
          <button type="button" onClick=${show(() => import("./admin.js").then((module) => module.AdminPage))}><${Icon} name="brand" />${t("account.admin")}</button>
        `}
      </div>
      <${ThemeChoice} />
      <${LanguageChoice} />
      <button type="button" class="button wide" onClick=${leave}>${t("logout")}</button>
    </div>
  `;
}
