// Outlines of organs over the radiograph, where the model has learnt them.

import { $, make } from "./elements.js";
import { post, studyForm } from "./server.js";
import { showOutlines } from "./viewer.js";

let wanted = false;
let structures = [];
let view = null; // of study.js

/** The organs that the chosen model outlines, by name. */
export function offerOutlines(names) {
  structures = names;
  refresh();
}

/** The view that is shown now, or null. */
export function outlinesOf(next) {
  view = next;
  refresh();
}

$("outlines").addEventListener("click", () => {
  wanted = !wanted;
  refresh();
});

async function refresh() {
  const possible = structures.length > 0 && view?.picture && view.facts.view !== "lateral";
  $("outlines").hidden = !possible;
  $("outlines").setAttribute("aria-pressed", wanted);
  $("organs").hidden = !(possible && wanted);
  if (!possible || !wanted) {
    showOutlines(null);
    return;
  }
  const asked = view;
  asked.outlines ??= load(asked.file);
  $("organs").textContent = "Finding outlines …";
  try {
    const { bitmap, colours } = await asked.outlines;
    if (asked !== view || !wanted) return;
    showOutlines(bitmap);
    $("organs").replaceChildren(...Object.entries(colours).map(([name, colour]) => {
      const line = make("i", { className: "line" });
      line.style.backgroundColor = colour;
      return make("span", {}, line, name.replaceAll("_", " "));
    }));
  } catch (error) {
    asked.outlines = null; // the next press asks again
    if (asked === view) $("organs").textContent = error.message;
  }
}

async function load(file) {
  const response = await post("/v1/outlines", studyForm([file], { model: $("model").value }));
  const colours = JSON.parse(response.headers.get("X-Outlines"));
  return { bitmap: await createImageBitmap(await response.blob()), colours };
}
