// SPDX-License-Identifier: Apache-2.0
// Pillow's resize of 8-bit images, number by number: weights of a filter that widens when an image shrinks, rounded to
// 22 bits, columns first, then rows, each rounded to 8 bits. And the crop that infer.py takes.

const BITS = 22;

const FILTERS = {
  bilinear: [1, (x) => (x < 1 ? 1 - x : 0)],
  bicubic: [2, (x) => {
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
  }],
  lanczos: [3, (x) => (x < 3 ? sinc(x) * sinc(x / 3) : 0)],
};

function sinc(x) {
  return x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI);
}

// For each output position from `start`, `count` of them: the first input position and the weights from there on.
function weights(inputSize, outputSize, start, count, name) {
  const rows = [];
  const scale = inputSize / outputSize;
  if (name === 'nearest') {
    for (let i = 0, at = scale * 0.5; i < start + count; i++, at += scale) { // a sum, rounded as Pillow's
      if (i >= start) rows.push([Math.floor(at), Int32Array.of(1 << BITS)]);
    }
    return rows;
  }
  const [reach, filter] = FILTERS[name];
  const wide = Math.max(scale, 1);
  const inverse = 1 / wide;
  for (let i = start; i < start + count; i++) {
    const center = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - reach * wide + 0.5));
    const last = Math.min(inputSize, Math.trunc(center + reach * wide + 0.5));
    const exact = [];
    let sum = 0;
    for (let x = first; x < last; x++) {
      const weight = filter(Math.abs((x - center + 0.5) * inverse));
      exact.push(weight);
      sum += weight;
    }
    rows.push([first, Int32Array.from(exact, (weight) => {
      const value = (sum === 0 ? weight : weight / sum) * (1 << BITS);
      return Math.trunc(value < 0 ? value - 0.5 : value + 0.5);
    })]);
  }
  return rows;
}

function clip(value) {
  return value < 0 ? 0 : value > 255 ? 255 : value;
}

// The size of an image whose short side becomes `target`, the long one cut off.
export function shortSide(width, height, target) {
  return width <= height ? [target, Math.trunc(target * height / width)] : [Math.trunc(target * width / height), target];
}

function halfToEven(value) {
  const floor = Math.floor(value);
  return value - floor === 0.5 ? floor + (floor % 2) : Math.round(value);
}

// From `channels` values a pixel to three: `columns.length` pixels a row, of the rows from `firstRow` to before `lastRow`.
function horizontal(source, channels, width, firstRow, lastRow, columns) {
  const result = new Uint8Array((lastRow - firstRow) * columns.length * 3);
  for (let y = firstRow, at = 0; y < lastRow; y++) {
    for (const [first, factors] of columns) {
      at = weighted(source, (y * width + first) * channels, channels, factors, result, at);
    }
  }
  return result;
}

// The same downwards: `rows.length` rows of the pixels from `firstColumn` to before `lastColumn`.
function vertical(source, channels, width, firstColumn, lastColumn, rows) {
  const result = new Uint8Array(rows.length * (lastColumn - firstColumn) * 3);
  let at = 0;
  for (const [first, factors] of rows) {
    for (let x = firstColumn; x < lastColumn; x++) {
      at = weighted(source, (first * width + x) * channels, width * channels, factors, result, at);
    }
  }
  return result;
}

function weighted(source, from, step, factors, result, at) {
  let red = 1 << (BITS - 1), green = red, blue = red;
  for (let k = 0; k < factors.length; k++, from += step) {
    red += source[from] * factors[k];
    green += source[from + 1] * factors[k];
    blue += source[from + 2] * factors[k];
  }
  result[at] = clip(red >> BITS);
  result[at + 1] = clip(green >> BITS);
  result[at + 2] = clip(blue >> BITS);
  return at + 3;
}

function shifted(parts, by) {
  return parts.map(([first, factors]) => [first - by, factors]);
}

// RGBA [height, width, 4] to RGB [size, size, 3]: short side to floor(size / crop_pct), then the middle. `pillow`: its
// major version; since 13 rows come first where the height shrinks by more than twice what the width does.
export function evalCrop(rgba, width, height, data, pillow) {
  const size = data.image_size;
  const [newWidth, newHeight] = shortSide(width, height, Math.floor(size / data.crop_pct));
  const columns = weights(width, newWidth, halfToEven((newWidth - size) / 2), size, data.interpolation);
  const rows = weights(height, newHeight, halfToEven((newHeight - size) / 2), size, data.interpolation);
  if (pillow >= 13 && height > newHeight && height - newHeight > 2 * (width - newWidth)) {
    const [first, last] = [columns[0][0], columns[size - 1][0] + columns[size - 1][1].length];
    const flat = vertical(rgba, 4, width, first, last, rows);
    return horizontal(flat, 3, last - first, 0, size, shifted(columns, first));
  }
  const [first, last] = [rows[0][0], rows[size - 1][0] + rows[size - 1][1].length];
  const narrow = horizontal(rgba, 4, width, first, last, columns);
  return vertical(narrow, 3, size, 0, size, shifted(rows, first));
}
