/** Before and after: two networks on the same picture. */

import { h } from "./elements.mjs";
import { paint, paintPicture, reachOf } from "./painting.mjs";
import { percent, short, t, value } from "./words.mjs";

const MOST = 36;

/**
 * @param {HTMLElement} box @param {import("./source.mjs").Source} source @param {any} data of the page
 * @param {string} layer @param {any} waste @param {() => boolean} current
 */
export async function showSides(box, source, data, layer, waste, current) {
  const [before, after] = await Promise.all([source.answer("before"), source.answer("after")]);
  if (!current()) return;
  const time = h("td", { text: "…" });
  const timed = h("tr", {}, h("th", { scope: "row", text: t("runTime") }), time, h("td", {}), h("td", {}));
  const row = (/** @type {string} */ name, /** @type {number} */ a, /** @type {number} */ b) =>
    h("tr", {}, h("th", { scope: "row", text: name }), h("td", { text: short(a) }), h("td", { text: short(b) }), h("td", { text: a ? percent(b / a) : "" }));
  const totals = h("table", { class: "totalsof" }, h("thead", {}, h("tr", {}, ["", t("before"), t("now"), ""].map((text) => h(text ? "th" : "td", { scope: text ? "col" : null, text })))),
    h("tbody", {}, row(t("params"), data.before.params, data.overview.params), row(t("macs"), data.before.macs, data.overview.macs), timed));
  const answers = h("div", { class: "both" }, [[t("before"), before], [t("now"), after]].map(([name, found]) => h("div", {}, h("h2", { text: name }), bars(/** @type {any} */ (found)))));
  const same = before.length && after.length ? h("p", { text: before[0].name === after[0].name ? t("sameAnswers") : t("otherAnswers") }) : null;
  const maps = h("div", {});
  box.replaceChildren(totals, answers, same ?? "", changedSamples(waste, data), edits(data.edits ?? []), h("h2", { text: layer }), maps);
  leastTimes(source).then(([a, b]) => {
    if (a === null || b === null) { timed.remove(); return; }
    const cells = timed.querySelectorAll("td");
    [duration(a), duration(b), percent(b / a)].forEach((text, i) => { cells[i].textContent = text; });
  }, () => timed.remove());
  if (!data.before.layers.some((/** @type {any} */ one) => one.name === layer)) { maps.replaceChildren(h("p", { class: "note", text: t("onlyAfter") })); return; }
  await divided(maps, source, layer, current);
}

/** @param {number} ms */
const duration = (ms) => (ms < 0.1 ? `${value(1000 * ms)} µs` : `${value(ms)} ms`);

/** The least time of each side, measured in turns and never at once: what disturbs one then disturbs the other. @param {import("./source.mjs").Source} source */
async function leastTimes(source) {
  /** @type {[number|null, number|null]} */
  const least = [null, null];
  for (let turn = 0; turn < 2; turn++)
    for (const [i, side] of ["before", "after"].entries()) {
      const now = await source.time(side, turn);
      if (now === null) return [null, null];
      least[i] = Math.min(now, least[i] ?? Infinity);
    }
  return least;
}

/** @param {import("./source.mjs").Guess[]} found */
function bars(found) {
  if (!found.length) return h("p", { class: "note", text: t("noAnswer") });
  return h("ol", { class: "answers" }, found.map((one) => {
    const part = h("span", { class: "part" });
    part.style.width = `${100 * one.probability}%`;
    return h("li", {}, h("span", { class: "name", text: one.name }), h("span", { class: "number", text: percent(one.probability) }), h("span", { class: "track" }, part));
  }));
}

/** @param {any} waste @param {any} data */
function changedSamples(waste, data) {
  const found = waste?.changed;
  if (!found) return "";
  const name = (/** @type {number} */ i) => data.overview.classes?.[i] ?? String(i);
  return h("section", {}, h("p", { text: t("answersChanged", { n: found.changed, all: found.samples }) }), h("div", { class: "maps" }, found.shown.map((/** @type {any} */ one) => {
    const canvas = h("canvas");
    paintPicture(canvas, { h: one.h, w: one.w, rgb: Uint8Array.from(atob(one.rgb), (c) => c.charCodeAt(0)), name: "", prepared: null });
    return h("figure", { class: "map" }, canvas, h("figcaption", { text: `${name(one.before)} → ${name(one.after)}` }));
  })));
}

