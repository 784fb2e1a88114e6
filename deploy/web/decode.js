/** Files to pixels, without colour management. */

import { UserError } from "./errors.js";

/**
 * Decode an image file as it is stored, turned as its EXIF orientation says.
 *
 * @returns {Promise<{height, width, planes: Uint8Array, rgba: Uint8ClampedArray}>} `planes` holds red,
 *   green and blue one after the other; `rgba` is for display.
 */
export async function decode(file) {
  const name = file.name ?? "image";
  if (!file.size) throw new UserError(`${name}: the file is empty.`);
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, {
      colorSpaceConversion: "none",
      premultiplyAlpha: "none",
      imageOrientation: "from-image",
    });
  } catch {
    throw new UserError(`${name}: cannot be read as an image. Take a PNG, JPEG, WebP or BMP file.`);
  }
  const { height, width } = bitmap;
  const rgba = pixelsOf(bitmap, name);
  bitmap.close();
  return { height, width, planes: planesOf(rgba), rgba };
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
