// Small helpers: elements, and the API.
const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child != null && child !== false));
  return node;
}

export const element = (tag, attributes = {}, ...children) =>
  fill(document.createElement(tag), attributes, children);

export const drawn = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS(SVG, tag), attributes, children);

export const by = (id) => document.getElementById(id);

// A table of rows; cells are texts or elements, columns {title, number}.
export function table(columns, rows, attributes = {}) {
  const classes = (column) => ({ class: column.number ? "number" : null });
  return element("table", attributes,
    element("thead", {}, element("tr", {},
      columns.map((column) => element("th", { scope: "col", ...classes(column) }, column.title)))),
    element("tbody", {}, rows.map((cells) => element("tr", {},
      cells.map((cell, i) => element("td", { ...classes(columns[i]), "data-title": columns[i].title }, cell ?? "–"))))));
}

export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

// Asks the API; what it refuses becomes an error with its own words. A file goes as the
// CSV table that it is, anything else as JSON.
export async function ask(path, { method = "GET", body } = {}) {
  const options = { method, headers: {} };
  if (body instanceof Blob) {
    options.headers["Content-Type"] = "text/csv";
    options.body = body;
  } else if (body !== undefined) {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  const answer = await fetch(path, options);
  if (!answer.ok) {
    const problem = await answer.json().catch(() => ({}));
    throw new Refused(answer.status, problem.detail ?? answer.statusText);
  }
  const text = await answer.text();
  return text ? JSON.parse(text) : null;
}

const STAGES = ["#45b8a6", "#8fbf57", "#d9b84a", "#ee9350", "#e8647a"];

// A colour for a class such as "F2-F4": teal for no scar, red for cirrhosis.
export function colour(stages) {
  const [from, to = from] = stages.split("-").map((stage) => Number(stage.slice(1)));
  const middle = (from + to) / 2;
  return STAGES[middle < 2 ? Math.floor(middle) : Math.ceil(middle)] ?? STAGES[2];
}
