// A report: its text as it comes, its sentences with their heat maps and boxes, observations and
// warnings.

import { $, make, onPress } from "./elements.js";
import { post, studyForm } from "./server.js";
import { showNamed, shownName } from "./study.js";
import { showBoxes, showHeat } from "./viewer.js";

let report = null; // { values, files, fields }
let maps = null; // sentences of /v1/attention
let most = 1;
let selected = -1;
let hovered = -1; // the sentence under the pointer
let focused = -1;
let waiting = null;

export function clear(text = "No report yet.") {
  waiting?.abort();
  report = maps = null;
  hovered = focused = -1;
  select(-1);
  $("text").replaceChildren(make("p", { className: "soft" }, text));
  for (const name of ["warnings", "observations", "places", "save", "attention-again"]) {
    $(name).hidden = true;
  }
  $("attention").textContent = "";
}

/** Show the text as far as it is written. */
export function showGrowing(text) {
  $("text").classList.add("writing");
  $("text").replaceChildren(make("p", {}, text));
}

export function stopGrowing() {
  $("text").classList.remove("writing");
}

/** Show a finished report; what it was made from is kept with it. */
export function showReport(values, files, indication) {
  stopGrowing();
  report = { values, files, indication };
  $("text").replaceChildren(make("p", {}, values.findings || "(no text)"));
  showWarnings(values);
  showObservations(values.observations ?? {});
  showPlaces();
  const hash = values.model_hash ? ` ${values.model_hash.slice(0, 12)}` : "";
  const shown = values.roles.map((role, place) =>
    `${values.images[place]} as ${role.replaceAll("_", " ")}`);
  $("facts").textContent = `${values.model}${hash}; shown ${shown.join(", ")}.`;
  $("save").hidden = false;
  if (values.findings) askForMaps();
}

function showWarnings({ warnings, truncated, repetitive }) {
  const notes = warnings.map((warning) => {
    const [, kind, text] = /^(\w+): (.*)$/s.exec(warning) ?? [null, "", warning];
    return [kind.replaceAll("_", " "), text];
  });
  if (truncated) notes.unshift(["cut off", "the text reached its longest length"]);
  if (repetitive) notes.unshift(["repetitive", "the text repeats itself; do not rely on it"]);
  $("warnings").hidden = !notes.length;
  $("warnings").replaceChildren(...notes.map(([kind, text]) =>
    make("li", {}, ...(kind ? [make("strong", {}, kind), ": "] : []), text)));
}

function showObservations(observations) {
  const rows = Object.entries(observations).sort(([, one], [, other]) => other - one);
  $("observations").hidden = !rows.length;
  $("observations").querySelector("tbody").replaceChildren(...rows.map(([name, probability]) => {
    const filled = make("span");
    filled.style.width = `${100 * probability}%`;
    const bar = make("span", { className: "bar", ariaHidden: "true" }, filled);
    return make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, bar),
      make("td", { className: "n" }, probability.toFixed(2)));
  }));
}

/** Ask where each sentence looked; the text stays readable meanwhile and without it. */
async function askForMaps() {
  const asked = report;
  waiting = new AbortController();
  $("attention").textContent = "Reading what the sentences attended to …";
  $("attention-again").hidden = true;
  try {
    const found = await (await post("/v1/attention", formOf(asked), waiting.signal)).json();
    if (report !== asked) return;
    hovered = focused = -1; // the sentences are counted anew
    select(-1);
    maps = found.sentences;
    most = Math.max(...maps.flatMap(({ images }) => images.flatMap(({ grid }) => grid.flat())));
    showSentences();
    say();
  } catch (error) {
    if (report !== asked) return;
    $("attention").textContent = `No heat maps: ${error.message}`;
    $("attention-again").hidden = false;
  }
}

/** The sentences that can be chosen: those of the maps, before they come those with boxes. */
const sentences = () => maps ?? report?.values.grounding ?? [];

