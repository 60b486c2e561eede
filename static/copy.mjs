/** Buttons that copy what is shown once. Where a page may not write the clipboard there are none: one selects it. */

for (const button of document.querySelectorAll("[data-copies]")) {
  const text = document.getElementById(button.dataset.copies).textContent;
  const said = button.nextElementSibling;
  button.hidden = !navigator.clipboard;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      said.textContent = "Copied";
    } catch {
      said.textContent = "The browser does not let this page copy: select it.";
    }
  });
}
