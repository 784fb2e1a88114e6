/**
 * Size rules of deploy.yaml, with the results of OpenCV's resizing.
 *
 * An image is {height, width, planes}: its channels red, green and blue one after the other, 0..255,
 * in a Uint8Array or, after a change in floating point, a Float32Array.
 */

import { UserError } from "./errors.js";
import { bilinear } from "./linear_map.js";

const COEFFICIENT = 2048; // of OpenCV's fixed-point resizing of bytes

/** name: [keys, (rule, height, width) => [height, width]s one after the other, kind] */
const RULES = {
  Resize: [["target_size", "keep_ratio", "size_divisor", "interp"], (...at) => [resize(...at)], "float"],
  ResizeByShort: [["short_size", "max_size"], (...at) => [byShort(...at)], "float"],
  ResizeByLong: [["long_size"], (...at) => [byLong(...at)], "float"],
  LimitLong: [["max_long", "min_long"], (...at) => [limitLong(...at)], "float"],
  ResizeKeepRatio: [["scale"], (...at) => [keepRatio(...at)], "bytes"],
  AlignedResize: [["scale", "size_divisor"], aligned, "bytes"],
  ResizeToMultiple: [["size_divisor"], (...at) => [toMultiple(at[1], at[2], at[0].size_divisor)], "bytes"],
  Padding: [["target_size", "im_padding_value", "label_padding_value"], (...at) => [pad(...at)], "pad"],
};

/** Refuse transforms that the page cannot apply as Python does. */
export function checkTransforms(transforms) {
  transforms.forEach((rule, index) => {
    if (rule.type === "Normalize") {
      if (index !== transforms.length - 1) throw new UserError("deploy.yaml: Normalize is not last.");
      return;
    }
    const known = RULES[rule.type];
    const unknown = Object.keys(rule).filter((key) => key !== "type" && !known?.[0].includes(key));
    if (!known || unknown.length || (rule.interp ?? "LINEAR") !== "LINEAR" || Array.isArray(rule.short_size)) {
      throw new UserError(
        `deploy.yaml: the size rule ${JSON.stringify(rule)} cannot be applied here; this page knows ` +
          `${Object.keys(RULES).join(", ")} with linear interpolation.`,
      );
    }
  });
}

/**
 * Apply the size rules; return the image at the network's size, and for each rule what was changed.
 *
 * @returns {{image, steps: {pads: boolean, height: number, width: number}[]}}
 */
export function applySizeRules(image, transforms) {
  const steps = [];
  for (const rule of transforms.filter(({ type }) => type !== "Normalize")) {
    const [, sizes, kind] = RULES[rule.type];
    const { height, width } = image;
    steps.push({ pads: kind === "pad", height, width });
    for (const size of sizes(rule, height, width)) {
      image = kind === "pad" ? padded(image, size, rule.im_padding_value ?? 127.5) : resized(image, size, kind);
    }
  }
  return { image, steps };
}

function resized(image, [height, width], kind) {
  if (image.height === height && image.width === width) return image;
  const isBytes = kind === "bytes" && image.planes instanceof Uint8Array;
  const planes = new (isBytes ? Uint8Array : Float32Array)(3 * height * width);
  for (let channel = 0; channel < 3; channel++) {
    const source = image.planes.subarray(channel * image.height * image.width);
    const target = planes.subarray(channel * height * width);
    (isBytes ? resizeBytes : resizeFloats)(source, image, target, { height, width });
  }
  return { height, width, planes };
}

function resizeFloats(source, from, target, to) {
  const rows = bilinear(from.height, to.height);
  const columns = bilinear(from.width, to.width);
  const middle = new Float32Array(from.height * to.width);
  for (let y = 0; y < from.height; y++) {
    for (let x = 0; x < to.width; x++) {
      let sum = 0;
      for (let tap = 0; tap < columns.numTaps; tap++) {
        sum += columns.weights[x * columns.numTaps + tap] * source[y * from.width + columns.start[x] + tap];
      }
      middle[y * to.width + x] = sum;
    }
  }
  for (let y = 0; y < to.height; y++) {
    for (let x = 0; x < to.width; x++) {
      let sum = 0;
      for (let tap = 0; tap < rows.numTaps; tap++) {
        sum += rows.weights[y * rows.numTaps + tap] * middle[(rows.start[y] + tap) * to.width + x];
      }
      target[y * to.width + x] = sum;
    }
  }
}

