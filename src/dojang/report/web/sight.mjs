/** What one output sees: its receptive field on the photo, layer by layer. */

import { h, s } from "./elements.mjs";
import { paintPicture } from "./painting.mjs";
import { t, whole } from "./words.mjs";

/**
 * First and last pixel that a place sees on one axis; null if none.
 * @param {{period: number, advance: number, ends: boolean, seen: (number[]|null)[]}} span @param {number} place
 */
export function seenBy(span, place) {
  if (span.ends && !(place >= 0 && place < span.period)) return null;
  const turn = Math.floor(place / span.period);
  const hull = span.seen[place - turn * span.period];
  return hull && [hull[0] + turn * span.advance, hull[1] + turn * span.advance];
}

/**
 * @param {HTMLElement} box @param {import("./source.mjs").Picture} picture @param {import("./network.mjs").LayerRow[]} layers
 * @param {number} chosen index of the layer @param {(i: number) => void} changed
 */
export function showSight(box, picture, layers, chosen, changed) {
  let at = Math.max(0, chosen);
  let [fy, fx] = [0.5, 0.5];
  const canvas = h("canvas", {});
  const shade = s("path", { class: "shade", "fill-rule": "evenodd" });
  const frame = s("rect", { class: "frame" });
  const spot = s("rect", { class: "spot" });
  const over = h("div", { class: "plane photo", tabindex: 0, role: "application", "aria-label": t("moveHere"), "data-plane": "sight" }, canvas,
    s("svg", { viewBox: `0 0 ${picture.w} ${picture.h}`, "aria-hidden": "true" }, shade, frame, spot));
  over.style.aspectRatio = `${picture.w} / ${picture.h}`;
  over.style.setProperty("--ratio", String(picture.w / picture.h));
  const said = h("p", { class: "sight", "aria-live": "polite" });
  const name = h("output", {});
  const slider = h("input", { type: "range", min: "0", max: String(layers.length - 1), value: String(at), "aria-label": t("layer"),
    oninput: (/** @type {any} */ e) => { at = Number(e.target.value); changed(at); update(); } });
  box.replaceChildren(h("div", { class: "sliding" }, slider, name), h("figure", {}, over), said, deeper());
  paintPicture(canvas, picture);

  const places = () => {
    const shape = layers[at].shape ?? [];
    return shape.length === 3 ? [shape[1], shape[2]] : [1, shape.length === 2 ? shape[1] : 1]; // a sequence is one row
  };
  function update() {
    const layer = layers[at];
    const [oh, ow] = places();
    const [y, x] = [Math.min(oh - 1, Math.floor(fy * oh)), Math.min(ow - 1, Math.floor(fx * ow))];
    name.textContent = `${layer.name} · ${t("throughLayers", { n: at + 1, all: layers.length })}`;
    const spans = layer.field;
    const across = spans && seenBy(spans[spans.length - 1], x);
    const [rows, columns] = spans?.length === 2 ? [seenBy(spans[0], y), across] : spans?.length === 1 ? [[0, 0], across] : [null, null];
    if (!rows || !columns) {
      said.textContent = t("fieldNone");
      shade.setAttribute("d", "");
      for (const one of [frame, spot]) one.setAttribute("width", "0");
      return;
    }
    const [y0, y1, x0, x1] = [rows[0], rows[1] + 1, columns[0], columns[1] + 1];
    const clip = (/** @type {number} */ v, /** @type {number} */ most) => Math.max(0, Math.min(most, v));
    shade.setAttribute("d", `M0 0h${picture.w}v${picture.h}h${-picture.w}zM${clip(x0, picture.w)} ${clip(y0, picture.h)}V${clip(y1, picture.h)}H${clip(x1, picture.w)}V${clip(y0, picture.h)}z`);
    for (const [key, v] of Object.entries({ x: x0, y: y0, width: x1 - x0, height: y1 - y0 })) frame.setAttribute(key, String(v));
    for (const [key, v] of Object.entries({ x: (x * picture.w) / ow, y: (y * picture.h) / oh, width: picture.w / ow, height: picture.h / oh })) spot.setAttribute(key, String(v));
    const outside = y0 < 0 || x0 < 0 || y1 > picture.h || x1 > picture.w;
    said.textContent = `${t("fieldSaid", { y, x, layer: layer.name, h: y1 - y0, w: x1 - x0, y0, y1: y1 - 1, x0, x1: x1 - 1 })}${outside ? ` ${t("fieldPadding")}` : ""}`;
    said.dataset.field = JSON.stringify([y0, y1 - 1, x0, x1 - 1]);
  }
  const move = (/** @type {PointerEvent} */ e) => {
    const r = over.getBoundingClientRect();
    fy = Math.max(0, Math.min(0.9999, (e.clientY - r.top) / r.height));
    fx = Math.max(0, Math.min(0.9999, (e.clientX - r.left) / r.width));
    update();
  };
  over.addEventListener("pointermove", move);
  over.addEventListener("pointerdown", move);
  over.addEventListener("keydown", (/** @type {KeyboardEvent} */ e) => {
    const step = /** @type {Record<string, [number, number]>} */ ({ ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] })[e.key];
    if (!step) return;
    e.preventDefault();
    const [oh, ow] = places();
    fy = Math.max(0, Math.min(0.9999, (Math.floor(fy * oh) + step[0] + 0.5) / oh));
    fx = Math.max(0, Math.min(0.9999, (Math.floor(fx * ow) + step[1] + 0.5) / ow));
    update();
  });
  update();
}

/** One large kernel beside layers of 3×3 that see as much. */
function deeper() {
  const rows = [3, 5, 7, 9, 11].map((k) => {
    const l = (k - 1) / 2;
    const bar = (/** @type {number} */ n, /** @type {string} */ text) => {
      const part = h("span", { class: "part conv" });
      part.style.width = `${(100 * n) / 121}%`;
      return h("td", {}, h("span", { class: "track" }, part), h("span", { class: "number", text }));
    };
    return h("tr", {}, h("th", { scope: "row", text: `${k}×${k}` }), bar(k * k, t("weightsEach", { k, n: whole(k * k) })), bar(9 * l, t("layersEach", { l, n: whole(9 * l) })));
  });
  return h("section", { class: "deeper" }, h("h2", { text: t("deeper") }), h("p", { class: "note", text: t("deeperSaid") }),
    h("table", {}, h("thead", {}, h("tr", {}, [t("sees"), t("oneKernel"), t("threes")].map((text) => h("th", { scope: "col", text })))), h("tbody", {}, rows)));
}
