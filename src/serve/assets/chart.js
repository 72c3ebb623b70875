// Lines of probability over windows, on a canvas.
import { colour } from "./dom.js";

// Draws [{x, p: [..], gap}] for the classes; x rises.
export function draw(canvas, classes, points, { seconds = true } = {}) {
  const ratio = devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (!width || !height) return;
  if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
  if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
  const style = getComputedStyle(document.documentElement);
  const [ink, grid] = [style.getPropertyValue("--faint"), style.getPropertyValue("--line")];
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.font = "11px system-ui, sans-serif";
  const [left, right, top, bottom] = [34, 6, 6, 16];
  const y = (p) => top + (1 - p) * (height - top - bottom);
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  for (const p of [0, 0.5, 1]) {
    pen.strokeStyle = grid;
    pen.beginPath();
    pen.moveTo(left, y(p) + 0.5);
    pen.lineTo(width - right, y(p) + 0.5);
    pen.stroke();
    pen.fillStyle = ink;
    pen.fillText(`${100 * p}%`, left - 4, y(p));
  }
  if (!points.length) return;
  const [from, to] = [points[0].x, Math.max(points.at(-1).x, points[0].x + (seconds ? 10 : 1))];
  const x = (value) => left + ((value - from) / (to - from)) * (width - left - right);
  pen.textBaseline = "bottom";
  const label = (value) => (seconds ? `${Math.round(value)} s` : `${value}`);
  pen.fillText(label(to), width - right, height);
  pen.textAlign = "left";
  pen.fillText(label(from), left, height);
  classes.forEach((name, k) => {
    pen.strokeStyle = pen.fillStyle = colour(name);
    pen.lineWidth = 1.8;
    pen.beginPath();
    points.forEach((point, i) => {
      const broken = i === 0 || point.gap !== points[i - 1].gap;
      if (broken) pen.moveTo(x(point.x), y(point.p[k]));
      else pen.lineTo(x(point.x), y(point.p[k]));
    });
    pen.stroke();
    const last = points.at(-1);
    pen.beginPath();
    pen.arc(x(last.x), y(last.p[k]), 2.8, 0, 7);
    pen.fill();
  });
}
