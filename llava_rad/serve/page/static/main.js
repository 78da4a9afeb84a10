// The page: a study goes to the server, its report comes back.

import { $, make } from "./elements.js";
import { getFile, getJson, getText, postForEvents, setToken, studyForm } from "./server.js";
import { offerOutlines } from "./organs.js";
import * as study from "./study.js";
import * as report from "./report.js";

const FORMATS = {
  text: "Text", markdown: "Markdown", json: "JSON", pdf: "PDF", "dicom-sr": "DICOM SR", fhir: "FHIR",
};

let models = [];
let running = null;

const chosenModel = () => models.find(({ id }) => id === $("model").value) ?? models[0];

// --- one line for what went wrong, and what is going on ---

function tell(error) {
  const text = typeof error === "string" ? error : error?.message ?? "";
  $("error").textContent = text;
  $("error").hidden = !text;
  if (error?.status === 401) {
    $("token-form").hidden = false;
    $("token").focus();
  }
}

function begin(text) {
  tell("");
  $("status").textContent = text;
  $("write").ariaDisabled = `${Boolean(running)}`;
  if (!running && document.activeElement === $("cancel")) $("write").focus();
  $("cancel").hidden = !running;
}

// --- writing findings ---

$("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const files = study.chosenFiles();
  if (running) return;
  if (!files.length) {
    tell("Choose the files of a study first.");
    $("files").focus();
    return;
  }
  const fields = { indication: $("indication").value.trim(), model: $("model").value };
  running = new AbortController();
  begin("Sending and reading the files …");
  report.clear("The findings appear here as they are written.");
  $("text").setAttribute("aria-live", "polite");
  let text = "";
  let outcome = "Done.";
  let failure = null;
  try {
    const form = studyForm(files, { ...fields, stream: "true" });
    for await (const [name, values] of postForEvents("/v1/report", form, running.signal)) {
      if (name === "text") {
        $("status").textContent = "Writing …";
        report.showGrowing((text += values.text));
      } else if (name === "done") {
        study.closeStudy();
        report.showReport(values, files, fields.indication);
        await showFormats();
      }
    }
  } catch (error) {
    report.stopGrowing();
    failure = error.name === "AbortError" ? null : error;
    outcome = failure ? "" : "Cancelled.";
    if (text) outcome += " The text is not finished.";
    else report.clear();
  }
  running = null;
  begin(outcome.trim());
  if (failure) tell(failure);
});

$("cancel").addEventListener("click", () => running?.abort());

// --- copy and download ---

async function showFormats() {
  const model = chosenModel();
  const dicom = await study.allDicom(report.reportedFiles());
  const offered = model.formats.filter((name) => name !== "dicom-sr" || dicom);
  $("no-sr").hidden = dicom || !model.formats.includes("dicom-sr");
  $("formats").replaceChildren(
    make("button", { type: "button", onclick: copy }, "Copy"),
    ...Object.keys(FORMATS).filter((name) => offered.includes(name)).map((name) => make(
      "button",
      { type: "button", ariaLabel: `Download as ${FORMATS[name]}`, onclick: () => download(name) },
      FORMATS[name],
    )),
  );
}

async function copy() {
  try {
    await navigator.clipboard.writeText(report.findings());
    begin("Copied.");
  } catch {
    getSelection().selectAllChildren($("text"));
    begin("The text is selected: copy it with Ctrl+C.");
  }
}

async function download(format) {
  begin(`Making ${FORMATS[format]} …`);
  try {
    const [file, name] = await report.documentOf(format);
    const link = make("a", { href: URL.createObjectURL(file), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    begin(`${name} is made.`);
  } catch (error) {
    begin("");
    tell(error);
  }
}

// --- files ---

const add = (files) => tell(study.addFiles(files));

$("files").addEventListener("change", (event) => {
  add([...event.target.files]);
  event.target.value = ""; // so that the same file can be chosen again
});
for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    $("drop").classList.toggle("over", name === "dragenter" || name === "dragover");
    if (name === "drop") add([...event.dataTransfer.files]);
  });
}
study.onChoice(report.showMap);
$("model").addEventListener("change", () => {
  study.reload();
  offerOutlines(chosenModel().outlines);
});

// --- pages ---

const tabs = [$("tab-report"), $("tab-card")];

function open(tab) {
  for (const one of tabs) {
    one.ariaSelected = `${one === tab}`;
    one.tabIndex = one === tab ? 0 : -1;
    $(one.getAttribute("aria-controls")).hidden = one !== tab;
  }
  if (tab === $("tab-card")) showCard();
}

for (const tab of tabs) {
  tab.addEventListener("click", () => open(tab));
  tab.addEventListener("keydown", ({ key }) => {
    if (key !== "ArrowLeft" && key !== "ArrowRight") return;
    const other = tabs[1 - tabs.indexOf(tab)];
    open(other);
    other.focus();
  });
}

async function showCard() {
  try {
    // The server makes it of Markdown and escapes every markup in it.
    const name = encodeURIComponent($("model").value);
    $("card").innerHTML = await getText(`/v1/card?model=${name}`);
  } catch (error) {
    $("card").replaceChildren(make("p", { className: "error" }, error.message));
  }
}

// --- start ---

$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setToken($("token").value);
  $("token-form").hidden = true;
  start();
});

async function start() {
  tell("");
  try {
    const about = await getJson("/page/about.json");
    study.prepare(about, () => {
      running?.abort(); // it is of other files
      report.clear();
    });
    showExamples(about.examples);
    models = (await getJson("/v1/models")).data;
    $("model").replaceChildren(...models.map(({ id }) => make("option", {}, id)));
    $("model-field").hidden = models.length < 2;
    offerOutlines(chosenModel().outlines);
  } catch (error) {
    tell(error);
  }
}

function showExamples(examples) {
  $("examples").hidden = !examples.length;
  const [label] = $("examples").children;
  $("examples").replaceChildren(label, ...examples.map(({ title, name }) => make("button", {
    type: "button",
    onclick: async () => {
      try {
        const file = await getFile(`/page/examples/${name}`, name);
        study.closeStudy();
        add([file]);
      } catch (error) {
        tell(error);
      }
    },
  }, title)));
}

start();
