/** Label maps as PNG files that hold class ids and show the classes' colours. */

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const PALETTE = 3; // colour type: a byte is an index of the palette
const GREY = 0;

/**
 * Encode class ids.
 *
 * @param {Uint8Array|Uint16Array} labels (height * width); more than 8 bits are written as grey.
 * @param {number[][]} palette RGB of each class.
 * @returns {Promise<Blob>}
 */
export async function encodeLabels(labels, height, width, palette) {
  const isWide = labels.BYTES_PER_ELEMENT === 2;
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint8(8, isWide ? 16 : 8);
  header.setUint8(9, isWide ? GREY : PALETTE);
  const chunks = [chunk("IHDR", new Uint8Array(header.buffer))];
  if (!isWide) chunks.push(chunk("PLTE", Uint8Array.from(palette.slice(0, 256).flat())));
  chunks.push(chunk("IDAT", await deflate(scanlines(labels, height, width))));
  chunks.push(chunk("IEND", new Uint8Array(0)));
  return new Blob([Uint8Array.from(SIGNATURE), ...chunks], { type: "image/png" });
}

/** Return each row after a byte that says it is stored as it is; 16 bits with the high byte first. */
function scanlines(labels, height, width) {
  const size = labels.BYTES_PER_ELEMENT;
  const bytes = new Uint8Array(height * (1 + width * size));
  const view = new DataView(bytes.buffer);
  for (let y = 0; y < height; y++) {
    const start = y * (1 + width * size) + 1;
    const row = labels.subarray(y * width, (y + 1) * width);
    if (size === 1) bytes.set(row, start);
    else row.forEach((id, x) => view.setUint16(start + 2 * x, id));
  }
  return bytes;
}

async function deflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function chunk(type, data) {
  const bytes = new Uint8Array(12 + data.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, data.length);
  bytes.set(new TextEncoder().encode(type), 4);
  bytes.set(data, 8);
  view.setUint32(8 + data.length, crc32(bytes.subarray(4, 8 + data.length)));
  return bytes;
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

function crc32(bytes) {
  let value = 0xffffffff;
  for (const byte of bytes) value = CRC_TABLE[(value ^ byte) & 0xff] ^ (value >>> 8);
  return ~value >>> 0;
}
