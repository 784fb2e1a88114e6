/** The picture on the page: the image with the classes' colours over it, or a map of confidence. */

/** Stops of a colour scale from low to high that grows evenly lighter (viridis). */
const STOPS = [
  [68, 1, 84],
  [71, 44, 122],
  [59, 81, 139],
  [44, 113, 142],
  [33, 144, 141],
  [39, 173, 129],
  [92, 200, 99],
  [170, 220, 50],
  [253, 231, 37],
];
const SCALE = Array.from({ length: 256 }, (_, level) => {
  const position = (level / 255) * (STOPS.length - 1);
  const index = Math.min(Math.floor(position), STOPS.length - 2);
  return STOPS[index].map((low, channel) => low + (position - index) * (STOPS[index + 1][channel] - low));
});

/**
 * Draw on a canvas of the image's size.
 *
 * @param {{height, width, rgba, labels}} result What the worker predicted.
 * @param {{palette: number[][], shown: Set<number>, opacity: number, confidence: ?Uint8Array}} look
 *   The classes to colour and their opacity 0..1; or the confidence of each pixel, 0..255.
 */
export function draw(canvas, { height, width, rgba, labels }, { palette, shown, opacity, confidence }) {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const picture = new ImageData(width, height);
  const colors = palette.map((color, id) => (shown.has(id) ? color : null));
  for (let index = 0; index < height * width; index++) {
    const color = confidence ? SCALE[confidence[index]] : colors[labels[index]];
    for (let channel = 0; channel < 3; channel++) {
      const value = rgba[4 * index + channel];
      picture.data[4 * index + channel] = color ? value + opacity * (color[channel] - value) : value;
    }
    picture.data[4 * index + 3] = 255;
  }
  canvas.getContext("2d").putImageData(picture, 0, 0);
}
