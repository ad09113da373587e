/** Before and after: two networks on the same picture. */

/**
 * @param {HTMLElement} box @param {import("./source.mjs").Source} source @param {any} before
 * @param {Map<string, import("./network.mjs").LayerRow>} layers @param {string} layer @param {() => boolean} current
 */
export async function showSides(box, source, before, layers, layer, current) {
  void [box, source, before, layers, layer, current];
}
