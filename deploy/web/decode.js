/** Files to pixels, without colour management. */

import { UserError } from "./errors.js";
import { readHeader } from "./image_header.js";

/**
 * Decode an image file as it is stored, turned as its EXIF orientation says: as Python does, or not.
 *
 * @returns {Promise<{height, width, planes: Uint8Array, rgba: Uint8ClampedArray}>}
 *   `planes` holds red, green and blue one after the other; `rgba` is for display.
 */
export async function decode(file) {
  const name = file.name ?? "image";
  if (!file.size) throw new UserError(`${name}: the file is empty.`);
  const content = new Uint8Array(await file.arrayBuffer());
  const { type, orientation, bits } = readHeader(name, content);
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, {
      colorSpaceConversion: "none",
      premultiplyAlpha: "none",
      imageOrientation: "from-image",
    });
  } catch {
    throw new UserError(`${name}: cannot be decoded as an image. Replace it.`);
  }
  const { height, width } = bitmap;
  let rgba = pixelsOf(bitmap, name);
  bitmap.close();
  if (isTransparent(rgba)) {
    rgba = orientation === 1 ? await storedPixels(content, type, height, width) : null;
  }
  if (!rgba) {
    throw new UserError(
      `${name}: partly transparent, and the browser hides the colours below. Save it without transparency.`,
    );
  }
  const planes = planesOf(rgba);
  if (bits === 16 && planes.every((value) => value < 16)) {
    throw new UserError(
      `${name}: 16-bit values below 4096, of which 16 levels or fewer would be kept. Scale them to 0..65535 or to 8 bits.`,
    );
  }
  return { height, width, planes, rgba };
}

function isTransparent(rgba) {
  for (let index = 3; index < rgba.length; index += 4) if (rgba[index] < 255) return true;
  return false;
}

/** Return the RGBA of a transparent image as it is stored: a canvas loses colours; null if it cannot. */
async function storedPixels(data, type, height, width) {
  if (!globalThis.ImageDecoder || !(await ImageDecoder.isTypeSupported(type))) return null;
  const decoder = new ImageDecoder({ data, type, colorSpaceConversion: "none" });
  const { image } = await decoder.decode();
  const { format, codedHeight, codedWidth } = image;
  const isReadable = ["RGBA", "BGRA"].includes(format) && codedHeight === height && codedWidth === width;
  const rgba = isReadable ? new Uint8ClampedArray(4 * height * width) : null;
  if (isReadable) await image.copyTo(rgba);
  decoder.close();
  if (format === "BGRA" && rgba) swapRedAndBlue(rgba);
  return rgba;
}

function swapRedAndBlue(rgba) {
  for (let index = 0; index < rgba.length; index += 4) {
    [rgba[index], rgba[index + 2]] = [rgba[index + 2], rgba[index]];
  }
}

function pixelsOf(bitmap, name) {
  try {
    const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    return context.getImageData(0, 0, bitmap.width, bitmap.height).data;
  } catch {
    throw new UserError(
      `${name}: ${bitmap.height}x${bitmap.width} px are more than the browser can hold. Take a smaller image.`,
    );
  }
}

function planesOf(rgba) {
  const count = rgba.length / 4;
  const planes = new Uint8Array(3 * count);
  for (let index = 0; index < count; index++) {
    for (let channel = 0; channel < 3; channel++) {
      planes[channel * count + index] = rgba[4 * index + channel];
    }
  }
  return planes;
}
