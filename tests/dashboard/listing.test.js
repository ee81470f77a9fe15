import assert from "node:assert/strict";
import { test } from "node:test";

import { Listing, pagesOf } from "../../server/nestor_server/dashboard/lists/listing.js";

const NOW = 1_000_000, LATER = NOW + 2_000, MUCH_LATER = NOW + 20_000; // milliseconds

/** A server with a list of `n` entries, the newest first, in pages of ten. @param {number} n */
function server(n) {
  const list = {
    n,
    /** @type {string[]} */
    reads: [],
    /** @param {string} path @param {Record<string, any>} query */
    read: async (path, query) => {
      assert.equal(path, "/studies");
      assert.equal(query.sort, "name");
      list.reads.push(query.cursor);
      const from = query.cursor === "" ? list.n : Number(query.cursor); // a cursor names the entry before the page
      const items = Array.from({ length: Math.min(10, from) }, (_, i) => ({ id: String(from - 1 - i) }));
      return { items, next_cursor: from > 10 ? String(from - 10) : null };
    },
  };
  return list;
}

/** @param {number} n */
function listed(n) {
  const list = server(n);
  return { list, listing: new Listing("/studies", { sort: "name" }, list.read) };
}

/** @param {{items: {id: string}[]}} found */
const ids = (found) => found.items.map(({ id }) => Number(id));

test("every entry is reached, page by page", async () => {
  const { listing } = listed(25);
  const sizes = [];
  for (let n = 1; n < 5; n++) {
    const { items, more } = await listing.read(n, NOW);
    sizes.push([items.length, more]);
  }
  assert.deepEqual(sizes, [[10, true], [20, true], [25, false], [25, false]]);
  assert.deepEqual(ids(await listing.read(3, NOW)), Array.from({ length: 25 }, (_, i) => 24 - i));
});

test("a poll reads the first page, and the others less often", async () => {
  const { list, listing } = listed(25);
  await listing.read(3, NOW);
  list.reads = [];
  assert.equal((await listing.read(3, LATER)).items.length, 25);
  assert.deepEqual(list.reads, [""]);
  assert.equal((await listing.read(3, MUCH_LATER)).items.length, 25);
  assert.deepEqual(list.reads, ["", "", "15", "5"]);
});

test("a new entry is on top at the next poll, and none is lost between two pages", async () => {
  const { list, listing } = listed(25);
  await listing.read(3, NOW);
  list.n = 26;
  assert.deepEqual(ids(await listing.read(3, LATER)), Array.from({ length: 26 }, (_, i) => 25 - i));
});

test("an entry that has moved while pages were read is there once", async () => {
  const read = async (/** @type {string} */ _path, /** @type {any} */ { cursor }) =>
    cursor ? { items: [{ id: "b" }, { id: "c" }], next_cursor: null } : { items: [{ id: "a" }, { id: "b" }], next_cursor: "1" };
  const { items } = await new Listing("/studies", {}, read).read(2);
  assert.deepEqual(items.map(({ id }) => id), ["a", "b", "c"]);
});

test("after a change all pages are read again", async () => {
  const { list, listing } = listed(25);
  await listing.read(3, NOW);
  list.reads = [];
  listing.expire();
  await listing.read(3, NOW);
  assert.deepEqual(list.reads, ["", "15", "5"]);
});

test("the address says how many pages are open", () => {
  assert.deepEqual(["3", "", undefined, "0", "-2", "x", "2.7", "NaN"].map((pages) => pagesOf(/** @type {any} */ ({ pages }))), [3, 1, 1, 1, 1, 1, 2, 1]);
});
