/** The stamp: one window over the input, its numbers times the filter, the sum, and where it is written. */

import { choice, h, s, stepper, visible } from "./elements.mjs";
import { paint, paintPicture, reachOf, tint } from "./painting.mjs";
import { costs, extent, named, NAMED, outSize, pooled, pressed, products, reads, under } from "./stamping.mjs";
import { by, short, t, value, whole } from "./words.mjs";

/**
 * @typedef {import("./stamping.mjs").Values} Values
 * @typedef {import("./stamping.mjs").Taps} Taps
 * @typedef {import("./stamping.mjs").Geometry} Geometry
 * @typedef {import("./stamping.mjs").Operation} Operation
 * @typedef {object} Pressing what is on the screen
 * @property {Values} input
 * @property {import("./source.mjs").Picture|null} picture the input as a photo, if it is one
 * @property {string[]} channelNames
 * @property {Geometry} g
 * @property {Operation} operation
 * @property {Taps|null} taps
 * @property {number} filters
 * @property {number} channel
 * @property {[number, number]|null} size of the output, where the network rounds it up
 * @property {{name: string, op: string, values: Values}[]} after what the network itself has there, step by step
 * @property {boolean} changed
 * @property {boolean} relu
 */

const MOST_SHOWN = 4;
const POOLS = /** @type {Record<string, Operation>} */ ({ maxpool: "max", avgpool: "mean", global_avgpool: "mean", global_maxpool: "max" });
const PRESSES = new Set(["conv", "conv_transpose", "dense", ...Object.keys(POOLS)]);

/** The layer of a row that presses a window on its input. @param {import("./network.mjs").LayerRow[]} layers */
export const presser = (layers) => layers.find((one) => PRESSES.has(one.op));

/**
 * What is needed to press one channel of a layer; null where the layer presses nothing that can be drawn.
 * @param {import("./source.mjs").Source} source @param {string} side
 * @param {import("./network.mjs").LayerRow[]} layers of the row @param {number} channel @param {number} photo the place of the network's input that it reads, -1 if it reads none
 * @returns {Promise<Pressing|null>}
 */
export async function pressing(source, side, layers, channel, photo) {
  const layer = presser(layers);
  const shape = layer?.shape;
  if (!layer || !shape) return null;
  const filtered = layer.op === "dense" || layer.op.startsWith("conv");
  const filter = filtered ? source.taps(side, layer.name, Math.min(channel, shape[0] - 1)) : null;
  const input = await source.values(side, layer.inputs[0]);
  const taps = await filter;
  const g = geometry(layer, input);
  if (!g || (taps && taps.c * g.groups !== input.c)) return null;
  const operation = POOLS[layer.op] ?? "conv";
  const tail = layers.slice(layers.indexOf(layer));
  const after = await Promise.all(tail.map(async (one) => ({ name: one.name, op: one.op, values: await source.values(side, one.name) })));
  const [oh, ow] = [after[0].values.h, after[0].values.w];
  return {
    input, picture: photo >= 0 && input.c === 3 ? await source.picture(photo) : null,
    channelNames: photo >= 0 && input.c === 3 ? [t("red"), t("green"), t("blue")] : [],
    g, operation: operation === "mean" && layer.window?.count_padding === false ? "meanInside" : operation,
    taps: taps && { ...taps, data: taps.data.slice() }, filters: shape[0], channel: Math.min(channel, shape[0] - 1), size: [oh, ow], after, changed: false, relu: false,
  };
}

