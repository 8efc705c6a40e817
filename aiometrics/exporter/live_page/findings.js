// What stands out in an interval, worst first, in sentences for somebody who sees it first.

import { isPseudo, keyOf, place, sum } from "/live/numbers.js";

const percent = (share) => `${(share * 100).toFixed(share < 0.1 ? 1 : 0)} %`;

export function duration(seconds) {
  if (seconds >= 100) return `${Math.round(seconds)} s`;
  if (seconds >= 1) return `${seconds.toFixed(1)} s`;
  if (seconds >= 0.001) return `${digits(seconds * 1e3)} ms`;
  return `${digits(seconds * 1e6)} µs`;
}

const digits = (value) => (value >= 10 || value === 0 ? String(Math.round(value)) : value.toFixed(1));

export const rate = (value) => (value >= 10 ? Math.round(value).toLocaleString("en") : value.toFixed(1));

const HOLDS = 0.1;
const LATE = 0.05;
// The watchdog looks this often, and what it sees must be so much of a line's time.
const LOOK_SECONDS = 0.05;
const MOSTLY_BLOCKS = 0.2;
const STUCK_SECONDS = 5;
const STUCK_RATIO = 10;
const QUEUE = /\b(Semaphore|BoundedSemaphore|Lock|Condition|_ContextManagerMixin)\b/;
const QUEUED_SECONDS = 0.02;
const TINY_PER_SECOND = 500;
const TINY_SECONDS = 50e-6;

/** Returns {kind, tone, text, place, coroutine, weight} for each finding, worst first. */
export function findings(gain, latest, history) {
  const seconds = gain.seconds ?? gain.loopSeconds;
  const points = new Map(latest.yield_points.map((row) => [keyOf(row), row]));
  return [
    ...blockedNow(latest, history),
    ...holding(gain),
    ...stuck(latest, gain),
    ...queues(gain, points, seconds),
    ...tiny(gain, seconds),
    ...failing(gain),
    ...objectives(gain, latest),
  ].sort((one, two) => two.weight - one.weight);
}

/** The blocks in progress, with the line that was seen to block since they began. */
export function blockedNow(latest, history) {
  return latest.loops.filter((loop) => loop.running?.blocks).map((loop) => {
    const began = latest.taken_timestamp_seconds - loop.running.elapsed_seconds;
    const gain = history.gained(history.moments.at(-1), history.at(began));
    const lines = [
      ...gain.blocks.filter((row) => row.loop === loop.loop && row.samples > 0)
        .map((row) => ({ at: row.place, much: row.samples * LOOK_SECONDS })),
      ...gain.held.filter((row) => row.coroutine === loop.running.coroutine && row.active > 0)
        .map((row) => ({ at: row.held_at, much: row.active })),
    ].sort((one, two) => two.much - one.much);
    return {
      kind: "blocked now",
      tone: "bad",
      loop: loop.loop,
      text: `For ${duration(loop.running.elapsed_seconds)} so far, nothing else has run on the loop ${loop.loop}.`,
      place: lines[0]?.at ?? "(the line is not known yet)",
      coroutine: loop.running.coroutine,
      weight: 1000 + loop.running.elapsed_seconds,
    };
  });
}

function holding(gain) {
  const busy = sum(gain.loops, (row) => row.active) / gain.loopSeconds;
  const blocked = new Map(gain.blocks.map((row) => [row.place, row.samples]));
  return gain.held
    .filter((row) => !isPseudo(row.held_at) && row.active / gain.loopSeconds >= HOLDS)
    .map((row) => {
      const share = row.active / gain.loopSeconds;
      const blocks = (blocked.get(row.held_at) ?? 0) * LOOK_SECONDS >= MOSTLY_BLOCKS * row.active;
      return {
        kind: blocks ? "blocks the loop" : "holds the loop",
        tone: blocks || share >= 0.3 ? "bad" : "warn",
        text: `This line took ${percent(share)} of the loop's time (the loop was busy for ${percent(Math.min(1, busy))})`
          + (blocks ? ", without an await for so long that other tasks had to wait." : "; nothing else ran meanwhile."),
        place: row.held_at,
        coroutine: row.coroutine,
        weight: (blocks ? 60 : 20) + 100 * share,
      };
    });
}