/** What was cut, and which finding each cut answers. @param {{rewrite: string, claim: string, found: string}[]} all */
function edits(all) {
  if (!all.length) return "";
  return h("section", {}, h("h2", { text: t("cuts") }), h("ul", { class: "findings" }, all.map((one) => h("li", {}, h("b", { text: one.rewrite }), ` (${one.claim}) ${one.found}`))));
}

/**
 * Maps of one layer in both networks, under a divider; each channel after beside the one before that is most like it.
 * @param {HTMLElement} box @param {import("./source.mjs").Source} source @param {string} layer @param {() => boolean} current
 */
async function divided(box, source, layer, current) {
  const [a, b] = await Promise.all([source.values("before", layer), source.values("after", layer)]);
  if (!current()) return;
  if (a.h !== b.h || a.w !== b.w) { box.replaceChildren(h("p", { class: "note", text: t("otherSizes") })); return; }
  const pairs = paired(a, b);
  const size = a.h * a.w;
  const grid = h("div", { class: "maps divided" });
  const divide = (/** @type {string} */ share) => grid.style.setProperty("--share", `${share}%`);
  divide("50");
  for (const [from, to] of pairs.slice(0, MOST)) {
    const part = (/** @type {import("./stamping.mjs").Values} */ v, /** @type {number} */ c) => v.data.subarray(c * size, (c + 1) * size);
    const old = part(a, from);
    const reach = Math.max(reachOf(old), to < 0 ? 0 : reachOf(part(b, to)));
    const [under, over] = [h("canvas"), h("canvas", { class: "over" })];
    paint(under, old, a.h, a.w, reach);
    if (to >= 0) paint(over, part(b, to), a.h, a.w, reach);
    else { over.width = a.w; over.height = a.h; }
    grid.append(h("figure", { class: to < 0 ? "map gone" : "map" }, h("div", { class: "stack" }, under, over), h("figcaption", { text: to < 0 ? `${from} → ${t("gone")}` : `${from} → ${to}` })));
  }
  box.replaceChildren(h("p", { class: "note", text: t("dividerNote") }), h("div", { class: "sliding" }, t("before"), h("input", { type: "range", min: "0", max: "100", value: "50", "aria-label": t("dividerSaid"), oninput: (/** @type {any} */ e) => divide(e.target.value) }), t("now")), grid);
}

/**
 * Channels before with the channel after whose map is most like theirs on this picture, each taken once; behind them
 * those that have none (−1).
 * @param {import("./stamping.mjs").Values} a @param {import("./stamping.mjs").Values} b
 * @returns {[number, number][]}
 */
export function paired(a, b) {
  const size = a.h * a.w;
  const unit = (/** @type {import("./stamping.mjs").Values} */ v) => Array.from({ length: v.c }, (_, c) => {
    const part = Float64Array.from(v.data.subarray(c * size, (c + 1) * size));
    const length = Math.hypot(...(size < 50000 ? part : [])) || Math.sqrt(part.reduce((s, x) => s + x * x, 0)) || 1;
    return part.map((x) => x / length);
  });
  const [us, vs] = [unit(a), unit(b)];
  /** @type {[number, number, number][]} */
  const likeness = [];
  us.forEach((u, i) => vs.forEach((v, j) => {
    let sum = 0;
    for (let k = 0; k < size; k++) sum += u[k] * v[k];
    likeness.push([sum, i, j]);
  }));
  likeness.sort((p, q) => q[0] - p[0] || p[1] - q[1] || p[2] - q[2]);
  const to = new Array(a.c).fill(-1);
  const taken = new Set();
  for (const [, i, j] of likeness) if (to[i] < 0 && !taken.has(j)) { to[i] = j; taken.add(j); }
  const pairs = to.map((j, i) => /** @type {[number, number]} */ ([i, j]));
  return [...pairs.filter((one) => one[1] >= 0), ...pairs.filter((one) => one[1] < 0)];
}
