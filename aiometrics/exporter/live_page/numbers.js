// History of the numbers in /debug/live, and what happened between two moments of it.

import { FRAMES, TABLES, sum } from "/live/columns.js";

/** Keeps each second of the last two minutes, and one in ten of the last half hour. */
export class History {
  #named = Object.fromEntries(Object.keys(TABLES).map((name) => [name, []]));
  #moments = [];
  latest = null;

  /** Takes what Columns made of an answer. */
  add({ columns, named, latest }) {
    for (const [name, rows] of Object.entries(named)) this.#named[name].push(...rows);
    const moment = { taken: latest.taken_timestamp_seconds, columns };
    const [before, last] = this.#moments.slice(-2);
    if (last && before && last.taken - before.taken < 1) this.#moments.pop();
    this.#moments.push(moment);
    this.latest = latest;
    this.#thin(moment.taken);
  }

  #thin(now) {
    let kept = -Infinity;
    this.#moments = this.#moments.filter(({ taken }) => {
      if (now - taken > 1800 || (now - taken > 120 && taken - kept < 10)) return false;
      kept = taken;
      return true;
    });
  }

  get moments() {
    return this.#moments;
  }

  /** The last moment at or before a time, or the first one. */
  at(time) {
    return this.#moments.findLast(({ taken }) => taken <= time) ?? this.#moments[0];
  }

  /**
   * What each row gained from one moment to another; from the start without an earlier one, which is
   * as long ago as the loop is old that has run longest. A table is made when it is first looked at,
   * since each takes time.
   */
  gained(later, earlier) {
    const gain = { from: earlier?.taken ?? null, to: later.taken, seconds: earlier ? later.taken - earlier.taken : null };
    for (const name of Object.keys(TABLES)) {
      let rows = null;
      Object.defineProperty(gain, name, { get: () => (rows ??= this.#gainedRows(name, later, earlier)) });
    }
    gain.loopsRun = gain.loops.filter((row) => row.active + row.idle > 0).length || 1;
    gain.wallSeconds = gain.seconds ?? Math.max(1e-9, ...gain.loops.map((row) => row.active + row.idle));
    gain.loopSeconds = loopSeconds(gain);
    return gain;
  }

  /** What each loop gained, by its name. */
  gainedLoops(later, earlier) {
    return new Map(this.#gainedRows("loops", later, earlier).map((row) => [row.loop, row]));
  }

  #gainedRows(name, later, earlier) {
    const fields = Object.keys(TABLES[name].grows);
    const now = later.columns[name];
    const old = earlier?.columns[name] ?? [];
    const rows = [];
    for (let first = 0; first < now.length; first += fields.length) {
      const row = { ...this.#named[name][first / fields.length] };
      for (let number = 0; number < fields.length; number += 1) {
        const is = now[first + number];
        const was = old[first + number] ?? 0;
        row[fields[number]] = is >= was ? is - was : is;
      }
      rows.push(row);
    }
    return rows;
  }
}

/** The time of all loops that the shares are of. */
function loopSeconds({ seconds, loops, held, loopsRun }) {
  // Some segments began before the interval, so they may be longer than it.
  return Math.max(
    (seconds ?? 0) * loopsRun,
    sum(held, (row) => row.active),
    seconds === null ? sum(loops, (row) => row.active + row.idle) : 0,
    1e-9,
  );
}

/** A place such as "shop/db.py:42 Pool.get > asyncpg.connect" in its parts. */
export function place(text) {
  const match = /^(.*?)([^/\s]+:\d+) (.*?)(?: > (.*))?$/s.exec(text);
  if (!match) return { folder: "", line: "", name: text, callee: "" };
  const [, folder, line, name, callee = ""] = match;
  return { folder, line, name, callee };
}

/** Whether a name stands for no line of code, such as (return). */
export const isPseudo = (name) => name.startsWith("(");

function child(node, name, value) {
  let found = node.byName.get(name);
  if (!found) {
    found = { name, value: 0, children: [], byName: new Map() };
    node.byName.set(name, found);
    node.children.push(found);
  }
  found.value += value;
  return found;
}

function tree(title, rows, path, value) {
  const root = { name: title, value: 0, children: [], byName: new Map() };
  for (const row of rows) {
    const seconds = value(row);
    if (seconds <= 0) continue;
    root.value += seconds;
    let node = root;
    for (const name of path(row)) node = child(node, name, seconds);
  }
  return root;
}

/** The time on the loop by coroutine, line and what the line called. */
export const heldTree = (gain) =>
  tree("on the loop", gain.held, (row) => [row.coroutine, ...row.held_at.split(" > ")], (row) => row.active);

/** The time of waiting tasks by coroutine, await chain and what they awaited. */
export const waitTree = (gain, forWork) =>
  tree(
    "waiting",
    gain.chains.filter((row) => !forWork.has(keyOf(row)) && !isPseudo(row.yield_point)),
    (row) => [row.coroutine, ...framesOf(row), row.awaits],
    (row) => row.waiting,
  );

/** The time on the loop by coroutine and the await chain at which it was given back. */
export const workTree = (gain) =>
  tree("on the loop", gain.chains, (row) => [row.coroutine, ...framesOf(row)], (row) => row.active);

/** The places of an await chain, outermost first; the yield point where there is none. */
export const framesOf = (row) => (row.frames ? row.frames.split(FRAMES) : [row.yield_point]);

/** What names a yield point. */
export const keyOf = (row) => [row.coroutine, row.yield_point, row.awaits].join("\0");

/** Marks each node with what it has more per second than in the other tree. */
export function compare(node, other, scale, otherScale) {
  node.delta = node.value * scale - (other ? other.value * otherScale : 0);
  for (const below of node.children) {
    compare(below, other?.byName.get(below.name), scale, otherScale);
  }
  return node;
}
