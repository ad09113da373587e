/** What is wasted: channels that do nothing on samples, and how channels go together. */

import { h } from "./elements.mjs";
import { paint, paintPicture, reachOf } from "./painting.mjs";
import { kindOf, percent, t, value } from "./words.mjs";

/** Signs and names of the states of a channel: never colour alone. @type {Record<string, string>} */
const SIGNS = { used: "", dead: "×", constant: "=", duplicate: "≡", silent: "∅" };

/**
 * @param {HTMLElement} box @param {any} waste @param {import("./source.mjs").Source} source
 */
export function showWaste(box, waste, source) {
  if (!waste) { box.replaceChildren(h("p", { class: "note", text: t("wasteNone") })); return; }
  const proof = h("div", { class: "proof", "aria-live": "polite" });
  const open = async (/** @type {string} */ layer, /** @type {number} */ channel, /** @type {string} */ state) => {
    proof.replaceChildren(h("h2", { text: `${layer}, ${t("channel", { n: channel })}: ${t(state)}` }));
    try {
      proof.append(samples(await source.samples(layer, channel)));
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      proof.append(h("p", { class: "note", text: t("failed", { why }) }));
    }
  };
  const rows = waste.layers.map((/** @type {any} */ one) => h("li", {}, h("span", { class: "name", text: one.layer }),
    h("span", { class: "channels" }, one.states.map((/** @type {string} */ state, /** @type {number} */ c) =>
      state === "used" ? h("span", { class: "cell used", title: `${c}: ${t(state)}` })
        : h("button", { type: "button", class: `cell ${state}`, "aria-label": `${SIGNS[state]} ${one.layer}, ${t("channel", { n: c })}: ${t(state)}`, title: `${c}: ${t(state)}`, "data-sign": SIGNS[state], onclick: () => open(one.layer, c, state) })))));
  const legend = h("p", { class: "note legend" }, Object.entries(SIGNS).flatMap(([state, sign]) => [h("span", { class: `cell ${state}`, "data-sign": sign }), ` ${t(state)} `]));
  box.replaceChildren(h("p", { class: "note", text: t("wasteSaid", { n: waste.samples }) }), legend, h("ol", { class: "wasterows" }, rows), proof,
    waste.findings.length ? h("section", {}, h("h2", { text: t("findings") }), h("ul", { class: "findings" }, waste.findings.map((/** @type {any} */ f) => h("li", { title: f.kind }, h("b", { text: f.layer ? `${f.layer}: ${kindOf(f.kind)}` : kindOf(f.kind) }), " ", h("span", { lang: "en", text: f.evidence }))))) : "",
    ...waste.pairs.length ? [correlations(waste)] : []);
}

/** Maps of one channel on samples, beside the samples. @param {import("./source.mjs").Samples} s */
function samples(s) {
  const reach = reachOf(s.data);
  const size = s.h * s.w;
  return h("div", { class: "maps" }, Array.from({ length: s.n }, (_, i) => {
    const [map, photo] = [h("canvas"), h("canvas")];
    paint(map, s.data.subarray(i * size, (i + 1) * size), s.h, s.w, reach);
    paintPicture(photo, { h: s.ph, w: s.pw, rgb: s.rgb.subarray(3 * i * s.ph * s.pw, 3 * (i + 1) * s.ph * s.pw), name: "", prepared: null });
    return h("figure", { class: "map" }, photo, map, h("figcaption", { text: value(reachOf(s.data.subarray(i * size, (i + 1) * size))) }));
  }));
}

