/**
 * Linear maps along one image axis, as banded matrices: resizing, cropping, placing a window.
 *
 * Between the network's logits and those of the image, rows and columns each go through a chain of
 * such maps; a chain is composed to one map in double precision.
 */

export class LinearMap {
  /**
   * @param {number} numInputs Samples of the input axis.
   * @param {Int32Array} start For each output, the first input it uses.
   * @param {number} numTaps Inputs that an output uses.
   * @param {Float64Array} weights (outputs, taps) their factors.
   */
  constructor(numInputs, start, numTaps, weights) {
    Object.assign(this, { numInputs, start, numTaps, weights });
  }

  get numOutputs() {
    return this.start.length;
  }

  /** Return the map that applies this one first and `outer` to its result. */
  then(outer) {
    const rows = Array.from(outer.start, (first, output) => {
      const row = new Map();
      for (let tap = 0; tap < outer.numTaps; tap++) {
        const factor = outer.weights[output * outer.numTaps + tap];
        if (factor !== 0) this.#add(row, first + tap, factor);
      }
      return row;
    });
    return fromRows(this.numInputs, rows);
  }

  #add(row, middle, factor) {
    for (let tap = 0; tap < this.numTaps; tap++) {
      const weight = this.weights[middle * this.numTaps + tap];
      const input = this.start[middle] + tap;
      if (weight !== 0) row.set(input, (row.get(input) ?? 0) + factor * weight);
    }
  }

  /** Return the first output that uses any input, and the last one + 1. */
  outputRange() {
    let low = this.numOutputs;
    let high = 0;
    this.weights.forEach((weight, index) => {
      if (weight === 0) return;
      const output = Math.floor(index / this.numTaps);
      low = Math.min(low, output);
      high = Math.max(high, output + 1);
    });
    return [Math.min(low, high), high];
  }
}

function fromRows(numInputs, rows) {
  const spans = rows.map((row) => [Math.min(...row.keys()), Math.max(...row.keys())]);
  const numTaps = Math.max(1, ...spans.map(([low, high]) => high - low + 1).filter(Number.isFinite));
  const start = new Int32Array(rows.length);
  const weights = new Float64Array(rows.length * numTaps);
  rows.forEach((row, output) => {
    start[output] = row.size ? Math.min(spans[output][0], numInputs - numTaps) : 0;
    for (const [input, weight] of row) weights[output * numTaps + input - start[output]] = weight;
  });
  return new LinearMap(numInputs, start, numTaps, weights);
}

/**
 * Return bilinear resizing with half-pixel centres and clamped edges, or with the first and the last
 * samples on each other.
 */
export function bilinear(numInputs, numOutputs, alignCorners = false) {
  if (numInputs === numOutputs) return crop(numInputs, numInputs);
  const numTaps = Math.min(2, numInputs);
  const start = new Int32Array(numOutputs);
  const weights = new Float64Array(numOutputs * numTaps);
  for (let output = 0; output < numOutputs; output++) {
    const centre = alignCorners
      ? output * ((numInputs - 1) / Math.max(numOutputs - 1, 1))
      : (output + 0.5) * (numInputs / numOutputs) - 0.5;
    const position = Math.min(Math.max(centre, 0), numInputs - 1);
    start[output] = Math.min(Math.floor(position), numInputs - numTaps);
    const fraction = position - start[output];
    weights[output * numTaps] = 1 - fraction;
    if (numTaps === 2) weights[output * numTaps + 1] = fraction;
  }
  return new LinearMap(numInputs, start, numTaps, weights);
}

/** Return the first `numOutputs` inputs: padding at the end is dropped. */
export function crop(numInputs, numOutputs) {
  const start = Int32Array.from({ length: numOutputs }, (_, index) => index);
  return new LinearMap(numInputs, start, 1, new Float64Array(numOutputs).fill(1));
}

/** Return a window put at `offset` into an axis of zeros, each sample times its factor there. */
export function place(numInputs, offset, factors) {
  const start = new Int32Array(factors.length);
  const weights = new Float64Array(factors.length);
  factors.forEach((factor, output) => {
    const position = output - offset;
    if (position < 0 || position >= numInputs) return;
    start[output] = position;
    weights[output] = factor;
  });
  return new LinearMap(numInputs, start, 1, weights);
}
