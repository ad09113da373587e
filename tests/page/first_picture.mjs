/**
 * Milliseconds from the command to the first picture: `node tests/page/first_picture.mjs NET [WEIGHTS]`, five times.
 *
 * The browser runs already. Beside each time stands when the server had said its address.
 */

import { spawn } from "node:child_process";
import { browser, ready } from "./chromium.mjs";

const [net, weights] = process.argv.slice(2);
const shown = await browser();
for (let turn = 0; turn < 5; turn++) {
  const page = await shown.newPage();
  const begin = performance.now();
  const server = spawn("dojang", ["show", net, ...(weights ? ["--weights", weights] : []), "--no-browser"]);
  const address = await new Promise((found) => {
    let said = "";
    server.stdout.on("data", (part) => {
      said += part;
      const match = /http:\S+/.exec(said);
      if (match) found(match[0]);
    });
  });
  const address_ms = performance.now() - begin;
  await page.goto(address);
  await ready(page);
  await page.waitForSelector("#panel canvas");
  console.log(`${(performance.now() - begin).toFixed(0)} ms; address after ${address_ms.toFixed(0)} ms`);
  server.kill("SIGINT");
  await page.close();
}
await shown.close();
