// SPDX-License-Identifier: Apache-2.0
import * as ort from './ort.wasm.bundle.min.mjs';
import { decode, ImageError } from './decode.js';
import { evalCrop } from './resize.js';

const MAX_THREADS = 4; // more of them wait for each other at these sizes
const element = (id) => document.getElementById(id);
let model, session;
let newest = 0; // of several images given in a row the last one is shown

function say(text, isBad = false) {
  element('status').textContent = text;
  element('status').classList.toggle('bad', isBad);
}

async function fetched(name, onProgress) {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`${name}: the server answers ${response.status}`);
  const parts = [];
  let length = 0;
  for (const reader = response.body.getReader(); ;) {
    const { done, value } = await reader.read();
    if (done) return new Uint8Array(await new Blob(parts).arrayBuffer());
    parts.push(value);
    length += value.length;
    onProgress(length);
  }
}

async function start() {
  say('Loading the model …');
  model = await (await fetch('model.json')).json();
  document.title = element('title').textContent = model.name;
  const bytes = await fetched('model.onnx', (length) => {
    say(`Loading the model, ${Math.round(100 * length / model.bytes)} % of ${(model.bytes / 1e6).toFixed(0)} MB …`);
  });
  if (bytes.length !== model.bytes) {
    throw new Error(`model.onnx: found ${bytes.length} bytes, expected ${model.bytes}: not of one export`);
  }
  // ?threads=2: not by default, because on a busy machine a page that waits for its threads can hang. Threads share
  // memory, which browsers give to isolated pages alone: see _headers.
  const wanted = Number(new URLSearchParams(location.search).get('threads')) || 1;
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.max(1, Math.min(MAX_THREADS, wanted)) : 1;
  ort.env.wasm.wasmPaths = { wasm: new URL('./ort-wasm-simd-threaded.wasm', import.meta.url).href };
  session = await ort.InferenceSession.create(bytes, { executionProviders: ['wasm'] });
  const size = model.data.image_size; // the first run is slower than all others
  await session.run({ x: new ort.Tensor('uint8', new Uint8Array(size * size * 3), [1, size, size, 3]) });
  element('about').textContent = `${model.name}, ${model.precision}, ${model.data.image_size} pixels, `
    + `${model.classes.length || model.num_classes} classes; onnxruntime-web ${model.ort_web}, `
    + `${ort.env.wasm.numThreads} thread${ort.env.wasm.numThreads > 1 ? 's' : ''}`;
  element('file').disabled = false;
  say('Ready.');
}

async function classify(file) {
  const turn = ++newest;
  say(`${file.name} …`);
  try {
    const answer = await run(file);
    if (turn !== newest) return;
    show(answer);
    say(file.name);
  } catch (error) {
    if (turn !== newest) return;
    element('result').hidden = true;
    say(`${file.name}: ${error instanceof ImageError ? error.message : `cannot be classified (${error.message}).`}`, true);
  }
}

async function run(file) {
  const started = performance.now();
  const { pixels, width, height } = await decode(file);
  const size = model.data.image_size;
  const crop = evalCrop(pixels, width, height, model.data, model.pillow);
  const decoded = performance.now();
  const { logits, attention } = await session.run({ x: new ort.Tensor('uint8', crop, [1, size, size, 3]) });
  return { crop, best: best(logits.data), map: patchMap(attention), decode: decoded - started,
    compute: performance.now() - decoded };
}

// The five most probable classes, [class id, probability], as infer.py: of equal ones the first.
function best(logits) {
  const probabilities = model.activation === 'sigmoid' ? Array.from(logits, (value) => 1 / (1 + Math.exp(-value)))
    : softmax(logits);
  const order = probabilities.map((_, index) => index).sort((a, b) => logits[b] - logits[a] || a - b);
  return order.slice(0, 5).map((index) => [index, probabilities[index]]);
}

function softmax(logits) {
  const largest = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const exponentials = Array.from(logits, (value) => Math.exp(value - largest));
  const sum = exponentials.reduce((a, b) => a + b, 0);
  return exponentials.map((value) => value / sum);
}

// Attention [1, blocks, heads, tokens] of the class token to one value per patch: the heads' mean in the last block.
function patchMap({ data, dims: [, blocks, heads, tokens] }) {
  const map = new Float32Array(tokens - model.prefix);
  for (let row = (blocks - 1) * heads; row < blocks * heads; row++) {
    for (let patch = 0; patch < map.length; patch++) map[patch] += data[row * tokens + model.prefix + patch] / heads;
  }
  return map;
}

