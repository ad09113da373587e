/** A picture brought to the size of a network's input, as the server does it (Pillow's `ImageOps.fit`, bilinear). */

/** Shares are whole numbers of this unit. */
const UNIT = 2 ** 22;

/**
 * The part of a picture that covers the size, from its middle, scaled with a triangle as wide as a pixel of the result
 * (so that no pixel is skipped where a picture shrinks). First along the rows, then along the columns, with whole
 * numbers of 0 to 255 between, as Pillow has it; single numbers are one apart from its own.
 * @param {Uint8Array | Uint8ClampedArray} pixels (h, w, c) @param {number} h @param {number} w @param {number} c
 * @param {number} height @param {number} width @returns {Uint8Array} (height, width, c)
 */
export function fitted(pixels, h, w, c, height, width) {
  const [across, high] = w / h >= width / height ? [(h * width) / height, h] : [w, (w * height) / width];
  const columns = shares(w, (w - across) / 2, across, width);
  const rows = shares(h, (h - high) / 2, high, height);
  const wide = new Uint8ClampedArray(h * width * c);
  for (let y = 0; y < h; y++)
    columns.forEach(({ first, parts }, x) => {
      for (let k = 0; k < c; k++) {
        let sum = 0;
        for (let i = 0; i < parts.length; i++) sum += parts[i] * pixels[(y * w + first + i) * c + k];
        wide[(y * width + x) * c + k] = Math.floor(sum / UNIT + 0.5);
      }
    });
  const out = new Uint8Array(height * width * c);
  const line = width * c;
  rows.forEach(({ first, parts }, y) => {
    for (let x = 0; x < line; x++) {
      let sum = 0;
      for (let i = 0; i < parts.length; i++) sum += parts[i] * wide[(first + i) * line + x];
      out[y * line + x] = Math.min(255, Math.floor(sum / UNIT + 0.5));
    }
  });
  return out;
}

/**
 * Which pixels of one axis each pixel of the result takes, and their shares in `UNIT`.
 * @param {number} size @param {number} start of the part @param {number} length of the part @param {number} wanted
 * @returns {{first: number, parts: number[]}[]}
 */
function shares(size, start, length, wanted) {
  const scale = length / wanted;
  const reach = Math.max(scale, 1);
  return Array.from({ length: wanted }, (_, i) => {
    const middle = start + (i + 0.5) * scale;
    const first = Math.max(0, Math.floor(middle - reach + 0.5));
    const end = Math.min(size, Math.floor(middle + reach + 0.5));
    const parts = Array.from({ length: end - first }, (_, k) => Math.max(0, 1 - Math.abs((first + k - middle + 0.5) / reach)));
    const sum = parts.reduce((a, b) => a + b, 0) || 1;
    return { first, parts: parts.map((v) => Math.floor((v * UNIT) / sum + 0.5)) };
  });
}

/** Red, green and blue as one luminance (ITU-R BT.601), as Pillow rounds it. @param {number} r @param {number} g @param {number} b */
export const grey = (r, g, b) => Math.floor((19595 * r + 38470 * g + 7471 * b + 32768) / 65536);
