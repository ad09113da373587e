/** What the tests of the page share: the made pages, a browser, and servers. */

import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath, pathToFileURL } from "node:url";

import { ready } from "./chromium.mjs";

export { browser, chromium, ready } from "./chromium.mjs";

const require = createRequire(import.meta.url);
export const folder = process.env.PAGES ?? fileURLToPath(new URL("../../build/page", import.meta.url));
export const web = pathToFileURL(fileURLToPath(new URL("../../src/dojang/report/web", import.meta.url))).href;
export const right = JSON.parse(readFileSync(`${folder}/right.json`, "utf8"));
export const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

/** The address of a page in the folder. @param {string} name */
export const file = (name) => pathToFileURL(`${folder}/${name}`).href;

const children = new Set();

/** Ends every server that is left, as after a test that failed. */
export const endAll = () => children.forEach((child) => child.kill("SIGINT"));

/**
 * `dojang show` with these arguments: its address, and how to end it.
 * @param {string[]} args
 */
export async function served(args) {
  const child = spawn(process.env.PYTHON ?? "python3", ["-m", "dojang", "show", "--no-browser", ...args], { stdio: ["ignore", "pipe", "inherit"] });
  children.add(child);
  let said = "";
  const url = await new Promise((resolve, reject) => {
    child.stdout.on("data", (text) => {
      said += text;
      const found = /http:\/\/127\.0\.0\.1:\d+\/[\w-]+\//.exec(said);
      if (found) resolve(found[0]);
    });
    child.on("exit", () => reject(new Error(`dojang show ended: ${said}`)));
  });
  return { url, end: () => child.kill("SIGINT") };
}

/**
 * A page that is ready, with what it complained of.
 * @param {import("playwright-core").Browser} on @param {string} url @param {object} [options]
 */
export async function opened(on, url, options = {}) {
  const context = await on.newContext({ viewport: { width: 1400, height: 900 }, locale: "en", ...options });
  const page = await context.newPage();
  const complaints = [];
  const requests = [];
  page.on("console", (m) => { if (["error", "warning"].includes(m.type())) complaints.push(m.text()); });
  page.on("pageerror", (e) => complaints.push(e.message));
  page.on("request", (r) => requests.push(r.url()));
  page.on("dialog", (d) => { complaints.push(`dialog ${d.message()}`); d.dismiss(); });
  await page.goto(url);
  await ready(page);
  return { page, complaints, requests };
}

/** @param {import("playwright-core").Page} page @param {string} name */
export async function tab(page, name) {
  await page.click(`#tab-${name}`);
  await ready(page);
}

/** A step of the network, by its name. @param {import("playwright-core").Page} page @param {string} name */
export async function step(page, name) {
  await page.locator("button.pick", { has: page.locator(".name", { hasText: name }) }).first().click();
  await ready(page);
}
