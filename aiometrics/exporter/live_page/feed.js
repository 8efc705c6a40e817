// The numbers of the service, which another thread asks for and reads.

export class Feed {
  #reader = null;

  /** What Columns made of the next answer. */
  next() {
    return new Promise((resolve, reject) => {
      this.#reader ??= new Worker("/live/reader.js", { type: "module" });
      this.#reader.onmessage = ({ data }) => (data.failure ? reject(new Error(data.failure)) : resolve(data.read));
      this.#reader.onerror = () => {
        this.#reader = null;
        reject(new Error("a part of the page"));
      };
      this.#reader.postMessage(null);
    });
  }
}
