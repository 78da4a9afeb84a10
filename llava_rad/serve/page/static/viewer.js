// The radiograph on its canvas: window and level, zoom and pan, invert; heat map, outlines and boxes
// over it.

import { $ } from "./elements.js";
import { heatOf } from "./heat.js";

const canvas = $("canvas");
const START = { window: 256, level: 128, inverted: false, zoom: 1, x: 0, y: 0 };
const ZOOMS = [1, 16];

let picture = null; // { gray, width, height, rows, columns, shown: canvas of its pixels, name }
let view = { ...START };
let heat = null; // { canvas, box }
let outlines = null; // a bitmap of the whole picture
let boxes = []; // { box, width, height, number, strong }
let opacity = 0.7;
let due = false;

/** Show a picture, or none. */
export function showPicture(next, description) {
  if (picture === next) return;
  picture = next;
  view = { ...START };
  heat = outlines = null;
  boxes = [];
  $("tools").hidden = !picture;
  $("empty").hidden = Boolean(picture);
  canvas.style.aspectRatio = picture ? `${picture.width} / ${picture.height}` : "";
  $("caption").textContent = picture ? description : "";
  canvas.setAttribute("aria-label", picture ? `Radiograph, ${description}` : "No radiograph yet");
  refresh(true);
}

/** Lay a map over the picture: grid of [rows][columns], its box in the radiograph's pixels, or null. */
export function showHeat(grid, box, most) {
  heat = grid && { canvas: heatOf(grid, most), box };
  $("legend").hidden = $("opacity-field").hidden = !heat;
  if (heat) $("legend-most").textContent = `${most.toFixed(1)} times`;
  refresh(false);
}

/** Lay outlines over the picture: a bitmap of all of it, or null. */
export function showOutlines(bitmap) {
  outlines = bitmap;
  refresh(false);
}

/** Draw boxes: left, top, right and bottom in pixels of a picture of a width and height. */
export function showBoxes(next) {
  boxes = next;
  refresh(false);
}

/** A picture of a PNG and what the server said of it. */
export async function pictureOf(png, facts) {
  const bitmap = await createImageBitmap(png);
  const { width, height } = bitmap;
  const shown = new OffscreenCanvas(width, height);
  const context = shown.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const pixels = context.getImageData(0, 0, width, height).data;
  const gray = new Uint8ClampedArray(width * height);
  for (let place = 0; place < gray.length; place += 1) gray[place] = pixels[4 * place];
  return { gray, width, height, shown, rows: facts.rows, columns: facts.columns };
}

function develop() {
  const low = view.level - view.window / 2;
  const grays = new Uint32Array(256);
  for (let gray = 0; gray < 256; gray += 1) {
    let value = Math.min(Math.max(((gray - low) / view.window) * 255, 0), 255);
    if (view.inverted) value = 255 - value;
    grays[gray] = 0xff000000 | (Math.round(value) * 0x010101);
  }
  const context = picture.shown.getContext("2d");
  const pixels = context.createImageData(picture.width, picture.height);
  const words = new Uint32Array(pixels.data.buffer);
  for (let place = 0; place < words.length; place += 1) words[place] = grays[picture.gray[place]];
  context.putImageData(pixels, 0, 0);
}

let undeveloped = false;

function refresh(grays) {
  undeveloped ||= grays;
  if (due) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    draw();
  });
}

function draw() {
  const ratio = window.devicePixelRatio || 1;
  const width = Math.round(canvas.clientWidth * ratio);
  const height = Math.round(canvas.clientHeight * ratio);
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, width, height);
  if (!picture) return;
  if (undeveloped) develop();
  undeveloped = false;
  const scale = view.zoom * Math.min(width / picture.width, height / picture.height);
  context.save();
  context.translate(width / 2 + view.x * width, height / 2 + view.y * height);
  context.scale(scale, scale);
  context.translate(-picture.width / 2, -picture.height / 2);
  context.imageSmoothingQuality = "high";
  context.drawImage(picture.shown, 0, 0);
  if (heat) {
    const [top, left, bottom, right] = heat.box;
    const [down, across] = [picture.height / picture.rows, picture.width / picture.columns];
    context.beginPath();
    context.rect(0, 0, picture.width, picture.height);
    context.clip();
    context.globalAlpha = opacity;
    context.drawImage(
      heat.canvas, left * across, top * down, (right - left) * across, (bottom - top) * down,
    );
  }
  context.globalAlpha = 1;
  if (outlines) context.drawImage(outlines, 0, 0, picture.width, picture.height);
  for (const one of boxes) drawBox(context, one, ratio / scale);
  context.restore();
  $("zoom").textContent = `${Math.round(view.zoom * 100)}%`;
  $("window").value = $("window-value").textContent = Math.round(view.window);
  $("level").value = $("level-value").textContent = Math.round(view.level);
  $("invert").setAttribute("aria-pressed", view.inverted);
}