/** @param {import("./network.mjs").LayerRow} layer @param {Values} input @returns {Geometry|null} */
function geometry(layer, input) {
  const two = (/** @type {any[]} */ v, /** @type {any} */ usual) => (v.length === 1 ? [usual, v[0]] : v);
  const w = layer.window;
  if (!w) {
    const kernel = layer.op.startsWith("global") ? [input.h, input.w] : [1, 1];
    return { kernel, stride: [1, 1], padding: [[0, 0], [0, 0]], dilation: [1, 1], groups: 1, extra: [0, 0], transposed: false, mode: "zero" };
  }
  if (!w.padding || w.kernel.length > 2) return null;
  return {
    kernel: two(w.kernel, 1), stride: two(w.stride, 1), padding: two(w.padding, [0, 0]).map((/** @type {number[]} */ p) => [...p]), dilation: two(w.dilation, 1),
    groups: w.groups, extra: w.extra.length ? two(w.extra, 0) : [0, 0], transposed: w.transposed, mode: "zero",
  };
}

/** The names of the filters that the photo alone begins with. */
export const LEARNERS = ["blur", "emboss", "outline", "sobelX", "sobelY", "sharpen", "identity"];

/**
 * A photo without a network: named filters on its three channels.
 * @param {Values} input @param {import("./source.mjs").Picture} picture
 * @returns {Pressing}
 */
export function learner(input, picture) {
  const g = { kernel: [3, 3], stride: [1, 1], padding: [[0, 0], [0, 0]], dilation: [1, 1], groups: 1, extra: [0, 0], transposed: false, mode: "zero" };
  return { input, picture, channelNames: [t("red"), t("green"), t("blue")], g, operation: "conv", taps: filterOf("outline", 3, 3, 3), filters: 4, channel: 2,
    size: null, after: [], changed: false, relu: false };
}

/** The same named filter on every channel, so that it acts on their mean. @param {string} name @param {number} c @param {number} kh @param {number} kw @returns {Taps} */
function filterOf(name, c, kh, kw) {
  const one = named(name, kh, kw);
  const data = new Float32Array(c * kh * kw);
  for (let i = 0; i < c; i++) data.set(one.map((v) => v / c), i * kh * kw);
  return { c, h: kh, w: kw, data, bias: 0 };
}

/**
 * Draws the stamp into a box. `restore` gives the layer as it is in the network (null for a photo alone).
 * @param {HTMLElement} box @param {Pressing} first @param {(() => void)|null} restore @param {Node[]} [more] settings of the page around
 * @returns {{stop: () => void}}
 */
