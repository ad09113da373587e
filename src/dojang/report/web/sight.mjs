/** What one output sees: its receptive field on the photo, layer by layer. */

import { h, s, visible } from "./elements.mjs";
import { paintPicture } from "./painting.mjs";
import { percent, t, whole } from "./words.mjs";

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
 * @param {((layer: string) => Promise<import("./source.mjs").Effect>)|null} measure null where nothing can be run
 * @param {(layer: string) => boolean} depends whether a layer depends on the input that the picture is in
 */
export function showSight(box, picture, layers, chosen, changed, measure, depends) {
  let at = Math.max(0, chosen);
  let [fy, fx] = [0.5, 0.5];
  const canvas = h("canvas", { class: picture.w < 64 ? "pixels" : "" });
  const effect = h("canvas", { class: "pixels effect", hidden: true });
  /** @type {Map<string, import("./source.mjs").Effect>} */
  const measured = new Map();
  const shade = s("path", { class: "shade", "fill-rule": "evenodd" });
  const frame = s("rect", { class: "frame" });
  const spot = s("rect", { class: "spot" });
  const over = h("div", { class: "plane photo", tabindex: 0, role: "application", "aria-label": t("moveHere"), "data-plane": "sight" }, canvas, effect,
    s("svg", { viewBox: `0 0 ${picture.w} ${picture.h}`, preserveAspectRatio: "none", "aria-hidden": "true" }, shade, frame, spot));
  over.style.aspectRatio = String(visible(picture.w, picture.h));
  over.style.setProperty("--ratio", String(visible(picture.w, picture.h)));
  const said = h("p", { class: "sight", "aria-live": "polite" });
  const name = h("output", {});
  const slider = h("input", { type: "range", min: "0", max: String(layers.length - 1), value: String(at), "aria-label": t("layer"),
    oninput: (/** @type {any} */ e) => { at = Number(e.target.value); changed(at); update(); } });
  const found = h("p", { class: "measured", "aria-live": "polite" });
  const button = h("button", { type: "button", "data-measure": "", text: t("measure"), onclick: async () => {
    const layer = layers[at].name;
    if (!measure || measured.has(layer)) return;
    button.disabled = true;
    found.textContent = t("loading");
    try {
      measured.set(layer, await measure(layer));
      update();
    } catch (error) {
      found.textContent = t("failed", { why: error instanceof Error ? error.message : String(error) });
    }
    button.disabled = false;
  } });
  box.replaceChildren(h("div", { class: "sliding" }, slider, name), h("figure", {}, over), said, ...(measure ? [h("div", { class: "measuring" }, button, found)] : []), deeper());
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
    const spans = depends(layer.name) ? layer.field : null;
    drawEffect(layer.name, y, x);
    const across = spans?.length ? seenBy(spans[spans.length - 1], x) : null;
    const [rows, columns] = spans?.length === 2 ? [seenBy(spans[0], y), across] : spans?.length === 1 ? [[0, 0], across] : [null, null];
    if (!rows || !columns) {
      said.textContent = depends(layer.name) ? t("fieldNone") : t("fieldElsewhere", { layer: layer.name });
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
    said.textContent = `${t(spans?.length === 1 ? "fieldLine" : "fieldSaid", { y, x, layer: layer.name, h: y1 - y0, w: x1 - x0, y0, y1: y1 - 1, x0, x1: x1 - 1 })}${outside ? ` ${t("fieldPadding")}` : ""}`;
    said.dataset.field = JSON.stringify([y0, y1 - 1, x0, x1 - 1]);
  }
  /** What was measured of a place. @param {string} layer @param {number} y @param {number} x */
  function drawEffect(layer, y, x) {
    const one = measured.get(layer);
    effect.hidden = !one;
    spot.setAttribute("class", one ? "spot outlined" : "spot"); // what was measured shows through
    button.hidden = Boolean(one);
    if (!one) { found.textContent = ""; return; }
    const parts = one.rows * one.columns;
    const strengths = Array.from({ length: parts }, (_, part) => one.tiles[(part * one.h + Math.min(y, one.h - 1)) * one.w + Math.min(x, one.w - 1)]);
    Object.assign(effect, { width: one.columns, height: one.rows });
    const context = /** @type {CanvasRenderingContext2D} */ (effect.getContext("2d"));
    const image = context.createImageData(one.columns, one.rows);
    strengths.forEach((v, part) => image.data.set([23, 105, 47, Math.round(0.75 * v)], 4 * part));
    context.putImageData(image, 0, 0);
    const energy = strengths.map((v) => v * v);
    const all = energy.reduce((a, b) => a + b, 0);
    let [sum, some] = [0, 0];
    for (const v of [...energy].sort((a, b) => b - a)) if (sum < 0.95 * all) { sum += v; some++; }
    found.textContent = all ? t("measuredSaid", { n: some, all: parts, share: percent(some / parts) }) : t("measuredNone");
    found.dataset.parts = JSON.stringify(strengths);
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
