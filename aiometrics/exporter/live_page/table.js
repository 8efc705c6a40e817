// Elements and tables. Names come from the program, so they are only ever set as text.

import { place } from "/live/numbers.js";

export function element(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** A place with its function first to the eye, and its file where it can be looked up. */
export function placeOf(text) {
  const { folder, line, name, callee } = place(text);
  const node = element("span", { class: "place" });
  if (line) node.append(element("span", { class: "folder" }, ...breakable(folder)), element("span", { class: "line" }, line), " ");
  node.append(element("span", { class: "function" }, ...breakable(name)));
  if (callee) node.append(element("span", { class: "callee" }, " calls ", element("span", {}, ...breakable(callee))));
  return node;
}

/** A name that may be broken after its dots and slashes. */
export function breakable(name) {
  return name.split(/(?<=[./])/).flatMap((part) => [part, element("wbr", {})]);
}

/**
 * Shows rows, each with a key. Nodes of rows that stay are kept, so that focus and selection are.
 * A column has a title and text(row) or node(row); open(row) makes it a button.
 */
export function drawTable(parent, rows, columns, empty = "Nothing in this interval.") {
  const titles = columns.map((column) => column.title).join("\0");
  if (parent.dataset.titles !== titles || !rows.length) {
    parent.dataset.titles = rows.length ? titles : "";
    parent.replaceChildren(rows.length ? skeleton(columns) : element("p", { class: "note" }, empty));
    parent.rows = new Map();
  }
  if (!rows.length) return;
  const body = parent.querySelector("tbody");
  const kept = new Map();
  rows.forEach((row, number) => {
    const held = parent.rows.get(row.key) ?? { line: element("tr", {}), texts: [] };
    fill(held, row, columns);
    if (body.children[number] !== held.line) body.insertBefore(held.line, body.children[number] ?? null);
    kept.set(row.key, held);
  });
  while (body.children.length > rows.length) body.lastChild.remove();
  parent.rows = kept;
}

function skeleton(columns) {
  const heads = columns.map((column) => element("th", { scope: "col", class: classOf(column) }, column.title));
  return element("table", {}, element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}));
}

const classOf = (column) => [column.name ? "name" : "number", column.wide ? "wide" : ""].join(" ").trim();

function fill(held, row, columns) {
  held.row = row;
  columns.forEach((column, number) => {
    const text = column.node ? null : column.text(row);
    if (text !== null && held.texts[number] === text) return;
    const shown = column.node ? column.node(row) : element("span", {}, ...(column.name ? breakable(text) : [text]));
    if (held.texts[number] === shown.textContent) return;
    held.texts[number] = shown.textContent;
    let content = shown;
    if (column.open) {
      content = element("button", { type: "button" }, shown);
      content.addEventListener("click", () => column.open(held.row));
    }
    const cell = element("td", { class: classOf(column) }, content);
    if (held.line.children[number]) held.line.children[number].replaceWith(cell);
    else held.line.append(cell);
  });
}