/** Resize bytes with OpenCV's fixed-point arithmetic, to the bit. */
function resizeBytes(source, from, target, to) {
  const rows = fixedPoint(from.height, to.height, false);
  const columns = fixedPoint(from.width, to.width, true);
  const line = (y) =>
    columns.map(([left, right, a, b]) => source[y * from.width + left] * a + source[y * from.width + right] * b);
  rows.forEach(([top, bottom, a, b], y) => {
    const upper = line(top);
    const lower = line(bottom);
    for (let x = 0; x < to.width; x++) {
      target[y * to.width + x] = (((a * (upper[x] >> 4)) >> 16) + ((b * (lower[x] >> 4)) >> 16) + 2) >> 2;
    }
  });
}

/**
 * For each output: its two inputs and their factors in 1/2048.
 *
 * At the ends both inputs are the same; along columns the first then has the whole weight.
 */
function fixedPoint(numInputs, numOutputs, isWholeAtEnds) {
  const last = numInputs - 1;
  return Array.from({ length: numOutputs }, (_, output) => {
    const position = Math.fround((output + 0.5) * (1 / (numOutputs / numInputs)) - 0.5);
    const first = Math.floor(position);
    const isEnd = first < 0 || first >= last;
    const fraction = isWholeAtEnds && isEnd ? 0 : Math.fround(position - first);
    const factors = [Math.fround(1 - fraction), fraction].map((value) => halfToEven(value * COEFFICIENT));
    return [Math.max(first, 0), Math.min(first + 1, last), ...factors];
  });
}

function padded(image, [height, width], value) {
  if (image.height === height && image.width === width) return image;
  const values = Array.isArray(value) ? value : [value];
  const isWhole = values.every((item) => item % 1 === 0);
  const planes = new (isWhole ? image.planes.constructor : Float32Array)(3 * height * width);
  for (let channel = 0; channel < 3; channel++) {
    const target = planes.subarray(channel * height * width, (channel + 1) * height * width);
    target.fill(values[channel % values.length]);
    for (let y = 0; y < image.height; y++) {
      const start = (channel * image.height + y) * image.width;
      target.set(image.planes.subarray(start, start + image.width), y * width);
    }
  }
  return { height, width, planes };
}

function resize({ target_size, keep_ratio, size_divisor }, height, width) {
  let size = [target_size[1], target_size[0]];
  if (keep_ratio) {
    const factor = fitFactor(height, width, size);
    size = [halfToEven(height * factor), halfToEven(width * factor)];
  }
  return size_divisor ? toMultiple(...size, size_divisor) : size;
}

function byShort({ short_size, max_size = 1e10 }, height, width) {
  const [short, long] = [Math.min(height, width), Math.max(height, width)];
  let target = short_size;
  if ((target / short) * long > max_size) target = Math.max(1, Math.trunc((max_size / long) * short));
  return scaled(height, width, target / short);
}

function byLong({ long_size }, height, width) {
  return scaled(height, width, long_size / Math.max(height, width));
}

function limitLong({ max_long, min_long }, height, width) {
  const long = Math.max(height, width);
  const target = Math.max(Math.min(long, max_long ?? long), min_long ?? 0);
  return target === long ? [height, width] : scaled(height, width, target / long);
}

function keepRatio({ scale }, height, width) {
  const factor = fitFactor(height, width, scale);
  return [height, width].map((side) => Math.max(1, Math.trunc(side * factor + 0.5)));
}

function aligned(rule, height, width) {
  const fitted = keepRatio(rule, height, width);
  return [fitted, toMultiple(...fitted, rule.size_divisor)];
}

function toMultiple(height, width, divisor) {
  return [height, width].map((side) => Math.ceil(side / divisor) * divisor);
}

function pad({ target_size: [targetWidth, targetHeight] }, height, width) {
  if (height > targetHeight || width > targetWidth) {
    throw new UserError(
      `The image is ${height}x${width} px (height x width), larger than the ${targetHeight}x${targetWidth} ` +
        "that deploy.yaml pads to. Take a smaller one.",
    );
  }
  return [targetHeight, targetWidth];
}

function fitFactor(height, width, limits) {
  return Math.min(
    Math.max(...limits) / Math.max(height, width),
    Math.min(...limits) / Math.min(height, width),
  );
}

function scaled(height, width, factor) {
  return [height, width].map((side) => Math.max(1, halfToEven(side * factor)));
}

function halfToEven(value) {
  const rounded = Math.round(value);
  return Math.abs(value % 1) === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded;
}
