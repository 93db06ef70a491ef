// A classic script in <head>: it runs before the first paint, so the page never flashes in the wrong colours.
// settings.js calls window.applyTheme when the user chooses another theme.
(() => {
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  window.applyTheme = () => {
    let choice = null;
    try {
      choice = JSON.parse(localStorage.getItem("gatehouse.settings"))?.theme;
    } catch {
      // Storage is blocked or holds something else: follow the system.
    }
    const dark = choice === "dark" || (choice !== "light" && prefersDark.matches);
    document.documentElement.dataset.theme = dark ? "dark" : "light";
  };
  prefersDark.addEventListener("change", window.applyTheme);
  window.applyTheme();
})();
