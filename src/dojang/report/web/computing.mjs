/**
 * The page's source of numbers in one file: networks that compute in the browser, on the picture that is in the page or
 * on another one. It has the interface of the other sources (`source.mjs`, `Source`).
 *
 * @typedef {import("./compute.mjs").BrowserNetwork} BrowserNetwork
 * @typedef {import("./compute.mjs").Program} Program
 * @typedef {import("./source.mjs").Samples} Samples
 * @typedef {{c: number, h: number, w: number, data: Float32Array}} LayerValues
 * @typedef {import("./source.mjs").Picture} PagePicture
 * @typedef {{program: Program, network: BrowserNetwork | Promise<BrowserNetwork>, scores: string | null, classes: string[]}} Side
 *   a network; what its first output means (`scores`, `logits`, `softmax`, `sigmoid`, `log_softmax`; null: no classes);
 *   the names of its classes, or none
 * @typedef {{n: number, ph: number, pw: number, inputs: Float32Array, rgb: Uint8Array}} HeldSamples
 */
import { loadNetwork, pixelsAsInput } from "./compute.mjs";
import { fitted, grey } from "./scaling.mjs";
import { heldPicture, readable, tiled } from "./source.mjs";
import { t } from "./words.mjs";

const TOP = 5;
const RUNS = 7;
const TICKS = 4; // milliseconds that one measurement takes at least
const PARTS = 16;
const PATIENCE = 4000; // milliseconds for measuring a receptive field, else its parts get larger
const VALUES_KEPT = 8;

/**
 * The source of a page in one file.
 * @param {any} held what the page says of its bytes @param {Uint8Array} bytes
 * @param {any} waste evidence on data, if the page has it
 */
export function fromHeld(held, bytes, waste) {
  /** @type {Record<string, Side>} */
  const sides = {};
  for (const [name, one] of Object.entries(held.sides)) {
    const network = loadNetwork(one.program);
    network.catch(() => {}); // said where the page asks
    sides[name] = { ...one, network };
  }
  const floats = (/** @type {number} */ at, /** @type {number} */ count) => new Float32Array(bytes.slice(at, at + 4 * count).buffer);
  const s = held.samples;
  const samples = s && { n: s.n, ph: s.ph, pw: s.pw, inputs: floats(s.at, s.n * s.size), rgb: bytes.subarray(s.rgb, s.rgb + 3 * s.n * s.ph * s.pw) };
  const inputs = held.inputs.map((/** @type {any} */ one) => ({ picture: heldPicture(one.picture, bytes), numbers: floats(one.at, one.size) }));
  return fromNetworks({ sides, inputs, tiled, waste, samples });
}

/**
 * @param {{sides: Record<string, Side>, inputs: {picture: PagePicture, numbers: Float32Array}[],
 *   tiled: (values: LayerValues, first: number, most: number) => any, waste?: any, samples?: HeldSamples}} given
 *   the networks, what each input has as it is shown and as the networks read it, what makes maps of values, evidence on
 *   data, and samples of it
 */
