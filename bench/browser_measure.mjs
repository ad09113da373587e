// What `browser.py` measures, in a browser or in node: the same code for both, one thread.

const now = () => performance.now();

/**
 * Least and median milliseconds of several things that take turns, after some time of warming up. The clock of browsers
 * has steps of up to 0.1 ms: each is repeated until it takes some milliseconds.
 */
async function inTurns(runs, seconds, warm) {
  const many = [];
  for (const run of runs) {
    let count = 0;
    const start = now();
    for (; now() - start < 1000 * warm; count++) await run();
    many.push(Math.max(1, Math.ceil((5 * count) / (1000 * warm))));
  }
  const times = runs.map(() => []);
  for (const start = now(); now() - start < 1000 * seconds * runs.length || times[0].length < 5;) {
    for (let k = 0; k < runs.length; k++) {
      for (let i = 0; i < 3; i++) {
        const begin = now();
        for (let j = 0; j < many[k]; j++) await runs[k]();
        times[k].push((now() - begin) / many[k]);
      }
    }
  }
  return times.map((t, k) => {
    t.sort((a, b) => a - b);
    return { least: t[0], median: t[t.length >> 1], runs: t.length * many[k] };
  });
}

/** Numbers from −1 to 1 that are the same every time. */
function numbers(size) {
  let state = 1;
  return Float32Array.from({ length: size }, () => {
    state = (state * 16807) % 2147483647;
    return state / 1073741823 - 1;
  });
}

/**
 * @param load `loadNetwork` of compute.js
 * @param ort onnxruntime-web, or null
 * @param read a file of the folder: (name) => ArrayBuffer
 */
export async function measure(load, ort, read, seconds) {
  const json = async (name) => JSON.parse(new TextDecoder().decode(await read(name)));
  const work = await json("work.json");
  const found = { layers: [], networks: [] };
  for (const name of work.layers) {
    const network = await load(await json(`${name}.json`));
    const x = numbers(network.program.inputs[0].shape.reduce((a, b) => a * b, 1));
    const [times] = await inTurns([() => network.run(x)], seconds, 0.5);
    found.layers.push({ name, fused: network.fused, ...times });
  }
  for (const name of work.networks) {
    const begin = now();
    const network = await load(await json(`${name}.json`));
    const loaded = now() - begin;
    const alone = await load(await json(`${name}-alone.json`));
    const { shape } = network.program.inputs[0];
    const x = numbers(shape.reduce((a, b) => a * b, 1));
    const runs = [() => network.run(x), () => alone.run(x)];
    let difference = null;
    if (ort) {
      const options = { executionProviders: ["wasm"], graphOptimizationLevel: "all" };
      const session = await ort.InferenceSession.create(new Uint8Array(await read(`${name}.onnx`)), options);
      const theirs = async () => {
        const given = new ort.Tensor("float32", x, [1, ...shape]);
        return (await session.run({ [session.inputNames[0]]: given }))[session.outputNames[0]].data;
      };
      runs.push(theirs);
      const [a, b] = [network.run(x)[0].data, await theirs()];
      const largest = b.reduce((most, v) => Math.max(most, Math.abs(v)), 0);
      difference = a.reduce((most, v, i) => Math.max(most, Math.abs(v - b[i])), 0) / largest;
    }
    const times = await inTurns(runs, seconds, 2);
    found.networks.push({ name, fused: network.fused, loaded, difference, times });
  }
  return found;
}
