/** The page: files in, picture and controls; all computing is the worker's. */

import { fillClasses, switchAll } from "./classes.js";
import { oneLine, UserError } from "./errors.js";
import { draw } from "./picture.js";
import { encodeLabels } from "./png.js";

const element = (id) => document.getElementById(id);
const state = { model: null, files: null, image: null, result: null, confidence: null, shown: new Set() };

const worker = new Worker("worker.js", { type: "module" });
const waiting = new Map();
let lastId = 0;

/** Have the worker do a job; `values` may hold buffers to hand over in `transfer`. */
function ask(job, values = {}, transfer = []) {
  const id = ++lastId;
  worker.postMessage({ id, job, ...values }, transfer);
  return new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
}

worker.onmessage = ({ data: { id, result, error } }) => {
  const { resolve, reject } = waiting.get(id);
  waiting.delete(id);
  if (error === undefined) resolve(result);
  else reject(new UserError(error));
};
worker.onerror = (event) => showError(event.message || "The page's worker could not start. Build the page again.");

/** Do something that takes time; its error becomes the page's line. */
async function busily(action) {
  element("busy").hidden = false;
  element("error").hidden = true;
  document.body.dataset.state = "busy";
  try {
    await action();
    document.body.dataset.state = "ready";
  } catch (error) {
    showError(oneLine(error));
  }
  element("busy").hidden = true;
}

function showError(message) {
  element("error").textContent = message;
  element("error").hidden = false;
  document.body.dataset.state = "error";
}

async function loadModel(deployText, model, source) {
  element("model-status").textContent = `Loading ${source} (${(model.byteLength / 2 ** 20).toFixed(0)} MiB)`;
  state.model = null;
  const useWebGpu = element("webgpu").checked;
  try {
    state.model = await ask("load", { deployText, model, useWebGpu }, [model]);
  } finally {
    element("model-status").textContent = state.model
      ? `${source}: ${state.model.classes.length} classes. ${state.model.engine}`
      : "No model. Choose model.onnx and deploy.yaml of an export.";
  }
  if (state.image) await predict(state.image);
}

/** Load the export in the folder that the page's address names: ?model=export/ */
async function loadFromAddress() {
  const folder = new URLSearchParams(location.search).get("model");
  if (!folder) return;
  const base = new URL(folder.endsWith("/") ? folder : `${folder}/`, location.href);
  if (base.origin !== location.origin) {
    throw new UserError(`?model=${folder}: is on another server. Copy the export beside this page.`);
  }
  const [text, model] = await Promise.all(
    ["deploy.yaml", "model.onnx"].map(async (name) => {
      const response = await fetch(new URL(name, base));
      if (!response.ok) throw new UserError(`${folder}${name}: not found (HTTP ${response.status}).`);
      return name === "deploy.yaml" ? response.text() : response.arrayBuffer();
    }),
  );
  await loadModel(text, model, folder);
}

async function loadFromFiles(files) {
  const find = (pattern) => files.find(({ name }) => pattern.test(name));
  const [graph, yaml] = [find(/\.onnx$/i), find(/\.ya?ml$/i)];
  if (!graph || !yaml) {
    const found = files.map(({ name }) => name).join(", ") || "nothing";
    throw new UserError(`Found ${found}, expected model.onnx and deploy.yaml of one export. Choose both at once.`);
  }
  state.files = files;
  await loadModel(await yaml.text(), await graph.arrayBuffer(), graph.name);
}

async function predict(file) {
  const result = await ask("predict", { file });
  Object.assign(state, { result, image: file, confidence: null });
  element("drop").classList.add("filled");
  element("hint").hidden = true;
  for (const id of ["picture", "another", "save"]) element(id).hidden = false;
  for (const id of ["view-card", "class-card"]) element(id).disabled = false;
  fillClasses(element("classes"), state.model, result.counts, (shown) => {
    state.shown = shown;
    redraw();
  });
  showTimings(result);
  element("hover").textContent = "\u00a0";
  await changeView();
}

function showTimings({ timings, height, width, windows }) {
  const rows = Object.entries(timings).map(([step, ms]) => [step, `${ms.toFixed(0)} ms`]);
  rows.push(["size", `${height} x ${width} px`]);
  if (windows > 1) rows.push(["windows", windows]);
  const cells = rows.map(([name, value]) => {
    const cell = document.createElement("div");
    cell.append(
      Object.assign(document.createElement("dt"), { textContent: name }),
      Object.assign(document.createElement("dd"), { textContent: value }),
    );
    return cell;
  });
  element("timings").replaceChildren(...cells);
  element("timings").hidden = false;
}

const chosenView = () => document.querySelector("input[name=view]:checked").value;

async function changeView() {
  if (chosenView() === "confidence") state.confidence ??= await ask("confidence");
  redraw();
}

function redraw() {
  if (!state.result) return;
  const confidence = chosenView() === "confidence" ? state.confidence : null;
  const opacity = element("opacity").value / 100;
  const { palette } = state.model;
  draw(element("picture"), state.result, { palette, shown: state.shown, opacity, confidence });
}

/** Say which class lies under the pointer. */
function hover({ offsetX, offsetY }) {
  const { height, width, labels } = state.result;
  const picture = element("picture");
  const row = Math.floor((offsetY / picture.clientHeight) * height);
  const column = Math.floor((offsetX / picture.clientWidth) * width);
  if (row < 0 || row >= height || column < 0 || column >= width) return;
  const index = row * width + column;
  const sure = state.confidence ? `, confidence ${(state.confidence[index] / 2.55).toFixed(0)} %` : "";
  element("hover").textContent = `${state.model.classes[labels[index]]}${sure}`;
}

async function save() {
  const { labels, height, width } = state.result;
  const blob = await encodeLabels(labels, height, width, state.model.palette);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${state.image.name.replace(/\.[^.]*$/, "")}_labels.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** Take files that were dropped or chosen: a model's two, or an image. */
function take(list) {
  const files = [...list];
  if (!files.length) return;
  const isModel = files.some(({ name }) => /\.(onnx|ya?ml)$/i.test(name));
  busily(() => (isModel ? loadFromFiles(files) : predict(files[0])));
}

for (const id of ["image-file", "model-files"]) {
  element(id).addEventListener("change", ({ target }) => {
    take(target.files);
    target.value = ""; // the same file may be chosen again
  });
}
const drop = element("drop");
drop.addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  take(event.dataTransfer.files);
});
for (const input of document.querySelectorAll("input[name=view]")) {
  input.addEventListener("change", () => busily(changeView));
}
element("opacity").addEventListener("input", ({ target }) => {
  element("opacity-value").textContent = `${target.value} %`;
  redraw();
});
element("picture").addEventListener("pointermove", hover);
element("another").addEventListener("click", () => element("image-file").click());
element("save").addEventListener("click", () => busily(save));
element("show-all").addEventListener("click", () => switchAll(element("classes"), true));
element("show-none").addEventListener("click", () => switchAll(element("classes"), false));
element("webgpu-switch").hidden = !navigator.gpu;
element("webgpu").addEventListener("change", () =>
  busily(() => (state.files ? loadFromFiles(state.files) : loadFromAddress())),
);
busily(loadFromAddress);