/** The boxes of the report, numbered from 1 in the order of its text. */
function boxes() {
  const places = report?.values.grounding ?? [];
  return places.flatMap((place) => place.boxes.map((box) => ({ ...place, box })))
    .map((box, number) => ({ ...box, number: number + 1 }));
}

/** The boxes of a sentence. */
function boxesOf(sentence) {
  return sentence
    ? boxes().filter(({ start }) => start >= sentence.start && start < sentence.end) : [];
}

/** The boxes as words, for whoever does not see them. */
function showPlaces() {
  const found = boxes();
  $("places").hidden = !found.length;
  if (!found.length) return;
  const share = (value, whole) => Math.round((100 * value) / whole);
  $("place-list").replaceChildren(...found.map(({ start, end, box, width, height }) => {
    const [left, top, right, bottom] = box;
    return make("li", {}, `${report.values.findings.slice(start, end)} `
      + `${share(left, width)} to ${share(right, width)}% from the left edge, `
      + `${share(top, height)} to ${share(bottom, height)}% from the top.`);
  }));
  showSentences();
  showMap();
}

function showSentences() {
  const text = report.values.findings;
  const parts = [];
  let end = 0;
  sentences().forEach((sentence, place) => {
    parts.push(text.slice(end, sentence.start));
    end = sentence.end;
    const span = make("span", { className: "sentence", role: "button", tabIndex: 0,
      ariaPressed: "false" }, text.slice(sentence.start, sentence.end));
    onPress(span, () => select(selected === place ? -1 : place));
    const numbers = boxesOf(sentence).map(({ number }) => number);
    if (numbers.length) {
      span.append(make("sup", {}, make("span", { className: "unseen" }, " box "), numbers.join(" ")));
      span.addEventListener("mouseenter", () => point({ at: place }));
      span.addEventListener("mouseleave", () => point({ at: -1 }));
      span.addEventListener("focus", () => point({ focus: place }));
      span.addEventListener("blur", () => point({ focus: -1 }));
    }
    parts.push(span);
  });
  // The words were read out as they came; the same words as buttons are no news.
  $("text").setAttribute("aria-live", "off");
  $("text").replaceChildren(make("p", {}, ...parts, text.slice(end)));
}

function point({ at = hovered, focus = focused }) {
  hovered = at;
  focused = focus;
  showMap();
}

function select(place) {
  selected = place;
  document.querySelectorAll(".sentence").forEach((span, other) => {
    span.ariaPressed = `${other === place}`;
  });
  if (place >= 0 && !report.values.images.includes(shownName())) showNamed(report.values.images[0]);
  showMap();
  if (maps) say();
}

/** Lay the chosen sentence's map and the report's boxes over the radiograph that is shown. */
export function showMap() {
  const image = report ? report.values.images.indexOf(shownName()) : -1;
  const found = maps?.[selected]?.images[image];
  showHeat(found?.grid ?? null, found?.box, most);
  const marked = [hovered, focused, selected].find((place) => place >= 0);
  const strong = boxesOf(sentences()[marked]).map((box) => box.number);
  showBoxes(boxes().filter((box) => box.image === image)
    .map((box) => ({ ...box, strong: strong.includes(box.number) })));
}

function say() {
  const sentence = maps[selected];
  $("attention").textContent = sentence
    ? `${Math.round(100 * sentence.share)}% of this sentence's attention went to the image, the rest `
      + "to words. The colours say where: attention, not proof."
    : "Choose a sentence to see where its words looked: attention, not proof.";
}

/** The report as it came, with the study that it is of. */
function formOf({ values, files, indication }, more = {}) {
  return studyForm(files, { indication, report: JSON.stringify(values), ...more });
}

/** Ask for the report in a format; returns the file and its name. */
export async function documentOf(format) {
  const response = await post("/v1/document", formOf(report, { format }));
  const named = /filename="([^"]+)"/.exec(response.headers.get("Content-Disposition") ?? "")?.[1];
  return [await response.blob(), named ?? (format === "json" ? "report.json" : "report.txt")];
}

export const findings = () => report.values.findings;
export const reportedFiles = () => report.files;

$("attention-again").addEventListener("click", askForMaps);
