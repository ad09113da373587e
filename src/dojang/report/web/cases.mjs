/** Small drawings of stride and padding that need no network: the four cases, one dimension, a stride for each axis. */

import { h, s } from "./elements.mjs";
import { t } from "./words.mjs";

const CELL = 10;

/**
 * One drawing: the input with its padding on the left, the output on the right, the window at one place.
 * @typedef {{size: number[], kernel: number[], stride: number[], padding: number[]}} Case rows and columns of each
 * @param {Case} one @param {string} said below the drawing @param {number} high height of the drawing @param {number} middle of the input
 */
function oneCase({ size, kernel, stride, padding }, said, high, middle) {
  const padded = size.map((n, axis) => n + 2 * padding[axis]);
  const out = padded.map((n, axis) => Math.floor((n - kernel[axis]) / stride[axis]) + 1);
  const [cells, written] = [s("g"), s("g")];
  const wide = 2 * middle + 60;
  const node = s("svg", { viewBox: `0 0 ${wide} ${high}`, role: "img", "aria-label": said }, cells, written);
  const update = (/** @type {number} */ at) => {
    const place = at % (out[0] * out[1]);
    const [y, x] = [Math.floor(place / out[1]), place % out[1]];
    const [left, top] = [middle - (CELL / 2) * padded[1], high / 2 - (CELL / 2) * padded[0]];
    const boxes = [];
    for (let r = 0; r < padded[0]; r++)
      for (let c = 0; c < padded[1]; c++) {
        const inside = r >= padding[0] && c >= padding[1] && r < padding[0] + size[0] && c < padding[1] + size[1];
        boxes.push(s("rect", { x: left + CELL * c, y: top + CELL * r, width: CELL, height: CELL, class: inside ? "pixel" : "pad" }));
      }
    boxes.push(s("rect", { x: left + CELL * x * stride[1], y: top + CELL * y * stride[0], width: CELL * kernel[1], height: CELL * kernel[0], class: "frame" }));
    cells.replaceChildren(...boxes);
    const [right, above] = [wide - 27 - (CELL / 2) * out[1], high / 2 - (CELL / 2) * out[0]];
    written.replaceChildren(...Array.from({ length: out[0] * out[1] }, (_, i) =>
      s("rect", { x: right + CELL * (i % out[1]), y: above + CELL * Math.floor(i / out[1]), width: CELL, height: CELL, class: i < place ? "done" : i === place ? "now" : "empty" })));
  };
  update(0);
  return { figure: h("figure", { "data-out": out.join("×") }, node, h("figcaption", { text: said })), update };
}

/** The cases of the notes, all of them stepped by one button. */
export function cases() {
  let at = 0;
  const square = [[1, 0], [1, 1], [2, 0], [2, 1]].map(([stride, pad]) => oneCase(
    { size: [5, 5], kernel: [3, 3], stride: [stride, stride], padding: [pad, pad] },
    t("caseSaid", { s: stride, p: pad, o: Math.floor((5 + 2 * pad - 3) / stride) + 1 }), 84, 36));
  const single = [1, 2].map((stride) => oneCase({ size: [1, 7], kernel: [1, 3], stride: [1, stride], padding: [0, 0] },
    t("lineSaid", { s: stride, o: Math.floor((7 - 3) / stride) + 1 }), 24, 40));
  const two = [[2, 1], [1, 2]].map(([down, across]) => oneCase({ size: [5, 5], kernel: [3, 3], stride: [down, across], padding: [0, 0] },
    t("twoSaid", { down, across, h: Math.floor(2 / down) + 1, w: Math.floor(2 / across) + 1 }), 60, 36));
  const step = () => { at++; for (const one of [...square, ...single, ...two]) one.update(at); };
  const row = (/** @type {string} */ title, /** @type {{figure: any}[]} */ drawings) => [h("h2", { text: title }), h("div", { class: "four" }, drawings.map((one) => one.figure))];
  return h("section", { class: "cases" }, row(t("fourCases"), square), row(t("lineCases"), single), row(t("twoCases"), two),
    h("button", { type: "button", onclick: step, text: t("step") }));
}