export function fromNetworks({ sides, inputs, tiled, waste = null, samples }) {
  const now = [...inputs];
  /** @type {Map<string, import("./compute.mjs").Answer[]>} the answers of the sides that ran on this picture */
  const ran = new Map();
  /** @type {Map<string, LayerValues>} the values that were asked for last */
  const kept = new Map();
  const taken = Object.values(sides)[0]?.program.inputs ?? [];
  /** What a network is given, by the names that it has for its inputs; with `x` in one place. @param {string} side @param {number} [place] @param {Float32Array} [x] */
  const feed = (side, place, x) =>
    Object.fromEntries(sides[side].program.inputs.map(({ name }, i) => [name, x && i === place ? x : now[i].numbers]));
  /** @param {string} side */
  const ready = async (side) => {
    if (!sides[side]) throw new Error(t("noNetwork"));
    const network = await sides[side].network;
    if (!ran.has(side)) ran.set(side, network.run(feed(side)));
    return network;
  };
  /** @type {(side: string, layer: string) => Promise<LayerValues>} */
  const values = async (side, layer) => {
    const key = `${side} ${layer}`;
    const network = await ready(side);
    const { values: held, alias, missing } = network.program;
    if (!held[layer] && !held[alias[layer]]) {
      const why = missing[layer] ? t("notComputed", { layer }) : t("notKept", { layer });
      throw new Error(why);
    }
    const found = kept.get(key) ?? drawable(network.value(layer), layer);
    kept.delete(key);
    kept.set(key, found);
    if (kept.size > VALUES_KEPT) kept.delete(/** @type {string} */ (kept.keys().next().value));
    return found;
  };
  return {
    takesPictures: taken.map(({ shape }) => shape.length === 3 && [1, 3].includes(shape[0])),
    rounded: [...new Set(Object.values(sides).map(({ program }) => program.weights).filter((kind) => kind !== "float32"))].join(", "),
    values,
    maps: async (/** @type {string} */ side, /** @type {string} */ layer, /** @type {number} */ first, /** @type {number} */ most) =>
      tiled(await values(side, layer), first, most),
    taps: async (/** @type {string} */ side, /** @type {string} */ layer, /** @type {number} */ channel) => {
      const network = await sides[side].network;
      const found = network.layers.get(layer);
      if (!found || !found.weight || !found.weightShape || !found.window) throw new Error(t("noFilter", { layer }));
      const [outputs, c] = found.weightShape;
      if (!(channel >= 0 && channel < outputs)) throw new Error(`${layer} has no channel ${channel}; there are ${outputs}`);
      const [h, w] = [1, 1, ...found.window.kernel].slice(-2);
      const bias = found.bias ? network.numbers(found.bias)[channel] : 0;
      return { c, h, w, data: network.row(found, channel), bias };
    },
    picture: async (/** @type {number} */ place) => now[place].picture,
    answer: async (/** @type {string} */ side) => {
      if (!sides[side]) return [];
      await ready(side);
      const [first] = ran.get(side) || [];
      if (!first) throw new Error(t("noKernelAnswer"));
      return best(first, sides[side]);
    },
    look: async (/** @type {Blob} */ file, /** @type {string} */ name, /** @type {number} */ place) => {
      const picture = await drawn(file, name, taken[place]);
      now[place] = { picture, numbers: pixelsAsInput(taken[place], withAlpha(picture.rgb)) };
      ran.clear();
      kept.clear();
    },
    effect: async (/** @type {string} */ side, /** @type {string} */ layer, /** @type {number} */ place) => {
      const still = await values(side, layer);
      const network = await sides[side].network;
      // Between two parts the page may ask for other values: its memory then holds a picture that was moved.
      const pause = () => { ran.delete(side); return new Promise((done) => setTimeout(done)); };
      const run = (/** @type {Float32Array} */ x) => network.run(feed(side, place, x));
      return moved(network, run, now[place].numbers, taken[place].shape, layer, still, pause);
    },
    waste: async () => waste,
    samples: async (/** @type {string} */ layer, /** @type {number} */ channel) => {
      if (!samples) throw new Error(t("noSamples"));
      const network = await sides.after.network;
      const each = samples.inputs.length / samples.n;
      /** @type {LayerValues[]} */
      const found = [];
      for (let i = 0; i < samples.n; i++) {
        network.run(samples.inputs.subarray(i * each, (i + 1) * each));
        found.push(drawable(network.value(layer), layer));
      }
      ran.delete("after"); // its memory holds the last sample now
      const { h, w } = found[0];
      const data = new Float32Array(samples.n * h * w);
      found.forEach((one, i) => data.set(one.data.subarray(channel * h * w, (channel + 1) * h * w), i * h * w));
      return { n: samples.n, h, w, ph: samples.ph, pw: samples.pw, data, rgb: samples.rgb };
    },
    time: async (/** @type {string} */ side) => {
      const network = await ready(side);
      const timed = (/** @type {number} */ runs) => {
        const start = performance.now();
        const given = feed(side);
        for (let i = 0; i < runs; i++) network.run(given);
        return (performance.now() - start) / runs;
      };
      const least = (/** @type {number} */ tries, /** @type {number} */ runs) => Math.min(...Array.from({ length: tries }, () => timed(runs)));
      let runs = 1; // as many as the clock of a browser, which has steps of 0.1 ms or more, needs
      while (least(3, runs) * runs < TICKS && runs < 65536) runs *= 4;
      return least(RUNS, runs);
    },
  };
}

/**
 * How much each part of the picture moves each place of a layer (`PictureInside.effect` says how it is measured).
 * @param {BrowserNetwork} network @param {(x: Float32Array) => any} run with another input @param {Float32Array} input @param {number[]} shape @param {string} layer @param {LayerValues} still
 * @param {() => Promise<any>} pause lets the page live between two parts
 */
async function moved(network, run, input, shape, layer, still, pause) {
  if (shape.length !== 2 && shape.length !== 3) throw new Error(t("fieldPictures"));
  const [c, height, width] = shape.length === 2 ? [shape[0], 1, shape[1]] : shape; // a sequence is one row
  const mean = input.reduce((a, b) => a + b, 0) / input.length;
  const spread = Math.sqrt(input.reduce((a, b) => a + (b - mean) ** 2, 0) / input.length) || 1;
  const noise = normal(input.length).map((v) => v * spread);
  const begin = performance.now();
  run(input);
  const blocks = (performance.now() - begin) * PARTS ** 2 < PATIENCE ? PARTS : PARTS / 2;
  const [rows, columns] = [Math.min(height, blocks), Math.min(width, blocks)];
  const size = still.h * still.w;
  const effect = new Float32Array(rows * columns * size);
  const most = new Float32Array(size);
  for (let part = 0; part < rows * columns; part++) {
    if (part % 8 === 0) await pause();
    const [row, column] = [Math.floor(part / columns), part % columns];
    const x = input.slice();
    for (let k = 0; k < c; k++)
      for (let y = Math.floor((row * height) / rows); y < Math.floor(((row + 1) * height) / rows); y++)
        for (let q = Math.floor((column * width) / columns); q < Math.floor(((column + 1) * width) / columns); q++) x[(k * height + y) * width + q] += noise[(k * height + y) * width + q];
    run(x);
    const { data } = drawable(network.value(layer), layer);
    for (let i = 0; i < size; i++) {
      let sum = 0;
      for (let k = 0; k < still.c; k++) sum += (data[k * size + i] - still.data[k * size + i]) ** 2;
      const strength = Math.sqrt(sum / still.c);
      effect[part * size + i] = strength;
      if (strength > most[i]) most[i] = strength;
    }
  }
  await pause();
  const tiles = Uint8Array.from(effect, (v, i) => (most[i % size] ? Math.round((255 * v) / most[i % size]) : 0));
  return { rows, columns, h: still.h, w: still.w, tiles };
}