/** A frame with its number; a second one around it keeps it visible on bright and dark. */
function drawBox(context, { box, width, height, number, strong }, pixel) {
  const [across, down] = [picture.width / width, picture.height / height];
  const [left, top, right, bottom] = box;
  const [x, y] = [left * across, top * down];
  const [w, h] = [(right - left) * across, (bottom - top) * down];
  const line = (strong ? 3 : 1.5) * pixel;
  for (const [colour, extra] of [["#05080b", 2 * pixel], [strong ? "#ffd24d" : "#4cc3d9", 0]]) {
    context.strokeStyle = colour;
    context.lineWidth = line + extra;
    context.strokeRect(x, y, w, h);
  }
  context.font = `600 ${13 * pixel}px sans-serif`;
  context.textBaseline = "bottom";
  context.lineWidth = 3 * pixel;
  context.strokeStyle = "#05080b";
  context.strokeText(number, x, y - 2 * pixel);
  context.fillStyle = strong ? "#ffd24d" : "#4cc3d9";
  context.fillText(number, x, y - 2 * pixel);
}

function change(changes) {
  if (!picture) return;
  const before = view;
  view = { ...view, ...changes };
  view.window = Math.min(Math.max(view.window, 1), 512);
  view.level = Math.min(Math.max(view.level, 0), 255);
  view.zoom = Math.min(Math.max(view.zoom, ZOOMS[0]), ZOOMS[1]);
  const reach = view.zoom / 2; // some of it always stays in sight
  view.x = Math.min(Math.max(view.x, -reach), reach);
  view.y = Math.min(Math.max(view.y, -reach), reach);
  refresh(["window", "level", "inverted"].some((name) => view[name] !== before[name]));
}

/** Zoom about a place, given in shares of the canvas from its middle. */
function zoomBy(factor, x = 0, y = 0) {
  const zoom = Math.min(Math.max(view.zoom * factor, ZOOMS[0]), ZOOMS[1]);
  const grown = zoom / view.zoom;
  change({ zoom, x: x + (view.x - x) * grown, y: y + (view.y - y) * grown });
}

function setOpacity(value) {
  opacity = value / 100;
  $("opacity").value = value;
  $("opacity-value").textContent = `${value}%`;
  refresh(false);
}

const KEYS = {
  ArrowLeft: () => change({ window: view.window - 8 }),
  ArrowRight: () => change({ window: view.window + 8 }),
  ArrowUp: () => change({ level: view.level - 4 }),
  ArrowDown: () => change({ level: view.level + 4 }),
  "+": () => zoomBy(1.25),
  "=": () => zoomBy(1.25),
  "-": () => zoomBy(0.8),
  "0": () => change(START),
  i: () => change({ inverted: !view.inverted }),
  h: () => setOpacity(opacity ? 0 : 70),
};
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

canvas.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const move = event.shiftKey && MOVES[event.key];
  const key = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (move) change({ x: view.x + 0.05 * move[0], y: view.y + 0.05 * move[1] });
  else if (key) key();
  else return;
  event.preventDefault();
});

const pointers = new Map();

canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, event);
});
for (const name of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(name, (event) => pointers.delete(event.pointerId));
}
canvas.addEventListener("pointermove", (event) => {
  const before = pointers.get(event.pointerId);
  if (!before) return;
  const [across, down] = [event.clientX - before.clientX, event.clientY - before.clientY];
  const other = [...pointers.values()].find((pointer) => pointer.pointerId !== event.pointerId);
  if (other) {
    const apart = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
    zoomBy(apart(event) / Math.max(apart(before), 1));
  } else if (event.shiftKey || $("pan").getAttribute("aria-pressed") === "true") {
    change({ x: view.x + across / canvas.clientWidth, y: view.y + down / canvas.clientHeight });
  } else {
    change({ window: view.window + across, level: view.level + down / 2 });
  }
  pointers.set(event.pointerId, event);
});
canvas.addEventListener("wheel", (event) => {
  if (!picture) return;
  event.preventDefault();
  const place = canvas.getBoundingClientRect();
  zoomBy(
    Math.exp(-event.deltaY / 400),
    (event.clientX - place.left) / place.width - 0.5,
    (event.clientY - place.top) / place.height - 0.5,
  );
}, { passive: false });

$("zoom-in").addEventListener("click", () => zoomBy(1.25));
$("zoom-out").addEventListener("click", () => zoomBy(0.8));
$("reset").addEventListener("click", () => change(START));
$("invert").addEventListener("click", () => change({ inverted: !view.inverted }));
$("pan").addEventListener("click", () => {
  const pans = canvas.classList.toggle("panning");
  $("pan").setAttribute("aria-pressed", pans);
});
for (const name of ["window", "level"]) {
  $(name).addEventListener("input", (event) => change({ [name]: Number(event.target.value) }));
}
$("opacity").addEventListener("input", (event) => setOpacity(Number(event.target.value)));
new ResizeObserver(() => refresh(false)).observe(canvas);