function show({ crop, best: classes, map, decode: decodeTime, compute }) {
  element('result').hidden = false;
  drawCrop(element('crop'), crop);
  drawMap(element('map'), crop, map);
  const name = (id) => model.classes[id] || `class ${id}`;
  element('name').textContent = name(classes[0][0]);
  element('classes').replaceChildren(...classes.map(([id, probability]) => {
    const item = document.createElement('li');
    item.dataset.id = id;
    item.dataset.probability = probability;
    const row = Object.assign(document.createElement('div'), { className: 'row' });
    row.append(...[name(id), `${(100 * probability).toFixed(1)} %`].map(
      (text) => Object.assign(document.createElement('span'), { textContent: text })));
    const track = Object.assign(document.createElement('div'), { className: 'track' });
    const bar = document.createElement('div');
    bar.style.width = `${100 * probability}%`;
    track.append(bar);
    item.append(row, track);
    return item;
  }));
  element('time').textContent = `${compute.toFixed(0)} ms for the model, ${decodeTime.toFixed(0)} ms for decoding and resizing`;
  element('result').dataset.map = JSON.stringify(Array.from(map));
}

function imageData(crop) {
  const size = model.data.image_size;
  const result = new ImageData(size, size);
  for (let from = 0, to = 0; from < crop.length; from += 3, to += 4) {
    result.data.set(crop.subarray(from, from + 3), to);
    result.data[to + 3] = 255;
  }
  return result;
}

function drawCrop(canvas, crop) {
  canvas.width = canvas.height = model.data.image_size;
  canvas.getContext('2d').putImageData(imageData(crop), 0, 0);
}

const HEAT = [[13, 8, 135], [156, 23, 158], [237, 121, 83], [240, 249, 33]]; // from none to the most: blue to yellow

function heat(value) {
  const at = Math.min(value, 1) * (HEAT.length - 1);
  const below = Math.min(Math.floor(at), HEAT.length - 2);
  return HEAT[below].map((low, channel) => low + (at - below) * (HEAT[below + 1][channel] - low));
}

// The image in gray under the colors of the attention; the most attended twentieth of the patches is yellow, because a
// few patches can outshine all others.
function drawMap(canvas, crop, map) {
  const size = model.data.image_size;
  const side = Math.round(Math.sqrt(map.length));
  const most = Float32Array.from(map).sort()[Math.ceil(0.95 * map.length) - 1] || 1;
  const image = imageData(crop);
  const at = (row, column) => map[Math.min(side - 1, Math.max(0, row)) * side + Math.min(side - 1, Math.max(0, column))];
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      const v = (y + 0.5) * side / size - 0.5, u = (x + 0.5) * side / size - 0.5; // between patches bilinear
      const row = Math.floor(v), column = Math.floor(u), down = v - row, right = u - column;
      const value = (1 - down) * ((1 - right) * at(row, column) + right * at(row, column + 1))
        + down * ((1 - right) * at(row + 1, column) + right * at(row + 1, column + 1));
      const place = (y * size + x) * 4;
      const gray = 0.299 * image.data[place] + 0.587 * image.data[place + 1] + 0.114 * image.data[place + 2];
      const color = heat(Math.sqrt(value / most));
      for (let channel = 0; channel < 3; channel++) image.data[place + channel] = 0.5 * gray + 0.5 * color[channel];
    }
  }
  canvas.width = canvas.height = size;
  canvas.getContext('2d').putImageData(image, 0, 0);
  element('map-caption').textContent = `Attention of the class token, last block: blue none, yellow from`
    + ` ${(most * (map.length + model.prefix)).toFixed(1)} times an even share`;
}

const drop = element('drop');
for (const kind of ['dragenter', 'dragover', 'dragleave', 'drop']) {
  window.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle('over', kind === 'dragenter' || kind === 'dragover');
  });
}
window.addEventListener('drop', (event) => {
  if (session && event.dataTransfer.files.length) classify(event.dataTransfer.files[0]);
});
element('file').addEventListener('change', ({ target }) => {
  if (target.files.length) classify(target.files[0]);
  target.value = ''; // the same file can be chosen again
});

start().catch((error) => say(`The model cannot be loaded: ${error.message}`, true));
