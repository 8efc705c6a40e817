// History of the numbers in /debug/live, and what happened between two moments of it.

const zero = { count: 0, sum_seconds: 0 };
const FRAMES = "\x1f";
const STATUSES = ["completed", "failed", "cancelled"];

// Of each table: what names a row, and its numbers that only grow.
const TABLES = {
  loops: {
    names: ["loop"],
    grows: {
      active: (r) => r.active_seconds,
      idle: (r) => r.idle_seconds ?? 0,
      turns: (r) => r.iterations.count,
      starts: (r) => r.start_delays.count,
      startDelay: (r) => r.start_delays.sum_seconds,
      blocking: (r) => r.blocking_seconds,
      cpu: (r) => r.thread_cpu_seconds ?? 0,
      queue: (r) => r.thread_runqueue_seconds ?? 0,
      gc: (r) => r.gc_pause_seconds,
      unhandled: (r) => r.unhandled_exceptions,
    },
  },
  blocks: { names: ["loop", "place"], grows: { samples: (r) => r.samples } },
  held: {
    names: ["coroutine", "held_at"],
    grows: { samples: (r) => r.samples, active: (r) => r.active_seconds },
  },
  yield_points: {
    names: ["coroutine", "yield_point", "awaits"],
    grows: {
      segments: (r) => r.segments.count,
      active: (r) => r.segments.sum_seconds,
      waits: (r) => r.waits.count,
      waiting: (r) => r.waits.sum_seconds,
      blocking: (r) => r.blocking_seconds,
      inflicted: (r) => r.inflicted_wait_seconds,
    },
  },
  chains: {
    names: ["coroutine", "frames", "yield_point", "awaits"],
    grows: { waiting: (r) => r.waits.sum_seconds, active: (r) => r.active_seconds },
  },
  segment_paths: {
    names: ["coroutine", "began_at", "ended_at"],
    grows: { segments: (r) => r.segments, active: (r) => r.active_seconds },
  },
  coroutines: {
    names: ["coroutine"],
    grows: {
      created: (r) => r.created,
      destroyed: (r) => r.destroyed_pending,
      ...Object.fromEntries(STATUSES.map((s) => [s, (r) => (r.wall[s] ?? zero).count])),
    },
  },
  requests: {
    names: ["request"],
    grows: {
      violations: (r) => r.violations,
      requests: (r) => sum(Object.values(r.wall), (w) => w.count),
      wall: (r) => sum(Object.values(r.wall), (w) => w.sum_seconds),
      active: (r) => r.active.sum_seconds,
      failed: (r) => (r.wall.failed ?? zero).count,
      background: (r) => r.background_seconds,
    },
  },
  request_waits: { names: ["request", "awaits"], grows: { waiting: (r) => r.wait_seconds } },
};

export function sum(rows, value) {
  let total = 0;
  for (const row of rows) total += value(row);
  return total;
}

/** Keeps each second of the last two minutes, and one in ten of the last half hour. */
export class History {
  #index = Object.fromEntries(Object.keys(TABLES).map((name) => [name, new Map()]));
  #moments = [];
  latest = null;

  add(answer) {
    answer.blocks = answer.loops.flatMap((row) =>
      Object.entries(row.block_samples).map(([place, samples]) => ({
        loop: row.loop, place, samples,
      })),
    );
    const columns = {};
    for (const [name, { names, grows }] of Object.entries(TABLES)) {
      const index = this.#index[name];
      const fields = Object.values(grows);
      const rows = answer[name].map((row) => {
        const values = names.map((field) => [row[field]].flat().join(FRAMES));
        const key = values.join("\0");
        if (!index.has(key)) {
          const named = Object.fromEntries(names.map((field, number) => [field, values[number]]));
          index.set(key, { at: index.size, named: { key, ...named } });
        }
        return [index.get(key).at, row];
      });
      const column = new Float64Array(index.size * fields.length);
      for (const [at, row] of rows) {
        fields.forEach((field, number) => { column[at * fields.length + number] = field(row); });
      }
      columns[name] = column;
    }
    const moment = { taken: answer.taken_timestamp_seconds, columns };
    const [before, last] = this.#moments.slice(-2);
    if (last && before && last.taken - before.taken < 1) this.#moments.pop();
    this.#moments.push(moment);
    this.latest = answer;
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

  /** What each row gained from one moment to another; from the start without an earlier one. */
  gained(later, earlier) {
    const tables = Object.fromEntries(
      Object.keys(TABLES).map((name) => [name, this.#gainedRows(name, later, earlier)]),
    );
    const seconds = earlier ? later.taken - earlier.taken : null;
    // Some segments began before the interval, so they may be longer than it.
    const running = tables.loops.filter((row) => row.active + row.idle > 0).length || 1;
    const loopSeconds = Math.max(
      (seconds ?? 0) * running,
      sum(tables.held, (row) => row.active),
      seconds === null ? sum(tables.loops, (row) => row.active + row.idle) : 0,
      1e-9,
    );
    return { from: earlier?.taken ?? null, to: later.taken, seconds, loopSeconds, ...tables };
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
    for (const { at, named } of this.#index[name].values()) {
      const first = at * fields.length;
      if (first >= now.length) break;
      const row = { ...named };
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
