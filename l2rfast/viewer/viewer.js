"use strict";
// The scans of a registration, linked: fixed against another in the large view, and each by itself below it.

const about = JSON.parse(document.getElementById("about").textContent);
const element = (id) => document.getElementById(id);
const AXES = [[0, 1, 2], [0, 2, 1], [1, 2, 0]]; // across, up and through: axial, coronal, sagittal
const COLOURS = { fixed_labels: "#f4c26b", warped_labels: "#5fd3bc", grid: "#5fd3bc", folds: "#ff2d3f" };
const SQUARES = 14; // of the checkerboard, along the longest axis
const LINES = 28; // of the grid, likewise

async function unpacked(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

function decoded(id) {
  const text = atob(element(id).textContent.trim());
  return Uint8Array.from(text, (letter) => letter.charCodeAt(0));
}

// A file of NIfTI: its numbers, x first, and how they are scaled.
class Volume {
  constructor(name, buffer) {
    const header = new DataView(buffer);
    const kinds = { 2: Uint8Array, 4: Int16Array, 8: Int32Array, 16: Float32Array };
    this.buffer = buffer;
    this.size = [1, 2, 3].map((k) => header.getInt16(40 + 2 * k, true));
    this.slope = header.getFloat32(112, true) || 1;
    this.inter = header.getFloat32(116, true);
    this.data = new kinds[header.getInt16(70, true)](buffer, header.getFloat32(108, true));
    this.step = about.steps[name];
    this.spacing = [0, 1, 2].map((axis) => Math.hypot(...[0, 1, 2].map((row) => header.getFloat32(280 + 16 * row + 4 * axis, true))));
    this.count = this.size[0] * this.size[1] * this.size[2];
  }

  // Where a voxel lies, in those of the whole grid, along an axis; and back.
  place(axis, number) {
    return this.step[axis] * number + (this.step[axis] - 1) / 2;
  }

  nearest(axis, place) {
    const number = Math.round((place - (this.step[axis] - 1) / 2) / this.step[axis]);
    return Math.min(Math.max(number, 0), this.size[axis] - 1);
  }

  at(voxel, part = 0) {
    const [nx, ny] = this.size;
    const place = voxel[0] + nx * (voxel[1] + ny * voxel[2]) + part * this.count;
    return this.data[place] * this.slope + this.inter;
  }

  // From 0 to 255 within a window.
  grey([low, high]) {
    const scale = 255 / (high - low || 1);
    const grey = new Uint8ClampedArray(this.count);
    for (let i = 0; i < this.count; i++) grey[i] = (this.data[i] * this.slope + this.inter - low) * scale;
    return grey;
  }
}

// A file with squares of fixed and of another image, of the same size in millimetres along all axes.
function checkerboard(name) {
  const [one, other] = [volumes.fixed, volumes[name]], [nx, ny, nz] = one.size;
  const buffer = new ArrayBuffer(352 + one.count), header = new DataView(buffer), mixed = new Uint8Array(buffer, 352);
  new Uint8Array(buffer).set(new Uint8Array(one.buffer, 0, 352));
  header.setInt16(70, 2, true); // bytes, as they are
  header.setInt16(72, 8, true);
  header.setFloat32(108, 352, true);
  header.setFloat32(112, 1, true);
  header.setFloat32(116, 0, true);
  const side = Math.max(...one.size.map((n, k) => n * one.spacing[k])) / SQUARES;
  const odd = one.size.map((n, k) => Uint8Array.from({ length: n }, (_, i) => Math.floor((i * one.spacing[k]) / side) & 1));
  const a = one.grey(about.windows.fixed), b = other.grey(about.windows[name]);
  let i = 0;
  for (let z = 0; z < nz; z++)
    for (let y = 0; y < ny; y++)
      for (let x = 0; x < nx; x++, i++) mixed[i] = odd[0][x] ^ odd[1][y] ^ odd[2][z] ? b[i] : a[i];
  return buffer;
}

// What NiiVue shows, of the bytes of a file.
function image(name, buffer, [low, high]) {
  return niivue.NVImage.new(buffer, `${name}.nii`, "grey", 1, null, low, high);
}

// A canvas of NiiVue with another one above it, on which is drawn what belongs to the slices.
class View {
  constructor(id, names, type, draw) {
    this.box = element(id);
    this.names = names;
    this.type = type;
    this.draw = draw;
    const canvas = document.createElement("canvas");
    this.above = document.createElement("canvas");
    this.above.className = "above";
    canvas.setAttribute("aria-label", this.box.dataset.title);
    this.box.append(canvas, this.above);
    this.nv = new niivue.Niivue({
      backColor: [0.043, 0.055, 0.078, 1], // of the page
      crosshairColor: [0.373, 0.827, 0.737, 0.6],
      crosshairWidth: Math.max(...volumes.fixed.size) / 300, // voxels
      crosshairGap: Math.max(...volumes.fixed.size) / 20, // so that the place itself is seen
      fontColor: [0.67, 0.71, 0.77, 1],
      fontMinPx: 12,
      logLevel: "silent",
      loadingText: "",
      dragAndDropEnabled: false,
      scrollRequiresFocus: true, // else a page cannot be scrolled past it
      multiplanarShowRender: 0,
      multiplanarPadPixels: 6,
      show3Dcrosshair: false,
    });
    this.canvas = canvas;
  }

  async open() {
    await this.nv.attachToCanvas(this.canvas);
    this.nv.addColormap("grey", { R: [0, 255], G: [0, 255], B: [0, 255], A: [255, 255], I: [0, 255] });
    for (const name of this.names) this.nv.addVolume(await image(name, volumes[name].buffer.slice(0), about.windows[name]));
    const drawn = this.nv.drawScene.bind(this.nv);
    this.nv.drawScene = () => {
      const said = drawn();
      this.annotate();
      return said;
    };
    this.nv.onLocationChange = () => link(this);
    this.show(this.type);
  }

  show(type) {
    this.nv.opts.multiplanarLayout = this.box.clientWidth > 700 ? 3 : 2; // a row, or two
    this.nv.setSliceType(type);
  }

  // What is drawn by lines, of every slice that is seen.
  annotate() {
    const { width, height } = this.canvas;
    if (this.above.width !== width || this.above.height !== height) Object.assign(this.above, { width, height });
    const context = this.above.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    const base = volumes[this.names[0]], position = this.nv.scene.crosshairPos;
    for (const tile of this.nv.screenSlices) {
      if (tile.axCorSag > 2) continue;
      const slice = new Slice(context, this.nv, tile, base, position);
      context.save();
      context.beginPath();
      const [left, top, wide, high] = tile.leftTopWidthHeight;
      context.rect(left, top, wide, high);
      context.clip();
      for (const what of this.draw()) slice[what]();
      context.restore();
    }
  }
}

// A slice on a canvas, in voxels of the whole grid.
class Slice {
  constructor(context, nv, tile, base, position) {
    this.context = context;
    [this.u, this.v, this.w] = AXES[tile.axCorSag];
    const size = base.size.map((n, k) => n * base.step[k]);
    this.through = position[this.w] * size[this.w] - 0.5;
    const matrix = nv.volumes[0].frac2mmOrtho, [left, top, wide, high] = tile.leftTopWidthHeight;
    // Across and up alone: the grid's axes are those of the screen.
    const along = (axis, place) => (matrix[5 * axis] * (place + 0.5)) / size[axis] + matrix[12 + axis];
    this.x = (place) => left + ((along(this.u, place) - tile.leftTopMM[0]) / tile.fovMM[0]) * wide;
    this.y = (place) => top + (1 - (along(this.v, place) - tile.leftTopMM[1]) / tile.fovMM[1]) * high;
    this.scale = window.devicePixelRatio || 1;
    this.size = size;
    this.spacing = base.spacing.map((mm, axis) => mm / base.step[axis]);
  }

  // The voxels of another volume in this plane, by their numbers across and up.
  reader(volume, part = 0) {
    const voxel = [0, 0, 0];
    voxel[this.w] = volume.nearest(this.w, this.through);
    return (i, j) => {
      voxel[this.u] = i;
      voxel[this.v] = j;
      return volume.at(voxel, part);
    };
  }

  // Lines between voxels of different labels.
  outlines(name) {
    const volume = volumes[name];
    if (!volume) return;
    const { context, u, v } = this, read = this.reader(volume), [nu, nv] = [volume.size[u], volume.size[v]];
    const x = Array.from({ length: nu + 1 }, (_, i) => this.x(volume.place(u, i - 0.5)));
    const y = Array.from({ length: nv + 1 }, (_, j) => this.y(volume.place(v, j - 0.5)));
    context.beginPath();
    for (let j = 0; j < nv; j++)
      for (let i = 0; i < nu; i++) {
        const label = read(i, j);
        if (i + 1 < nu && read(i + 1, j) !== label) context.moveTo(x[i + 1], y[j]), context.lineTo(x[i + 1], y[j + 1]);
        if (j + 1 < nv && read(i, j + 1) !== label) context.moveTo(x[i], y[j + 1]), context.lineTo(x[i + 1], y[j + 1]);
      }
    context.strokeStyle = COLOURS[name];
    context.lineWidth = 1.25 * this.scale;
    context.stroke();
  }

  fixed_labels() {
    this.outlines("fixed_labels");
  }

  warped_labels() {
    this.outlines("warped_labels");
  }

  // Where lines of the fixed grid go.
  grid() {
    const { context, u, v } = this, field = volumes.displacement;
    const du = this.reader(field, u), dv = this.reader(field, v), [nu, nv] = [field.size[u], field.size[v]];
    const longest = Math.max(...this.size.map((n, k) => n * this.spacing[k])) / LINES;
    const every = [u, v].map((axis) => Math.max(1, Math.round(longest / (field.step[axis] * this.spacing[axis]))));
    const point = (i, j) => [this.x(field.place(u, i) + du(i, j)), this.y(field.place(v, j) + dv(i, j))];
    context.beginPath();
    for (let i = every[0] >> 1; i < nu; i += every[0])
      for (let j = 0; j < nv; j++) context[j ? "lineTo" : "moveTo"](...point(i, j));
    for (let j = every[1] >> 1; j < nv; j += every[1])
      for (let i = 0; i < nu; i++) context[i ? "lineTo" : "moveTo"](...point(i, j));
    context.strokeStyle = COLOURS.grid;
    context.lineWidth = this.scale;
    context.globalAlpha = 0.85;
    context.stroke();
    context.globalAlpha = 1;
  }

  // From places of fixed to where their content lies in moving.
  arrows() {
    const { context, u, v } = this, field = volumes.displacement;
    const du = this.reader(field, u), dv = this.reader(field, v), [nu, nv] = [field.size[u], field.size[v]];
    context.beginPath();
    for (let j = 1; j < nv; j += 2)
      for (let i = 1; i < nu; i += 2) {
        const from = [this.x(field.place(u, i)), this.y(field.place(v, j))];
        const to = [this.x(field.place(u, i) + du(i, j)), this.y(field.place(v, j) + dv(i, j))];
        const [x, y] = [to[0] - from[0], to[1] - from[1]], length = Math.hypot(x, y);
        if (length < 1.5 * this.scale) continue;
        const head = Math.min(5 * this.scale, length / 2) / length;
        context.moveTo(...from);
        context.lineTo(...to);
        context.lineTo(to[0] - head * (x + 0.6 * y), to[1] - head * (y - 0.6 * x));
        context.moveTo(...to);
        context.lineTo(to[0] - head * (x - 0.6 * y), to[1] - head * (y + 0.6 * x));
      }
    context.strokeStyle = COLOURS.grid;
    context.lineWidth = 1.2 * this.scale;
    context.stroke();
  }

  // Squares of a volume's voxels in this plane, each of a colour (R, G, B, opacity) or none.
  coloured(volume, colour) {
    const { u, v } = this, read = this.reader(volume), [nu, nv] = [volume.size[u], volume.size[v]];
    const picture = new ImageData(nu, nv);
    for (let j = 0; j < nv; j++)
      for (let i = 0; i < nu; i++) picture.data.set(colour(read(i, j)), 4 * (i + nu * (nv - 1 - j)));
    const part = document.createElement("canvas");
    Object.assign(part, { width: nu, height: nv });
    part.getContext("2d").putImageData(picture, 0, 0);
    const [left, right] = [-0.5, nu - 0.5].map((i) => this.x(volume.place(u, i)));
    const [top, bottom] = [nv - 0.5, -0.5].map((j) => this.y(volume.place(v, j)));
    this.context.drawImage(part, left, top, right - left, bottom - top);
  }

  // Blue where it shrinks, orange where it grows, by a factor of e at most.
  jacobian() {
    this.coloured(volumes.jacobian, (value) => {
      const share = Math.min(Math.abs(value), 1);
      return [...(value < 0 ? [63, 167, 240] : [245, 138, 53]), 220 * share];
    });
  }

  folds() {
    if (volumes.folds) this.coloured(volumes.folds, (value) => (value > 0 ? [255, 45, 63, 255] : [0, 0, 0, 0]));
  }
}

const volumes = {}, views = {};
const chosen = { other: "warped", mode: "blend", labels: false, field: "none", jacobian: false, folds: true, plane: 3 };

// The others show the same place.
let linking = false;
function link(from) {
  if (linking) return;
  linking = true;
  for (const view of Object.values(views)) {
    if (view === from) continue;
    view.nv.scene.crosshairPos = [...from.nv.scene.crosshairPos];
    view.nv.drawScene();
  }
  linking = false;
  tell(from.nv);
}

function tell(nv) {
  const at = [...nv.scene.crosshairPos], size = volumes.fixed.size;
  const mm = [...nv.frac2mm(at)].slice(0, 3).map((value) => value.toFixed(1));
  const voxel = at.map((part, k) => Math.min(size[k] - 1, Math.max(0, Math.round(part * size[k] - 0.5))));
  const values = ["fixed", "moving", "warped"].map((name) => `${name} ${Number(volumes[name].at(voxel).toPrecision(4))}`);
  element("place").textContent = `${mm.join(", ")} mm (right, anterior, superior): ${values.join(", ")}`;
}

function redraw() {
  for (const view of Object.values(views)) view.nv.drawScene();
}

// The second image of the large view: the other one, or a checkerboard of both.
async function compare() {
  const { nv } = views.compare, name = chosen.other;
  while (nv.volumes.length > 1) nv.removeVolumeByIndex(1);
  const checked = chosen.mode === "checkerboard";
  const [buffer, window] = checked ? [checkerboard(name), [0, 255]] : [volumes[name].buffer.slice(0), about.windows[name]];
  nv.addVolume(await image(name, buffer, window));
  blend();
  document.body.dataset.compared = checked ? chosen.mode : name;
}

function blend() {
  const slider = element("blend");
  slider.disabled = chosen.mode === "checkerboard";
  views.compare.nv.overlayAlphaShader = slider.disabled ? 1 : slider.value / 100;
  views.compare.nv.drawScene();
}

function annotations(labels) {
  const shown = chosen.jacobian && labels.length > 1 ? ["jacobian"] : [];
  if (labels.includes("warped_labels")) {
    if (chosen.field !== "none") shown.push(chosen.field);
    if (chosen.folds) shown.push("folds");
  }
  return chosen.labels ? [...shown, ...labels] : shown;
}

function listen() {
  for (const input of document.querySelectorAll("#controls input[name]"))
    input.addEventListener("change", () => {
      chosen[input.name] = input.type === "checkbox" ? input.checked : input.value;
      if (input.name === "plane") {
        for (const name of ["fixed", "moving", "warped"]) views[name].show(Number(input.value));
      } else if (input.name === "other" || input.name === "mode") {
        element("named").textContent = chosen.other;
        compare();
      } else redraw();
    });
  element("blend").addEventListener("input", blend);
  let waiting = 0;
  window.addEventListener("resize", () => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(() => {
      for (const view of Object.values(views)) view.show(view.nv.opts.sliceType);
    });
  });
}

