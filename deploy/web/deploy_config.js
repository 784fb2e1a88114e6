/** What the page needs of an export's deploy.yaml, checked. */

import { load } from "./vendor/js-yaml.mjs";

import { UserError } from "./errors.js";
import { checkTransforms } from "./size_rules.js";

const FORMATS = [2, 3, 4, 5, 6];

/**
 * Read the text of a deploy.yaml.
 *
 * @throws {UserError} Not one, or one of a model that the page cannot run.
 */
export function readDeploy(text) {
  const deploy = parse(text);
  if (!FORMATS.includes(deploy.format)) {
    throw new UserError(
      `deploy.yaml: found format ${deploy.format}, this page reads ${FORMATS.join(", ")}. ` +
        "Export the model again.",
    );
  }
  checkNetwork(deploy);
  checkInference(deploy.inference ?? {}, deploy.output.num_classes);
  checkValues(deploy.preprocess ?? {});
  checkTransforms(deploy.preprocess?.transforms ?? []);
  return deploy;
}

/** Refuse a model file that is not the one that deploy.yaml describes. */
export async function checkModel(deploy, content) {
  if (!globalThis.crypto?.subtle) return; // a page that came over plain http from elsewhere
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  const found = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  const { name, sha256 } = deploy.artefacts.onnx.files[0];
  if (found !== sha256) {
    throw new UserError(
      `${name}: damaged, or not the model of this deploy.yaml (its checksum differs). ` +
        "Take both files from one export.",
    );
  }
}

function parse(text) {
  let deploy;
  try {
    deploy = load(text);
  } catch (error) {
    throw new UserError(`deploy.yaml: not YAML (${String(error.message).split("\n")[0]}).`);
  }
  const keys = ["format", "artefacts", "input", "output", "classes", "palette"];
  const missing = keys.filter((key) => deploy?.[key] === undefined);
  if (missing.length) {
    throw new UserError(`deploy.yaml: ${missing.join(", ")} missing. Take the one that an export wrote.`);
  }
  return deploy;
}

function checkNetwork({ artefacts, input, output, classes, palette }) {
  if (!artefacts.onnx) {
    const found = Object.keys(artefacts).join(" and ");
    throw new UserError(
      `deploy.yaml: the export holds ${found}, the browser runs onnx. Export again with --format onnx.`,
    );
  }
  const [batch, channels] = input.shape;
  if ((batch !== -1 && batch !== 1) || channels !== 3) {
    throw new UserError(
      `deploy.yaml: found input.shape ${input.shape.join(", ")}, expected a batch of 1 or -1 and 3 channels.`,
    );
  }
  if (output.op !== "none") {
    throw new UserError(
      `deploy.yaml: exported with --output_op ${output.op}, the page needs none. Export it again.`,
    );
  }
  if (classes.length !== output.num_classes || palette.length !== output.num_classes) {
    throw new UserError(
      `deploy.yaml: found ${classes.length} classes and ${palette.length} colours for ${output.num_classes}.`,
    );
  }
}

function checkValues({ value_range }) {
  if (value_range !== undefined && value_range !== null) {
    throw new UserError(
      "deploy.yaml: has preprocess.value_range, but the page maps no stored values to 0..255. " +
        "Use deploy/python/infer.py.",
    );
  }
}

function checkInference({ scales = [1], flip_horizontal, flip_vertical, temperatures = [] }, numClasses) {
  if (scales.length !== 1 || scales[0] !== 1 || flip_horizontal || flip_vertical) {
    throw new UserError(
      "deploy.yaml: averages over scales or flips, the page predicts an image once. " +
        "Export with scales [1.0] and no flips.",
    );
  }
  const isList = Array.isArray(temperatures) && [0, 1, numClasses].includes(temperatures.length);
  if (!isList || !temperatures.every((value) => value > 0)) {
    throw new UserError(
      `deploy.yaml: found inference.temperatures ${temperatures}, expected numbers above 0: ` +
        `one, or one for each of the ${numClasses} classes.`,
    );
  }
}
