/** The page: the network on a picture, and what is chosen in it. */

import { cases } from "./cases.mjs";
import { h, visible } from "./elements.mjs";
import { drawing } from "./network.mjs";
import { showMaps } from "./maps.mjs";
import { forgetColours, paintPicture } from "./painting.mjs";
import { showSides } from "./sides.mjs";
import { showSight } from "./sight.mjs";
import { fromHeld } from "./computing.mjs";
import { fromPicture, fromServer, heldPicture } from "./source.mjs";
import { learner, presser, pressing, showStamp } from "./stamp.mjs";
import { showWaste } from "./waste.mjs";
import { percent, preparation, sentence, short, speak, spoken, t, whole } from "./words.mjs";

const data = JSON.parse(document.getElementById("data")?.textContent ?? "{}");
const bytes = (() => {
  const text = (document.getElementById("bytes")?.textContent ?? "").trim();
  const raw = atob(text);
  return Uint8Array.from(raw, (c) => c.charCodeAt(0));
})();

const root = /** @type {HTMLElement} */ (document.getElementById("page"));
/** @type {import("./network.mjs").LayerRow[]} */
const layers = data.overview?.layers ?? [];
const byName = new Map(layers.map((one) => [one.name, one]));
/** @type {any} */
let evidence = typeof data.waste === "object" ? data.waste : null;

/** Marks the rows in which something is wasted. @param {any} found */
function markWaste(found) {
  evidence = found;
  for (const [name, count] of Object.entries(found?.marks ?? {})) {
    const one = byName.get(name);
    if (one) one.waste = /** @type {number} */ (count);
  }
}
markWaste(evidence);
/** @type {{name: string, shape: number[], takes_pictures: boolean}[]} */
const inputs = data.overview?.inputs ?? [];
const drawnLayers = layers.filter((one) => one.op !== "constant");

const state = {
  tab: data.alone ? "stamp" : "maps",
  layer: "",
  /** @type {import("./network.mjs").Row|null} */
  row: null,
  channel: 0,
  input: data.overview?.main ?? 0,
  common: false,
  turn: 0,
  size: 64,
};
/** @type {import("./source.mjs").Source} */
let source;
/** @type {import("./source.mjs").Picture|null} */
let photo = null;
/** @type {ReturnType<typeof drawing>|null} */
let network = null;
/** @type {{stop: () => void}|null} */
let standing = null;

async function start() {
  const wanted = data.lang || (navigator.languages ?? [navigator.language]).map((l) => l.slice(0, 2)).find((l) => l === "ko" || l === "en") || "en";
  speak(wanted);
  source = data.alone ? fromPicture(heldPicture(data.held.picture, bytes), data.photo) : data.server ? fromServer(inputs.map((one) => one.takes_pictures)) : fromHeld(data.held, bytes, data.waste ?? null);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { forgetColours(); build(); });
  document.addEventListener("keydown", (e) => {
    const field = document.getElementById("search");
    if (e.key === "/" && field && !(e.target instanceof HTMLInputElement)) { e.preventDefault(); field.focus(); }
  });
  for (const kind of ["dragover", "drop"])
    document.addEventListener(kind, (/** @type {any} */ e) => {
      e.preventDefault();
      if (kind === "drop" && e.dataTransfer.files[0]) take(e.dataTransfer.files[0]);
    });
  await build();
  if (data.waste === true) lookForWaste().catch(() => {});
}

/** Everything anew, in the language of now. */
async function build() {
  standing?.stop();
  document.title = `${data.alone ? t("stamp") : data.overview.network} · dojang`;
  root.replaceChildren(header(), data.alone ? h("main", { class: "alone" }, h("div", { id: "photo" }), panel()) : h("main", {}, side(), panel()));
  if (!data.alone && !state.row && network) {
    const row = first(network);
    state.row = row;
    state.layer = row.layers[row.layers.length - 1];
  }
  if (state.row) network?.mark(state.row);
  await Promise.all([picture(), answer(), show()]);
}

