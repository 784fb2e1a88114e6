/** Headers of image files: what browsers decode in another way than Python is refused. */

import { UserError } from "./errors.js";

const MAX_SCANS = 100; // of a progressive JPEG; encoders write about 10
const ORIENTATION = 274; // tag of EXIF
const SHORT = 3; // type of EXIF: 16 bits
const REMEDY = "Use deploy/python/infer.py, or save the image as an 8-bit PNG.";

/**
 * Return what a file's content tells: {type, orientation, bits}, its media type, how it is to be
 * turned, 1 to 8 as EXIF counts, and the bits per value.
 */
export function readHeader(name, bytes) {
  const type = typeOf(bytes);
  const refuse = (reason) => {
    throw new UserError(`${name}: ${reason}`);
  };
  if (!type) refuse("cannot be read as an image. Take a PNG, JPEG, WebP or BMP file.");
  const reason = { "image/jpeg": jpegReason, "image/png": pngReason, "image/bmp": bmpReason }[type]?.(bytes);
  if (reason) refuse(`${reason} ${REMEDY}`);
  const orientation = exifOrientation(exifOf(type, bytes));
  if (orientation === null) refuse(`its EXIF orientation is not one number of 16 bits. ${REMEDY}`);
  if (type === "image/webp" && orientation !== 1) {
    refuse(`a WebP turned by its EXIF, which browsers obey or not. ${REMEDY}`);
  }
  return { type, orientation, bits: type === "image/png" ? bytes[24] : 8 };
}

function typeOf(bytes) {
  if (text(bytes, 0, 3) === "\xff\xd8\xff") return "image/jpeg";
  if (text(bytes, 0, 8) === "\x89PNG\r\n\x1a\n") return "image/png";
  if (text(bytes, 0, 2) === "BM") return "image/bmp";
  return text(bytes, 0, 4) === "RIFF" && text(bytes, 8, 4) === "WEBP" ? "image/webp" : null;
}

function jpegReason(bytes) {
  const scans = markers(bytes, 0xda);
  const end = markers(bytes, 0xd9).at(-1);
  if (end === undefined || scans.at(-1) > end) return "the JPEG file is cut off.";
  if (scans.length > MAX_SCANS) return `a JPEG of ${scans.length} scans, expected at most ${MAX_SCANS}.`;
  return numComponents(bytes) === 4 ? "a JPEG in CMYK, whose colours browsers convert each in its own way." : null;
}

/** Return where the marker 0xff `code` stands. */
function markers(bytes, code) {
  const found = [];
  for (let at = bytes.indexOf(0xff); at >= 0; at = bytes.indexOf(0xff, at + 1)) {
    if (bytes[at + 1] === code) found.push(at);
  }
  return found;
}

/** Return the number of components in a JPEG's frame header. */
function numComponents(bytes) {
  const isFrame = (code) => code >= 0xc0 && code <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(code);
  return segments(bytes).find(({ code }) => isFrame(code))?.data[5];
}

/** Return the segments of a JPEG before its pixels: [{code, data}]. */
function segments(bytes) {
  const found = [];
  for (let at = 2; bytes[at] === 0xff && bytes[at + 1] !== 0xda; ) {
    const size = 256 * bytes[at + 2] + bytes[at + 3];
    if (bytes[at + 1] === 0xff) at += 1; // a filling byte
    else {
      found.push({ code: bytes[at + 1], data: bytes.subarray(at + 4, at + 2 + size) });
      at += 2 + size;
    }
  }
  return found;
}

function pngReason(bytes) {
  const isHidden = hasBeforePixels(bytes, "acTL") && !hasBeforePixels(bytes, "fcTL");
  return isHidden ? "an animated PNG with a still image that is none of its frames." : null;
}

function hasBeforePixels(bytes, name) {
  for (const chunk of chunks(bytes)) {
    if (chunk.name === "IDAT") return false;
    if (chunk.name === name) return true;
  }
  return false;
}

function bmpReason(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 66 || view.getUint32(14, true) < 40) return null; // a form without such bits
  if (view.getUint16(28, true) === 16) return "a BMP of 16 bits per pixel, which decoders spread over 8 bits in two ways.";
  const hasMasks = view.getUint32(30, true) === 3;
  const isCommon = [0xff0000, 0xff00, 0xff].every((mask, index) => view.getUint32(54 + 4 * index, true) === mask);
  return hasMasks && !isCommon ? "a BMP with uncommon colour masks." : null;
}

/** Yield the chunks of a PNG or WebP: {name, data}. */
function* chunks(bytes) {
  const isPng = bytes[0] === 0x89;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = isPng ? 8 : 12; at + 8 <= bytes.length; ) {
    const size = view.getUint32(at + (isPng ? 0 : 4), !isPng);
    yield { name: text(bytes, at + (isPng ? 4 : 0), 4), data: bytes.subarray(at + 8, at + 8 + size) };
    at += isPng ? 12 + size : 8 + size + (size % 2);
  }
}

function exifOf(type, bytes) {
  if (type === "image/bmp") return new Uint8Array(0);
  const isExif = ({ code, data }) => code === 0xe1 && text(data, 0, 6) === "Exif\0\0";
  const isChunk = ({ name }) => name === "eXIf" || name === "EXIF";
  const found = type === "image/jpeg" ? segments(bytes).find(isExif) : [...chunks(bytes)].find(isChunk);
  return found?.data ?? new Uint8Array(0);
}

/** Return 1 to 8 as EXIF counts, 1 where nothing says it, or null where it is stored in an uncommon way. */
function exifOrientation(exif) {
  const start = text(exif, 0, 6) === "Exif\0\0" ? 6 : 0;
  const view = new DataView(exif.buffer, exif.byteOffset + start, exif.byteLength - start);
  const isLittle = text(exif, start, 2) === "II";
  try {
    const page = view.getUint32(4, isLittle);
    for (let left = view.getUint16(page, isLittle), at = page + 2; left > 0; left--, at += 12) {
      if (view.getUint16(at, isLittle) !== ORIENTATION) continue;
      const isShort = view.getUint16(at + 2, isLittle) === SHORT && view.getUint32(at + 4, isLittle) === 1;
      return isShort ? view.getUint16(at + 8, isLittle) : null;
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // the tags end before they should
  }
  return 1;
}

function text(bytes, start, length) {
  return String.fromCharCode(...bytes.subarray(start, start + length));
}
