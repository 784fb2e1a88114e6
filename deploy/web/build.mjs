/** Copies the page and the packages it runs on into dist/, which any web server can serve. */

import { cpSync, mkdirSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(fileURLToPath(import.meta.url));
const dist = join(root, "dist");
const page = [
  "index.html",
  "style.css",
  "app.js",
  "classes.js",
  "picture.js",
  "worker.js",
  "decode.js",
  "deploy_config.js",
  "errors.js",
  "geometry.js",
  "image_header.js",
  "linear_map.js",
  "pipeline.js",
  "png.js",
  "size_rules.js",
];
const runtime = ["ort-wasm-simd-threaded", "ort-wasm-simd-threaded.asyncify"]; // CPU, WebGPU
const vendor = [
  "js-yaml/dist/js-yaml.mjs",
  "onnxruntime-web/dist/ort.wasm.min.mjs",
  "onnxruntime-web/dist/ort.webgpu.min.mjs",
  ...runtime.flatMap((name) => [`onnxruntime-web/dist/${name}.mjs`, `onnxruntime-web/dist/${name}.wasm`]),
];

rmSync(dist, { recursive: true, force: true });
mkdirSync(join(dist, "vendor"), { recursive: true });
for (const name of page) cpSync(join(root, name), join(dist, name));
for (const name of vendor) {
  cpSync(join(root, "node_modules", name), join(dist, "vendor", name.split("/").at(-1)));
}
console.log(`${page.length + vendor.length} files in ${dist}`);