/** The first row with a filter, else the first. @param {ReturnType<typeof drawing>} drawn */
function first(drawn) {
  const filter = layers.find((one) => one.type === "conv") ?? layers.find((one) => one.type === "dense");
  return (filter && drawn.rowOf(filter.name)) || drawn.first();
}

function header() {
  const o = data.overview;
  const figures = o ? h("p", { class: "totals" }, h("b", { text: `${o.bound ? `${t("bound")} ` : ""}${short(o.params)}` }), ` ${t("params")} · `, h("b", { text: `${o.bound ? `${t("bound")} ` : ""}${short(o.macs)}` }), ` ${t("macs")}`) : h("p", { class: "totals", text: t("lead") });
  const switched = (/** @type {string} */ lang) => { speak(lang); build().then(() => document.getElementById(`lang-${lang}`)?.focus()); };
  const languages = [["ko", "한국어"], ["en", "English"]].map(([lang, name]) =>
    h("button", { type: "button", id: `lang-${lang}`, lang, "aria-pressed": String(spoken() === lang), onclick: () => switched(lang) }, name));
  return h("header", {}, h("h1", { text: data.alone ? t("stamp") : o.network }), figures, h("div", { class: "languages" }, languages));
}

function side() {
  const totals = { params: data.overview.params, macs: data.overview.macs, layers: byName };
  network = drawing(data.overview.flow, totals, (row) => pick(row, row.layers[row.layers.length - 1]));
  if (state.row) state.row = network.rowOf(state.layer) ?? state.row;
  const said = h("span", { class: "note", "aria-live": "polite" });
  const search = h("input", { id: "search", type: "search", placeholder: t("search"), "aria-label": t("search"),
    oninput: (/** @type {any} */ e) => { const n = network?.find(e.target.value); said.textContent = e.target.value ? t("found", { n, all: network?.rows }) : ""; } });
  const heads = h("div", { class: "row heads", "aria-hidden": "true" }, h("span", { text: t("layer") }), h("span", { text: t("window") }), h("span", { text: t("shape") }), h("span", { text: t("macs") }), h("span", { text: t("params") }));
  const legend = h("p", { class: "note legend" }, ["conv", "dense", "other"].flatMap((type) => [h("span", { class: `key ${type}` }), `${t(type)} `]), h("span", { class: "share", text: t("share") }));
  return h("section", { class: "side", "aria-label": t("network") },
    h("div", { class: "inputs" }, h("div", { id: "photo" }), h("div", { id: "answer" })),
    h("div", { class: "finding" }, search, h("button", { type: "button", onclick: () => network?.fold(true), text: t("unfoldAll") }), h("button", { type: "button", onclick: () => network?.fold(false), text: t("foldAll") }), said),
    heads, network.node, legend, lacking(), h("p", { class: "note", text: t("convention", { en: data.overview.convention }) }));
}

/** Layers that the page itself cannot compute. */
function lacking() {
  /** @type {string[]} */
  const names = Object.values(data.held?.sides ?? {}).flatMap((one) => one.lacking);
  return names.length ? h("p", { class: "note lacking", text: t("lacking", { names: [...new Set(names)].join(", ") }) }) : null;
}

function panel() {
  const tabs = data.alone ? [] : ["maps", "stamp", "field", "waste", ...(data.before ? ["beforeAfter"] : [])];
  const list = h("div", { class: "tabs", role: "tablist" }, tabs.map((name) => h("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": "panel", "aria-selected": String(state.tab === name), tabindex: state.tab === name ? 0 : -1, onclick: () => turn(name), text: t(name) })));
  list.addEventListener("keydown", (/** @type {KeyboardEvent} */ e) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[e.key];
    if (!step) return;
    const name = tabs[(tabs.indexOf(state.tab) + step + tabs.length) % tabs.length];
    turn(name);
    document.getElementById(`tab-${name}`)?.focus();
  });
  return h("section", { class: "panel" }, tabs.length ? list : null, tabs.length ? h("div", { id: "panel", role: "tabpanel", "aria-labelledby": `tab-${state.tab}` }) : h("div", { id: "panel" }));
}

