// A formula in a line that is wider than the line scrolls in a box of its own.
function boxWideFormulas() {
  for (const formula of document.querySelectorAll("article mjx-container:not([display])")) {
    const line = formula.closest("p, li, dd, td, h1, h2, h3");
    formula.classList.remove("wide");
    const wide = line && formula.getBoundingClientRect().width > line.clientWidth;
    formula.classList.toggle("wide", Boolean(wide));
  }
}

// Figures whose labels would be too small to read when fitted to a phone keep their size there.
function markBroadFigures() {
  for (const image of document.querySelectorAll("figure img")) {
    image.classList.toggle("broad", image.naturalWidth > 750);
  }
}

// Search writes its results after the page's formulas were typeset.
function typesetResults(results) {
  results.classList.add("mathjax_process");
  const observer = new MutationObserver(async () => {
    observer.disconnect();
    await MathJax.typesetPromise([results]);
    observer.observe(results, { childList: true, subtree: true });
  });
  observer.observe(results, { childList: true, subtree: true });
}

window.addEventListener("load", async () => {
  markBroadFigures();
  await MathJax.startup.promise;
  boxWideFormulas();
  window.addEventListener("resize", boxWideFormulas);
  const results = document.querySelector("#search-results");
  if (results) typesetResults(results);
});
