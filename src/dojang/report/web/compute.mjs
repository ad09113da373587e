// @ts-check
/**
 * Runs a network in the browser: the module, the weights and the table that `dojang.engine.browser` makes.
 *
 * Nothing is requested: all that it needs is in the object that it is given. A content security policy must allow
 * 'wasm-unsafe-eval', and nothing else for this file.
 *
 *     const network = await loadNetwork(program);            // an object of JSON; bytes as base64, or as Uint8Array
 *     const [answer] = network.run(picture);          // Float32Array of (channels, height, width), normalised
 *     network.value("conv1");                         // { shape, data } of any name in network.names
 *     network.plane("conv1", 3);                      // one channel of it
 *     network.window("conv1", [3, 10, 20]);           // how one number of it came about
 *
 * @typedef {{kind: string, at: number, count: number, scale: number, row: number, scaleAt: number}} Stored
 * @typedef {{shape: [number, number, number], size: number, base: number[] | number[][],
 *   classes: number[] | number[][] | null, inputs: (number | number[])[], positions?: number[],
 *   matrix?: number[][]}} Order
 * @typedef {{at: number, shape: number[], strides: number[]}} Place
 * @typedef {{kernel: string, units: number, args: number[], value: string, algorithm: string}} Step
 * @typedef {{kernel: number[], stride: number[], padding: number[], dilation: number[], groups: number,
 *   transposed: boolean, counts?: boolean}} Geometry
 * @typedef {{value: string, node: string, op: string, members: string[], inputs: string[], residual: string | null,
 *   activation: {name: string, a: number, b: number, c: number, then: any} | null, norm: string | null,
 *   window?: Geometry | null, weight?: Stored, bias?: Stored, weightShape?: [number, number, number]}} Layer
 * @typedef {{name: string, at: number, shape: number[], mean: number[], std: number[], divisor: number}} Input
 * @typedef {{name: string, value: (Place & {array?: Stored}) | null}} Output
 * @typedef {{version: number, name: string, memory: number, words: number, scratch: number,
 *   packed: {at: number, array: Stored, order?: Order}[], steps: Step[], values: Object<string, Place>,
 *   inputs: Input[], outputs: Output[], alias: Object<string, string>, within: Object<string, string>,
 *   layers: Layer[], missing: Object<string, string>, weights: string, module: string | Uint8Array,
 *   data: string | Uint8Array, fused?: string | Uint8Array, deflated?: string[]}} Program
 * @typedef {{name: string, shape: number[], data: Float32Array} | null} Answer
 *
 * What `window` gives. There are `channels.length` · `taps` terms, channel by channel: `values` under the window (0
 * where it lies on padding), `weights` (1 in poolings) and their products. `places` has the input position of each tap,
 * axis by axis, and `inside` whether it lies on the input. `sum` is the sum of all products (the largest value, the
 * mean), `before` that with bias and residual, `value` the number that the layer stored, after the activation.
 * @typedef {{layer: Layer, place: number[], input: string, channels: number[], taps: number, kernel: number[],
 *   values: Float32Array, weights: Float32Array, products: Float32Array, places: Int32Array, inside: Uint8Array,
 *   sum: number, bias: number, residual: number, before: number, value: number}} Stamp
 */

const TABLE_VERSION = 1;
const PAGE_BYTES = 65536;
const TABLE_WORDS = 32;

/** A module of one relaxed multiply-add, which browsers accept that have it. */
const RELAXED_TEST = Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 19, 1, 17, 0,
  65, 0, 253, 15, 65, 0, 253, 15, 65, 0, 253, 15, 253, 133, 2, 11);

/**
 * A network that is ready to run. Where the browser has relaxed multiply-adds, products and sums are rounded once if
 * its processor can; `fused` false rounds them twice everywhere, so that all browsers give the same bits.
 * @param {Program} program
 * @param {{fused?: boolean}} options
 * @returns {Promise<BrowserNetwork>}
 */
