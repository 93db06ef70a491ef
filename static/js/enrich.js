// Drawn formulas and coloured code. This module, and KaTeX or highlight.js behind it, are fetched when an answer
// first has either; until then, and where something cannot be drawn, the source stands there as it came.
import { DOMPurify } from "../vendor/core.js";
import { fetchSheet } from "./session.js";

const LONGEST_CODE = 10_000; // characters; a longer listing would hold the page up, and stays plain
const FORMULA = { throwOnError: true, trust: false, strict: "ignore", maxExpand: 500, maxSize: 20 };
const SPANS = { RETURN_DOM_FRAGMENT: true, ALLOWED_TAGS: ["span"], ALLOWED_ATTR: ["class"], ALLOW_ARIA_ATTR: false, ALLOW_DATA_ATTR: false };

let katex = null;
let loadingKatex = null;
let loadingHighlight = null;
let highlight = null;

/** Draw the formulas in `nodes`: at once when KaTeX is there, else when it is. */
export function drawFormulas(nodes) {
  const formulas = nodes.flatMap((node) => [...node.querySelectorAll("code.math")]);
  if (formulas.length === 0) return;
  if (katex) return formulas.forEach(draw);
  loadingKatex ??= loadKatex();
  loadingKatex.then(
    () => formulas.forEach((formula) => formula.isConnected && draw(formula)),
    (error) => {
      loadingKatex = null; // the next formula tries again
      console.warn("formulas stay as their source", error);
    },
  );
}

async function loadKatex() {
  const [module] = await Promise.all([import("../vendor/katex.js"), fetchSheet("vendor/katex.css")]);
  katex = module.katex;
}

function draw(formula) {
  const source = formula.textContent;
  const target = document.createElement("span");
  target.className = formula.className;
  target.dataset.source = source;
  try {
    katex.render(source, target, { ...FORMULA, displayMode: target.classList.contains("display") });
  } catch {
    return undefined; // not TeX, or more of it than KaTeX knows
  }
  return formula.replaceWith(target);
}

let waiting = [];
let working = false;

/** Colour the code blocks in `nodes`, one after the other, while the page has nothing better to do. */
export function colour(nodes) {
  waiting.push(...nodes.flatMap((node) => [...node.querySelectorAll('pre > code[class^="language-"]')]));
  if (working || waiting.length === 0) return;
  working = true;
  whenIdle(colourNext);
}

async function colourNext() {
  try {
    loadingHighlight ??= Promise.all([import("../vendor/highlight.js"), fetchSheet("css/code.css")]);
    [{ highlight }] = await loadingHighlight;
  } catch (error) {
    console.warn("code stays plain", error);
    [loadingHighlight, waiting, working] = [null, [], false]; // the next block tries again
    return;
  }
  waiting = waiting.filter((block) => block.isConnected); // the reader may have gone to another chat
  const block = waiting.shift();
  const text = block?.textContent ?? "";
  const markup = text !== "" && text.length <= LONGEST_CODE ? highlight(text, block.className.slice("language-".length)) : null;
  if (markup !== null) block.replaceChildren(DOMPurify.sanitize(markup, SPANS));
  working = waiting.length > 0;
  if (working) whenIdle(colourNext);
}

const whenIdle = (work) => (window.requestIdleCallback ? requestIdleCallback(work, { timeout: 2000 }) : setTimeout(work, 50));
