/** The maps of one layer, strongest first. */

import { h, visible } from "./elements.mjs";
import { colourOf, paint } from "./painting.mjs";
import { t, value } from "./words.mjs";

const AT_ONCE = 48;

/**
 * Maps into a box; `opened` is called with a channel.
 * @param {HTMLElement} box @param {import("./source.mjs").Source} source @param {string} side @param {string} layer
 * @param {boolean} common one scale for all @param {string[]} names of the channels, if they have any
 * @param {(channel: number) => void} opened @param {() => boolean} current whether this is still what is wanted
 */
export async function showMaps(box, source, side, layer, common, names, opened, current) {
  let maps = await source.maps(side, layer, 0, AT_ONCE);
  if (!current()) return;
  box.replaceChildren();
  const all = maps.order.length;
  if (maps.h * maps.w === 1) return vector(box, maps, names, opened);
  const head = h("p", { class: "note", text: t("strongest", { n: all, h: maps.h, w: maps.w }) });
  const grid = h("div", { class: "maps" });
  grid.style.setProperty("--aspect", String(visible(maps.w, maps.h)));
  const more = h("button", { type: "button", class: "more" });
  let reach = 0;
  const add = () => {
    const size = maps.h * maps.w;
    const shownBefore = grid.childElementCount;
    if (common && !reach) reach = Math.max(...maps.low.map(Math.abs), ...maps.high.map(Math.abs));
    maps.low.forEach((low, place) => {
      const channel = maps.order[shownBefore + place];
      const high = maps.high[place];
      const full = common ? reach : Math.max(Math.abs(low), Math.abs(high));
      const canvas = h("canvas", {});
      paint(canvas, [], maps.h, maps.w, full, (i) => low + ((high - low) * maps.tiles[place * size + i]) / 255);
      grid.append(h("button", { type: "button", class: "map", "data-channel": channel, title: t("openStamp", { n: channel }), onclick: () => opened(channel) },
        canvas, h("span", { text: `${channel}` }), " ", h("span", { class: "strength", text: value(maps.strength[channel]) })));
    });
    const left = all - grid.childElementCount;
    more.hidden = left <= 0;
    more.textContent = t("more", { n: left });
  };
  add();
  more.addEventListener("click", async () => {
    maps = await source.maps(side, layer, grid.childElementCount, AT_ONCE);
    if (current()) add();
  });
  grid.addEventListener("keydown", (/** @type {KeyboardEvent} */ e) => {
    const buttons = /** @type {HTMLElement[]} */ ([...grid.children]);
    const at = buttons.indexOf(/** @type {HTMLElement} */ (document.activeElement));
    const across = Math.max(1, buttons.filter((b) => b.offsetTop === buttons[0].offsetTop).length);
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across }[e.key];
    if (at >= 0 && step && buttons[at + step]) {
      e.preventDefault();
      buttons[at + step].focus();
    }
  });
  box.append(head, grid, more);
}

/**
 * One value a channel, as bars.
 * @param {HTMLElement} box @param {import("./source.mjs").Maps} maps @param {string[]} names @param {(channel: number) => void} opened
 */
function vector(box, maps, names, opened) {
  const rows = maps.order.slice(0, maps.low.length);
  const reach = Math.max(...maps.high.map(Math.abs), 1e-30);
  box.append(h("p", { class: "note", text: t("vector", { n: maps.order.length }) }),
    h("ol", { class: "values" }, rows.map((channel, place) => {
      const v = maps.high[place];
      const part = h("span", { class: "part" });
      part.style.width = `${(100 * Math.abs(v)) / reach}%`;
      part.style.background = `rgb(${colourOf(v, Math.abs(v)).join()})`;
      return h("li", {}, h("button", { type: "button", "data-channel": channel, onclick: () => opened(channel) },
        h("span", { class: "name", text: names[channel] ?? channel }), h("span", { class: "track" }, part), h("span", { class: "number", text: value(v) })));
    })));
}