/** @param {string} name */
function turn(name) {
  state.tab = name;
  for (const tab of document.querySelectorAll("[role=tab]")) {
    tab.setAttribute("aria-selected", String(tab.id === `tab-${name}`));
    tab.setAttribute("tabindex", tab.id === `tab-${name}` ? "0" : "-1");
  }
  document.getElementById("panel")?.setAttribute("aria-labelledby", `tab-${name}`);
  show();
}

/** @param {import("./network.mjs").Row} row @param {string} layer */
function pick(row, layer) {
  state.row = row.inner ? network?.rowOf(layer) ?? row : row;
  state.layer = layer;
  network?.mark(row);
  show();
  if (matchMedia("(max-width: 999px)").matches) document.querySelector(".panel")?.scrollIntoView(); // it stands below the rows
}

/** @param {any} why */
function failure(why) {
  const said = why instanceof Error ? why.message : String(why);
  return h("p", { class: "note failed", text: t("failed", { why: said }) });
}

async function picture() {
  const box = /** @type {HTMLElement} */ (document.getElementById("photo"));
  if (data.overview?.bare) return;
  try {
    photo = await source.picture(state.input);
  } catch (error) {
    box.replaceChildren(failure(error));
    return;
  }
  const canvas = h("canvas", { class: photo.w < 64 ? "pixels" : "", role: "img", "aria-label": photo.name || t("picture") });
  paintPicture(canvas, photo);
  canvas.style.aspectRatio = String(Math.max(0.6, visible(photo.w, photo.h)));
  if (visible(photo.w, photo.h) === photo.w / photo.h) canvas.style.objectFit = "contain"; // a photo keeps its proportions
  const field = h("input", { type: "file", accept: "image/*", id: "file", class: "file", onchange: (/** @type {any} */ e) => e.target.files[0] && take(e.target.files[0]) });
  box.replaceChildren(inputs.length > 1 ? chooser() : "", h("figure", {}, canvas, h("figcaption", {}, h("span", { text: photo.name }), photo.prepared ? h("span", { class: "note", text: preparation(photo.prepared) }) : null)),
    source.takesPictures[state.input] ? h("label", { for: "file", class: "choose" }, t("choose"), field) : "");
}

/** The names of the network's inputs that a layer depends on. @param {string} layer */
function inputsOf(layer) {
  const seen = new Set([layer]);
  for (const name of seen) for (const source of byName.get(name)?.inputs ?? []) seen.add(source); // a Set is gone through as it grows
  return new Set(inputs.map((one) => one.name).filter((name) => seen.has(name)));
}

/** The inputs of a network that has several, to choose from. */
function chooser() {
  const chosen = async (/** @type {number} */ i) => {
    state.input = i;
    await Promise.all([picture(), state.tab === "field" ? show() : null]);
    document.getElementById(`input-${i}`)?.focus();
  };
  return h("div", { class: "choosing" }, h("p", { class: "note", text: t("severalInputs", { n: inputs.length }) }),
    h("div", { class: "chips", role: "group", "aria-label": t("inputs") }, inputs.map((one, i) =>
      h("button", { type: "button", id: `input-${i}`, "aria-pressed": String(i === state.input), onclick: () => chosen(i), text: one.name }))));
}

async function answer() {
  const box = document.getElementById("answer");
  if (!box) return;
  if (data.overview.why_not) {
    box.replaceChildren(h("p", { class: "note", text: t("noMaps", { why: sentence(data.overview.why_not) }) }));
    return;
  }
  try {
    const found = await source.answer("after");
    box.replaceChildren(h("h2", { text: t("answer") }), found.length
      ? h("ol", { class: "answers" }, found.map((one) => {
          const part = h("span", { class: "part" });
          part.style.width = `${100 * one.probability}%`;
          return h("li", {}, h("span", { class: "name", text: one.name }), h("span", { class: "number", text: percent(one.probability) }), h("span", { class: "track" }, part));
        }))
      : h("p", { class: "note", text: t("noAnswer") }), found.length && data.overview.drawn ? h("p", { class: "note", text: t("drawnAnswer") }) : "", found.length && data.overview.guessed_names ? h("p", { class: "note", text: t("guessedNames", { n: whole(data.overview.classes.length) }) }) : "");
  } catch (error) {
    box.replaceChildren(failure(error));
  }
}

