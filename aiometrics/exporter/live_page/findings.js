// What stands out in an interval, worst first, in sentences for somebody who sees it first.

import { sum } from "/live/columns.js";
import { isPseudo, keyOf, place } from "/live/numbers.js";

const percent = (share) => `${(share * 100).toFixed(share < 0.1 ? 1 : 0)} %`;

export function duration(seconds) {
  if (seconds >= 100) return `${Math.round(seconds)} s`;
  if (seconds >= 1) return `${seconds.toFixed(1)} s`;
  if (seconds >= 0.001) return `${digits(seconds * 1e3)} ms`;
  return `${digits(seconds * 1e6)} µs`;
}

/** What is awaited, in words where its name says little: all locks share how they are entered. */
export const awaited = (name) => (name.endsWith("._ContextManagerMixin.__aenter__") ? "a lock (async with)" : name);

const digits = (value) => (value >= 10 || value === 0 ? String(Math.round(value)) : value.toFixed(1));

export const rate = (value) => (value >= 10 ? Math.round(value).toLocaleString("en") : value.toFixed(1));

const BLOCKS = 0.1;
const BUSY = 0.2;
const VERY_BUSY = 0.3;
const LATE = 0.05;
const OFTEN_BLOCKED = 0.05;
const CPU_SHORT = 0.2;
// The watchdog looks this often, and what it sees must be so much of a line's time.
const LOOK_SECONDS = 0.05;
const MOSTLY_BLOCKS = 0.2;
const LONG_RUN_SECONDS = 0.05;
const LISTED_SECONDS = 5;
const QUEUE = /\b(Semaphore|BoundedSemaphore|Lock|Condition|_ContextManagerMixin)\b/;
const QUEUED_SECONDS = 0.02;
const TINY_PER_SECOND = 500;
const TINY_SECONDS = 50e-6;

/**
 * Returns {kind, tone, text, place, coroutine, weight} for each finding, worst first, causes before
 * what follows from them. One without a place is about no code.
 */
export function findings(gain, latest, history) {
  const seconds = gain.wallSeconds;
  const points = new Map(latest.yield_points.map((row) => [keyOf(row), row]));
  const found = [
    ...blockedNow(latest, history),
    ...shortOfCpu(gain, seconds),
    ...holding(gain),
    ...stuck(latest),
    ...queues(gain, points, seconds),
    ...tiny(gain, latest, seconds),
    ...failing(gain),
    ...objectives(gain, latest),
  ];
  return found.filter((row) => !saidBetter(row, found)).sort((one, two) => two.weight - one.weight);
}

/** Whether another finding says more about the function of a busy line. */
const saidBetter = (row, found) => row.kind === "busy line" && found.some((other) =>
  other.place && other.kind !== row.kind && functionOf(other.place) === functionOf(row.place)
  && (other.share ?? 1) >= row.share);

