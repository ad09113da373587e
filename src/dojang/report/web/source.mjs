/**
 * Where numbers come from, behind one interface: a server that runs the network, or the page itself (`computing.mjs`).
 *
 * @typedef {import("./stamping.mjs").Values} Values
 * @typedef {import("./stamping.mjs").Taps} Taps
 * @typedef {{order: number[], strength: number[], low: number[], high: number[], h: number, w: number, tiles: Uint8Array}} Maps
 *   all channels by strength; the least and largest value of each map in `tiles`, which are 8-bit maps one after the other
 * @typedef {{made: string, shape: number[], mean: string, std: string, most?: string}} InputPreparation how an input was made; `made` is one
 *   of "scaled", "pixels", "values", "as-they-stand", "normalised-already", "drawn", "drawn-whole" (from 0 to `most`) and "ones"
 * @typedef {{h: number, w: number, rgb: Uint8Array, name: string, prepared: InputPreparation|null}} Picture
 * @typedef {{index: number, name: string, score: number, probability: number}} Guess
 * @typedef {object} Source
 * @property {boolean[]} takesPictures for each input of the network
 * @property {string} rounded how the weights are stored where that rounds them, else ""
 * @property {(side: string, layer: string, first: number, most: number) => Promise<Maps>} maps
 * @property {(side: string, layer: string) => Promise<Values>} values
 * @property {(side: string, layer: string, channel: number) => Promise<Taps>} taps
 * @property {(input: number) => Promise<Picture>} picture what an input has, as a picture
 * @property {(side: string) => Promise<Guess[]>} answer
 * @property {(file: Blob, name: string, input: number) => Promise<void>} look puts a picture into an input
 * @property {() => Promise<any>} waste evidence on data
 * @property {(layer: string, channel: number) => Promise<Samples>} samples maps of a channel on samples of the data
 * @property {(side: string, turn: number) => Promise<number|null>} time milliseconds of one run, the least of 7; each turn measures anew
 * @property {(side: string, layer: string, input: number) => Promise<Effect>} effect measured receptive fields on an input
 * @typedef {{rows: number, columns: number, h: number, w: number, tiles: Uint8Array}} Effect
 *   how much each part (rows × columns) of the picture moves each place (h × w): 255 for the part that moves it most
 * @typedef {{n: number, h: number, w: number, ph: number, pw: number, data: Float32Array, rgb: Uint8Array}} Samples
 */

import { sentence, t } from "./words.mjs";

/** The head and the bytes behind it. @param {ArrayBuffer} buffer */
function unpacked(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  return { head: JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length))), at: 4 + length };
}

/** Asks the server that gave this page. @param {boolean[]} takesPictures @returns {Source} */
export function fromServer(takesPictures) {
  /** @type {Map<string, Promise<any>>} */
  const kept = new Map();
  const ask = async (/** @type {string} */ path, /** @type {Record<string, any>} */ query = {}, /** @type {RequestInit} */ init = {}) => {
    const reply = await fetch(`${path}?${new URLSearchParams(query)}`, init).catch(() => { throw new Error(t("serverGone")); });
    if (!reply.ok) {
      const { error, words } = await reply.json();
      throw new Error(words ? sentence(words) : error);
    }
    return reply.arrayBuffer();
  };
  /** Keeps the last few answers. @param {string} key @param {() => Promise<any>} make */
  const once = (key, make) => {
    const found = kept.get(key) ?? make();
    kept.delete(key);
    kept.set(key, found);
    found.catch(() => kept.delete(key));
    while (kept.size > 12) kept.delete(/** @type {string} */ (kept.keys().next().value));
    return found;
  };
  return {
    takesPictures,
    rounded: "",
    maps: (side, layer, first, most) => once(`maps ${side} ${first} ${most} ${layer}`, async () => {
      const buffer = await ask("maps", { side, layer, first, most });
      const { head, at } = unpacked(buffer);
      return { ...head, tiles: new Uint8Array(buffer, at, head.low.length * head.h * head.w) };
    }),
    values: (side, layer) => once(`values ${side} ${layer}`, async () => {
      const buffer = await ask("values", { side, layer });
      const { head, at } = unpacked(buffer);
      return { ...head, data: new Float32Array(buffer, at, head.c * head.h * head.w) };
    }),
    taps: (side, layer, channel) => once(`taps ${side} ${channel} ${layer}`, async () => {
      const buffer = await ask("taps", { side, layer, channel });
      const { head, at } = unpacked(buffer);
      return { ...head, data: new Float32Array(buffer, at, head.c * head.h * head.w) };
    }),
    picture: async (input) => {
      const buffer = await ask("picture", { input });
      const { head, at } = unpacked(buffer);
      return { ...head, rgb: new Uint8Array(buffer, at, 3 * head.h * head.w) };
    },
    effect: (side, layer, input) => once(`effect ${side} ${input} ${layer}`, async () => {
      const buffer = await ask("effect", { side, layer, input });
      const { head, at } = unpacked(buffer);
      return { ...head, tiles: new Uint8Array(buffer, at, head.rows * head.columns * head.h * head.w) };
    }),
    answer: async (side) => JSON.parse(new TextDecoder().decode(await ask("answer", { side }))),
    waste: () => once("waste", async () => JSON.parse(new TextDecoder().decode(await ask("waste")))),
    time: (side, turn) => once(`time ${side} ${turn}`, async () => JSON.parse(new TextDecoder().decode(await ask("time", { side })))),
    samples: (layer, channel) => once(`samples ${channel} ${layer}`, async () => {
      const buffer = await ask("samples", { layer, channel });
      const { head, at } = unpacked(buffer);
      const count = head.n * head.h * head.w;
      return { ...head, data: new Float32Array(buffer, at, count), rgb: new Uint8Array(buffer, at + 4 * count, 3 * head.n * head.ph * head.pw) };
    }),
    look: async (file, name, input) => {
      await ask("picture", { name, input }, { method: "POST", body: file });
      kept.clear();
    },
  };
}

