import assert from "node:assert/strict";
import { test } from "node:test";

import { isSamePage, link, parse } from "../../server/nestor_server/dashboard/route.js";

const ID = "0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b";

for (const [page, id] of [["studies", ""], ["workers", ""], ["study", ID], ["compare", ID], ["trial", ID]]) {
  test(`the link to the page ${page} leads there, with its query`, () => {
    const query = { tensor: "l2.0/weight & more", q: "ä" };
    assert.deepEqual(parse(link(page, id, query)), { page, id, query });
    assert.deepEqual(parse(link(page, id)), { page, id, query: {} });
  });
}

test("fields of a query that are empty are left out of a link", () => {
  assert.equal(link("studies", "", { q: "", state: undefined, tag: null }), "#/");
});

test("an address without a fragment is the list of studies", () => {
  assert.equal(parse("")?.page, "studies");
});

for (const fragment of ["#/nowhere", "#/trials/3", "#/trials/../../x", `#/studies/${ID}/trials`, "#nothing"]) {
  test(`${fragment} is no page`, () => assert.equal(parse(fragment), null));
}

test("links of earlier versions lead to the same study and trial", () => {
  assert.deepEqual(parse(`#study=${ID}&trial=${ID}`), { page: "trial", id: ID, query: {} });
  assert.deepEqual(parse(`#study=${ID}&trial=`), { page: "study", id: ID, query: {} });
});

test("pages are the same if they show the same object, in whatever way", () => {
  assert.ok(isSamePage(parse(link("trial", ID)), parse(link("trial", ID, { tensor: "l2" }))));
  assert.ok(!isSamePage(parse(link("study", ID)), parse(link("compare", ID))));
  assert.ok(!isSamePage(parse("#/"), null));
});
