// Keys open pages, "/" finds a request; the search form opens a request's own address. Pages work without this file.
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
  if (event.key === "/") {
    event.preventDefault();
    document.getElementById("find").focus();
    return;
  }
  const link = document.querySelector(`nav a[data-key="${CSS.escape(event.key)}"]`);
  if (link) link.click();
});
const find = document.querySelector("form[data-find]");
find.addEventListener("submit", (event) => {
  const id = find.elements.id.value.trim();
  if (!id) return;
  event.preventDefault();
  location.href = `/requests/${encodeURIComponent(id)}`;
});
// A page that stays open turns grey and shows its age, so that nobody takes old data for the present.
const STALE_SECONDS = 30;
setInterval(() => {
  const seconds = Math.floor(performance.now() / 1000);
  if (seconds < STALE_SECONDS) return;
  document.body.classList.add("stale");
  document.getElementById("age").textContent =
    seconds < 120 ? ` (${seconds} s ago)` : ` (${Math.floor(seconds / 60)} min ago)`;
}, 1000);
// A chosen file fills the field, so that the form needs no upload.
for (const input of document.querySelectorAll("input[data-into]")) {
  input.addEventListener("change", async () => {
    if (input.files.length) input.form.elements[input.dataset.into].value = await input.files[0].text();
  });
}
// A page in a background tab does not load itself again; it does so as soon as it can be seen.
const refresh = Number(document.body.dataset.refresh);
function reload() {
  if (document.visibilityState === "visible" && performance.now() >= refresh * 1000) location.reload();
}
if (refresh) {
  setTimeout(reload, refresh * 1000 + 1);
  document.addEventListener("visibilitychange", reload);
}
