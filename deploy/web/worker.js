/** Loads a model and predicts images, away from the page so that it stays alive. */

import { decode } from "./decode.js";
import { checkModel, readDeploy } from "./deploy_config.js";
import { oneLine, UserError } from "./errors.js";
import { predict } from "./pipeline.js";

const MAX_THREADS = 4;
const VENDOR = new URL("./vendor/", import.meta.url).href;
const state = { ort: null, session: null, deploy: null, logits: null };

const jobs = {
  /** Read an export: {deployText, model: ArrayBuffer, useWebGpu}. */
  async load({ deployText, model, useWebGpu }) {
    const deploy = readDeploy(deployText);
    await checkModel(deploy, model);
    const ort = await runtime(useWebGpu);
    await state.session?.release();
    Object.assign(state, { ort, deploy, session: null, logits: null });
    const provider = useWebGpu ? "webgpu" : "wasm";
    try {
      state.session = await ort.InferenceSession.create(model, { executionProviders: [provider] });
    } catch (error) {
      throw new UserError(`The model cannot be loaded: ${oneLine(error)}`);
    }
    const threads = ort.env.wasm.numThreads;
    const engine = useWebGpu ? "WebGPU" : `WebAssembly, ${threads} thread${threads > 1 ? "s" : ""}`;
    const { classes, palette, made_with } = deploy;
    return { classes, palette, madeWith: made_with, engine: `ONNX Runtime ${ort.env.versions.web}, ${engine}` };
  },

  /** Predict an image file: {file}. */
  async predict({ file }) {
    if (!state.session) throw new UserError("No model is loaded. Choose model.onnx and deploy.yaml first.");
    const times = { start: performance.now(), network: 0 };
    const image = await decode(file);
    times.read = performance.now();
    state.logits = await predict(image, state.deploy, (x, shape) => network(x, shape, times));
    const labels = state.logits.labels();
    const total = performance.now() - times.start;
    const read = times.read - times.start;
    const timings = { read, network: times.network, labels: total - read - times.network, total };
    const { height, width, rgba } = image;
    const windows = state.logits.pieces.length;
    return { height, width, rgba, labels, timings, windows, counts: countsOf(labels) };
  },

  /** Return the probability of the predicted classes of the last image. */
  async confidence() {
    if (!state.logits) throw new UserError("No image was predicted yet.");
    return state.logits.confidence();
  },
};

async function runtime(useWebGpu) {
  const ort = await import(useWebGpu ? "./vendor/ort.webgpu.min.mjs" : "./vendor/ort.wasm.min.mjs");
  ort.env.wasm.wasmPaths = VENDOR;
  ort.env.logLevel = "error"; // warnings are about constants that it folds
  const cores = navigator.hardwareConcurrency ?? 1;
  ort.env.wasm.numThreads = globalThis.crossOriginIsolated ? Math.min(MAX_THREADS, cores) : 1;
  return ort;
}

async function network(x, shape, times) {
  const { ort, session } = state;
  const start = performance.now();
  try {
    const feeds = { [session.inputNames[0]]: new ort.Tensor("float32", x, shape) };
    const outputs = await session.run(feeds);
    const { data, dims } = outputs[session.outputNames[0]];
    return { data, dims };
  } catch (error) {
    throw new UserError(
      `The network failed on ${shape[2]}x${shape[3]} px (height x width): ${oneLine(error)}. Take a smaller image.`,
    );
  } finally {
    times.network += performance.now() - start;
  }
}

function countsOf(labels) {
  const counts = new Array(state.deploy.classes.length).fill(0);
  for (const id of labels) counts[id] += 1;
  return counts;
}

let queue = Promise.resolve(); // one job after the other: the runtime runs one at a time
self.onmessage = ({ data: { id, job, ...values } }) => {
  queue = queue.then(async () => {
    try {
      self.postMessage({ id, result: await jobs[job](values) });
    } catch (error) {
      self.postMessage({ id, error: oneLine(error) });
    }
  });
};
