/** What is wasted: channels that do nothing, and how channels go together. */

import { h } from "./elements.mjs";
import { t } from "./words.mjs";

/**
 * @param {HTMLElement} box @param {any} waste @param {Map<string, import("./network.mjs").LayerRow>} _layers
 * @param {import("./source.mjs").Source} _source @param {(layer: string, channel: number) => void} opened
 */
export function showWaste(box, waste, _layers, _source, opened) {
  if (!waste) { box.replaceChildren(h("p", { class: "note", text: t("wasteNone") })); return; }
  box.replaceChildren(h("p", { text: String(opened) }));
}
