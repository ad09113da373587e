// What `computing.mjs` gives a page: values, filters, answers. Used by tests/report/test_computing.py.
import fs from "node:fs";
import { loadNetwork } from "../src/dojang/report/web/compute.mjs";
import { fromNetworks } from "../src/dojang/report/web/computing.mjs";

const { program, input, scores, classes, layers, filters } = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
const network = await loadNetwork(program);
const picture = { h: 1, w: 1, rgb: new Uint8Array(3), name: "p", prepared: null };
const tiled = (values, first, most) => ({ shape: [values.c, values.h, values.w], first, most });
const sides = { after: { program, network, scores, classes } };
const source = fromNetworks({ sides, inputs: [{ picture, numbers: Float32Array.from(input) }], tiled });
const plain = ({ data, ...rest }) => ({ ...rest, data: Array.from(data) });
const tried = async (ask) => {
  try {
    return await ask();
  } catch (error) {
    return { error: error.message };
  }
};
const found = { values: [], taps: [], rounded: source.rounded };
for (const layer of layers) found.values.push(await tried(async () => plain(await source.values("after", layer))));
for (const [layer, channel] of filters) {
  found.taps.push(await tried(async () => plain(await source.taps("after", layer, channel))));
}
found.maps = await source.maps("after", layers[0], 2, 7);
found.answer = await source.answer("after");
found.time = await source.time("after");
found.picture = (await source.picture(0)).name;
console.log(JSON.stringify(found));
