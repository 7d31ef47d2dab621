// A formula in a line that is wider than the line scrolls in a box of its own.
function boxWideFormulas() {
  for (const formula of document.querySelectorAll("article mjx-container:not([display])")) {
    const line = formula.closest("p, li, dd, td, h1, h2, h3");
    formula.classList.remove("wide");
    const wide = line && formula.getBoundingClientRect().width > line.clientWidth;
    formula.classList.toggle("wide", Boolean(wide));
  }
}

// A line may end before or after a formula: not between it and the mark that belongs to it.
function keepMarks() {
  for (const formula of document.querySelectorAll("article span.math")) {
    const [before, after] = [formula.previousSibling, formula.nextSibling];
    const opening = before?.nodeType === 3 ? before.data.match(/[(\[‘“]+$/) : null;
    const closing = after?.nodeType === 3 ? after.data.match(/^[.,;:?!)\]’”]+/) : null;
    if (!opening && !closing) continue;
    const kept = document.createElement("span");
    kept.className = "kept";
    formula.replaceWith(kept);
    kept.append(formula);
    if (opening) kept.prepend(before.splitText(before.length - opening[0].length));
    if (closing) {
      after.splitText(closing[0].length);
      kept.append(after);
    }
  }
}

// Figures whose labels would be too small to read when fitted to a phone keep their size there.
function markBroadFigures() {
  for (const image of document.querySelectorAll("figure img")) {
    image.classList.toggle("broad", image.naturalWidth > 550);
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
  keepMarks();
  boxWideFormulas();
  window.addEventListener("resize", boxWideFormulas);
  const results = document.querySelector("#search-results");
  if (results) typesetResults(results);
});
