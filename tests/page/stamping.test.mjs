/** The arithmetic of the page against PyTorch, without a browser. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { right, web } from "./parts.mjs";

const { costs, outSize, pressed } = await import(`${web}/stamping.mjs`);
const { seenBy } = await import(`${web}/sight.mjs`);
const { fitted } = await import(`${web}/scaling.mjs`);
const { tiled } = await import(`${web}/source.mjs`);

test("maps of random windows are PyTorch's", () => {
  const counted = { conv: 0, max: 0, mean: 0, transposed: 0 };
  for (const one of right.pressings) {
    const input = { ...one.input, data: Float32Array.from(one.input.data) };
    const taps = one.taps ? { ...one.taps, data: Float32Array.from(one.taps.data), bias: 0 } : null;
    const first = taps ? Math.floor((one.channel * one.g.groups) / 8) * taps.c : one.channel;
    const map = pressed(input, taps, one.g, one.operation, first);
    assert.deepEqual([map.h, map.w], [one.map.h, one.map.w], JSON.stringify(one.g));
    const most = Math.max(...one.map.data.map((v, i) => Math.abs(v - map.data[i])));
    assert.ok(most < 1e-4, `${one.operation} ${JSON.stringify(one.g)}: ${most}`);
    counted[one.g.transposed ? "transposed" : one.operation]++;
  }
  for (const [what, count] of Object.entries(counted)) assert.ok(count > 15, `${what}: ${count}`);
});

test("sizes, parameters and MACs are those of Conv", () => {
  for (const one of right.pressings.filter((p) => p.costs)) {
    const got = costs(one.g, 4, 8, [one.input.h, one.input.w]);
    assert.deepEqual(got, one.costs, JSON.stringify(one.g));
    assert.equal(outSize(one.g, 0, one.input.h), one.costs.out[0]);
  }
});

test("a picture is brought to a size as Pillow does it, within one of 255", () => {
  assert.ok(right.fittings.length >= 20);
  for (const { h, w, c, height, width, from, to } of right.fittings) {
    const found = fitted(Uint8Array.from(from), h, w, c, height, width);
    const apart = to.map((v, i) => Math.abs(v - found[i]));
    assert.ok(Math.max(...apart) <= 1, `${h}×${w}×${c} to ${height}×${width}: ${Math.max(...apart)}`);
  }
});

test("maps of a file are those of a server: order, ends, within a step of 255", () => {
  const v = right.values[right.names.conv];
  const maps = tiled({ c: v.shape[0], h: v.shape[1], w: v.shape[2], data: Float32Array.from(v.data) }, 0, 99);
  const size = v.shape[1] * v.shape[2];
  assert.deepEqual([...maps.order].sort((a, b) => a - b), maps.order.map((_, i) => i));
  maps.order.forEach((c, place) => {
    if (place) assert.ok(maps.strength[maps.order[place - 1]] >= maps.strength[c]);
    for (let i = 0; i < size; i++) {
      const seen = maps.low[place] + ((maps.high[place] - maps.low[place]) * maps.tiles[place * size + i]) / 255;
      assert.ok(Math.abs(seen - v.data[c * size + i]) <= (maps.high[place] - maps.low[place]) / 255 + 1e-6);
    }
  });
});

test("what a place sees: phases, ends, advance", () => {
  assert.deepEqual(seenBy({ period: 1, advance: 2, ends: false, seen: [[-3, 3]] }, 5), [7, 13]);
  assert.deepEqual(seenBy({ period: 2, advance: 1, ends: false, seen: [[-1, 0], [0, 0]] }, 7), [3, 3]);
  assert.equal(seenBy({ period: 2, advance: 1, ends: true, seen: [[0, 1], null] }, 1), null);
  assert.equal(seenBy({ period: 2, advance: 1, ends: true, seen: [[0, 1], null] }, 2), null);
});

test("a name at the top of a module stands once, for the page joins them", () => {
  const names = new Map();
  for (const name of ["words", "elements", "painting", "stamping", "source", "network", "maps", "stamp", "sight", "waste", "sides", "main"])
    for (const found of readFileSync(new URL(`${web}/${name}.mjs`), "utf8").matchAll(/^(?:export )?(?:async )?(?:const|let|function|class) (\w+)/gm)) {
      assert.equal(names.get(found[1]), undefined, `${found[1]} stands in ${names.get(found[1])} and ${name}`);
      names.set(found[1], name);
    }
  assert.ok(names.size > 50);
});
