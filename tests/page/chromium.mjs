/** The browser of the tests and of the pictures. */

import { existsSync } from "node:fs";

export const chromium = [process.env.CHROMIUM, "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find((path) => path && existsSync(path));

/** A browser, closed by the caller. */
export async function browser() {
  const { chromium: kind } = await import("playwright-core");
  return kind.launch({ executablePath: chromium, args: ["--no-sandbox", "--disable-gpu", "--js-flags=--expose-gc"] });
}

/** Until the panel shows what was chosen. @param {import("playwright-core").Page} page */
export const ready = (page) => page.waitForSelector('#panel[aria-busy="false"]');
