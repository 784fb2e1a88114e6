/**
 * Lets the search run where the site is opened from disk.
 *
 * Browsers refuse workers there, so the worker's script runs in a hidden frame instead. The name of
 * this file keeps the site generator from loading a script for the same purpose from a server.
 */

if (location.protocol === "file:") {
  window.Worker = class {
    constructor(url) {
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.append(this.frame);
      const inside = this.frame.contentWindow;
      inside.postMessage = (data) => deliver(this, data);
      this.ready = new Promise((resolve, reject) => {
        const script = inside.document.createElement("script");
        script.src = url;
        script.onload = () => resolve(inside);
        script.onerror = reject;
        inside.document.body.append(script);
      });
      this.ready.catch((event) => this.onerror?.(event));
    }

    postMessage(data) {
      this.ready.then((inside) => deliver(inside, data));
    }

    terminate() {
      this.frame.remove();
    }
  };

  /** As between threads: a copy of the data, later. */
  function deliver(receiver, data) {
    const copy = structuredClone(data);
    setTimeout(() => receiver.onmessage?.({ data: copy }));
  }
}
