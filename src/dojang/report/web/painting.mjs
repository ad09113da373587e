/** Values as colours: green above zero, purple below, the page's own ground at zero; the same everywhere on the page. */

/** @typedef {[number, number, number]} Colour */

/** @type {{zero: Colour, plus: Colour, minus: Colour}|null} */
let palette = null;

/** The colours of the page as it is now, light or dark. */
function colours() {
  if (!palette) {
    const style = getComputedStyle(document.documentElement);
    const read = (/** @type {string} */ name) => {
      const hex = style.getPropertyValue(name).trim().slice(1);
      return /** @type {Colour} */ ([0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16)));
    };
    palette = { zero: read("--zero"), plus: read("--plus"), minus: read("--minus") };
  }
  return palette;
}

/** To be called when the page turns light or dark. */
export const forgetColours = () => { palette = null; };

/** @param {number} v @param {number} reach the value of full colour @returns {Colour} */
export function colourOf(v, reach) {
  const { zero, plus, minus } = colours();
  const share = Math.min(1, Math.abs(v) / (reach || 1)) || 0;
  const to = v < 0 ? minus : plus;
  return /** @type {Colour} */ (zero.map((z, i) => Math.round(z + (to[i] - z) * share)));
}

/** @param {Colour} c */
const light = (c) => {
  const [r, g, b] = c.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};

/** Black or white, whichever has more contrast on the colour. @param {Colour} c */
export const ink = (c) => (light(c) > 0.179 ? "#000" : "#fff");

/** Colours an element as a cell of this value. @param {HTMLElement} cell @param {number} v @param {number} reach */
export function tint(cell, v, reach) {
  const c = colourOf(v, reach);
  cell.style.background = `rgb(${c.join()})`;
  cell.style.color = ink(c);
}

/**
 * Paints values; `dim` makes what lies behind a place paler (what is not written yet).
 * @param {HTMLCanvasElement} canvas @param {ArrayLike<number>} data @param {number} h @param {number} w @param {number} reach
 * @param {(i: number) => number} [read] value of an entry @param {number} [written] entries from here on are pale
 */
export function paint(canvas, data, h, w, reach, read = (i) => data[i], written = Infinity) {
  canvas.width = w;
  canvas.height = h;
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const image = context.createImageData(w, h);
  const { zero, plus, minus } = colours();
  for (let i = 0; i < h * w; i++) {
    const v = read(i);
    const share = Math.min(1, Math.abs(v) / (reach || 1)) || 0;
    const to = v < 0 ? minus : plus;
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = zero[c] + (to[c] - zero[c]) * share;
    image.data[4 * i + 3] = i < written ? 255 : 70;
  }
  context.putImageData(image, 0, 0);
}

/** @param {HTMLCanvasElement} canvas @param {import("./source.mjs").Picture} picture */
export function paintPicture(canvas, picture) {
  const { h, w, rgb } = picture;
  canvas.width = w;
  canvas.height = h;
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const image = context.createImageData(w, h);
  for (let i = 0; i < h * w; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = rgb[3 * i + c];
    image.data[4 * i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

/** The largest size of some values. @param {ArrayLike<number>} data */
export function reachOf(data) {
  let most = 0;
  for (let i = 0; i < data.length; i++) if (Math.abs(data[i]) > most) most = Math.abs(data[i]);
  return most;
}