/** Numbers of a normal distribution, the same each time (Box and Muller, over a linear congruence). @param {number} count */
function normal(count) {
  let state = 1;
  const next = () => { state = (Math.imul(state, 1664525) + 1013904223) >>> 0; return (state + 0.5) / 2 ** 32; };
  return Float32Array.from({ length: count }, () => Math.sqrt(-2 * Math.log(next())) * Math.cos(2 * Math.PI * next()));
}

/**
 * A value as maps: one number a channel is (c, 1, 1), a sequence (c, 1, l); further axes go under each other.
 * @param {{shape: number[], data: Float32Array}} value @param {string} layer @returns {LayerValues}
 */
function drawable({ shape, data }, layer) {
  if (shape.length < 1 || shape.length > 4) throw new Error(t("notDrawn", { layer, shape: shape.join("×") }));
  const [c, ...rest] = shape;
  const w = rest.length ? rest[rest.length - 1] : 1;
  return { c, h: rest.slice(0, -1).reduce((a, b) => a * b, 1), w, data };
}

/**
 * The best classes with name, score and probability, as `dojang.evidence.probabilities` has them.
 * @param {{shape: number[], data: Float32Array}} output
 * @param {{scores: string | null, classes: string[]}} side
 */
export function best({ shape, data }, { scores, classes }) {
  if (!scores || data.length < 2 || shape.slice(1).some((size) => size !== 1)) return [];
  const wide = Array.from(data);
  const most = wide.reduce((a, b) => Math.max(a, b), -Infinity);
  const sum = wide.reduce((total, v) => total + Math.exp(v - most), 0);
  /** @type {Record<string, (v: number) => number>} */
  const kinds = {
    scores: (v) => Math.exp(v - most) / sum,
    logits: (v) => 0.5 * (1 + Math.tanh(v / 2)),
    log_softmax: (v) => Math.exp(v),
    softmax: (v) => v,
    sigmoid: (v) => v,
  };
  const order = wide.map((_, k) => k).sort((a, b) => wide[b] - wide[a] || a - b).slice(0, TOP);
  return order.map((index) => ({
    index,
    name: classes.length === wide.length ? classes[index] : String(index),
    score: wide[index],
    probability: kinds[scores](wide[index]),
  }));
}

/**
 * A picture file as the network sees it: scaled until it covers the input, cut around its centre, grey where the input
 * has one channel.
 * @param {Blob} file @param {string} name @param {import("./compute.mjs").Input} input @returns {Promise<PagePicture>}
 */
async function drawn(file, name, { shape, mean, std }) {
  const [c, height, width] = shape;
  const image = await readable(file, name);
  const canvas = Object.assign(document.createElement("canvas"), { width: image.width, height: image.height });
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { willReadFrequently: true }));
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, image.width, image.height);
  const size = image.width * image.height;
  const pixels = new Uint8Array(c * size);
  for (let i = 0; i < size; i++) {
    if (c === 1) pixels[i] = grey(data[4 * i], data[4 * i + 1], data[4 * i + 2]);
    else for (let k = 0; k < 3; k++) pixels[3 * i + k] = data[4 * i + k];
  }
  const small = fitted(pixels, image.height, image.width, c, height, width);
  const rgb = c === 3 ? small : Uint8Array.from({ length: 3 * height * width }, (_, i) => small[Math.floor(i / 3)]);
  return { h: height, w: width, rgb, name, prepared: { made: "scaled", shape, mean: listed(mean), std: listed(std) } };
}

/** @param {ArrayLike<number>} numbers */
const listed = (numbers) => Array.from(numbers, (v) => String(Number(v.toPrecision(6)))).join(", ");

/** @param {Uint8Array} rgb */
function withAlpha(rgb) {
  const found = new Uint8Array((rgb.length / 3) * 4).fill(255);
  for (let i = 0; i < rgb.length / 3; i++) for (let k = 0; k < 3; k++) found[4 * i + k] = rgb[3 * i + k];
  return found;
}
