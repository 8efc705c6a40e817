// The thread that asks for the numbers and reads them, so that frames of the page are on time.

import { Columns } from "/live/columns.js";

const PATIENCE_MS = 10000;
const columns = new Columns();

async function numbers() {
  const response = await fetch("/debug/live", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
  if (!response.ok) throw new Error(`${response.status} ${response.statusText}`);
  return columns.of(await response.json());
}

onmessage = async () => {
  try {
    const read = await numbers();
    postMessage({ read }, Object.values(read.columns).map((column) => column.buffer));
  } catch (error) {
    postMessage({ failure: String(error.message ?? error) });
  }
};
