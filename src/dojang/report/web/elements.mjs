/** Elements of the page, made without markup: text stays text, whatever is in it. */

const SVG = "http://www.w3.org/2000/svg";
const HIDDEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]/gu;

/** Characters that are invisible or change the reading order, as escapes. @param {unknown} text */
export function shown(text) {
  return String(text).replace(HIDDEN, (c) => `\\u${(c.codePointAt(0) ?? 0).toString(16).padStart(4, "0")}`);
}

/**
 * @param {Element} node
 * @param {Record<string, any>|null} attrs
 * @param {any[]} children
 */
function fill(node, attrs, children) {
  for (const [name, value] of Object.entries(attrs ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "class") node.setAttribute("class", value);
    else if (name === "text") node.textContent = shown(value);
    else if (name in node && typeof value !== "string") /** @type {any} */ (node)[name] = value;
    else node.setAttribute(name, value === true ? "" : shown(value));
  }
  node.append(...children.flat().filter((c) => c !== null && c !== undefined && c !== false).map((c) => (c instanceof Node ? c : shown(c))));
  return node;
}

/**
 * An HTML element. `on…` are listeners; everything else is an attribute or a property.
 * @param {string} tag @param {Record<string, any>|null} [attrs] @param {...any} children
 * @returns {any}
 */
export const h = (tag, attrs = null, ...children) => fill(document.createElement(tag), attrs, children);

/** Width over height of a drawing of values: a row or a column of them stays thick enough to be seen. @param {number} wide @param {number} high */
export const visible = (wide, high) => Math.max(1 / 3, Math.min(8, wide / high));

/** A name that may be broken behind its points, dashes and underscores, and not inside of its words. @param {string} name */
export const breaking = (name) => name.split(/(?<=[_.\-/])/).flatMap((part, i) => (i ? [h("wbr"), part] : [part]));

/**
 * An SVG element; numbers become attributes.
 * @param {string} tag @param {Record<string, any>|null} [attrs] @param {...any} children
 * @returns {any}
 */
export function s(tag, attrs = null, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attrs ?? {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) node.setAttribute(name, String(value));
  }
  node.append(...children.flat().filter(Boolean));
  return node;
}

/**
 * A labelled choice.
 * @param {string} label @param {[string, string][]} options value and text @param {string} chosen @param {(v: string) => void} changed
 */
export function choice(label, options, chosen, changed) {
  return h("label", { class: "setting" }, h("span", { text: label }),
    h("select", { onchange: (/** @type {any} */ e) => changed(e.target.value) },
      options.map(([value, text]) => h("option", { value, selected: value === chosen }, text))));
}

/**
 * A labelled whole number with buttons.
 * @param {string} label @param {number} value @param {number} least @param {number} most @param {(v: number) => void} changed
 * @param {string} [name]
 */
export function stepper(label, value, least, most, changed, name = "") {
  const set = (/** @type {number} */ v) => { if (v >= least && v <= most && v !== value) changed(v); };
  return h("div", { class: "setting", role: "group", "aria-label": label, "data-setting": name },
    h("span", { text: label }),
    h("span", { class: "stepper" },
      h("button", { type: "button", "aria-label": `${label} −`, disabled: value <= least, "data-sign": "−", onclick: () => set(value - 1) }),
      h("output", { text: value }),
      h("button", { type: "button", "aria-label": `${label} +`, disabled: value >= most, "data-sign": "+", onclick: () => set(value + 1) })));
}