/** Correlation matrices, reordered by groups in motion. @param {any} waste */
function correlations(waste) {
  let which = 0;
  let level = 0;
  const canvas = h("canvas", { class: "pixels", role: "img" });
  const said = h("p", { "aria-live": "polite" });
  const title = h("h2");
  const axes = h("p", { class: "note" });
  const grid = h("div", { class: "groups" });
  const slider = h("input", { type: "range", min: "0", value: "0", "aria-label": t("groups"), oninput: (/** @type {any} */ e) => { level = Number(e.target.value); draw(true); } });
  const marks = h("output");
  const choose = h("select", { "aria-label": t("layer"), onchange: (/** @type {any} */ e) => { which = Number(e.target.value); level = 0; draw(false); } },
    waste.pairs.map((/** @type {any} */ p, /** @type {number} */ i) => h("option", { value: String(i), text: `${p.before} → ${p.after}` })));
  /** @type {{rows: number[], columns: number[]}|null} */
  let from = null;
  let running = 0;

  /** @param {boolean} moving */
  function draw(moving) {
    const pair = waste.pairs[which];
    const split = pair.splits[level];
    const raw = Uint8Array.from(atob(pair.matrix), (c) => c.charCodeAt(0));
    const matrix = new Int8Array(raw.buffer);
    slider.max = String(pair.splits.length - 1);
    slider.value = String(level);
    slider.setAttribute("aria-valuetext", String(split.groups));
    marks.textContent = pair.splits.map((/** @type {any} */ one) => (one === split ? `[${one.groups}]` : one.groups)).join(" · ");
    title.textContent = t("correlation", { layer: `${pair.before} → ${pair.after}` });
    axes.textContent = t("axes", { h: pair.h, w: pair.w });
    canvas.setAttribute("aria-label", title.textContent);
    const measured = (waste.measured[pair.after] ?? []).find((/** @type {any} */ m) => m.groups === split.groups);
    said.textContent = t("groupsSaid", { g: split.groups, a: percent(split.inside), b: percent(split.chance) }) + (measured ? `. ${t("splitMeasured", { a: percent(measured.change), b: percent(measured.random) })}` : "");
    said.dataset.inside = String(split.inside);
    grid.replaceChildren(...split.ends[0].slice(0, -1).map((/** @type {number} */ end) => divider("rowline", "top", end / pair.h)), ...split.ends[1].slice(0, -1).map((/** @type {number} */ end) => divider("columnline", "left", end / pair.w)));
    const to = { rows: /** @type {number[]} */ (places(split.rows)), columns: /** @type {number[]} */ (places(split.columns)) };
    const begin = from && moving && from.rows.length === pair.h && !matchMedia("(prefers-reduced-motion: reduce)").matches ? from : to;
    from = to;
    const started = performance.now();
    const run = ++running;
    const step = (/** @type {number} */ now) => {
      if (run !== running || (!canvas.isConnected && now - started > 100)) return;
      const share = begin === to ? 1 : Math.min(1, (now - started) / 600);
      const ease = share * share * (3 - 2 * share);
      const order = (/** @type {number[]} */ a, /** @type {number[]} */ b) => ranked(a.map((v, i) => v + (b[i] - v) * ease));
      const [rows, columns] = [order(begin.rows, to.rows), order(begin.columns, to.columns)];
      paint(canvas, matrix, pair.h, pair.w, 127, (i) => matrix[rows[Math.floor(i / pair.w)] * pair.w + columns[i % pair.w]]);
      if (share < 1) requestAnimationFrame(step);
    };
    step(started);
  }
  draw(false);
  return h("section", { class: "correlation" }, title, h("div", { class: "sliding" }, choose, h("label", { class: "setting" }, h("span", { text: t("groups") }), slider), marks), said,
    axes, h("div", { class: "square" }, canvas, grid),
    h("p", { class: "note legend" }, h("span", { class: "key minus" }), `${t("negative")} `, h("span", { class: "key zero" }), "0 ", h("span", { class: "key plus" }), `${t("positive")} (−1 … 1)`));
}

/** @param {string} kind @param {"top"|"left"} side @param {number} share */
function divider(kind, side, share) {
  const line = h("span", { class: kind });
  line.style[side] = `${100 * share}%`;
  return line;
}

/** The place of each channel in an order. @param {number[]} order */
const places = (order) => order.reduce((all, channel, place) => { all[channel] = place; return all; }, /** @type {number[]} */ ([]));

/** Channels by their places. @param {number[]} at */
const ranked = (at) => at.map((_, i) => i).sort((a, b) => at[a] - at[b]);
