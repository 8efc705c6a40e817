// The live page: asks for the numbers, keeps their history, and shows an interval of it.

import { Feed } from "/live/feed.js";
import { FlameGraph } from "/live/flame.js";
import { awaited, blockedNow, duration, findings, mostly, percent, rate, stuckRows } from "/live/findings.js";
import { History, compare, framesOf, heldTree, isPseudo, keyOf, place, waitTree, workTree } from "/live/numbers.js";
import { UtilisationChart } from "/live/chart.js";
import { drawTable, element, placeOf } from "/live/table.js";
import { RequestsOfStuck, tasksIn } from "/live/tasks.js";

const ASK_MS = 700;
const SILENT_MS = 3000;
const SILENT_ASK_MS = 2000;
const ROWS = 10;
// What is shown is brought up to date for so long in one frame, so that frames are on time.
const SLICE_MS = 6;
const TASKS = 6;
const NOTES = {
  held: "Coroutine of the task, line that held the loop, what it called. Sampled.",
  waits: "Coroutine of the task, its chain of awaits, what it waits for. Exact; without waits for work.",
  work: "Coroutine of the task, and the chain of awaits at which it gave the loop back. Exact.",
};

const feed = new Feed();
const history = new History();
const requestsOfStuck = new RequestsOfStuck();
const state = {
  interval: "10", chosen: null, paused: false, baseline: null, search: "",
  flame: "held", answeredAt: 0, gain: null, failure: "",
};
const $ = (id) => document.getElementById(id);
const flame = new FlameGraph($("flame"), $("flame-details"), $("flame-reset"));
const chart = new UtilisationChart($("chart"), (from, to) => choose(from, to));

$("service").textContent = location.host;

async function ask() {
  const started = performance.now();
  if (!document.hidden && !state.paused) {
    try {
      history.add(await feed.next());
      state.answeredAt = performance.now();
      state.failure = "";
      if (!state.paused) await show();
    } catch (error) {
      state.failure = String(error.message ?? error);
    }
  }
  showState();
  setTimeout(ask, Math.max(100, (state.failure ? SILENT_ASK_MS : ASK_MS) - (performance.now() - started)));
}

function interval() {
  const last = history.moments.at(-1);
  if (state.interval === "chosen") {
    return [history.at(state.chosen[1]), history.at(state.chosen[0])];
  }
  if (state.interval === "start" || history.moments.length < 2) return [last, null];
  return [last, history.at(last.taken - Number(state.interval))];
}

function choose(from, to) {
  state.chosen = [from, to];
  const option = $("interval").querySelector("[value=chosen]");
  option.hidden = false;
  option.textContent = `${clock(from)} to ${clock(to)}`;
  $("interval").value = state.interval = "chosen";
  show();
}

const clock = (time) => new Date(time * 1000).toLocaleTimeString("en-GB");

let parts = [];
let shown = Promise.resolve();

/** Brings the page up to date, a part after the other; what is being shown is left for the newer. */
function show() {
  if (!history.latest) return shown;
  const gain = history.gained(...interval());
  state.gain = gain;
  const { latest } = history;
  const idle = !parts.length;
  parts = [
    () => showAlarm(latest),
    () => showComparison(),
    () => showFindings(gain, latest),
    () => showLoops(gain, latest),
    () => chart.show(history),
    () => showHeld(gain),
    () => showFlame(gain, latest),
    () => showStuck(latest),
    () => showWaits(gain, latest),
    () => showRequests(gain, latest),
    () => showSegments(gain),
    () => showFailures(gain, latest),
    () => showHealth(latest),
  ];
  if (idle) shown = showParts();
  return shown;
}

// A click is lost if what it was begun on is replaced meanwhile.
let pressed = false;
addEventListener("pointerdown", () => { pressed = true; }, true);
for (const end of ["pointerup", "pointercancel"]) addEventListener(end, () => { pressed = false; }, true);

