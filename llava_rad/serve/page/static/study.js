// The files that were chosen: their list, their pictures, and which one is shown.

import { $, make } from "./elements.js";
import { outlinesOf } from "./organs.js";
import { post, studyForm } from "./server.js";
import { pictureOf, showPicture } from "./viewer.js";

let views = []; // { file, picture, facts, error }
let shown = null;
let limits = { most_files: 16, most_bytes: Infinity };
let fresh = true; // what comes next joins what is there
let changed = () => {};

/** What the server takes, and what to do when other files are chosen. */
export function prepare(given, whenChanged) {
  limits = given;
  changed = whenChanged;
}

export const chosenFiles = () => views.map(({ file }) => file);

/** The next files are another study. */
export function closeStudy() {
  fresh = false;
}

/** Show the file that the server calls `file N`. */
export function showNamed(name) {
  const found = views[Number(name.replace("file ", "")) - 1];
  if (found) show(found);
  return found;
}

/** Whether none is a PNG or JPEG, of which no DICOM SR can be made. */
export async function allDicom(files) {
  const starts = await Promise.all(files.map((file) => file.slice(0, 4).arrayBuffer()));
  return starts.every((start) => {
    const [first, second] = new Uint8Array(start);
    return !(first === 0x89 && second === 0x50) && !(first === 0xff && second === 0xd8);
  });
}

/** Add files, or begin another study with them; returns what is wrong with them, or nothing. */
export function addFiles(files) {
  if (!files.length) return "";
  const before = fresh ? views : [];
  const same = (one, other) => ["name", "size", "lastModified"].every((key) => one[key] === other[key]);
  const added = [...files].filter((file) => !before.some((view) => same(view.file, file)));
  const all = [...before.map(({ file }) => file), ...added];
  if (all.length > limits.most_files) return `A study has ${limits.most_files} files at most.`;
  if (all.reduce((sum, { size }) => sum + size, 0) > limits.most_bytes) {
    return `The files are larger than the ${megabytes(limits.most_bytes)} that this server takes.`;
  }
  fresh = true;
  views = [...before, ...added.map((file) => ({ file }))];
  list();
  views.filter(({ asked }) => !asked).forEach(load);
  changed();
  return "";
}

/** Get all pictures anew: another model may have other renderings. */
export function reload() {
  views = views.map(({ file }) => ({ file }));
  list();
  views.forEach(load);
  changed();
}

function remove(view) {
  views = views.filter((other) => other !== view);
  fresh = true;
  list();
  if (shown === view) show(views.find(({ picture }) => picture) ?? null);
  changed();
  (document.querySelector("#chosen button") ?? $("files")).focus();
}

async function load(view) {
  view.asked = true;
  try {
    const response = await post("/v1/preview", studyForm([view.file], { model: $("model").value }));
    view.facts = JSON.parse(response.headers.get("X-Radiograph"));
    view.picture = await pictureOf(await response.blob(), view.facts);
  } catch (error) {
    view.error = error.message.replace(/^file 1: /i, "");
  }
  list();
  if (views.includes(view) && view.picture && !shown?.picture) show(view);
}

function show(view) {
  shown = view;
  if (!view?.picture) {
    showPicture(null, "");
  } else {
    const { rows, columns, view: seen, view_position: position } = view.facts;
    const said = seen === "unknown" ? "view not stated" : [seen, position].filter(Boolean).join(" ");
    showPicture(view.picture, `file ${views.indexOf(view) + 1}, ${said}, ${columns} × ${rows} pixels`);
  }
  outlinesOf(view);
  list();
}

function list() {
  if (!views.includes(shown)) shown = null;
  $("chosen").replaceChildren(...views.map((view, place) => make(
    "li", {},
    make("span", { className: "soft" }, `${place + 1}`),
    make("span", { className: view.error ? "name wrong" : "name" }, view.error
      ? `${view.file.name}: ${view.error}` : view.file.name),
    make("span", { className: "soft" }, megabytes(view.file.size)),
    make("button", {
      type: "button", ariaLabel: `Remove ${view.file.name}`, onclick: () => remove(view),
    }, "Remove"),
  )));
  const pictures = views.filter(({ picture }) => picture);
  $("views").hidden = pictures.length < 2;
  $("views").replaceChildren(...pictures.map((view) => make(
    "button",
    { type: "button", ariaPressed: `${view === shown}`, onclick: () => choose(view) },
    `File ${views.indexOf(view) + 1}`,
  )));
  if (!views.length) {
    showPicture(null, "");
    outlinesOf(null);
  }
}

let chosen = () => {};

/** What to do when a user shows another file. */
export function onChoice(action) {
  chosen = action;
}

function choose(view) {
  show(view);
  chosen(`file ${views.indexOf(view) + 1}`);
  $("views").children[views.filter(({ picture }) => picture).indexOf(view)].focus();
}

export const shownName = () => `file ${views.indexOf(shown) + 1}`;

function megabytes(bytes) {
  return bytes < 1e6 ? `${Math.max(Math.round(bytes / 1e3), 1)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}
