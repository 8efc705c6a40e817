// Live tasks, which the service lists on demand: that costs more than the numbers of /debug/live.

import { place } from "/live/numbers.js";

const AGAIN_MS = 30000;

/** The tasks of a coroutine that are in a function now, the oldest first; none if there is no answer. */
export async function tasksIn(coroutine, name) {
  try {
    const response = await fetch("/debug/tasks?format=json&limit=1000", { cache: "no-store" });
    const { tasks } = response.ok ? await response.json() : { tasks: [] };
    return tasks.filter((task) => task.coroutine === coroutine && task.chain.some((frame) => place(frame).name === name));
  } catch {
    return [];
  }
}

/** For which requests stuck tasks work. It asks now and then, and tells what it knows. */
export class RequestsOfStuck {
  #known = new Map();

  text({ coroutine, place: at }) {
    const key = `${coroutine}\0${at}`;
    const known = this.#known.get(key) ?? { text: "", askedAt: -Infinity };
    this.#known.set(key, known);
    if (performance.now() - known.askedAt >= AGAIN_MS) {
      known.askedAt = performance.now();
      tasksIn(coroutine, place(at).name).then((tasks) => { known.text = ofRequests(tasks); });
    }
    return known.text;
  }
}

function ofRequests(tasks) {
  const types = [...new Set(tasks.map((task) => task.request?.type).filter(Boolean))];
  return types.length ? `They work for ${types.join(", ")}.` : "";
}
