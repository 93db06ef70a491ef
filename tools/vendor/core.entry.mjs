// What every page needs, in one file, so that the browser makes one request.
// The view layer: components, templates, state.
export { Fragment, h, render } from "preact";
export { useEffect, useLayoutEffect, useRef } from "preact/hooks";
export { html } from "htm/preact";
export { batch, computed, effect, signal, untracked, useComputed, useSignal, useSignalEffect } from "@preact/signals";
// Markdown to sanitised HTML.
export { default as DOMPurify } from "dompurify";
export { default as MarkdownIt } from "markdown-it";
export { default as cjkFriendly } from "markdown-it-cjk-friendly";