async function showParts() {
  document.body.ariaBusy = "true";
  try {
    while (parts.length) {
      const began = performance.now();
      while (parts.length && !pressed && performance.now() - began < SLICE_MS) parts.shift()();
      if (parts.length) await new Promise(requestAnimationFrame);
    }
  } finally {
    document.body.ariaBusy = "false";
    parts = [];
  }
}

function showState() {
  const silent = performance.now() - state.answeredAt > SILENT_MS;
  const text = state.paused ? "paused"
    : state.failure && silent ? `no answer: ${state.failure}`
    : state.answeredAt ? "live" : "connecting";
  const node = $("state");
  if (node.textContent !== text) node.textContent = text;
  node.className = state.paused ? "paused" : state.failure && silent ? "bad" : "good";
}

function showAlarm(latest) {
  const blocked = blockedNow(latest, history);
  const node = $("alarm");
  node.hidden = !blocked.length;
  document.title = blocked.length
    ? `BLOCKED: ${location.host}` : `aiometrics ${location.host}`;
  node.replaceChildren(...blocked.map((found) => element("p", {},
    element("strong", {}, `Blocked now, for ${duration(latest.loops.find((loop) => loop.loop === found.loop).running.elapsed_seconds)}: `),
    placeOf(found.place), ` in ${found.coroutine}`)));
}

function matches(...texts) {
  return !state.search || texts.some((text) => text.toLowerCase().includes(state.search));
}

const ofInterval = (gain) => (gain.seconds === null ? "since the start"
  : state.interval === "chosen" ? `in ${duration(gain.seconds)} from ${clock(gain.from)} to ${clock(gain.to)}`
  : `in the last ${duration(gain.seconds)}`);

function showFindings(gain, latest) {
  $("measured").textContent = ofInterval(gain);
  const found = findings(gain, latest, history).filter((row) => matches(row.place ?? "", row.coroutine ?? "", row.kind));
  const list = $("findings");
  const focused = list.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  list.replaceChildren(...found.slice(0, 8).map((row) => {
    const card = element("li", { class: row.tone }, element("span", { class: "kind" }, row.kind));
    const why = element("span", { class: "why" }, [row.text, row.kind === "stuck" || row.kind === "long wait" ? requestsOfStuck.text(row) : ""].join(" ").trim());
    if (!row.place) {
      card.append(why);
      return card;
    }
    const button = element("button", { type: "button", title: "Show its chain and numbers" }, placeOf(row.place));
    button.dataset.key = `${row.kind} ${row.place}`;
    button.addEventListener("click", () => openDetails(row));
    card.append(button, why);
    return card;
  }));
  if (focused) [...list.querySelectorAll("button")].find((node) => node.dataset.key === focused)?.focus();
  if (!found.length) list.append(element("li", { class: "good" }, "Nothing stands out in this interval."));
}

const milliseconds = (seconds) => (seconds * 1e3).toFixed(seconds < 0.0995 ? 2 : 0);

function bar(share) {
  const filled = element("i", {});
  filled.style.width = `${Math.min(100, Math.max(0, share * 100))}%`;
  return element("span", { class: "bar" }, filled, element("b", {}, percent(share)));
}

