// SPDX-License-Identifier: Apache-2.0
// A file to RGBA pixels as Pillow reads them: no rotation by EXIF, no color profile, colors below alpha as stored.

const MAX_PIXELS = 178956970; // infer.py's limit

export class ImageError extends Error {}

// {pixels: Uint8ClampedArray RGBA, width, height}; ImageError with a sentence for what is no whole image.
export async function decode(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  if (!bytes.length) throw new ImageError('The file is empty.');
  const plain = withoutMetadata(bytes);
  let bitmap;
  try {
    bitmap = await createImageBitmap(new Blob([plain], { type: file.type }),
      { imageOrientation: 'none', premultiplyAlpha: 'none', colorSpaceConversion: 'none' });
  } catch (error) {
    throw new ImageError('This file is damaged, or no image that this browser can decode.');
  }
  const { width, height } = bitmap;
  try {
    if (width * height > MAX_PIXELS) {
      throw new ImageError(`This image has ${width} x ${height} pixels, more than ${MAX_PIXELS}.`);
    }
    const context = sheet(width, height).getContext('2d', { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    const pixels = context.getImageData(0, 0, width, height).data;
    return { pixels: isOpaque(pixels) ? pixels : colorsBelowAlpha(bitmap) || pixels, width, height };
  } catch (error) {
    if (error instanceof ImageError) throw error;
    throw new ImageError(`This browser cannot hold an image of ${width} x ${height} pixels.`);
  } finally {
    bitmap.close();
  }
}

function sheet(width, height) {
  const canvas = document.createElement('canvas');
  canvas.width = width;
  canvas.height = height;
  return canvas;
}

function isOpaque(pixels) {
  for (let at = 3; at < pixels.length; at += 4) if (pixels[at] !== 255) return false;
  return true;
}

// A 2D canvas multiplies colors by alpha, which cannot be undone; a texture keeps them. Null where there is no WebGL.
function colorsBelowAlpha(bitmap) {
  const gl = sheet(1, 1).getContext('webgl');
  if (!gl || Math.max(bitmap.width, bitmap.height) > gl.getParameter(gl.MAX_TEXTURE_SIZE)) return null;
  gl.pixelStorei(gl.UNPACK_PREMULTIPLY_ALPHA_WEBGL, false);
  gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, gl.getParameter(gl.TEXTURE_BINDING_2D), 0);
  const pixels = new Uint8Array(bitmap.width * bitmap.height * 4);
  gl.readPixels(0, 0, bitmap.width, bitmap.height, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
  const failed = gl.getError() !== gl.NO_ERROR;
  gl.getExtension('WEBGL_lose_context')?.loseContext();
  return failed ? null : pixels;
}

function withoutMetadata(bytes) {
  if (bytes[0] === 0xff && bytes[1] === 0xd8) return plainJpeg(bytes);
  if (bytes[0] === 0x89 && bytes[1] === 0x50) return plainPng(bytes);
  return bytes;
}

const CUT_OFF = 'This file ends in the middle of the image.';

// Without the segments of EXIF (APP1) and color profiles (APP2).
function plainJpeg(bytes) {
  const parts = [bytes.subarray(0, 2)];
  let at = 2;
  while (at + 4 <= bytes.length && bytes[at] === 0xff && bytes[at + 1] !== 0xda) {
    if (bytes[at + 1] === 0xff) { // fills up
      at += 1;
      continue;
    }
    const end = at + 2 + (bytes[at + 2] << 8) + bytes[at + 3];
    if (bytes[at + 1] !== 0xe1 && bytes[at + 1] !== 0xe2) parts.push(bytes.subarray(at, end));
    at = end;
  }
  const rest = bytes.subarray(at);
  if (!hasEnd(rest)) throw new ImageError(CUT_OFF);
  return concat([...parts, rest]);
}

function hasEnd(bytes) {
  for (let at = bytes.length - 2; at >= 0; at--) if (bytes[at] === 0xff && bytes[at + 1] === 0xd9) return true;
  return false;
}

const DROPPED = ['tRNS', 'iCCP', 'gAMA', 'cHRM', 'sRGB', 'cICP', 'mDCV', 'cLLI', 'eXIf'];

// Without the chunks that change colors, make a color transparent, or rotate.
function plainPng(bytes) {
  const parts = [bytes.subarray(0, 8)];
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  for (let at = 8; at + 12 <= bytes.length;) {
    const end = at + 12 + view.getUint32(at);
    const kind = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    if (end > bytes.length) break;
    if (!DROPPED.includes(kind)) parts.push(bytes.subarray(at, end));
    if (kind === 'IEND') return concat(parts);
    at = end;
  }
  throw new ImageError(CUT_OFF);
}

function concat(parts) {
  const result = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    result.set(part, at);
    at += part.length;
  }
  return result;
}