/** @param {File} file */
async function take(file) {
  try {
    if (!source.takesPictures[state.input]) throw new Error(t("takesNone"));
    await source.look(file, file.name, state.input);
    await build();
  } catch (error) {
    document.getElementById("photo")?.append(failure(error));
  }
}

/** What the chosen tab shows. */
async function show() {
  standing?.stop();
  standing = null;
  const turnNow = ++state.turn;
  const current = () => turnNow === state.turn;
  const box = /** @type {HTMLElement} */ (document.getElementById("panel"));
  box.setAttribute("aria-busy", "true");
  try {
    if (data.alone) await alone(box, current);
    else if (state.tab === "field") await sight(box);
    else if (state.tab === "waste") await waste(box, current);
    else if (state.tab === "beforeAfter") await showSides(box, source, data, state.layer, evidence, current);
    else if (data.overview.why_not) box.replaceChildren(h("p", { class: "note", text: t("noMaps", { why: sentence(data.overview.why_not) }) }));
    else if (state.tab === "maps") await maps(box, current);
    else await stamp(box, current);
  } catch (error) {
    if (current()) box.replaceChildren(layerHead(), failure(error));
  }
  if (current()) box.setAttribute("aria-busy", "false");
}

/** The name of the layer, and the steps of its row to choose from. */
function layerHead() {
  const row = state.row;
  const chips = row && !row.inner && row.layers.length > 1
    ? h("div", { class: "chips", role: "group", "aria-label": t("after") }, row.layers.map((name) => h("button", { type: "button", "aria-pressed": String(name === state.layer), onclick: () => { state.layer = name; show(); } }, byName.get(name)?.op ?? name)))
    : null;
  const layer = byName.get(state.layer);
  return h("div", { class: "layer" }, h("h2", { text: state.layer }), h("span", { class: "note", text: [layer?.op, layer?.window?.said].filter(Boolean).join(" ") }), chips);
}

/** @param {HTMLElement} box @param {() => boolean} current */
async function maps(box, current) {
  const inside = h("div", {}, h("p", { class: "note", text: t("loading") }));
  const scale = h("label", { class: "setting check" }, h("input", { type: "checkbox", checked: state.common, onchange: (/** @type {any} */ e) => { state.common = e.target.checked; show(); } }), h("span", { text: t("common") }));
  box.replaceChildren(layerHead(), scale, inside, key());
  const names = data.overview.outputs?.includes(state.layer) ? data.overview.classes ?? [] : [];
  await showMaps(inside, source, "after", state.layer, state.common, names, (channel) => { state.channel = channel; turn("stamp"); }, current);
  if (source.rounded) inside.append(h("p", { class: "note", text: t("rounded", { kind: source.rounded }) }));
}

/** What the colours of values mean. */
const key = () => h("p", { class: "note legend" }, h("span", { class: "key minus" }), `${t("negative")} `, h("span", { class: "key zero" }), "0 ", h("span", { class: "key plus" }), t("positive"));

/** @param {HTMLElement} box @param {() => boolean} current */
async function stamp(box, current) {
  const rows = (state.row?.layers ?? []).map((name) => byName.get(name)).filter((one) => one !== undefined);
  const layer = presser(rows);
  if (!layer) { box.replaceChildren(layerHead(), h("p", { class: "note", text: t("noStamp") })); return; }
  const inside = h("div", { class: "stamp" }, h("p", { class: "note", text: t("loading") }));
  box.replaceChildren(layerHead(), inside, key(), cases());
  const load = async () => {
    const p = await pressing(source, "after", rows, state.channel, inputs.findIndex((one) => one.name === layer.inputs[0]));
    if (!current()) return;
    standing?.stop();
    if (!p) { inside.replaceChildren(h("p", { class: "note", text: t("noStamp") })); return; }
    state.channel = p.channel;
    standing = showStamp(inside, p, load);
  };
  inside.addEventListener("channel", (/** @type {any} */ e) => { state.channel = e.detail; load(); });
  await load();
}