/**
 * Maps by strength, as the server makes them.
 * @param {Values} v @param {number} first @param {number} most
 * @returns {Maps}
 */
export function tiled(v, first, most) {
  const size = v.h * v.w;
  const strength = Array.from({ length: v.c }, (_, c) => {
    let sum = 0;
    for (let i = c * size; i < (c + 1) * size; i++) sum += v.data[i] * v.data[i];
    return Math.sqrt(sum / size);
  });
  const order = strength.map((_, c) => c).sort((a, b) => strength[b] - strength[a] || a - b);
  const chosen = order.slice(first, first + most);
  const tiles = new Uint8Array(chosen.length * size);
  const [low, high] = [/** @type {number[]} */ ([]), /** @type {number[]} */ ([])];
  chosen.forEach((c, place) => {
    const part = v.data.subarray(c * size, (c + 1) * size);
    let [least, largest] = [Infinity, -Infinity];
    for (const x of part) { if (x < least) least = x; if (x > largest) largest = x; }
    const reach = largest > least ? largest - least : 1;
    for (let i = 0; i < size; i++) tiles[place * size + i] = Math.round(((part[i] - least) * 255) / reach);
    low.push(least);
    high.push(largest);
  });
  return { order, strength, low, high, h: v.h, w: v.w, tiles };
}

/**
 * A photo alone: its channels are the values of the one layer "picture".
 * @param {Picture} picture @param {number} longest the longer side of other pictures is made no larger
 * @returns {Source}
 */
export function fromPicture(picture, longest) {
  let now = picture;
  const values = async () => {
    const size = now.h * now.w;
    const data = new Float32Array(3 * size);
    for (let i = 0; i < size; i++) for (let c = 0; c < 3; c++) data[c * size + i] = now.rgb[3 * i + c];
    return { c: 3, h: now.h, w: now.w, data };
  };
  return {
    takesPictures: [true],
    rounded: "",
    values,
    maps: async (_side, _layer, first, most) => tiled(await values(), first, most),
    taps: async () => { throw new Error(t("noStamp")); },
    picture: async () => now,
    effect: async () => { throw new Error(t("noStamp")); },
    answer: async () => [],
    look: async (file, name) => { now = await decoded(file, name, longest); },
    waste: async () => null,
    samples: async () => { throw new Error(t("noSamples")); },
    time: async () => null,
  };
}

/** A picture that is in the page. @param {any} told where it is in the bytes of the page @param {Uint8Array} bytes @returns {Picture} */
export function heldPicture(told, bytes) {
  const { h, w, at, name, prepared } = told;
  return { h, w, name, prepared, rgb: bytes.subarray(at, at + 3 * h * w) };
}

/** A picture file that the browser can read, else an error that names it. @param {Blob} file @param {string} name */
export const readable = (file, name) => createImageBitmap(file).catch(() => { throw new Error(t("noPicture", { name })); });

/** A picture file, its longer side `longest` pixels at most. @param {Blob} file @param {string} name @param {number} longest */
async function decoded(file, name, longest) {
  const image = await readable(file, name);
  const scale = Math.min(1, longest / Math.max(image.width, image.height));
  const [w, h] = [Math.max(1, Math.round(image.width * scale)), Math.max(1, Math.round(image.height * scale))];
  const canvas = Object.assign(document.createElement("canvas"), { width: w, height: h });
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.drawImage(image, 0, 0, w, h);
  const { data } = context.getImageData(0, 0, w, h);
  const rgb = new Uint8Array(3 * h * w);
  for (let i = 0; i < h * w; i++) for (let c = 0; c < 3; c++) rgb[3 * i + c] = data[4 * i + c];
  return { h, w, rgb, name, prepared: null };
}