function stuck(latest, gain) {
  const means = new Map(gain.yield_points.map((row) => [row.key, row.waits ? row.waiting / row.waits : 0]));
  return stuckRows(latest, means).filter((row) => row.ratio >= STUCK_RATIO).map((row) => ({
    kind: "stuck",
    tone: "bad",
    text: `${tasks(row.suspended)} here, the oldest for ${duration(row.age)}; usually it takes ${duration(row.mean)}.`,
    place: row.yield_point,
    awaits: row.awaits,
    coroutine: row.coroutine,
    weight: 70 + Math.min(20, row.ratio / 10),
  }));
}

const tasks = (count) => (count === 1 ? "1 task waits" : `${count} tasks wait`);

/** Where tasks have waited for long, and for how many times as long as others before. */
export function stuckRows(latest) {
  return latest.yield_points
    .filter((row) => row.oldest_suspension_seconds >= STUCK_SECONDS && !row.waits_for_work)
    .map((row) => {
      const mean = row.waits.count ? row.waits.sum_seconds / row.waits.count : 0;
      const age = row.oldest_suspension_seconds;
      return { ...row, key: keyOf(row), age, mean, ratio: mean ? age / mean : null };
    })
    .sort((one, two) => (two.ratio >= STUCK_RATIO) - (one.ratio >= STUCK_RATIO) || two.age - one.age);
}

function queues(gain, points, seconds) {
  return gain.yield_points
    .filter((row) => QUEUE.test(row.awaits) && row.waits > 0 && row.waiting / row.waits >= QUEUED_SECONDS
      && !points.get(row.key)?.waits_for_work)
    .map((row) => ({
      kind: "queue",
      tone: "warn",
      text: `Tasks queue here for a ${QUEUE.exec(row.awaits)[1].replace("_ContextManagerMixin", "lock")}: ${duration(row.waiting / row.waits)} each, `
        + `${rate(row.waiting / seconds)} of them at a time.`,
      place: row.yield_point,
      awaits: row.awaits,
      coroutine: row.coroutine,
      weight: 40 + Math.min(25, row.waiting / seconds),
    }));
}

function tiny(gain, seconds) {
  return gain.yield_points
    .filter((row) => !isPseudo(row.yield_point) && row.segments / seconds >= TINY_PER_SECOND
      && row.active / row.segments <= TINY_SECONDS)
    .map((row) => ({
      kind: "tiny steps",
      tone: "warn",
      text: `This await gives the loop back ${rate(row.segments / seconds)} times a second, after `
        + `${duration(row.active / row.segments)} of work each time.`,
      place: row.yield_point,
      awaits: row.awaits,
      coroutine: row.coroutine,
      weight: 30 + Math.min(10, row.segments / seconds / 1000),
    }));
}

function failing(gain) {
  return gain.coroutines
    .filter((row) => row.failed + row.destroyed > 0 || row.cancelled > 0)
    .map((row) => {
      const all = row.completed + row.failed + row.cancelled + row.destroyed;
      const bad = row.failed + row.destroyed > 0;
      const what = [
        [row.failed, "ended with an exception"],
        [row.destroyed, "were destroyed before they were done"],
        [row.cancelled, "were cancelled"],
      ].filter(([count]) => count > 0).map(([count, how]) => `${count} ${how}`);
      return {
        kind: bad ? "fails" : "cancelled",
        tone: bad ? "bad" : "warn",
        text: `Of ${all} tasks, ${what.join(", ")}.`,
        place: row.coroutine,
        coroutine: row.coroutine,
        weight: bad ? 45 + 10 * (row.failed / all) : 15,
      };
    });
}

function objectives(gain, latest) {
  const promised = new Map(latest.requests.map((row) => [row.request, row.objective_seconds]));
  return gain.requests.filter((row) => row.requests > 0 && row.violations / row.requests >= LATE).map((row) => ({
    kind: "too slow",
    tone: "warn",
    text: `${row.violations} requests took longer than ${duration(promised.get(row.request) ?? 0)}, their objective. `
      + `On average they take ${duration(row.wall / row.requests)}, ${duration(row.active / row.requests)} of it on the loop. `
      + `They wait most for ${mostly(gain, row.request)}.`,
    place: row.request,
    request: row.request,
    weight: 10 + 10 * Math.min(1, row.violations / row.requests),
  }));
}

/** What requests of a type wait for most. */
export function mostly(gain, request) {
  const [most] = gain.request_waits
    .filter((row) => row.request === request && row.waiting > 0)
    .sort((one, two) => two.waiting - one.waiting);
  return most ? most.awaits : "nothing";
}

export { percent, place };
