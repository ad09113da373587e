/** The arithmetic of one layer, as the definition says it. Sums are in double precision. */

/**
 * @typedef {{c: number, h: number, w: number, data: Float32Array}} Values channels first
 * @typedef {{c: number, h: number, w: number, data: Float32Array, bias: number}} Taps the filter of one output channel
 * @typedef {{kernel: number[], stride: number[], padding: number[][], dilation: number[], groups: number, extra: number[], transposed: boolean, mode: string}} Geometry
 *   one number per axis (rows, columns); `mode` says what padding is filled with
 * @typedef {"conv"|"max"|"mean"|"meanInside"} Operation
 */

/** Pixels that a window spans. @param {number} k @param {number} d */
export const extent = (k, d) => d * (k - 1) + 1;

/**
 * The output size of one axis; not positive where the window does not fit.
 * @param {Geometry} g @param {number} axis @param {number} size
 */
export function outSize(g, axis, size) {
  const [k, s, d] = [g.kernel[axis], g.stride[axis], g.dilation[axis]];
  const [before, after] = g.padding[axis];
  if (g.transposed) return (size - 1) * s - before - after + extent(k, d) + (g.extra[axis] || 0);
  return Math.floor((size + before + after - extent(k, d)) / s) + 1;
}

/**
 * Where each tap of one axis reads: the position in the input, −1 for a zero (or nothing, in pooling).
 * @param {Geometry} g @param {number} axis @param {number} place of the output @param {number} size of the input
 */
export function reads(g, axis, place, size) {
  const [k, s, d, before] = [g.kernel[axis], g.stride[axis], g.dilation[axis], g.padding[axis][0]];
  const found = [];
  for (let tap = 0; tap < k; tap++) {
    if (g.transposed) {
      const spread = place + before - tap * d;
      found.push(spread % s === 0 && spread >= 0 && spread / s < size ? spread / s : -1);
    } else found.push(continued(place * s - before + tap * d, size, g.mode));
  }
  return found;
}

/**
 * The pixel that stands at a position, outside of the input as padding says; −1 for a zero.
 * @param {number} at @param {number} size @param {string} mode
 */
function continued(at, size, mode) {
  if (at >= 0 && at < size) return at;
  if (mode === "replicate") return at < 0 ? 0 : size - 1;
  if (mode === "circular") return ((at % size) + size) % size;
  if (mode === "reflect") {
    const turn = 2 * (size - 1) || 1;
    const m = ((at % turn) + turn) % turn;
    return m < size ? m : turn - m;
  }
  return -1;
}

/**
 * The numbers under the window of one input channel, row by row; NaN where there is padding of zeros.
 * @param {Values} input @param {number} channel @param {number[]} rows @param {number[]} columns
 */
export function under(input, channel, rows, columns) {
  const found = [];
  const base = channel * input.h * input.w;
  for (const y of rows) for (const x of columns) found.push(y < 0 || x < 0 ? NaN : input.data[base + y * input.w + x]);
  return found;
}

/**
 * The sum of products of one input channel at one place.
 * @param {Values} input @param {number} channel @param {Taps} taps @param {number} tap which channel of the filter
 * @param {number[]} rows @param {number[]} columns
 */
export function products(input, channel, taps, tap, rows, columns) {
  const base = channel * input.h * input.w;
  let place = tap * taps.h * taps.w;
  let sum = 0;
  for (const y of rows)
    for (const x of columns) {
      if (y >= 0 && x >= 0) sum += input.data[base + y * input.w + x] * taps.data[place];
      place++;
    }
  return sum;
}

/**
 * One output of a pooling.
 * @param {Values} input @param {number} channel @param {Operation} operation @param {number[]} rows @param {number[]} columns
 */
export function pooled(input, channel, operation, rows, columns) {
  const seen = under(input, channel, rows, columns);
  const inside = seen.filter((v) => !Number.isNaN(v));
  if (operation === "max") return inside.reduce((a, b) => Math.max(a, b), -Infinity);
  return inside.reduce((a, b) => a + b, 0) / (operation === "mean" ? seen.length : inside.length);
}

/**
 * The map of one output channel: (h, w) and its values.
 * @param {Values} input @param {Taps|null} taps null in pooling @param {Geometry} g @param {Operation} operation
 * @param {number} first the first input channel that is read (in pooling, the channel) @param {number[]} [size] of the output
 * @returns {Values}
 */
export function pressed(input, taps, g, operation, first, size) {
  const [oh, ow] = size ?? [outSize(g, 0, input.h), outSize(g, 1, input.w)];
  const data = new Float32Array(Math.max(0, oh) * Math.max(0, ow));
  const columns = Array.from({ length: Math.max(0, ow) }, (_, x) => reads(g, 1, x, input.w));
  for (let y = 0; y < oh; y++) {
    const rows = reads(g, 0, y, input.h);
    for (let x = 0; x < ow; x++) {
      let sum;
      if (operation === "conv" && taps) {
        sum = taps.bias;
        for (let c = 0; c < taps.c; c++) sum += products(input, first + c, taps, c, rows, columns[x]);
      } else sum = pooled(input, first, operation, rows, columns[x]);
      data[y * ow + x] = sum;
    }
  }
  return { c: 1, h: Math.max(0, oh), w: Math.max(0, ow), data };
}

/**
 * Parameters and multiply-accumulates of a convolution; taps on padding count, biases are no MACs.
 * @param {Geometry} g @param {number} ic @param {number} oc @param {number[]} size of the input
 */
export function costs(g, ic, oc, size) {
  const weights = oc * (ic / g.groups) * g.kernel[0] * g.kernel[1];
  const out = [outSize(g, 0, size[0]), outSize(g, 1, size[1])];
  const places = g.transposed ? size[0] * size[1] : out[0] * out[1];
  return { out, params: weights + oc, macs: places * weights };
}

/** Filters by name, 3×3 (blur: any size). @type {Record<string, number[]>} */
export const NAMED = {
  identity: [0, 0, 0, 0, 1, 0, 0, 0, 0],
  emboss: [-2, -1, 0, -1, 1, 1, 0, 1, 2],
  outline: [-1, -1, -1, -1, 8, -1, -1, -1, -1],
  sharpen: [0, -1, 0, -1, 5, -1, 0, -1, 0],
  sobelX: [-1, 0, 1, -2, 0, 2, -1, 0, 1],
  sobelY: [-1, -2, -1, 0, 0, 0, 1, 2, 1],
};

/**
 * The taps of a named filter for one channel: the 3×3 in the middle of a larger kernel, its middle in a smaller one.
 * @param {string} name @param {number} kh @param {number} kw
 */
export function named(name, kh, kw) {
  const data = new Float32Array(kh * kw);
  if (name === "blur") return data.fill(1 / (kh * kw));
  const small = NAMED[name];
  const [top, left] = [Math.floor((kh - 3) / 2), Math.floor((kw - 3) / 2)];
  for (let y = 0; y < 3; y++)
    for (let x = 0; x < 3; x++) {
      const [r, c] = [y + top, x + left];
      if (r >= 0 && r < kh && c >= 0 && c < kw) data[r * kw + c] = small[3 * y + x];
    }
  return data;
}
