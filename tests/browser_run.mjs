// Runs what `under_node.py` wrote: programs, inputs, values and windows that are asked for. One process for many programs.
import fs from "node:fs";
import { loadNetwork } from "../src/dojang/report/web/compute.mjs";

const text = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString("base64");
const floats = (said) => {
  const found = Buffer.from(said, "base64");
  return new Float32Array(found.buffer.slice(found.byteOffset, found.byteOffset + found.byteLength));
};

/** What `ask` gives, or the error that it throws. */
function tried(ask) {
  try {
    return ask();
  } catch (error) {
    return { error: String(error.message) };
  }
}

const results = [];
for (const { program, inputs, taps, windows, fused } of JSON.parse(fs.readFileSync(process.argv[2], "utf8"))) {
  const network = await loadNetwork(program, { fused });
  const given = Object.fromEntries(Object.entries(inputs).map(([name, said]) => [name, floats(said)]));
  const out = tried(() => network.run(given));
  results.push({
    outputs: out.error ? out : out.map((a) => a && { shape: a.shape, data: text(a.data) }),
    taps: taps.map((name) => tried(() => {
      const { shape, data } = network.value(name);
      return { shape, data: text(data) };
    })),
    windows: windows.map(([name, place]) => tried(() => {
      const w = network.window(name, place);
      const lists = ["values", "weights", "products", "places", "inside"];
      return { ...w, ...Object.fromEntries(lists.map((k) => [k, Array.from(w[k])])) };
    })),
    names: network.names,
    fused: network.fused,
  });
}
fs.writeFileSync(process.argv[3], JSON.stringify(results));
