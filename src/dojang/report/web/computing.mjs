/**
 * The page's source of numbers in one file: networks that compute in the browser, on the picture that is in the page or
 * on another one. It has the interface of the other sources (`source.mjs`, `Source`).
 *
 * @typedef {import("./compute.mjs").BrowserNetwork} BrowserNetwork
 * @typedef {{c: number, h: number, w: number, data: Float32Array}} LayerValues
 * @typedef {{h: number, w: number, rgb: Uint8Array, name: string, prepared: string}} PagePicture
 * @typedef {{network: BrowserNetwork, scores: string | null, classes: string[]}} Side
 *   a network; what its first output means (`scores`, `logits`, `softmax`, `sigmoid`, `log_softmax`; null: no classes);
 *   the names of its classes, or none
 */
import { pixelsAsInput } from "./compute.mjs";

const TOP = 5;

/**
 * @param {{sides: Record<string, Side>, picture: PagePicture, input: Float32Array,
 *   tiled: (values: LayerValues, first: number, most: number) => any}} given
 *   the networks, the picture as it is shown, the same as the input of the networks, and what makes maps of values
 */
export function fromNetworks({ sides, picture, input, tiled }) {
  let [now, numbers] = [picture, input];
  /** @type {Map<string, import("./compute.mjs").Answer[]>} the answers of the sides that ran on this picture */
  const ran = new Map();
  /** @param {string} side */
  const ready = (side) => {
    const { network } = sides[side];
    if (!ran.has(side)) ran.set(side, network.run(numbers));
    return network;
  };
  /** @type {(side: string, layer: string) => Promise<LayerValues>} */
  const values = async (side, layer) => {
    const { shape, data } = ready(side).value(layer);
    const [c, h, w] = shape.length === 2 ? [shape[0], 1, shape[1]] : [...shape, 1, 1];
    if (shape.length < 1 || shape.length > 3) throw new Error(`${layer}: its values cannot be drawn as maps`);
    return { c, h, w, data };
  };
  return {
    takesPictures: true,
    rounded: Object.values(sides).some(({ network }) => network.program.weights !== "float32"),
    values,
    maps: async (/** @type {string} */ side, /** @type {string} */ layer, /** @type {number} */ first, /** @type {number} */ most) =>
      tiled(await values(side, layer), first, most),
    taps: async (/** @type {string} */ side, /** @type {string} */ layer, /** @type {number} */ channel) => {
      const { network } = sides[side];
      const found = network.layers.get(layer);
      if (!found || !found.weight || !found.weightShape || !found.window) throw new Error(`${layer} has no filter`);
      const [outputs, c] = found.weightShape;
      if (!(channel >= 0 && channel < outputs)) throw new Error(`${layer} has no channel ${channel}; there are ${outputs}`);
      const [h, w] = [1, 1, ...found.window.kernel].slice(-2);
      const bias = found.bias ? network.numbers(found.bias)[channel] : 0;
      return { c, h, w, data: network.row(found, channel), bias };
    },
    picture: async () => now,
    answer: async (/** @type {string} */ side) => {
      ready(side);
      const [first] = ran.get(side) || [];
      return first ? best(first, sides[side]) : [];
    },
    look: async (/** @type {Blob} */ file, /** @type {string} */ name) => {
      const [{ network }] = Object.values(sides);
      const wanted = network.program.inputs[0];
      const [height, width] = wanted.shape.slice(-2);
      const pixels = await drawn(file, height, width);
      numbers = pixelsAsInput(wanted, pixels);
      const rgb = new Uint8Array(3 * height * width);
      for (let i = 0; i < height * width; i++) for (let c = 0; c < 3; c++) rgb[3 * i + c] = pixels[4 * i + c];
      now = { h: height, w: width, rgb, name, prepared: "" };
      ran.clear();
    },
    waste: async () => null,
    samples: async () => { throw new Error("notInFile"); },
    time: async (/** @type {string} */ side) => {
      const network = ready(side);
      const times = Array.from({ length: 5 }, () => {
        const start = performance.now();
        network.run(numbers);
        return performance.now() - start;
      });
      return times.sort((a, b) => a - b)[2];
    },
  };
}

/**
 * The best classes with name, score and probability, as `dojang.evidence.probabilities` has them.
 * @param {{shape: number[], data: Float32Array}} output
 * @param {Side} side
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
 * A picture file as RGBA pixels of this size: scaled until it covers it, and cut around its centre.
 * @param {Blob} file
 * @param {number} height
 * @param {number} width
 */
async function drawn(file, height, width) {
  const image = await createImageBitmap(file);
  const scale = Math.max(width / image.width, height / image.height);
  const [w, h] = [image.width * scale, image.height * scale];
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.imageSmoothingQuality = "high";
  context.drawImage(image, (width - w) / 2, (height - h) / 2, w, h);
  return context.getImageData(0, 0, width, height).data;
}
