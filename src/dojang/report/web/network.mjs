/** The drawing of the network: one row a step, lanes beside it for values that are still to be read. */

import { breaking, h, s, shown } from "./elements.mjs";
import { by, percent, short, t } from "./words.mjs";

const LANE = 14;

/** Rows of a long list that are laid out and painted together, only where they are near the window. */
const CHUNK = 40;

/**
 * @typedef {{name: string, op: string, type: string, inputs: string[], in_shapes: (number[]|null)[], shape: number[]|null, params: number|null, macs: number|null, window: any, field: any, waste?: number}} LayerRow
 * @typedef {{label: string, layers: string[], lane: number, times: number, kind: string, inner: Block|null, unfolded: boolean}} Row
 * @typedef {{lanes: number, gaps: number[][][], rows: Row[]}} Block
 * @typedef {{params: number, macs: number, layers: Map<string, LayerRow>}} Totals
 */

/**
 * @param {Block} flow @param {Totals} totals @param {(row: Row) => void} picked
 * @returns {{node: HTMLElement, mark: (row: Row) => void, find: (text: string) => number, first: () => Row, rows: number, fold: (open: boolean) => void, rowOf: (layer: string) => Row|undefined}}
 */
export function drawing(flow, totals, picked) {
  /** @type {Map<Row, HTMLElement>} */
  const items = new Map();
  /** @type {Map<Row, Row>} */
  const around = new Map();
  /** @type {Map<Row, (open: boolean) => void>} */
  const folds = new Map();

  /** @param {Block} block @param {Row|null} outer */
  const list = (block, outer) => {
    const made = block.rows.map((row, i) => {
      if (outer) around.set(row, outer);
      return item(block, row, i);
    });
    if (made.length <= 2 * CHUNK) return h("ol", { class: "rows" }, made);
    const starts = Array.from({ length: Math.ceil(made.length / CHUNK) }, (_, i) => i * CHUNK);
    return h("div", { class: "rows" }, starts.map((from) => {
      const part = h("ol", { class: "chunk", start: from + 1 }, made.slice(from, from + CHUNK));
      part.style.containIntrinsicHeight = `auto ${2.1 * Math.min(CHUNK, made.length - from)}rem`;
      return part;
    }));
  };

  /** @param {Block} block @param {Row} row @param {number} i */
  const item = (block, row, i) => {
    const name = row.label;
    const below = [...new Set(block.gaps[i + 1].map((line) => line[0]))];
    const inner = h("div", { class: "inner", hidden: !row.unfolded });
    const pick = h("button", { type: "button", class: "pick", onclick: () => picked(row) },
      h("span", { class: "name" }, breaking(name)), row.times > 1 ? h("span", { class: "times", text: t("times", { n: row.times }) }) : null,
      row.kind ? h("span", { class: "kind", text: row.kind }) : null);
    const twist = row.inner
      ? h("button", { type: "button", class: "twist", "aria-expanded": String(row.unfolded), "aria-label": t(row.unfolded ? "fold" : "unfold", { name }),
          onclick: () => open(inner.hidden) })
      : h("span", { class: "twist" });
    const open = (/** @type {boolean} */ wide) => {
      if (!row.inner) return;
      if (wide && !inner.firstChild) fillInner();
      inner.hidden = !wide;
      twist.setAttribute("aria-expanded", String(wide));
      twist.setAttribute("aria-label", t(wide ? "fold" : "unfold", { name }));
    };
    const fillInner = () => {
      const drawn = s("svg", { viewBox: `0 0 ${block.lanes * LANE} 10`, preserveAspectRatio: "none", "aria-hidden": "true" },
        below.map((lane) => line(lane, 0, lane, 10)));
      const gutter = h("span", { class: "lanes" }, drawn);
      gutter.style.width = `${block.lanes * LANE}px`;
      inner.append(gutter, list(/** @type {Block} */ (row.inner), row));
    };
    if (row.unfolded) fillInner();
    folds.set(row, open);
    const node = h("li", {}, h("div", { class: "row" }, lanes(block, row, i, below), twist, pick, ...figures(row, totals)), inner);
    items.set(row, node);
    return node;
  };

  /** Every row, whether it is unfolded or not. @param {Block} block @returns {Row[]} */
  const every = (block) => block.rows.flatMap((row) => [row, ...(row.inner ? every(row.inner) : [])]);
  const all = every(flow);
  const leaves = all.filter((row) => !row.inner);
  const reveal = (/** @type {Row} */ row) => {
    /** @type {Row[]} */
    const chain = [];
    const find = (/** @type {Block} */ block, /** @type {Row[]} */ outer) => {
      for (const one of block.rows) {
        if (one === row) chain.push(...outer);
        if (one.inner) find(one.inner, [...outer, one]);
      }
    };
    find(flow, []);
    for (const one of chain) folds.get(one)?.(true);
  };

  const node = h("div", { class: "network" }, list(flow, null));
  node.addEventListener("keydown", (/** @type {KeyboardEvent} */ e) => {
    const buttons = [...node.querySelectorAll("button.pick")].filter((b) => /** @type {HTMLElement} */ (b).offsetParent);
    const at = buttons.indexOf(/** @type {Element} */ (document.activeElement));
    const step = { ArrowDown: 1, ArrowUp: -1 }[e.key];
    if (at >= 0 && step && buttons[at + step]) {
      e.preventDefault();
      /** @type {HTMLElement} */ (buttons[at + step]).focus();
    } else if (at >= 0 && (e.key === "ArrowRight" || e.key === "ArrowLeft")) {
      const twist = /** @type {HTMLElement|null} */ (buttons[at].parentElement?.querySelector("button.twist") ?? null);
      if (twist && (twist.getAttribute("aria-expanded") === "true") === (e.key === "ArrowLeft")) twist.click();
    }
  });
  return {
    node,
    rows: leaves.length,
    first: () => leaves[0],
    rowOf: (layer) => leaves.find((row) => row.layers.includes(layer)),
    fold: (wide) => { for (const row of all) if (row.inner) folds.get(row)?.(wide); },
    mark: (row) => {
      node.querySelectorAll("[aria-current]").forEach((/** @type {Element} */ e) => e.removeAttribute("aria-current"));
      reveal(row);
      items.get(row)?.querySelector("button.pick")?.setAttribute("aria-current", "true");
    },
    find: (text) => {
      const wanted = text.trim().toLowerCase();
      node.classList.toggle("searching", wanted !== "");
      let count = 0;
      const fits = (/** @type {Row} */ row) => row.layers.some((name) => name.toLowerCase().includes(wanted)
        || (totals.layers.get(name)?.op ?? "").toLowerCase().includes(wanted));
      const hits = new Set(leaves.filter((row) => wanted && fits(row)));
      for (const row of hits) reveal(row);
      for (const row of all) {
        const hit = !wanted || hits.has(row) || (row.inner !== null && every(row.inner).some((one) => hits.has(one)));
        const element = items.get(row);
        if (element) element.hidden = !hit;
        if (hit && !row.inner) count++;
      }
      return count;
    },
  };
}