/** @param {HTMLElement} box @param {() => boolean} current */
async function alone(box, current) {
  photo = await source.picture(0);
  if (!current()) return;
  const small = shrunk(photo, state.size);
  const data32 = new Float32Array(3 * small.h * small.w);
  for (let i = 0; i < small.h * small.w; i++) for (let c = 0; c < 3; c++) data32[c * small.h * small.w + i] = small.rgb[3 * i + c];
  const inside = h("div", { class: "stamp" });
  const sizes = h("label", { class: "setting" }, h("span", { text: t("picture") }), h("select", { onchange: (/** @type {any} */ e) => { state.size = Number(e.target.value); show(); } },
    [7, 32, 64, 128, 224, 227, 244].map((n) => h("option", { value: String(n), selected: n === state.size }, `${n}×${n}`))));
  box.replaceChildren(inside, key(), cases());
  standing = showStamp(inside, learner({ c: 3, h: small.h, w: small.w, data: data32 }, small), null, [sizes]);
}

/**
 * The middle square of a picture at a size, each pixel the mean of those that it covers.
 * @param {import("./source.mjs").Picture} whole @param {number} size
 */
function shrunk(whole, size) {
  const side = Math.min(whole.h, whole.w);
  const [top, left] = [Math.floor((whole.h - side) / 2), Math.floor((whole.w - side) / 2)];
  const rgb = new Uint8Array(3 * size * size);
  const range = (/** @type {number} */ i) => [Math.floor((i * side) / size), Math.max(Math.floor((i * side) / size) + 1, Math.floor(((i + 1) * side) / size))];
  for (let y = 0; y < size; y++)
    for (let x = 0; x < size; x++) {
      const [y0, y1] = range(y);
      const [x0, x1] = range(x);
      for (let c = 0; c < 3; c++) {
        let sum = 0;
        for (let r = y0; r < y1; r++) for (let q = x0; q < x1; q++) sum += whole.rgb[3 * ((top + r) * whole.w + left + q) + c];
        rgb[3 * (y * size + x) + c] = Math.round(sum / ((y1 - y0) * (x1 - x0)));
      }
    }
  return { ...whole, h: size, w: size, rgb };
}

/** @param {HTMLElement} box @param {() => boolean} current */
async function waste(box, current) {
  if (data.waste === true && !evidence) {
    box.replaceChildren(h("p", { class: "note", text: t("loading") }));
    await lookForWaste();
  }
  if (current()) showWaste(box, evidence, source);
}

/** Fetches the evidence, and marks the rows. */
async function lookForWaste() {
  markWaste(await source.waste());
  const old = document.querySelector(".side");
  if (old && network) {
    const [photoBox, answerBox] = [document.getElementById("photo"), document.getElementById("answer")];
    const made = side();
    made.querySelector("#photo")?.replaceWith(/** @type {Node} */ (photoBox));
    made.querySelector("#answer")?.replaceWith(/** @type {Node} */ (answerBox));
    old.replaceWith(made);
    if (state.row) network.mark(state.row);
  }
}

/** @param {HTMLElement} box */
async function sight(box) {
  const where = drawnLayers.findIndex((one) => one.name === state.layer);
  const inside = h("div", {});
  if (data.overview.bare) { box.replaceChildren(h("p", { class: "note", text: t("noMaps", { why: sentence(data.overview.why_not) }) })); return; }
  const seen = await source.picture(state.input);
  box.replaceChildren(inside);
  showSight(inside, seen, drawnLayers, where, (i) => {
    const layer = drawnLayers[i].name;
    const row = network?.rowOf(layer);
    if (row) { state.row = row; state.layer = layer; network?.mark(row); }
  }, data.overview.why_not ? null : (layer) => source.effect("after", layer, state.input), (layer) => inputsOf(layer).has(inputs[state.input].name));
}

start();
