/** Windows of one image axis, and the way back from a window's logits to the image. */

import { bilinear, crop, place } from "./linear_map.js";

/**
 * Return [start, stop] of the windows along an axis; the last one ends with the axis.
 *
 * @param {number} length Samples of the axis.
 * @param {?{crop: number, stride: number}} window Sliding window, or null for the whole axis.
 */
export function windowsAlong(length, window) {
  if (!window || length <= window.crop) return [[0, length]];
  const count = Math.ceil((length - window.crop) / window.stride) + 1;
  return Array.from({ length: count }, (_, index) => {
    const start = Math.min(index * window.stride, length - window.crop);
    return [start, start + window.crop];
  });
}

/**
 * Return the steps from the network's input size back to the image's; neighbouring resizes are one.
 *
 * @param {{pads: boolean, before: number}[]} steps Size rules along an axis, as they were applied.
 */
export function backSteps(steps) {
  return steps
    .filter((step, index) => step.pads || index === 0 || steps[index - 1].pads)
    .reverse();
}

/** Return the map from a window's logits to its share of the logits of an axis of the image. */
export function toOriginal(axis, index, numLogits) {
  const { length, windows, back, isOneStep, padMultiple, alignCorners } = axis;
  if (isOneStep) return bilinear(numLogits, back.length ? back.at(-1).before : length, alignCorners);
  const [start, stop] = windows[index];
  const padded = Math.ceil((stop - start) / padMultiple) * padMultiple;
  let path = bilinear(numLogits, padded, alignCorners);
  if (padded !== stop - start) path = path.then(crop(padded, stop - start));
  if (windows.length > 1) path = path.then(place(stop - start, start, shares(length, windows)));
  for (const step of back) {
    path = path.then((step.pads ? crop : bilinear)(path.numOutputs, step.before));
  }
  return path;
}

/** Return 1 / (number of windows that cover it) for each sample of an axis. */
function shares(length, windows) {
  const counts = new Float64Array(length);
  for (const [start, stop] of windows) {
    for (let index = start; index < stop; index++) counts[index] += 1;
  }
  return counts.map((count) => 1 / count);
}
