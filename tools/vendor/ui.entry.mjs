// The view layer: components, templates, state. One file, so that the browser makes one request.
export { Fragment, h, render } from "preact";
export { useEffect, useLayoutEffect, useRef } from "preact/hooks";
export { html } from "htm/preact";
export { batch, computed, effect, signal, untracked, useComputed, useSignal, useSignalEffect } from "@preact/signals";