function showLoops(gain, latest) {
  const gains = new Map(gain.loops.map((row) => [row.loop, row]));
  const rows = latest.loops.map((loop) => ({ ...gains.get(loop.loop), now: loop, key: loop.loop }))
    .filter((row) => matches(row.loop));
  const seconds = gain.wallSeconds;
  drawTable($("loops"), rows, [
    { title: "loop", text: (row) => row.loop + (row.now.process_id ? "" : " (ended)"), name: true },
    { title: "busy", node: (row) => (row.active + row.idle ? bar(row.active / (row.active + row.idle)) : element("span", {}, "-")) },
    { title: "turns/s", text: (row) => rate(row.turns / seconds) },
    { title: "ms/turn", text: (row) => (row.turns ? milliseconds(row.active / row.turns) : "-") },
    { title: "blocked", text: (row) => percent(Math.min(1, row.blocking / seconds)) },
    { title: "start delay ms", text: (row) => (row.starts ? milliseconds(row.startDelay / row.starts) : "-"), wide: true },
    { title: "on CPU", text: (row) => (row.now.thread_cpu_seconds === null ? "-" : percent(row.cpu / seconds)), wide: true },
    { title: "waits for CPU", text: (row) => (row.now.thread_runqueue_seconds === null ? "-" : percent(row.queue / seconds)), wide: true },
    { title: "now", text: (row) => (row.now.running ? `runs ${duration(row.now.running.elapsed_seconds)}` : "idle"), wide: true },
  ]);
}

const ofLoops = { whole: (gain) => gain.loopSeconds, written: (part) => `${(part * 100).toFixed(1)} %` };
const atATime = { whole: (gain) => gain.wallSeconds, written: (part) => part.toFixed(1) };

/** The change since the interval that is compared with, of a number that is seconds per seconds. */
function change(table, value, { whole, written }) {
  if (!state.baseline) return [];
  const before = new Map(state.baseline[table].map((row) => [row.key, value(row) / whole(state.baseline)]));
  return [{
    title: "change",
    text: (row) => {
      const difference = value(row) / whole(state.gain) - (before.get(row.key) ?? 0);
      return (difference > 0 ? "+" : "") + written(difference);
    },
  }];
}

function showHeld(gain) {
  const rows = gain.held.filter((row) => row.active > 0 && matches(row.held_at, row.coroutine))
    .sort((one, two) => two.active - one.active).slice(0, ROWS);
  drawTable($("held"), rows, [
    { title: "share", node: (row) => bar(row.active / gain.loopSeconds) },
    ...change("held", (row) => row.active, ofLoops),
    { title: "seconds", text: (row) => row.active.toFixed(2), wide: true },
    { title: "samples", text: (row) => String(row.samples), wide: true },
    { title: "line, and what it calls", node: (row) => placeOf(row.held_at), name: true, open: openDetails, place: (row) => row.held_at },
    { title: "in tasks of", text: (row) => row.coroutine, name: true, wide: true },
  ]);
}

function showStuck(latest) {
  const rows = stuckRows(latest).filter((row) => matches(row.yield_point, row.coroutine)).slice(0, ROWS);
  drawTable($("stuck"), rows, [
    { title: "oldest", text: (row) => duration(row.age) },
    { title: "usually", text: (row) => (row.ratio ? duration(row.mean) : "never ended") },
    { title: "tasks", text: (row) => String(row.suspended) },
    { title: "waits at", node: (row) => placeOf(row.yield_point), name: true, open: openDetails, place: (row) => row.yield_point },
    { title: "for", text: (row) => awaited(row.awaits), name: true },
    { title: "in tasks of", text: (row) => row.coroutine, name: true, wide: true },
  ], "Nothing has waited for more than 5 s, except for work.");
}

function showWaits(gain, latest) {
  const points = new Map(latest.yield_points.map((row) => [keyOf(row), row]));
  const rows = gain.yield_points
    .filter((row) => row.waits > 0 && !isPseudo(row.yield_point) && !points.get(row.key)?.waits_for_work
      && matches(row.yield_point, row.coroutine, row.awaits))
    .sort((one, two) => two.waiting - one.waiting).slice(0, ROWS);
  const seconds = gain.wallSeconds;
  drawTable($("waits"), rows, [
    { title: "tasks at a time", text: (row) => rate(row.waiting / seconds) },
    ...change("yield_points", (row) => row.waiting, atATime),
    { title: "mean", text: (row) => duration(row.waiting / row.waits) },
    { title: "waits", text: (row) => String(row.waits), wide: true },
    { title: "now", text: (row) => String(points.get(row.key)?.suspended ?? 0), wide: true },
    { title: "waits at", node: (row) => placeOf(row.yield_point), name: true, open: openDetails, place: (row) => row.yield_point },
    { title: "for", text: (row) => awaited(row.awaits), name: true },
    { title: "in tasks of", text: (row) => row.coroutine, name: true, wide: true },
  ]);
}