export function showStamp(box, first, restore, more = []) {
  const p = first;
  const original = p.taps && { c: p.taps.c, h: p.taps.h, w: p.taps.w, data: p.taps.data.slice() };
  let [y, x] = [0, 0];
  let apart = [p.g.kernel, p.g.stride, p.g.dilation, p.g.padding.map((one) => one[0])].some(([down, across]) => down !== across);
  let plane = 0;
  let timer = 0;
  let written = Infinity;
  /** @type {Values} */
  let map;
  const group = () => Math.floor((p.channel * p.g.groups) / p.filters);
  const firstIn = () => (p.operation === "conv" ? group() * (p.input.c / p.g.groups) : Math.min(p.channel, p.input.c - 1));
  const size = () => (p.size && !p.changed ? p.size : [outSize(p.g, 0, p.input.h), outSize(p.g, 1, p.input.w)]);

  const settings = h("div", { class: "settings" });
  const said = h("p", { class: "counts", "aria-live": "polite" });
  const notes = h("p", { class: "note changed", text: t("changed"), hidden: true });
  const planes = h("div", { class: "planes" });
  const tables = h("div", { class: "tables" });
  const equation = h("p", { class: "equation", "aria-live": "off" });
  const moves = h("div", { class: "moves" });
  const others = h("div", { class: "others" });
  if (restore) box.replaceChildren(h("p", { class: "note", text: t("lead") }));
  else box.replaceChildren();
  box.append(settings, said, notes, h("div", { class: "pressing" }, planes, h("div", { class: "sums" }, equation, tables)), moves, others);

  /** Something of the layer itself was changed. */
  const change = () => {
    p.changed = p.changed || restore !== null;
    p.size = null;
    p.after = [];
    fit();
    build();
  };
  /** The taps fit the kernel and the groups; what is outside of a smaller kernel is dropped, what is new is 0. */
  const fit = () => {
    if (!p.taps) return;
    const [kh, kw] = p.g.kernel;
    const c = p.input.c / p.g.groups;
    if (p.taps.h === kh && p.taps.w === kw && p.taps.c === c) return;
    const from = p.taps;
    const data = new Float32Array(c * kh * kw);
    const [top, left] = [Math.floor((kh - from.h) / 2), Math.floor((kw - from.w) / 2)];
    for (let i = 0; i < c; i++)
      for (let r = 0; r < kh; r++)
        for (let q = 0; q < kw; q++) {
          const [fy, fx] = [r - top, q - left];
          if (fy >= 0 && fx >= 0 && fy < from.h && fx < from.w) data[(i * kh + r) * kw + q] = from.data[((i % from.c) * from.h + fy) * from.w + fx];
        }
    p.taps = { c, h: kh, w: kw, data, bias: from.bias };
  };

  /** Rows and columns at the end that no window reads; none where the network rounds its size up. */
  const unread = () => [p.input.h, p.input.w].map((n, axis) => {
    const { kernel, stride, dilation, padding, transposed } = p.g;
    const room = n + padding[axis][0] + padding[axis][1] - extent(kernel[axis], dilation[axis]);
    return transposed || room < 0 || size()[axis] !== outSize(p.g, axis, n) ? 0 : room % stride[axis];
  });
  const unreadSaid = () => {
    const [rows, columns] = unread();
    return rows || columns ? [h("span", { class: "unread", "data-unread": `${rows} ${columns}`, text: t("unread", { rows, columns }) })] : [];
  };

  /** Everything anew. */
  function build() {
    const [oh, ow] = size();
    const fits = oh > 0 && ow > 0;
    map = pressed(p.input, p.taps, p.g, p.operation, firstIn(), [oh, ow]);
    if (p.relu) map.data = map.data.map((v) => Math.max(0, v));
    y = Math.max(0, Math.min(y, oh - 1));
    x = Math.max(0, Math.min(x, ow - 1));
    plane = p.operation === "conv" ? Math.min(plane, (p.taps?.c ?? 1) - 1) : 0;
    written = Infinity;
    const out = `${whole(p.filters)}×${oh}×${ow}`;
    const cost = costs(p.g, p.input.c, p.filters, [p.input.h, p.input.w]);
    const counted = p.operation === "conv" ? t("counts", { p: whole(cost.params), m: short(cost.macs) }) : t("counts", { p: 0, m: 0 });
    said.replaceChildren(h("strong", { "data-shapes": "", text: t("shapes", { in: by([p.input.c, p.input.h, p.input.w]), out }) }), `  ${counted} `, h("span", { class: "note", text: t("oneInput") }), ...unreadSaid());
    notes.hidden = !p.changed;
    settle();
    drawPlanes(fits);
    drawMoves(fits);
    drawOthers();
    moved();
  }

  function settle() {
    const g = p.g;
    const set = (/** @type {string} */ key, /** @type {number} */ v, /** @type {number[]} */ axes) => {
      /** @type {any} */ (g)[key] = /** @type {any} */ (g)[key].map((/** @type {any} */ old, /** @type {number} */ axis) => (!axes.includes(axis) ? old : key === "padding" ? [v, v] : v));
      change();
    };
    /** One number for both axes, or one for each. @param {"kernel"|"stride"|"padding"|"dilation"} key @param {number} least @param {number} most */
    const perAxis = (key, least, most) => {
      const now = (/** @type {number} */ axis) => (key === "padding" ? g.padding[axis][0] : g[key][axis]);
      return apart ? [0, 1].map((axis) => stepper(`${t(key)} ${t(axis ? "across" : "down")}`, now(axis), least, most, (v) => set(key, v, [axis]), `${key}-${axis}`))
        : [stepper(t(key), now(0), least, most, (v) => set(key, v, [0, 1]), key)];
    };
    const divisors = Array.from({ length: p.input.c }, (_, i) => i + 1).filter((n) => p.input.c % n === 0 && p.filters % n === 0);
    const at = divisors.indexOf(g.groups);
    const conv = p.operation === "conv";
    const focused = /** @type {HTMLElement|null} */ (document.activeElement)?.closest?.("[data-setting]");
    const key = focused && settings.contains(focused) ? focused.getAttribute("data-setting") : null;
    const which = key ? [...(focused?.querySelectorAll("button") ?? [])].indexOf(/** @type {any} */ (document.activeElement)) : 0;
    const operations = /** @type {[string, string][]} */ ([["conv", t("convolution")], ["max", t("maxpool")], ["mean", t("meanpool")]]);
    settings.replaceChildren(...[
      ...more,
      choice(t("operation"), operations, p.operation === "meanInside" ? "mean" : p.operation, (v) => {
        p.operation = /** @type {Operation} */ (v);
        if (v === "conv" && !p.taps) p.taps = filterOf("blur", p.input.c / g.groups, g.kernel[0], g.kernel[1]);
        if (v !== "conv") { g.transposed = false; p.filters = p.input.c; p.channel = Math.min(p.channel, p.input.c - 1); g.groups = 1; }
        change();
      }),
      stepper(t("channel", { n: "" }).trim(), p.channel, 0, p.filters - 1, (v) => { p.channel = v; pickChannel(v); }, "channel"),
      ...perAxis("kernel", 1, 11), ...perAxis("stride", 1, 8), ...perAxis("padding", 0, 8), ...perAxis("dilation", 1, 8),
      h("label", { class: "setting check" }, h("input", { type: "checkbox", checked: apart, onchange: (/** @type {any} */ e) => { apart = e.target.checked; settle(); } }), h("span", { text: t("apart") })),
      ...(conv ? [
        stepper(t("groups"), at < 0 ? 0 : at, 0, Math.max(0, divisors.length - 1), (v) => { g.groups = divisors[v]; change(); }, "groups"),
        stepper(t("filters"), p.filters, 1, 4096, (v) => { p.filters = v; p.channel = Math.min(p.channel, v - 1); if (v % g.groups) g.groups = 1; change(); }, "filters"),
        choice(t("mode"), /** @type {[string, string][]} */ (["zero", "replicate", "reflect", "circular"].map((m) => [m, t(m)])), g.mode, (v) => { g.mode = v; change(); }),
        choice(t("named"), /** @type {[string, string][]} */ ([["", t("ownFilter")], ["blur", t("blur")], ...Object.keys(NAMED).map((n) => [n, t(n)])]), "", (v) => {
          if (v) p.taps = { ...filterOf(v, p.input.c / g.groups, g.kernel[0], g.kernel[1]) };
          else if (original) p.taps = { ...original, data: original.data.slice(), bias: p.taps?.bias ?? 0 };
          change();
        }),
        h("label", { class: "setting check" }, h("input", { type: "checkbox", checked: g.transposed, onchange: (/** @type {any} */ e) => { g.transposed = e.target.checked; change(); } }), h("span", { text: t("transposed") })),
      ] : []),
      restore === null ? h("label", { class: "setting check" }, h("input", { type: "checkbox", checked: p.relu, onchange: (/** @type {any} */ e) => { p.relu = e.target.checked; build(); } }), h("span", { text: "ReLU" })) : null,
      restore ? h("button", { type: "button", onclick: restore, disabled: !p.changed, text: t("reset") }) : null,
    ].filter((one) => one !== null));
    const groups = settings.querySelector('[data-setting="groups"] output');
    if (groups) groups.textContent = String(g.groups);
    if (key) {
      const buttons = settings.querySelectorAll(`[data-setting="${key}"] button`);
      const again = /** @type {any} */ (buttons[which]);
      (again && !again.disabled ? again : /** @type {any} */ (buttons[1 - which]))?.focus();
    }
  }

  /** Another output channel: of a photo another named filter, of a network the page asks for its taps. @param {number} channel */
  function pickChannel(channel) {
    if (restore === null && p.operation === "conv") p.taps = filterOf(LEARNERS[channel % LEARNERS.length], p.input.c / p.g.groups, p.g.kernel[0], p.g.kernel[1]);
    if (restore !== null && p.operation === "conv") box.dispatchEvent(new CustomEvent("channel", { detail: channel }));
    else build();
  }

  /** @type {{update: () => void}[]} */
  let drawn = [];

  /** @param {boolean} fits */
  function drawPlanes(fits) {
    const { input, g } = p;
    const pads = g.transposed ? [[0, 0], [0, 0]] : g.padding;
    const [top, left] = [pads[0][0], pads[1][0]];
    // What a window can reach beyond the right edge, where the network rounds the size up.
    const bottom = Math.max(pads[0][1], fits && !g.transposed ? (size()[0] - 1) * g.stride[0] - top + extent(g.kernel[0], g.dilation[0]) - input.h : 0);
    const right = Math.max(pads[1][1], fits && !g.transposed ? (size()[1] - 1) * g.stride[1] - left + extent(g.kernel[1], g.dilation[1]) - input.w : 0);
    const [high, across] = [input.h + top + bottom, input.w + left + right];
    const canvas = h("canvas", { class: "pixels" });
    const cells = s("g", { class: "window" });
    const hatch = s("svg", { viewBox: `${-left} ${-top} ${across} ${high}`, preserveAspectRatio: "none", "aria-hidden": "true" },
      s("defs", {}, s("pattern", { id: "hatch", width: 1, height: 1, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" }, s("line", { x1: 0, y1: 0, x2: 0, y2: 1, class: "hatch" }))),
      s("path", { d: `M${-left} ${-top}h${across}v${high}h${-across}zM0 0v${input.h}h${input.w}v${-input.h}z`, fill: "url(#hatch)", "fill-rule": "evenodd" }), ...strips(across, high, left, top), cells);
    const over = h("div", { class: "plane", tabindex: 0, role: "application", "aria-label": `${t("input")}: ${t("moveHere")}`, "data-plane": "input" }, canvas, hatch);
    over.style.aspectRatio = String(visible(across, high));
    over.style.setProperty("--ratio", String(visible(across, high)));
    Object.assign(canvas.style, { left: `${(100 * left) / across}%`, top: `${(100 * top) / high}%`, width: `${(100 * input.w) / across}%`, height: `${(100 * input.h) / high}%` });
    const drag = (/** @type {PointerEvent} */ e) => {
      const r = over.getBoundingClientRect();
      const [py, px] = [((e.clientY - r.top) / r.height) * high - top, ((e.clientX - r.left) / r.width) * across - left];
      const to = (/** @type {number} */ at, /** @type {number} */ axis) => g.transposed
        ? Math.round(at * g.stride[axis] - g.padding[axis][0] + (extent(g.kernel[axis], g.dilation[axis]) - 1) / 2)
        : Math.round((at + g.padding[axis][0] - extent(g.kernel[axis], g.dilation[axis]) / 2) / g.stride[axis]);
      go(to(py, 0), to(px, 1));
    };
    pointed(over, drag);
    const out = h("canvas", { class: "pixels" });
    const place = s("g", { class: "window" });
    const target = h("div", { class: "plane", tabindex: 0, role: "application", "aria-label": `${t("output")}: ${t("moveHere")}`, "data-plane": "output" }, out,
      s("svg", { viewBox: `0 0 ${map.w || 1} ${map.h || 1}`, preserveAspectRatio: "none", "aria-hidden": "true" }, place));
    target.style.aspectRatio = String(visible(map.w || 1, map.h || 1));
    target.style.setProperty("--ratio", String(visible(map.w || 1, map.h || 1)));
    pointed(target, (e) => {
      const r = target.getBoundingClientRect();
      go(Math.floor(((e.clientY - r.top) / r.height) * map.h), Math.floor(((e.clientX - r.left) / r.width) * map.w));
    });
    for (const one of [over, target]) one.addEventListener("keydown", keys);
    const reach = reachOf(map.data);
    let painted = "";
    const update = () => {
      const channel = firstIn() + plane;
      if (painted !== `${channel}`) {
        painted = `${channel}`;
        if (p.picture) paintPicture(canvas, p.picture);
        else {
          const part = p.input.data.subarray(channel * input.h * input.w, (channel + 1) * input.h * input.w);
          paint(canvas, part, input.h, input.w, reachOf(part));
        }
      }
      paint(out, map.data, map.h, map.w, reach, (i) => map.data[i], written);
      const [rows, columns] = fits ? [reads(g, 0, y, input.h), reads(g, 1, x, input.w)] : [[], []];
      cells.replaceChildren(...frames(g, rows, columns));
      place.replaceChildren(...(fits ? [s("rect", { x, y, width: 1, height: 1 })] : []));
    };
    drawn = [{ update }];
    planes.replaceChildren(
      h("figure", {}, over, h("figcaption", {}, p.picture ? t("picture") : `${t("plane")} `, p.picture ? null : h("span", { "data-input-channel": "", text: firstIn() + plane }), ` ${by([input.h, input.w])}`)),
      h("figure", {}, target, h("figcaption", { text: `${t("output")}, ${t("channel", { n: p.channel })} ${by([map.h, map.w])}` })));
    planes.hidden = false;
  }

  /** What no window reads, at the end of both axes. @param {number} across @param {number} high @param {number} left @param {number} top */
  function strips(across, high, left, top) {
    const [rows, columns] = unread();
    return [rows ? s("rect", { x: -left, y: high - top - rows, width: across, height: rows, class: "strip" }) : null,
      columns ? s("rect", { x: across - left - columns, y: -top, width: columns, height: high, class: "strip" }) : null].filter((one) => one !== null);
  }

  /** Frames of the cells that the window reads. @param {Geometry} g @param {number[]} rows @param {number[]} columns */
  function frames(g, rows, columns) {
    if (g.transposed) return rows.flatMap((r) => columns.map((c) => (r < 0 || c < 0 ? null : s("rect", { x: c, y: r, width: 1, height: 1 })))).filter(Boolean);
    const [top, left] = [y * g.stride[0] - g.padding[0][0], x * g.stride[1] - g.padding[1][0]];
    const [high, across] = [extent(g.kernel[0], g.dilation[0]), extent(g.kernel[1], g.dilation[1])];
    const frame = s("rect", { x: left, y: top, width: across, height: high, class: "frame" });
    if (g.dilation[0] === 1 && g.dilation[1] === 1) return [frame];
    return [frame, ...rows.flatMap((_, r) => columns.map((__, c) => s("rect", { x: left + c * g.dilation[1], y: top + r * g.dilation[0], width: 1, height: 1 })))];
  }

  /** @param {HTMLElement} node @param {(e: PointerEvent) => void} drag */
  function pointed(node, drag) {
    node.addEventListener("pointerdown", (/** @type {PointerEvent} */ e) => { node.setPointerCapture(e.pointerId); stop(); drag(e); });
    node.addEventListener("pointermove", (/** @type {PointerEvent} */ e) => { if (node.hasPointerCapture(e.pointerId)) drag(e); });
  }

  /** @param {KeyboardEvent} e */
  function keys(e) {
    const step = /** @type {Record<string, [number, number]>} */ ({ ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] })[e.key];
    if (step) { e.preventDefault(); stop(); go(y + step[0], x + step[1]); }
    else if (e.key === " ") { e.preventDefault(); toggle(); }
  }

  /** @param {number} row @param {number} column */
  function go(row, column) {
    y = Math.max(0, Math.min(map.h - 1, row));
    x = Math.max(0, Math.min(map.w - 1, column));
    moved();
  }

  const next = () => {
    const at = (y * map.w + x + 1) % (map.h * map.w || 1);
    go(Math.floor(at / (map.w || 1)), at % (map.w || 1));
  };
  function stop() {
    clearInterval(timer);
    timer = 0;
    written = Infinity;
    const button = moves.querySelector("[data-run]");
    if (button) button.textContent = t("run");
  }
  function toggle() {
    if (timer) { stop(); moved(); return; }
    const button = moves.querySelector("[data-run]");
    if (button) button.textContent = t("stop");
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    written = y * map.w + x + 1;
    timer = window.setInterval(() => {
      if (!box.isConnected) return stop();
      next();
      written = y * map.w + x + 1;
      moved();
    }, calm ? 800 : 120);
    moved();
  }

  /** @param {boolean} fits */
  function drawMoves(fits) {
    clearInterval(timer);
    timer = 0;
    const move = (/** @type {string} */ sign, /** @type {number} */ dy, /** @type {number} */ dx) => h("button", { type: "button", "aria-label": `${t("step")} ${sign}`, "data-sign": sign, onclick: () => { stop(); go(y + dy, x + dx); } });
    moves.replaceChildren(move("←", 0, -1), move("↑", -1, 0), move("↓", 1, 0), move("→", 0, 1),
      h("button", { type: "button", "data-step": "", onclick: () => { stop(); next(); } }, t("step")),
      h("button", { type: "button", "data-run": "", onclick: toggle }, t("run")), h("span", { class: "note", text: t(restore ? "keys" : "keysAlone") }));
    moves.hidden = !fits;
  }

  /** The numbers at the place where the window is. */
  function moved() {
    for (const one of drawn) one.update();
    const { input, g, taps } = p;
    if (!map.h || !map.w) { tables.replaceChildren(); equation.replaceChildren(); return; }
    const [rows, columns] = [reads(g, 0, y, input.h), reads(g, 1, x, input.w)];
    const start = firstIn();
    if (p.operation !== "conv" || !taps) {
      const result = pooled(input, start, p.operation, rows, columns);
      const seen = under(input, start, rows, columns);
      tables.replaceChildren(h("div", { class: "channel" }, h("strong", { text: t("channel", { n: start }) }), grid(seen, columns.length, reachOf(seen.map((v) => v || 0)), t("window"))));
      equation.replaceChildren(h("span", { text: p.operation === "max" ? t("maxpool") : t("meanpool") }), " = ", number(result, "result"), ...afterwards(), where());
      return;
    }
    const parts = Array.from({ length: taps.c }, (_, c) => products(input, start + c, taps, c, rows, columns));
    const order = parts.map((_, c) => c);
    if (parts.length > MOST_SHOWN) order.sort((a, b) => Math.abs(parts[b]) - Math.abs(parts[a]));
    const listed = order.slice(0, MOST_SHOWN);
    const windows = listed.map((c) => under(input, start + c, rows, columns));
    const inReach = Math.max(...windows.map((v) => reachOf(v.map((one) => one || 0))), 1e-30);
    const tapReach = reachOf(taps.data);
    const sum = parts.reduce((a, b) => a + b, 0);
    const rest = order.slice(MOST_SHOWN).reduce((a, c) => a + parts[c], 0);
    const size = taps.h * taps.w;
    tables.replaceChildren(...listed.map((c, i) => h("div", { class: "channel" },
      h("strong", {}, taps.c > 1 && !p.picture ? h("button", { type: "button", class: "plain", "aria-pressed": String(plane === c), onclick: () => { plane = c; const mark = planes.querySelector("[data-input-channel]"); if (mark) mark.textContent = String(start + c); moved(); } }, t("channel", { n: start + c })) : p.channelNames[start + c] ?? t("channel", { n: start + c })),
      grid(windows[i], taps.w, inReach, t("window")), h("span", { class: "sign", "data-sign": "×" }), tapGrid(taps, c * size, tapReach, start + c), h("span", { class: "sign", "data-sign": "=" }), number(parts[c], "part"))),
      ...(order.length > MOST_SHOWN ? [h("p", { class: "rest" }, t("restOf", { n: order.length - MOST_SHOWN }), " ", number(rest, "rest"))] : []));
    const total = sum + taps.bias;
    equation.replaceChildren(h("span", { text: t("sum", { n: taps.c * size }) }), " ", number(sum, "sum"), " + ", h("span", { text: t("bias") }), " ", number(taps.bias, "bias"), " = ", number(total, "total"),
      ...(p.relu ? [" → ReLU ", number(Math.max(0, total), "result")] : []), ...afterwards(), where());
  }

  /** What the network has at this place in the layers behind. */
  function afterwards() {
    return p.after.slice(1).flatMap((one) => [` → ${one.op} `, number(one.values.data[(p.channel * one.values.h + y) * one.values.w + x], "after")]);
  }

  const where = () => h("span", { class: "where", text: t("writtenAt", { y, x, c: p.channel }) });
  const number = (/** @type {number} */ v, /** @type {string} */ what) => h("b", { class: "value", [`data-${what}`]: String(v), title: String(v), text: value(v) });

  /** @param {number[]} numbers @param {number} across @param {number} reach @param {string} label */
  function grid(numbers, across, reach, label) {
    const body = h("tbody");
    for (let i = 0; i < numbers.length; i += across)
      body.append(h("tr", {}, numbers.slice(i, i + across).map((v) => {
        const cell = h("td", Number.isNaN(v) ? { class: "pad", "data-sign": "0" } : { text: value(v) });
        if (!Number.isNaN(v)) tint(cell, v, reach);
        return cell;
      })));
    return h("div", { class: "grid", tabindex: across > 5 ? 0 : null, role: across > 5 ? "region" : null, "aria-label": across > 5 ? label : null }, h("table", { class: "cells", "aria-label": label }, body));
  }

  /** Taps that can be edited. @param {Taps} taps @param {number} from @param {number} reach @param {number} channel */
  function tapGrid(taps, from, reach, channel) {
    const body = h("tbody");
    for (let r = 0; r < taps.h; r++) {
      const row = h("tr");
      for (let q = 0; q < taps.w; q++) {
        const at = from + r * taps.w + q;
        const field = h("input", { type: "text", inputmode: "decimal", value: value(taps.data[at]), "aria-label": `${t("taps")} ${channel}: ${r}, ${q}`, "data-tap": at,
          onchange: (/** @type {any} */ e) => {
            const typed = Number(e.target.value.replace("−", "-").replace(",", "."));
            if (!Number.isFinite(typed)) { e.target.value = value(taps.data[at]); return; }
            taps.data[at] = typed;
            change();
          } });
        const cell = h("td", {}, field);
        tint(cell, taps.data[at], reach);
        row.append(cell);
      }
      body.append(row);
    }
    return h("div", { class: "grid", tabindex: null }, h("table", { class: "cells taps", "aria-label": t("taps") }, body));
  }

  /** Of a photo alone: the maps of all its filters. */
  function drawOthers() {
    others.replaceChildren();
    if (restore !== null || p.operation !== "conv") return;
    const count = Math.min(p.filters, 10);
    others.append(h("div", { class: "maps" }, Array.from({ length: count }, (_, c) => {
      const name = LEARNERS[c % LEARNERS.length];
      const taps = c === p.channel ? p.taps : filterOf(name, p.input.c / p.g.groups, p.g.kernel[0], p.g.kernel[1]);
      const group_ = Math.floor((c * p.g.groups) / p.filters);
      const one = pressed(p.input, taps, p.g, "conv", group_ * (p.input.c / p.g.groups));
      if (p.relu) one.data = one.data.map((v) => Math.max(0, v));
      const canvas = h("canvas");
      paint(canvas, one.data, one.h, one.w, reachOf(one.data));
      return h("button", { type: "button", class: "map", "aria-pressed": String(c === p.channel), onclick: () => { p.channel = c; pickChannel(c); } }, canvas, h("span", { text: `${c} ${t(name)}` }));
    })));
  }

  build();
  return { stop };
}
