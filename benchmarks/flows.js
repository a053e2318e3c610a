// Flows of BullMQ: node flows.js URL batch|callbacks MEMBERS TURNS RUNNERS; prints what it measured as JSON.
"use strict";
const { FlowProducer, Worker } = require("bullmq");
const [url, what, members, turns, concurrency] = process.argv.slice(2);
const where = new URL(url);
const connection = { host: where.hostname, port: Number(where.port), db: Number(where.pathname.slice(1) || 0) };
connection.maxRetriesPerRequest = null;
const count = Number(members);
const now = () => performance.now();
const gone = { removeOnComplete: true };

async function main() {
  const flows = new FlowProducer({ connection });
  const waits = [];
  let [ran, first, last, called] = [0, 0, 0, null];
  const work = new Worker("work", async () => {
    first = first || now();
    ran += 1;
    last = now();
  }, { connection, concurrency: Number(concurrency), autorun: false });
  const then = new Worker("then", async () => {
    if (ran !== count) throw new Error(`the parent ran after ${ran} of ${count} children`);
    waits.push(now() - last);
    called();
  }, { connection, autorun: false });
  await Promise.all([work.waitUntilReady(), then.waitUntilReady()]);
  let added = 0;
  const begin = () => { work.run(); then.run(); };
  if (what === "callbacks") begin();
  for (let turn = 0; turn < Number(turns); turn++) {
    ran = 0;
    const ended = new Promise((resolve) => { called = resolve; });
    const children = [];
    for (let n = 0; n < count; n++) {
      children.push({ name: "work", queueName: "work", data: { n, to: "someone@example.com" }, opts: gone });
    }
    const start = now();
    await flows.add({ name: "then", queueName: "then", data: {}, opts: gone, children });
    added = now() - start;
    if (what === "batch") begin();
    await ended;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  console.log(JSON.stringify({ waits, added: added / 1e3, ran: (last - first + waits.at(-1)) / 1e3 }));
  process.exit(0);
}

main().catch((error) => { console.error(error); process.exit(1); });
