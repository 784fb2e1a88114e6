/** One image: size rules, normalisation, windows through the network, labels at the image's size. */

import { UserError } from "./errors.js";
import { backSteps, toOriginal, windowsAlong } from "./geometry.js";
import { applySizeRules } from "./size_rules.js";

/**
 * Predict an image.
 *
 * @param {{height: number, width: number, planes: Uint8Array}} image Channels red, green, blue.
 * @param deploy Content of deploy.yaml.
 * @param {(x: Float32Array, shape: number[]) => Promise<{data: Float32Array, dims: number[]}>} network
 * @returns {Promise<Logits>}
 */
export async function predict(image, deploy, network) {
  const transforms = deploy.preprocess?.transforms ?? [];
  const { image: sized, steps } = applySizeRules(image, transforms);
  const normalize = transforms.find(({ type }) => type === "Normalize");
  const axes = ["height", "width"].map((side, axis) => makeAxis(side, axis, sized, steps, deploy));
  const pieces = [];
  for (const [row, [top, bottom]] of axes[0].windows.entries()) {
    for (const [column, [left, right]] of axes[1].windows.entries()) {
      checkSize(bottom - top, right - left, deploy.input);
      const x = normalized(sized, { top, bottom, left, right }, normalize);
      const { data, dims } = await network(x, [1, 3, bottom - top, right - left]);
      pieces.push({
        data,
        dims: dims.slice(1), // K, h, w
        rows: toOriginal(axes[0], row, dims[2]),
        columns: toOriginal(axes[1], column, dims[3]),
      });
    }
  }
  return new Logits(pieces, image.height, image.width, deploy.inference?.temperatures);
}

function makeAxis(side, axis, sized, steps, { inference = {}, output }) {
  const { is_slide, crop_size_hw, stride_hw, is_one_step, align_corners } = inference;
  const window = is_slide
    ? { crop: crop_size_hw[axis], stride: (stride_hw ?? crop_size_hw)[axis] }
    : null;
  const padMultiple = output.pad_multiple ?? 1;
  if (is_one_step && (is_slide || padMultiple > 1 || steps.some(({ pads }) => pads))) {
    throw new UserError("deploy.yaml: is_one_step does not go with windows or padding. Switch it off.");
  }
  return {
    length: sized[side],
    windows: windowsAlong(sized[side], window),
    back: backSteps(steps.map((step) => ({ pads: step.pads, before: step[side] }))),
    isOneStep: is_one_step,
    padMultiple,
    alignCorners: align_corners,
  };
}

function checkSize(height, width, { shape, min_side_px = 1 }) {
  const fits = [height, width].every((side, axis) => [-1, side].includes(shape[2 + axis]));
  if (!fits || Math.min(height, width) < min_side_px) {
    const fixed = shape.slice(2).map((side) => (side === -1 ? "any" : side)).join("x");
    throw new UserError(
      `The image is ${height}x${width} px (height x width) for the network, which takes ${fixed} ` +
        `of ${min_side_px} px or more. Take another size, or export without --input_shape.`,
    );
  }
}

/** Return (value / 255 - mean) / std of a window, channel by channel, in float32 as Python does. */
function normalized({ height, width, planes }, { top, bottom, left, right }, normalize) {
  const x = new Float32Array(3 * (bottom - top) * (right - left));
  let index = 0;
  for (let channel = 0; channel < 3; channel++) {
    const { offset, scale } = constants(normalize, channel);
    for (let row = top; row < bottom; row++) {
      const start = (channel * height + row) * width;
      for (let at = start + left; at < start + right; at++) {
        x[index++] = normalize ? Math.fround(planes[at] - offset) * scale : planes[at];
      }
    }
  }
  return x;
}

function constants(normalize, channel) {
  if (!normalize) return {};
  const [mean, std] = [normalize.mean ?? [0.5], normalize.std ?? [0.5]].map((values) =>
    Math.fround([values].flat().at([values].flat().length > 1 ? channel : 0)),
  );
  return { offset: Math.fround(255 * mean), scale: Math.fround(1 / Math.fround(255 * std)) };
}

/** The logits of an image: those of its windows, and their ways to the image's pixels. */
export class Logits {
  constructor(pieces, height, width, temperatures = []) {
    Object.assign(this, { pieces, height, width, temperatures, numClasses: pieces[0].dims[0] });
    for (const piece of pieces) {
      piece.rowRange = piece.rows.outputRange();
      piece.columnRange = piece.columns.outputRange();
    }
  }

  /** Return the class of each pixel: the largest logit, of equal ones the lowest id. */
  labels() {
    const labels = new (this.numClasses > 256 ? Uint16Array : Uint8Array)(this.height * this.width);
    this.#forEachRow((scores, y) => {
      const { best, ids } = this.#largest(scores);
      if (!best.every(Number.isFinite)) {
        throw new UserError("The network's logits are not finite: its weights are broken.");
      }
      labels.set(ids, y * this.width);
    });
    return labels;
  }

  /** Return the calibrated probability of each pixel's class, 0..255 for 0..1. */
  confidence() {
    const confidence = new Uint8Array(this.height * this.width);
    this.#forEachRow((scores, y) => {
      const { best, ids } = this.#largest(scores);
      const total = new Float64Array(this.width);
      for (let index = 0; index < scores.length; index++) {
        const x = index % this.width;
        const temperature = this.temperatures[ids[x]] ?? this.temperatures[0] ?? 1;
        total[x] += Math.exp((scores[index] - best[x]) / temperature);
      }
      for (let x = 0; x < this.width; x++) confidence[y * this.width + x] = Math.round(255 / total[x]);
    });
    return confidence;
  }

  #largest(scores) {
    const best = scores.slice(0, this.width);
    const ids = new Int32Array(this.width);
    for (let id = 1; id < this.numClasses; id++) {
      const start = id * this.width;
      for (let x = 0; x < this.width; x++) {
        if (scores[start + x] > best[x]) {
          best[x] = scores[start + x];
          ids[x] = id;
        }
      }
    }
    return { best, ids };
  }

  /** Call `reduce` with the logits (K, W) of each row of pixels; only one row is held at a time. */
  #forEachRow(reduce) {
    const scores = new Float32Array(this.numClasses * this.width);
    for (let y = 0; y < this.height; y++) {
      scores.fill(0);
      for (const piece of this.pieces) {
        if (y >= piece.rowRange[0] && y < piece.rowRange[1]) this.#addRow(scores, piece, y);
      }
      reduce(scores, y);
    }
  }

  #addRow(scores, { data, dims, rows, columns, columnRange }, y) {
    const [, height, width] = dims;
    const { start, numTaps, weights } = columns;
    const line = new Float32Array(width);
    for (let id = 0; id < this.numClasses; id++) {
      line.fill(0);
      for (let tap = 0; tap < rows.numTaps; tap++) {
        const weight = rows.weights[y * rows.numTaps + tap];
        const at = (id * height + rows.start[y] + tap) * width;
        if (weight !== 0) for (let w = 0; w < width; w++) line[w] += weight * data[at + w];
      }
      const target = id * this.width;
      for (let x = columnRange[0]; x < columnRange[1]; x++) {
        let sum = 0;
        for (let tap = 0; tap < numTaps; tap++) sum += weights[x * numTaps + tap] * line[start[x] + tap];
        scores[target + x] += sum;
      }
    }
  }
}
