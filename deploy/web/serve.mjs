/**
 * Serves dist/, and an export's folder as /export/:
 *
 *     npm run serve -- [--export DIR] [--port 8000] [--host 127.0.0.1]
 *
 * Any static server does as well; this one sends the two headers that let the page use threads.
 */

import { createReadStream, realpathSync, statSync } from "node:fs";
import { createServer } from "node:http";
import { pipeline } from "node:stream";
import { dirname, extname, join, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const TYPES = {
  ".html": "text/html; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".mjs": "text/javascript; charset=utf-8",
  ".wasm": "application/wasm",
  ".yaml": "text/plain; charset=utf-8",
};
const ISOLATION = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
};

const { values } = parseArgs({
  options: {
    export: { type: "string" },
    port: { type: "string", default: "8000" },
    host: { type: "string", default: "127.0.0.1" },
  },
});
const dist = join(dirname(fileURLToPath(import.meta.url)), "dist");
const folders = { "/": dist, ...(values.export && { "/export/": values.export }) };

/** Return the file that a URL names, or null; nothing outside its folder is served. */
function find(url) {
  try {
    const path = decodeURIComponent(new URL(url, "http://localhost").pathname);
    const prefix = Object.keys(folders).reverse().find((name) => path.startsWith(name));
    const folder = realpathSync(folders[prefix]);
    const file = realpathSync(join(folder, path.slice(prefix.length) || "index.html"));
    return file.startsWith(folder + sep) && statSync(file).isFile() ? file : null;
  } catch {
    return null;
  }
}

const server = createServer((request, response) => {
  const file = ["GET", "HEAD"].includes(request.method) ? find(request.url) : null;
  if (!file) {
    response.writeHead(404, { "Content-Type": "text/plain" }).end("not found\n");
    return;
  }
  response.writeHead(200, {
    "Content-Type": TYPES[extname(file)] ?? "application/octet-stream",
    "Content-Length": statSync(file).size,
    "Cache-Control": "no-cache",
    ...ISOLATION,
  });
  if (request.method === "HEAD") response.end();
  else pipeline(createReadStream(file), response, () => {}); // closes the file when a client goes
});
server.listen(Number(values.port), values.host, () => {
  const { port } = server.address();
  const query = values.export ? "?model=export/" : "";
  console.log(`http://${values.host}:${port}/${query}`);
});
