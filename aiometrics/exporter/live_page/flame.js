// The flame graph, drawn by d3-flame-graph: colours, keys, and standing still while it is looked at.

/* global d3, flamegraph */

const DRAWN_MS = 2000;

export class FlameGraph {
  #parent; #details; #reset; #graph; #zoomed = false; #visible = false; #drawnAt = -Infinity; #shown = ""; #tree;

  constructor(parent, details, reset) {
    [this.#parent, this.#details, this.#reset] = [parent, details, reset];
    new IntersectionObserver((entries) => { this.#visible = entries.at(-1).isIntersecting; }).observe(parent);
  }

  /** Draws the tree of a function, unless it was a moment ago, nobody can see it, or somebody looks at it. */
  show(treeOf, { kind: of, differs, search, describe }) {
    const kind = `${of} ${differs} ${search}`;
    const looks = this.#zoomed || this.#parent.contains(document.activeElement) || this.#parent.matches(":hover");
    const recent = performance.now() - this.#drawnAt < DRAWN_MS;
    if (kind === this.#shown && (looks || recent || !this.#visible)) return;
    this.#shown = kind;
    this.#drawnAt = performance.now();
    this.#tree = treeOf();
    this.#draw(differs, search, describe);
  }

  /** Lets the next tree be drawn, as nothing is zoomed any more. */
  thaw() {
    this.#zoomed = false;
    this.#reset.disabled = true;
    this.#shown = "";
  }

  #draw(differs, search, describe) {
    const colours = palette();
    const most = Math.max(1e-12, ...descendants(this.#tree).map((node) => Math.abs(node.delta ?? 0)));
    this.#graph = flamegraph.default()
      .width(this.#parent.clientWidth)
      .cellHeight(22)
      .minFrameSize(1)
      .transitionDuration(0)
      .inverted(true)
      .sort((one, two) => two.value - one.value)
      .getName((node) => node.data.name)
      .setLabelHandler((node) => describe(node.data.name, node.data.value, this.#tree.value))
      .setDetailsHandler((text) => { this.#details.textContent = text ?? ""; })
      .setColorMapper((node) => colourOf(node, colours, differs, most, search))
      .onClick((node) => this.#onZoom(node));
    this.#parent.replaceChildren();
    d3.select(this.#parent).datum(this.#tree).call(this.#graph);
    this.#addKeys(describe);
    this.#parent.classList.toggle("empty", this.#tree.value <= 0);
  }

  #onZoom(node) {
    this.#zoomed = Boolean(node.parent);
    this.#reset.disabled = !this.#zoomed;
    this.#addKeys();
  }

  /** One frame can be reached by Tab, the others from there by arrows; Enter zooms. */
  #addKeys() {
    const frames = d3.select(this.#parent).selectAll("g.frame");
    frames.attr("role", "button").attr("tabindex", (node) => (node.parent ? -1 : 0))
      .attr("aria-label", (node) => this.#graph.setLabelHandler()(node))
      .on("focus", (_, node) => { this.#details.textContent = this.#graph.setLabelHandler()(node); })
      .on("keydown", (event, node) => this.#onKey(event, node));
  }

  #onKey(event, node) {
    const siblings = node.parent?.children ?? [node];
    const place = siblings.indexOf(node);
    const target = {
      ArrowUp: node.parent, ArrowDown: node.children?.[0],
      ArrowLeft: siblings[place - 1], ArrowRight: siblings[place + 1],
    }[event.key];
    if (event.key === "Enter" || event.key === " ") {
      event.currentTarget.dispatchEvent(new MouseEvent("click", { bubbles: true }));
    } else if (target) {
      d3.select(this.#parent).selectAll("g.frame").filter((other) => other === target).node()?.focus();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }
}

function descendants(node) {
  return [node, ...node.children.flatMap(descendants)];
}

function palette() {
  const style = getComputedStyle(document.documentElement);
  const names = ["frame-root", "frame-task", "frame-line", "frame-callee", "frame-found", "more", "less", "same"];
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

function colourOf(node, colours, differs, most, search) {
  const { name, delta } = node.data;
  if (search && name.toLowerCase().includes(search)) return colours["frame-found"];
  if (differs) {
    return d3.interpolateRgb(colours.same, delta > 0 ? colours.more : colours.less)(Math.sqrt(Math.abs(delta) / most));
  }
  return colours[["frame-root", "frame-task", "frame-line"][node.depth] ?? "frame-callee"];
}
