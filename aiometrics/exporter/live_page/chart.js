// The share of the time in which each loop was busy, drawn by uPlot.

/* global uPlot */

const HEIGHT = 150;
const SHOWN_SECONDS = 120;
const MOST_LOOPS = 6;

export class UtilisationChart {
  #parent; #onChoice; #plot = null; #loops = ""; #data = null;

  constructor(parent, onChoice) {
    [this.#parent, this.#onChoice] = [parent, onChoice];
  }

  show(history) {
    const { moments, latest } = history;
    const shown = moments.filter(({ taken }) => taken >= latest.taken_timestamp_seconds - SHOWN_SECONDS);
    const loops = latest.loops.slice(0, MOST_LOOPS).map((row) => row.loop);
    this.#data = series(history, shown, loops);
    if (this.#loops !== loops.join("\0")) this.#make(loops);
    else this.#plot.setData(this.#data);
  }

  resize() {
    this.#plot?.setSize({ width: this.#parent.clientWidth, height: HEIGHT });
  }

  restyle() {
    this.#loops = "";
  }

  #make(loops) {
    this.#plot?.destroy();
    this.#loops = loops.join("\0");
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    const axis = { stroke: colour("quiet"), grid: { stroke: colour("rule"), width: 1 }, ticks: { show: false } };
    this.#plot = new uPlot({
      width: this.#parent.clientWidth,
      height: HEIGHT,
      legend: { live: false },
      cursor: { drag: { x: true, y: false, setScale: false } },
      scales: { y: { range: [0, 100] } },
      axes: [{ ...axis, size: 30, space: 80, values: (_, times) => times.map(clock) }, { ...axis, size: 48, values: (_, values) => values.map((value) => `${value} %`) }],
      series: [{ value: (_, time) => (time ? clock(time) : "") }, ...loops.map((label, number) => ({
        label, stroke: colour(`loop-${number}`), width: 2, points: { show: false },
        fill: loops.length === 1 ? colour("loop-fill") : undefined,
        value: (_, value) => (value == null ? "-" : `${value.toFixed(0)} %`),
      })), {
        label: "blocked", stroke: colour("bad"), fill: colour("bad-fill"), width: 1, points: { show: false },
        value: (_, value) => (value == null ? "-" : `${value.toFixed(0)} %`),
      }],
      hooks: {
        setSelect: [(plot) => {
          if (plot.select.width < 4) return;
          this.#onChoice(plot.posToVal(plot.select.left, "x"), plot.posToVal(plot.select.left + plot.select.width, "x"));
          plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
        }],
      },
    }, this.#data, this.#parent);
  }
}

const clock = (time) => new Date(time * 1000).toLocaleTimeString("en-GB");

function series(history, moments, loops) {
  const times = [];
  const shares = loops.map(() => []);
  const blocked = [];
  for (let number = 1; number < moments.length; number += 1) {
    const gain = history.gainedLoops(moments[number], moments[number - 1]);
    const seconds = moments[number].taken - moments[number - 1].taken;
    times.push(moments[number].taken);
    blocked.push(Math.min(100, Math.max(0, ...loops.map((loop) => (100 * (gain.get(loop)?.blocking ?? 0)) / seconds))));
    loops.forEach((loop, at) => {
      const row = gain.get(loop);
      const all = row ? row.active + row.idle : 0;
      shares[at].push(all > 0 ? (100 * row.active) / all : null);
    });
  }
  return [times, ...shares, blocked];
}