async function open() {
  if (!document.createElement("canvas").getContext("webgl2")) throw new Error("this browser has no WebGL 2");
  const script = document.createElement("script");
  script.textContent = new TextDecoder().decode(await unpacked(decoded("niivue")));
  document.head.append(script);
  await Promise.all(
    Object.entries(about.volumes).map(async ([name, place]) => {
      const packed = place ? await (await fetch(place)).arrayBuffer() : decoded(`volume-${name}`);
      volumes[name] = new Volume(name, await unpacked(packed));
    }),
  );
  element("viewer").hidden = false; // first, so that the canvases have a size
  const flat = volumes.fixed.size.some((n) => n === 1);
  const plane = flat ? volumes.fixed.size[2] === 1 ? 0 : volumes.fixed.size[1] === 1 ? 1 : 2 : 3;
  views.compare = new View("compare", ["fixed"], plane, () => annotations(["fixed_labels", "warped_labels"]));
  views.fixed = new View("fixed", ["fixed"], flat ? plane : 0, () => annotations(["fixed_labels"]));
  views.warped = new View("warped", ["warped"], flat ? plane : 0, () => annotations(["warped_labels"]));
  views.moving = new View("moving", ["moving"], flat ? plane : 0, () => []);
  for (const input of document.querySelectorAll('#controls input[name="plane"]')) input.closest("fieldset").hidden = flat;
  for (const view of Object.values(views)) await view.open();
  await compare();
  listen();
  tell(views.compare.nv);
  document.body.dataset.viewer = "ready";
}

open().catch((error) => {
  element("viewer").hidden = true;
  const why = element("why");
  why.hidden = false;
  why.textContent = `The viewer cannot be shown: ${error.message}. The picture below shows the middle slices.`;
  document.body.dataset.viewer = "none";
  console.warn(error);
});