function showRequests(gain, latest) {
  const now = new Map(latest.requests.map((row) => [row.request, row]));
  const rows = gain.requests.filter((row) => matches(row.request))
    .sort((one, two) => two.violations - one.violations || two.wall - one.wall).slice(0, ROWS);
  const seconds = gain.wallSeconds;
  drawTable($("requests"), rows, [
    { title: "request", text: (row) => row.request, name: true, open: openDetails, place: (row) => row.request },
    { title: "per second", text: (row) => rate(row.requests / seconds) },
    { title: "mean", text: (row) => (row.requests ? duration(row.wall / row.requests) : "-") },
    { title: "objective", text: (row) => (now.get(row.request)?.objective_seconds == null ? "-" : duration(now.get(row.request).objective_seconds)) },
    { title: "too late", node: (row) => element("span", { class: row.violations ? "bad" : "" }, String(row.violations)) },
    { title: "on the loop", text: (row) => (row.requests ? duration(row.active / row.requests) : "-"), wide: true },
    { title: "now", text: (row) => String(now.get(row.request)?.in_progress ?? 0), wide: true },
    { title: "waits most for", text: (row) => mostly(gain, row.request) ?? "nothing", name: true, wide: true },
  ], "No requests: add the middleware, or aiometrics.request().");
}

function showSegments(gain) {
  const rows = gain.segment_paths.filter((row) => row.active > 0 && matches(row.began_at, row.ended_at, row.coroutine))
    .sort((one, two) => two.active - one.active).slice(0, ROWS);
  const seconds = gain.wallSeconds;
  drawTable($("segments"), rows, [
    { title: "share", node: (row) => bar(row.active / gain.loopSeconds) },
    ...change("segment_paths", (row) => row.active, ofLoops),
    { title: "mean", text: (row) => duration(row.active / row.segments) },
    { title: "per second", text: (row) => rate(row.segments / seconds), wide: true },
    { title: "from", node: (row) => placeOf(row.began_at), name: true },
    { title: "to", node: (row) => placeOf(row.ended_at), name: true, open: openDetails, place: (row) => row.ended_at },
    { title: "in tasks of", text: (row) => row.coroutine, name: true, wide: true },
  ]);
}

function showFailures(gain, latest) {
  const live = new Map(latest.coroutines.map((row) => [row.coroutine, row.live]));
  const rows = gain.coroutines
    .filter((row) => row.failed + row.cancelled + row.destroyed > 0 && matches(row.coroutine))
    .sort((one, two) => two.failed - one.failed || two.destroyed - one.destroyed || two.cancelled - one.cancelled)
    .slice(0, ROWS);
  drawTable($("failures"), rows, [
    { title: "failed", node: (row) => element("span", { class: row.failed ? "bad" : "" }, String(row.failed)) },
    { title: "cancelled", text: (row) => String(row.cancelled) },
    { title: "destroyed", text: (row) => String(row.destroyed) },
    { title: "completed", text: (row) => String(row.completed) },
    { title: "alive", text: (row) => String(live.get(row.coroutine) ?? 0), wide: true },
    { title: "task", text: (row) => row.coroutine, name: true, open: openDetails, place: (row) => row.coroutine },
  ], "None in this interval.");
}

function trees(gain, latest) {
  const forWork = new Set(latest.yield_points.filter((row) => row.waits_for_work).map(keyOf));
  return { held: heldTree, waits: (of) => waitTree(of, forWork), work: workTree }[state.flame](gain);
}