function functionOf(text) {
  const { folder, line, name } = place(text);
  return `${folder}${line.replace(/:\d+$/, "")} ${name}`;
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

/** Of the loops, the one that waited most for a CPU, if it did for long. */
function shortOfCpu(gain, seconds) {
  const [most] = gain.loops.map((row) => ({ ...row, share: row.queue / seconds }))
    .sort((one, two) => two.share - one.share);
  if (!(most?.share > CPU_SHORT)) return [];
  return [{
    kind: "machine busy",
    tone: "aside",
    text: `The machine is busy, or the CPU limit is too low: the loop ${most.loop} was ready, but waited for a CPU for `
      + `${percent(Math.min(1, most.share))} of the time. Everything below looks slower than it is.`,
    weight: 500,
  }];
}

function holding(gain) {
  const busy = sum(gain.loops, (row) => row.active) / gain.loopSeconds;
  const blocked = new Map(gain.blocks.map((row) => [row.place, row.samples]));
  const [ofLoops, loops] = gain.loopsRun > 1
    ? [`of the time of all ${gain.loopsRun} loops`, "they were"] : ["of the loop's time", "the loop was"];
  return gain.held.filter((row) => !isPseudo(row.held_at)).flatMap((row) => {
    const share = row.active / gain.loopSeconds;
    if (share < BLOCKS) return [];
    const run = runSeconds(gain, row);
    const blocks = run >= LONG_RUN_SECONDS
      || (blocked.get(row.held_at) ?? 0) * LOOK_SECONDS >= MOSTLY_BLOCKS * row.active;
    if (share < (blocks ? BLOCKS : BUSY)) return [];
    const bad = blocks || share >= VERY_BUSY;
    return [{
      kind: blocks ? "blocks the loop" : "busy line",
      tone: bad ? "bad" : "warn",
      text: `This line took ${percent(share)} ${ofLoops}, `
        + (blocks ? `in long runs without an await${each(run)}: all other tasks have to wait for their end. `
          : `mostly in short runs${each(run)}: other tasks have their turns in between. `)
        + `In all, ${loops} busy for ${percent(Math.min(1, busy))}.`,
      place: row.held_at,
      coroutine: row.coroutine,
      share,
      weight: blocks ? 60 + 100 * share : bad ? 20 + 100 * share : 20 + 50 * share,
    }];
  });
}

const each = (seconds) => (seconds ? ` (about ${duration(seconds)} each)` : "");

/** The mean segment up to the busiest await in the function of a line; 0 if it has none. */
function runSeconds(gain, { coroutine, held_at }) {
  const [most] = gain.yield_points
    .filter((row) => row.coroutine === coroutine && row.segments > 0 && functionOf(row.yield_point) === functionOf(held_at))
    .sort((one, two) => two.active - one.active);
  return most ? most.active / most.segments : 0;
}

function stuck(latest) {
  return stuckRows(latest).filter((row) => row.unusual).map((row) => ({
    kind: row.stuck ? "stuck" : "long wait",
    tone: row.stuck ? "bad" : "warn",
    text: `${tasks(row.suspended)} here for ${awaited(row.awaits)}, the oldest for ${duration(row.age)}; usually it takes ${duration(row.mean)}.`,
    place: row.yield_point,
    awaits: row.awaits,
    coroutine: row.coroutine,
    weight: (row.stuck ? 70 : 50) + Math.min(20, row.ratio / 10),
  }));
}

const tasks = (count) => (count === 1 ? "1 task waits" : `${count} tasks wait`);

/** Where tasks have waited for long, and for how many times as long as others before. */
export function stuckRows(latest) {
  return latest.yield_points
    .filter((row) => row.oldest_suspension_seconds >= LISTED_SECONDS && !row.waits_for_work)
    .map((row) => {
      const mean = row.waits.count ? row.waits.sum_seconds / row.waits.count : 0;
      const age = row.oldest_suspension_seconds;
      return { ...row, key: keyOf(row), age, mean, ratio: mean ? age / mean : null };
    })
    .sort((one, two) => two.stuck - one.stuck || two.unusual - one.unusual || two.age - one.age);
}

function queues(gain, points, seconds) {
  return gain.yield_points
    .filter((row) => QUEUE.test(row.awaits) && row.waits > 0 && row.waiting / row.waits >= QUEUED_SECONDS
      && !points.get(row.key)?.waits_for_work)
    .map((row) => ({
      kind: "queue",
      tone: "warn",
      text: `Tasks queue here for a ${QUEUE.exec(row.awaits)[1].replace("_ContextManagerMixin", "lock")}: each waits for ${duration(row.waiting / row.waits)}, `
        + `${rate(row.waiting / seconds)} of them at a time, until others release it.`,
      place: row.yield_point,
      awaits: row.awaits,
      coroutine: row.coroutine,
      weight: 40 + Math.min(25, row.waiting / seconds),
    }));
}

function tiny(gain, latest, seconds) {
  const turn = switching(gain, latest);
  return gain.yield_points
    .filter((row) => !isPseudo(row.yield_point) && row.segments / seconds >= TINY_PER_SECOND
      && row.active / row.segments <= TINY_SECONDS)
    .map((row) => ({
      kind: "tiny steps",
      tone: "warn",
      text: `This await gives the loop back ${rate(row.segments / seconds)} times a second, after `
        + `${duration(row.active / row.segments)} of work each time. ${cost(turn, row.active / row.segments)}`,
      place: row.yield_point,
      awaits: row.awaits,
      coroutine: row.coroutine,
      weight: 38 + Math.min(10, row.segments / seconds / 1000),
    }));
}

/** What the loop itself took for each segment, or 0 if that is not known. */
function switching(gain, latest) {
  if (latest.sample_ratio < 1) return 0;
  const own = sum(gain.loops, (row) => row.active) - sum(gain.yield_points, (row) => row.active);
  return Math.max(0, own) / (sum(gain.yield_points, (row) => row.segments) || 1);
}

function cost(turn, work) {
  if (!turn) return "";
  return `To switch to the next task costs the loop ${duration(turn)}${turn >= work ? ", more than the work" : ""}: do more between two awaits.`;
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
      const last = lastAwait(gain, row.coroutine);
      return {
        kind: bad ? "fails" : "cancelled",
        tone: bad ? "bad" : "aside",
        text: `Of ${all} tasks of ${row.coroutine}, ${what.join(", ")}${last ? ", mostly after the await in this line" : ""}. `
          + (row.failed ? "For the exceptions, see the log and what awaits these tasks." : "")
          + (bad ? "" : "That may be normal: timeouts and races cancel tasks."),
        place: last ?? row.coroutine,
        coroutine: row.coroutine,
        weight: bad ? 45 + 10 * (row.failed / all) : 5,
      };
    });
}

/** Where tasks that raised, which the cancelled do too, had mostly waited last. */
function lastAwait(gain, coroutine) {
  const [most] = gain.segment_paths
    .filter((row) => row.coroutine === coroutine && row.ended_at === "(raise)" && row.segments > 0)
    .sort((one, two) => two.segments - one.segments);
  return most && !isPseudo(most.began_at) ? most.began_at : null;
}

function objectives(gain, latest) {
  const promised = new Map(latest.requests.map((row) => [row.request, row.objective_seconds]));
  const blocked = Math.min(1, sum(gain.loops, (row) => row.blocking) / gain.loopSeconds);
  return gain.requests.map((row) => ({ ...row, share: row.violations / counted(row) })).filter((row) => row.share >= LATE).map((row) => ({
    kind: "too slow",
    tone: "warn",
    text: `${row.violations} of ${counted(row)} requests took longer than ${duration(promised.get(row.request) ?? 0)}, their objective. `
      + (row.requests ? `On average they take ${duration(row.wall / row.requests)}, ${duration(row.active / row.requests)} of it on the loop.` : "None has ended.")
      + (mostly(gain, row.request) ? ` They wait most for ${mostly(gain, row.request)}.` : "")
      + (blocked >= OFTEN_BLOCKED ? ` They wait for the loop too: it was blocked for ${percent(blocked)} of the time.` : ""),
    place: row.request,
    request: row.request,
    weight: 10 + 10 * row.share,
  }));
}

/** How many requests there were at least: those that are late count before they end. */
const counted = (row) => Math.max(row.requests, row.violations, 1);

/** What requests of a type wait for most, if they wait. */
export function mostly(gain, request) {
  const [most] = gain.request_waits
    .filter((row) => row.request === request && row.waiting > 0)
    .sort((one, two) => two.waiting - one.waiting);
  return most && awaited(most.awaits);
}

export { percent, place };
