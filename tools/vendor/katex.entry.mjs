// Formulas. Fetched with the first one.
export { default as katex } from "katex";