function showFlame(gain, latest) {
  flame.show(() => {
    const tree = trees(gain, latest);
    const { baseline } = state;
    if (baseline) compare(tree, trees(baseline, latest), 1 / atATime.whole(gain), 1 / atATime.whole(baseline));
    return tree;
  }, {
    kind: state.flame,
    differs: Boolean(state.baseline),
    search: state.search,
    describe: (name, value, whole) => `${name}: ${duration(value)}, ${percent(value / (whole || 1))}`,
  });
  $("flame-note").textContent = state.baseline
    ? "Red takes more time per second than in the interval compared with, blue less."
    : NOTES[state.flame];
}

function showComparison() {
  const node = $("comparison");
  node.hidden = !state.baseline;
  if (state.baseline) {
    const { from, to } = state.baseline;
    node.textContent = `Compared with ${from ? clock(from) : "the start"} to ${clock(to)}. Press b to end it.`;
  }
}

function showHealth(latest) {
  const problems = Object.entries({ ...latest.errors, ...latest.overflow }).filter(([, count]) => count > 0);
  const untraced = latest.untraced_tasks ? [`${latest.untraced_tasks} tasks are not traced`] : [];
  $("health").textContent = [
    `aiometrics ${latest.version} (${latest.implementation})`,
    ...(latest.sample_ratio < 1 ? [`traces one task in ${Math.round(1 / latest.sample_ratio)}`] : []),
    ...untraced, ...problems.map(([kind, count]) => `${kind}: ${count}`),
  ].join(" · ");
}

/** The frames from the task to a place, by the await chain through its function that took most. */
function stepsTo(coroutine, text, awaits) {
  const [line, callee] = text.split(" > ");
  const { name } = place(line);
  const chains = state.gain.chains
    .filter((row) => row.coroutine === coroutine && row.frames && (awaits === undefined || row.awaits === awaits))
    .map((row) => ({ frames: framesOf(row), much: row.waiting + row.active }))
    .map((row) => ({ ...row, at: row.frames.findLastIndex((frame) => frame === line || place(frame).name === name) }))
    .filter((row) => row.at >= 0)
    .sort((one, two) => two.much - one.much);
  const outer = chains.length ? chains[0].frames.slice(0, chains[0].at) : [];
  return [coroutine, ...outer, line, awaits ?? callee].filter((step, number) => step && (number === 0 || step !== coroutine));
}

const chainOf = (steps) => element("ol", { class: "chain" }, ...steps.map((step) => element("li", {}, placeOf(step))));

function openDetails(row) {
  const text = row.place ?? row.held_at ?? row.yield_point ?? row.ended_at ?? row.request ?? row.coroutine;
  const { gain } = state;
  const same = (other) => other.coroutine === row.coroutine;
  $("details-title").replaceChildren(placeOf(text));
  const body = $("details-body");
  body.replaceChildren();
  if (row.text) body.append(element("p", {}, row.text));
  if (row.request !== undefined) {
    section(body, "What these requests wait for", gain.request_waits.filter((other) => other.request === row.request && other.waiting > 0)
      .sort((one, two) => two.waiting - one.waiting), [
      { title: "waiting", text: (other) => duration(other.waiting) },
      { title: "for", text: (other) => awaited(other.awaits), name: true },
    ]);
  } else {
    body.append(element("h3", {}, "Chain, from the task to the line"), chainOf(stepsTo(row.coroutine, text, row.awaits)));
    const live = element("div", { id: "tasks", "aria-live": "polite" });
    body.append(live);
    showTasks(live, row.coroutine, place(text).name);
    section(body, "Where tasks of this coroutine wait", gain.yield_points.filter((other) => same(other) && other.waits > 0 && !isPseudo(other.yield_point))
      .sort((one, two) => two.waiting - one.waiting), [
      { title: "mean", text: (other) => duration(other.waiting / other.waits) },
      { title: "waits", text: (other) => String(other.waits) },
      { title: "at", node: (other) => placeOf(other.yield_point), name: true },
      { title: "for", text: (other) => awaited(other.awaits), name: true },
    ]);
    section(body, "Which lines of it hold the loop", gain.held.filter((other) => same(other) && other.active > 0)
      .sort((one, two) => two.active - one.active), [
      { title: "seconds", text: (other) => other.active.toFixed(2) },
      { title: "line", node: (other) => placeOf(other.held_at), name: true },
    ]);
    section(body, "Between which awaits it works", gain.segment_paths.filter((other) => same(other) && other.active > 0)
      .sort((one, two) => two.active - one.active), [
      { title: "mean", text: (other) => duration(other.active / other.segments) },
      { title: "count", text: (other) => String(other.segments) },
      { title: "from", node: (other) => placeOf(other.began_at), name: true },
      { title: "to", node: (other) => placeOf(other.ended_at), name: true },
    ]);
  }
  $("details").showModal();
}