export async function loadNetwork(program, { fused = true } = {}) {
  if (program.version !== TABLE_VERSION) {
    throw new Error(`the network was written for version ${program.version} of this page, which is ${TABLE_VERSION}`);
  }
  const quick = Boolean(fused && program.fused && program.fused.length && WebAssembly.validate(RELAXED_TEST));
  const parts = [inflated(program, quick ? "fused" : "module"), inflated(program, "data")];
  const [module, data] = await Promise.all(parts);
  return new BrowserNetwork(program, await WebAssembly.compile(module), data, quick);
}

/**
 * The bytes of a part of a program.
 * @param {Program} program
 * @param {"module" | "fused" | "data"} part
 * @returns {Promise<Uint8Array<ArrayBuffer>>}
 */
async function inflated(program, part) {
  const found = decodedBytes(program[part] || "");
  if (!(program.deflated || []).includes(part)) return found;
  const stream = new Blob([found]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

export class BrowserNetwork {
  /**
   * @param {Program} program
   * @param {WebAssembly.Module} module
   * @param {Uint8Array<ArrayBuffer>} data
   * @param {boolean} fused
   */
  constructor(program, module, data, fused) {
    this.program = program;
    /** Whether it runs with relaxed multiply-adds. */
    this.fused = fused;
    this.memory = new WebAssembly.Memory({ initial: Math.ceil(program.memory / PAGE_BYTES) + 1 });
    /** @type {any} */
    this.kernels = new WebAssembly.Instance(module, { env: { memory: this.memory } }).exports;
    this.floats = new Float32Array(this.memory.buffer);
    this.data = data;
    /** @type {Map<string, Layer>} */
    this.layers = new Map();
    for (const layer of program.layers) {
      for (const name of layer.members) this.layers.set(name, layer);
    }
    /** @type {Map<Stored, Float32Array>} */
    this.read = new Map();
    /** Milliseconds of each step of the last run that was timed. @type {number[]} */
    this.times = [];
    this.pack();
    this.fill();
  }

  /** The values that can be looked at after a run. */
  get names() {
    return Object.keys(this.program.values);
  }

  /** What the browser cannot compute, with the reason, by name. */
  get missing() {
    return this.program.missing;
  }

  /** Brings the weights into the memory of the module, in the order of its kernels. */
  pack() {
    for (const { at, array, order } of this.program.packed) {
      if (array.kind.startsWith("f") || array.kind === "i1") {
        const numbers = this.numbers(array);
        if (order) reorderWeights(numbers, order, this.floats.subarray(at / 4, at / 4 + order.size));
        else this.floats.set(numbers, at / 4);
      } else {
        const size = array.count * Number(array.kind.slice(1));
        new Uint8Array(this.memory.buffer).set(this.data.subarray(array.at, array.at + size), at);
      }
    }
    this.read.clear();
  }

  /** Writes the arguments of all steps. */
  fill() {
    const { words, steps } = this.program;
    const view = new DataView(this.memory.buffer);
    steps.forEach(({ args }, k) => {
      args.forEach((word, i) => view.setBigInt64(words + 8 * (TABLE_WORDS * k + i), BigInt(word), true));
    });
  }

  /**
   * Runs a picture: one array of floats (channels first, normalised), or one for each input by name. The answers of
   * all outputs in order; null for one that the browser cannot compute.
   * @param {Float32Array | Object<string, Float32Array>} given
   * @param {boolean} timed
   * @returns {Answer[]}
   */
  run(given, timed = false) {
    const { inputs, steps, words, scratch } = this.program;
    for (const input of inputs) {
      const array = given instanceof Float32Array ? given : given[input.name];
      const size = productOf(input.shape);
      if (!array || array.length !== size) {
        const found = array ? `${array.length} numbers` : "nothing";
        throw new Error(`${input.name} takes ${size} numbers (${input.shape.join(" × ")}), got ${found}`);
      }
      this.floats.set(array, input.at / 4);
    }
    this.times = [];
    for (let k = 0; k < steps.length; k++) {
      const start = timed ? performance.now() : 0;
      this.kernels[steps[k].kernel](words + 8 * TABLE_WORDS * k, steps[k].units, scratch);
      if (timed) this.times.push(performance.now() - start);
    }
    return this.program.outputs.map((output) => this.answer(output));
  }

  /**
   * @param {Output} output
   * @returns {Answer}
   */
  answer({ name, value }) {
    if (!value) return null;
    const data = value.array ? this.numbers(value.array).slice() : this.taken(value);
    return { name, shape: value.shape, data };
  }

  /**
   * A value of the last run, channels first. Throws where it cannot be looked at, and says why.
   * @param {string} name
   * @returns {{shape: number[], data: Float32Array}}
   */
  value(name) {
    const place = this.place(name);
    return { shape: place.shape, data: this.taken(place) };
  }

  /**
   * One channel of a value: the numbers of its other axes in order.
   * @param {string} name
   * @param {number} channel
   * @returns {Float32Array}
   */
  plane(name, channel) {
    const { at, shape, strides } = this.place(name);
    return this.taken({ at: at + 4 * channel * strides[0], shape: shape.slice(1), strides: strides.slice(1) });
  }

  /**
   * Where a value lies.
   * @param {string} name
   * @returns {Place}
   */
  place(name) {
    const { values, alias, within, missing } = this.program;
    const found = values[name] || values[alias[name]];
    if (found) return found;
    const why = missing[name] || (within[name] ? `it is within the work of ${within[name]}` : "it is not kept");
    throw new Error(`${name} cannot be looked at: ${why}`);
  }

  /**
   * The numbers of a place in order.
   * @param {Place} place
   * @returns {Float32Array}
   */
  taken({ at, shape, strides }) {
    const out = new Float32Array(productOf(shape));
    const floats = this.floats;
    const last = shape.length - 1;
    if (last < 0) {
      out[0] = floats[at / 4];
      return out;
    }
    let to = 0;
    /** @type {(from: number, axis: number) => void} */
    const copy = (from, axis) => {
      const size = shape[axis];
      const step = strides[axis];
      if (axis < last) for (let i = 0; i < size; i++) copy(from + i * step, axis + 1);
      else for (let i = 0; i < size; i++) out[to++] = floats[from + i * step];
    };
    copy(at / 4, 0);
    return out;
  }

  /**
   * How one number of a convolution, a dense layer or a pooling came about. `place` is [channel, ...position].
   * @param {string} name
   * @param {number[]} place
   * @returns {Stamp}
   */
  window(name, place) {
    const layer = this.layers.get(name);
    const geometry = layer && layer.window;
    if (!layer || !geometry) throw new Error(`${name} has no window`);
    const input = layer.inputs[0];
    const from = this.place(input);
    const { shape } = this.place(layer.value);
    if (place.length !== shape.length || place.some((p, axis) => p < 0 || p >= shape[axis])) {
      throw new Error(`${name} has no place ${place.join(", ")}; it is ${shape.join(" × ")}`);
    }
    const { places, inside } = underWindow(geometry, place.slice(1), from.shape.slice(1));
    const taps = inside.length;
    const [channel] = place;
    const outputs = shape[0] / geometry.groups;
    const each = from.shape[0] / geometry.groups;
    const first = Math.floor(channel / outputs) * each;
    const channels = Array.from({ length: each }, (_, i) => first + i);
    const values = new Float32Array(each * taps);
    const weights = layer.weight ? this.row(layer, channel) : new Float32Array(each * taps).fill(1);
    const rank = geometry.kernel.length;
    for (let t = 0; t < taps; t++) {
      if (!inside[t]) continue;
      let at = from.at / 4;
      for (let axis = 0; axis < rank; axis++) at += places[t * rank + axis] * from.strides[axis + 1];
      for (let i = 0; i < each; i++) values[i * taps + t] = this.floats[at + (first + i) * from.strides[0]];
    }
    const products = values.map((v, k) => v * weights[k]);
    const sum = sumUnder(layer, products, inside, geometry);
    const bias = layer.bias ? this.numbers(layer.bias)[channel] : 0;
    const residual = layer.residual ? this.number(layer.residual, place) : 0;
    const before = sum + bias + residual;
    const value = this.number(layer.value, place);
    return { layer, place, input, channels, taps, kernel: geometry.kernel, values, weights, products, places, inside,
             sum, bias, residual, before, value };
  }

  /**
   * One number of a value.
   * @param {string} name
   * @param {number[]} index
   */
  number(name, index) {
    const { at, strides } = this.place(name);
    return this.floats[at / 4 + index.reduce((sum, i, axis) => sum + i * strides[axis], 0)];
  }

  /**
   * The weights of one output channel: (channels of its group) × taps.
   * @param {Layer} layer
   * @param {number} channel
   * @returns {Float32Array}
   */
  row(layer, channel) {
    if (!layer.weight || !layer.weightShape) throw new Error(`${layer.node} has no weights`);
    const [, channels, taps] = layer.weightShape;
    return this.numbers(layer.weight, channel * channels * taps, channels * taps);
  }

  /**
   * Stored numbers as floats, `length` of them from `first` on.
   * @param {Stored} stored
   * @param {number} first
   * @param {number} length
   * @returns {Float32Array}
   */
  numbers(stored, first = 0, length = stored.count - first) {
    const whole = length === stored.count;
    const found = whole && this.read.get(stored);
    if (found) return found;
    const { kind, at, scale, row, scaleAt } = stored;
    const start = this.data.byteOffset + at;
    const buffer = this.data.buffer;
    let out = new Float32Array(length);
    if (kind === "f4") {
      out.set(new Float32Array(buffer, start + 4 * first, length));
    } else if (kind === "f2") {
      const table = allHalves();
      const codes = new Uint16Array(buffer, start + 2 * first, length);
      for (let i = 0; i < length; i++) out[i] = table[codes[i]] * scale;
    } else if (kind === "i1") {
      const codes = new Int8Array(buffer, start + first, length);
      const scales = new Float32Array(buffer, this.data.byteOffset + scaleAt, stored.count / row);
      for (let i = 0; i < length; i++) out[i] = codes[i] * scales[Math.floor((first + i) / row)];
    } else {
      throw new Error(`numbers are stored as ${kind}, which this page does not read`);
    }
    if (whole) this.read.set(stored, out);
    return out;
  }
}

/**
 * The input positions of all taps for one output position, and which of them lie on the input.
 * @param {Geometry} geometry
 * @param {number[]} place
 * @param {number[]} size
 * @returns {{places: Int32Array, inside: Uint8Array}}
 */
export function underWindow({ kernel, stride, padding, dilation, transposed }, place, size) {
  const rank = kernel.length;
  const taps = productOf(kernel);
  const places = new Int32Array(taps * rank);
  const inside = new Uint8Array(taps).fill(1);
  for (let t = 0; t < taps; t++) {
    let rest = t;
    for (let axis = rank - 1; axis >= 0; axis--) {
      const k = rest % kernel[axis];
      rest = Math.floor(rest / kernel[axis]);
      const moved = transposed ? place[axis] + padding[axis] - k * dilation[axis]
                               : place[axis] * stride[axis] - padding[axis] + k * dilation[axis];
      const at = transposed ? moved / stride[axis] : moved;
      places[t * rank + axis] = at;
      if (at < 0 || at >= size[axis] || !Number.isInteger(at)) inside[t] = 0;
    }
  }
  return { places, inside };
}

/**
 * What the products of a window come to.
 * @param {Layer} layer
 * @param {Float32Array} products
 * @param {Uint8Array} inside
 * @param {Geometry} geometry
 */
function sumUnder(layer, products, inside, geometry) {
  if (layer.op === "maxpool") {
    let most = -Infinity;
    products.forEach((p, t) => { if (inside[t] && !(p <= most)) most = p; });
    return most;
  }
  let sum = 0;
  for (const p of products) sum += p;
  if (layer.op !== "avgpool") return sum;
  return sum / (geometry.counts ? inside.length : inside.reduce((a, b) => a + b, 0));
}

/**
 * Weights (outputs, inputs, taps) in the order of a kernel (`dojang.engine.browser.order` states the rule).
 * @param {Float32Array} weights
 * @param {Order} order
 * @param {Float32Array} out
 */
export function reorderWeights(weights, order, out) {
  const [outputs, inputs, taps] = order.shape;
  const { base, classes, positions, matrix } = order;
  const places = order.inputs.map((i) =>
    Int32Array.from(typeof i === "number" ? Array.from({ length: inputs }, (_, k) => k * i) : i));
  /** @type {any} */
  const bases = base;
  /** @type {any} */
  const kinds = classes;
  const flat = matrix ? Float64Array.from(matrix.flat()) : null;
  const many = positions ? positions.length : 0;
  for (let o = 0; o < outputs; o++) {
    const row = o * inputs * taps;
    if (!positions) {
      for (let t = 0; t < taps; t++) {
        if (bases[o][t] < 0) continue;
        const at = places[kinds ? kinds[o][t] : 0];
        for (let i = 0; i < inputs; i++) out[bases[o][t] + at[i]] = weights[row + i * taps + t];
      }
      continue;
    }
    const at = places[kinds ? kinds[o] : 0];
    for (let i = 0; i < inputs; i++) {
      const to = bases[o] + at[i];
      const from = row + i * taps;
      if (!flat) {
        for (let t = 0; t < taps; t++) out[to + positions[t]] = weights[from + t];
        continue;
      }
      for (let p = 0; p < many; p++) {
        let sum = 0;
        for (let t = 0; t < taps; t++) sum += flat[p * taps + t] * weights[from + t];
        out[to + positions[p]] = sum;
      }
    }
  }
}

/**
 * The pixels of a canvas (RGBA, 0 to 255) as an input: channels first, (x / divisor − mean) / std. One channel is the
 * luminance of ITU-R BT.601, as Pillow has it.
 * @param {Input} input
 * @param {Uint8ClampedArray | Uint8Array} pixels
 * @returns {Float32Array}
 */
export function pixelsAsInput(input, pixels) {
  const channels = input.shape[0];
  const size = productOf(input.shape.slice(1));
  if (pixels.length !== 4 * size) {
    throw new Error(`${input.name} takes ${size} pixels, got ${pixels.length / 4}`);
  }
  const out = new Float32Array(channels * size);
  for (let c = 0; c < channels; c++) {
    const mean = input.mean.length ? input.mean[c] : 0;
    const std = input.std.length ? input.std[c] : 1;
    for (let p = 0; p < size; p++) {
      const [r, g, b] = [pixels[4 * p], pixels[4 * p + 1], pixels[4 * p + 2]];
      const x = channels === 1 ? Math.floor((19595 * r + 38470 * g + 7471 * b + 32768) / 65536) : pixels[4 * p + c];
      out[c * size + p] = (x / input.divisor - mean) / std;
    }
  }
  return out;
}

/** @type {Float32Array | undefined} */
let halfTable;

/** All numbers of float16, by their bits. */
function allHalves() {
  if (halfTable) return halfTable;
  halfTable = new Float32Array(65536);
  for (let code = 0; code < 65536; code++) {
    const exponent = (code >> 10) & 31;
    const digits = code & 1023;
    let value = exponent ? (1024 + digits) * 2 ** (exponent - 25) : digits * 2 ** -24;
    if (exponent === 31) value = digits ? NaN : Infinity;
    halfTable[code] = code & 32768 ? -value : value;
  }
  return halfTable;
}

/** @param {number[]} shape */
function productOf(shape) {
  return shape.reduce((product, size) => product * size, 1);
}

/**
 * Bytes as they are, or from base64.
 * @param {string | Uint8Array} given
 * @returns {Uint8Array<ArrayBuffer>}
 */
function decodedBytes(given) {
  if (typeof given !== "string") return new Uint8Array(given);
  /** @type {any} */
  const quick = Uint8Array; // browsers since 2025
  if (quick.fromBase64) return quick.fromBase64(given);
  const text = atob(given);
  const out = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) out[i] = text.charCodeAt(i);
  return out;
}
