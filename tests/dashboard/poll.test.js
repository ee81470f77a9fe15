import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";

import { LONG, Scheduler, SHORT } from "../../server/nestor_server/dashboard/poll.js";

/** A clock that stands still until a test moves it. */
class StandingClock {
  time = 0;
  hidden = false;
  timers = new Map();
  next = 0;
  now = () => this.time;
  isHidden = () => this.hidden;
  setTimer = (run, ms) => (this.timers.set(++this.next, { run, at: this.time + ms }), this.next);
  clearTimer = (timer) => void this.timers.delete(timer);

  /** Let time pass; each timer runs when it is due. */
  async pass(ms) {
    const until = this.time + ms;
    for (;;) {
      await new Promise(setImmediate); // what was read is shown
      const due = [...this.timers].filter(([, { at }]) => at <= until).sort(([, a], [, b]) => a.at - b.at)[0];
      if (!due) break;
      this.timers.delete(due[0]);
      this.time = due[1].at;
      due[1].run();
    }
    this.time = until;
  }
}

class Refused extends Error {
  constructor(status, retryAfter = 0) {
    super(`answered ${status}`);
    Object.assign(this, { status, retryAfter });
  }
}

let clock, scheduler, answers, reads;

/** A task whose reads are counted; `answers` has what they do, the last of them again and again. */
const task = (pause = SHORT) => ({
  read: async () => {
    reads.push(clock.time);
    const answer = answers.length > 1 ? answers.shift() : answers[0];
    if (answer instanceof Error) throw answer;
    return answer;
  },
  show: () => pause,
});

beforeEach(() => {
  [clock, answers, reads] = [new StandingClock(), ["data"], []];
  scheduler = new Scheduler({ clock });
});

test("without a task nothing is loading", () => assert.deepEqual(scheduler.status, { kind: "idle" }));

test("a task is read at once, and again after the pause that it asks for", async () => {
  scheduler.watch(task(LONG));
  assert.deepEqual(scheduler.status, { kind: "loading" });
  await clock.pass(2.5 * LONG);
  assert.deepEqual(reads, [0, LONG, 2 * LONG]);
  assert.deepEqual(scheduler.status, { kind: "live", at: 2 * LONG });
});

for (const error of [new Refused(403), new Refused(404), new Refused(429), new Refused(418), new TypeError("no JSON"), new Error("away")]) {
  test(`reading goes on after ${error.message}, and what is shown is stale until it works again`, async () => {
    answers = ["data", error, error, "data"];
    scheduler.watch(task());
    await clock.pass(SHORT);
    assert.deepEqual(scheduler.status, { kind: "stale", since: SHORT, why: error.message });
    await clock.pass(20 * SHORT);
    assert.equal(scheduler.status.kind, "live");
  });
}

test("while nothing works, reads become rare, but never stop", async () => {
  answers = [new Error("away")];
  scheduler.watch(task());
  await clock.pass(600_000);
  const pauses = reads.slice(1).map((at, i) => at - reads[i]);
  assert.deepEqual(pauses.slice(0, 4), [SHORT, 2 * SHORT, 4 * SHORT, 8 * SHORT]);
  assert.equal(Math.max(...pauses), 30_000);
  assert.ok(reads.length > 20);
});

test("a server that names a time is not asked before", async () => {
  answers = [new Refused(429, 60), "data"];
  scheduler.watch(task());
  await clock.pass(59_000);
  assert.equal(reads.length, 1);
  await clock.pass(2_000);
  assert.equal(reads.length, 2);
});

test("a hidden tab reads nothing, and one that is shown again reads at once", async () => {
  scheduler.watch(task());
  await clock.pass(SHORT);
  const before = reads.length;
  clock.hidden = true;
  await clock.pass(3_600_000);
  assert.equal(reads.length, before);
  clock.hidden = false;
  scheduler.soon();
  await clock.pass(0);
  assert.equal(reads.length, before + 1);
  await clock.pass(SHORT);
  assert.equal(reads.length, before + 2);
});

test("what is asked for during a read is read after it", async () => {
  let finish;
  const shown = [];
  const watch = scheduler.watch({
    read: () => new Promise((resolve) => ((finish = resolve), reads.push(clock.time))),
    show: (data) => (shown.push(data), LONG),
  });
  await clock.pass(0);
  watch.soon();
  watch.soon();
  assert.equal(reads.length, 1);
  finish("first");
  await clock.pass(0);
  assert.equal(reads.length, 2);
  finish("second");
  await clock.pass(0);
  assert.deepEqual(shown, ["first", "second"]);
});

test("nothing is shown after a task is stopped, and nothing is read", async () => {
  let finish;
  const shown = [];
  const watch = scheduler.watch({ read: () => new Promise((resolve) => (finish = resolve)), show: (data) => (shown.push(data), SHORT) });
  await clock.pass(0);
  watch.stop();
  finish("late");
  await clock.pass(LONG);
  assert.deepEqual(shown, []);
  assert.equal(clock.timers.size, 0);
});

test("an error that someone deals with ends the task, such as a session that is over", async () => {
  scheduler = new Scheduler({ clock, failed: (error) => error.status === 401 });
  answers = [new Refused(401)];
  scheduler.watch(task());
  await clock.pass(LONG);
  assert.equal(reads.length, 1);
});

test("the age of the page is that of its oldest part", async () => {
  scheduler.watch(task(SHORT));
  scheduler.watch(task(LONG));
  await clock.pass(3 * SHORT);
  assert.deepEqual(scheduler.status, { kind: "live", at: 0 });
});