/** The tasks of a coroutine that are in a function now, with their chains, the oldest first. */
async function showTasks(parent, coroutine, name) {
  const found = await tasksIn(coroutine, name);
  if (!found.length) return;
  parent.append(element("h3", {}, `Tasks that are there now: ${found.length}`), ...found.slice(0, TASKS).map((task) => element("div", { class: "task" },
    element("p", {}, [
      task.name ?? task.coroutine,
      task.age_seconds === null ? "" : `${task.adopted ? "over " : ""}${duration(task.age_seconds)} old`,
      task.state_seconds === null ? "" : `${task.state} for ${duration(task.state_seconds)}`,
      task.request ? `works for ${task.request.type} ${task.request.id ?? ""}` : "",
      task.parent?.coroutine ? `created by ${task.parent.coroutine}` : "",
    ].filter(Boolean).join(", ")),
    chainOf([...task.chain, task.awaits].filter(Boolean)))));
}

function section(body, title, rows, columns) {
  const node = element("div", { class: "table" });
  body.append(element("h3", {}, title), node);
  drawTable(node, rows.slice(0, ROWS), columns);
}

function togglePause() {
  state.paused = !state.paused;
  $("pause").setAttribute("aria-pressed", state.paused);
  showState();
}

function toggleComparison() {
  if (!state.gain) return;
  state.baseline = state.baseline ? null : state.gain;
  $("compare").setAttribute("aria-pressed", Boolean(state.baseline));
  flame.thaw();
  show();
}

function chooseFlame(kind) {
  state.flame = kind;
  for (const name of Object.keys(NOTES)) $(`flame-${name}`).setAttribute("aria-pressed", name === kind);
  flame.thaw();
  show();
}

$("pause").addEventListener("click", togglePause);
$("compare").addEventListener("click", toggleComparison);
$("flame-held").addEventListener("click", () => chooseFlame("held"));
$("flame-work").addEventListener("click", () => chooseFlame("work"));
$("flame-waits").addEventListener("click", () => chooseFlame("waits"));
$("flame-reset").addEventListener("click", () => { flame.thaw(); show(); });
$("interval").addEventListener("change", (event) => { state.interval = event.target.value; show(); });
$("search").addEventListener("input", (event) => { state.search = event.target.value.trim().toLowerCase(); show(); });
$("controls").addEventListener("submit", (event) => event.preventDefault());
addEventListener("resize", () => { flame.thaw(); chart.resize(); show(); });
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("details").open || /^(INPUT|SELECT)$/.test(event.target.tagName)) return;
  const actions = { "/": () => $("search").focus(), p: togglePause, b: toggleComparison, 0: () => $("flame-reset").click() };
  if (actions[event.key]) {
    event.preventDefault();
    actions[event.key]();
  }
});
$("details").addEventListener("click", (event) => { if (event.target === $("details")) $("details").close(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { flame.thaw(); chart.restyle(); show(); });

ask();
