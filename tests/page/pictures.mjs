/** Takes pictures of pages for the docs: `node pictures.mjs FOLDER < jobs.json` (scripts/pictures.py makes the jobs). */

import { readFileSync } from "node:fs";

import { browser, ready } from "./chromium.mjs";

/**
 * @typedef {object} Job one picture
 * @property {string} name of the file, without .png
 * @property {string} url
 * @property {string} [lang] @property {boolean} [dark] @property {number} [width] @property {number} [height]
 * @property {[string, ...any[]][]} [steps] what is done first: a method of Playwright's page with its arguments
 * @property {string} [element] the element that is taken; else the window
 */

const folder = process.argv[2];
/** @type {Job[]} */
const jobs = JSON.parse(readFileSync(0, "utf8"));
const on = await browser();
const failed = [];
for (const { name, url, lang = "en", dark = false, width = 1280, height = 760, steps = [], element } of jobs) {
  const context = await on.newContext({ viewport: { width, height }, locale: lang, colorScheme: dark ? "dark" : "light", reducedMotion: "reduce" });
  const page = await context.newPage();
  page.on("pageerror", (e) => failed.push(`${name}: ${e.message}`));
  try {
    await page.goto(url);
    if (await page.locator("#panel").count()) await ready(page);
    for (const [method, ...args] of steps) {
      await /** @type {any} */ (page)[method](...args);
      if (await page.locator("#panel").count()) await ready(page);
    }
    await page.waitForTimeout(200);
    await (element ? page.locator(element).first() : page).screenshot({ path: `${folder}/${name}.png` });
  } catch (error) {
    failed.push(`${name}: ${error instanceof Error ? error.message : error}`);
  }
  await context.close();
}
await on.close();
if (failed.length) {
  console.error(failed.join("\n"));
  process.exit(1);
}
