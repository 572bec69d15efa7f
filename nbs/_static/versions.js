// Offers the versions that lie beside this one: `versions.js` in the folder above sets `bsftVersions`.
document.addEventListener("DOMContentLoaded", () => {
  const root = new URL(document.documentElement.dataset.content_root, location);
  const here = root.pathname.split("/").filter(Boolean).pop();
  const list = document.createElement("script");
  list.src = new URL("../versions.js", root);
  list.onload = () => {
    const box = document.querySelector(".versions");
    if (!box || !window.bsftVersions.includes(here)) return;
    const select = box.querySelector("select");
    for (const version of window.bsftVersions) select.add(new Option(version, version, false, version === here));
    select.onchange = () => { location = new URL(`../${select.value}/index.html`, root); };
    box.hidden = false;
  };
  document.head.append(list);
});
