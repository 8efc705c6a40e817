// The numbers of /debug/live as columns: each row has a place that it keeps.

export const FRAMES = "\x1f";

const zero = { count: 0, sum_seconds: 0 };
const STATUSES = ["completed", "failed", "cancelled"];

// Of each table: what names a row, and its numbers that only grow.
export const TABLES = {
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

/** Makes columns of answers, and says once what names each row. */
export class Columns {
  #places = Object.fromEntries(Object.keys(TABLES).map((name) => [name, new Map()]));

  of(answer) {
    const tables = { ...answer, blocks: blocksOf(answer.loops) };
    const columns = {};
    const named = {};
    for (const [name, { names, grows }] of Object.entries(TABLES)) {
      const places = this.#places[name];
      const fields = Object.values(grows);
      named[name] = [];
      const rows = tables[name].map((row) => {
        const values = names.map((field) => (field === "frames" ? row.frames.join(FRAMES) : row[field]));
        const key = values.join("\0");
        if (!places.has(key)) {
          places.set(key, places.size);
          named[name].push({ key, ...Object.fromEntries(names.map((field, number) => [field, values[number]])) });
        }
        return [places.get(key), row];
      });
      const column = new Float64Array(places.size * fields.length);
      for (const [at, row] of rows) {
        fields.forEach((field, number) => { column[at * fields.length + number] = field(row); });
      }
      columns[name] = column;
    }
    const { held, chains, segment_paths, request_waits, ...latest } = answer;
    return { columns, named, latest };
  }
}

function blocksOf(loops) {
  return loops.flatMap(({ loop, block_samples }) =>
    Object.entries(block_samples).map(([place, samples]) => ({ loop, place, samples })));
}