/** @param {number} x0 @param {number} y0 @param {number} x1 @param {number} y1 */
function line(x0, y0, x1, y1) {
  const at = (/** @type {number} */ lane) => lane * LANE + LANE / 2;
  const middle = (y0 + y1) / 2;
  return s("path", { d: `M${at(x0)} ${y0}C${at(x0)} ${middle} ${at(x1)} ${middle} ${at(x1)} ${y1}`, "vector-effect": "non-scaling-stroke" });
}

/** @param {Block} block @param {Row} row @param {number} i @param {number[]} below */
function lanes(block, row, i, below) {
  const wide = block.lanes * LANE;
  const drawn = s("svg", { viewBox: `0 0 ${wide} 100`, preserveAspectRatio: "none", "aria-hidden": "true" },
    block.gaps[i].map(([a, b]) => (b === row.lane ? line(a, 0, b, 50) : line(a, 0, b, 100))),
    block.gaps[i].filter(([a, b]) => a === b && b === row.lane && below.includes(b)).map(([a]) => line(a, 0, a, 100)),
    below.includes(row.lane) ? line(row.lane, 50, row.lane, 100) : null);
  const dot = h("span", { class: row.inner ? "dot module" : "dot" });
  dot.style.left = `${row.lane * LANE + LANE / 2}px`;
  const box = h("span", { class: "lanes" }, drawn, dot);
  box.style.width = `${wide}px`;
  return box;
}

/** Window, shape and the two bars. @param {Row} row @param {Totals} totals */
function figures(row, totals) {
  const layers = row.layers.map((name) => totals.layers.get(name)).filter((one) => one !== undefined);
  const head = layers[0];
  const last = layers[layers.length - 1];
  const said = row.inner ? "" : head?.window?.said ?? (head?.type === "dense" ? "" : head && head.op !== row.label ? head.op : "");
  const op = row.inner || !head ? "" : layers.map((one) => one.op).join(" ");
  const wasted = layers.reduce((sum, one) => sum + (one.waste ?? 0), 0);
  return [
    h("span", { class: "window", title: op }, breaking(said), wasted ? h("span", { class: "wasted", text: t("markers", { n: wasted }) }) : null),
    h("span", { class: "shape", text: by(last?.shape ?? null) }),
    bar(layers, "macs", totals.macs),
    bar(layers, "params", totals.params),
  ];
}

/** @param {LayerRow[]} layers @param {"macs"|"params"} what @param {number} whole */
function bar(layers, what, whole) {
  /** @type {Record<string, number>} */
  const sums = { conv: 0, dense: 0, other: 0 };
  let known = true;
  for (const layer of layers) {
    if (layer[what] === null) known = false;
    sums[layer.type] += layer[what] ?? 0;
  }
  const sum = sums.conv + sums.dense + sums.other;
  const text = !known && !sum ? "?" : sum ? `${known ? "" : "≥ "}${short(sum)}` : "–";
  const box = h("span", { class: "bar", "data-what": t(what), title: whole && sum ? `${t(what)}: ${percent(sum / whole)}` : t(what) });
  const track = h("span", { class: "track" });
  for (const type of ["conv", "dense", "other"])
    if (sums[type] && whole) {
      const part = h("span", { class: `part ${type}` });
      part.style.width = `${(100 * sums[type]) / whole}%`;
      track.append(part);
    }
  box.append(track, h("span", { class: "number", text: shown(text) }));
  return box;
}
