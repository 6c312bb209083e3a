// The Node libraries' part of interop.py: the same deliveries, the same questions.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { request } from "node:http";

import { Webhooks } from "@octokit/webhooks";
import { HTTP } from "cloudevents";
import { Webhook as Standard } from "standardwebhooks";
import Stripe from "stripe";
import { Webhook as Svix } from "svix";

const [file, page] = process.argv.slice(2);
const { foreign, deliveries } = JSON.parse(readFileSync(file, "utf8"));
for (const delivery of deliveries) delivery.body = Buffer.from(delivery.body, "base64");

const spoilt = (body) => Buffer.concat([body, Buffer.from(" ")]);

// `verify(secret, delivery, body)` throws, or gives false, for what it refuses.
async function heldAgainst(library, rows, verify, secretsOf = (row) => row.secrets) {
  assert.ok(rows.length > 0, library);
  for (const row of rows) {
    for (const secret of secretsOf(row)) {
      assert.notEqual(await verify(secret, row, row.body), false, `${library}, ${row.name}: refused`);
      await assert.rejects(ask(verify, secret, row, spoilt(row.body)), `${library}, ${row.name}: a changed body`);
    }
    await assert.rejects(ask(verify, foreign, row, row.body), `${library}, ${row.name}: a foreign secret`);
  }
  console.log(`interop: ${rows.length} deliveries held against ${library}`);
}

async function ask(verify, ...rest) {
  if ((await verify(...rest)) === false) throw new Error("refused");
}

await heldAgainst("standardwebhooks (Node)", deliveries, (secret, row, body) => {
  new Standard(secret).verify(body, row.headers);
});
await heldAgainst("svix (Node)", deliveries, (secret, row, body) => {
  new Svix(secret).verify(body, row.headers);
});
const endpoints = deliveries.filter((row) => row.keys);
await heldAgainst("stripe (Node)", endpoints, (secret, row, body) => {
  Stripe.webhooks.constructEvent(body, row.headers["stripe-signature"], secret);
});
// One signature only: in a rotation the new key's.
await heldAgainst(
  "@octokit/webhooks (Node)",
  endpoints,
  (secret, row, body) => new Webhooks({ secret }).verify(body.toString(), row.headers["x-hub-signature-256"]),
  (row) => row.secrets.slice(0, 1),
);

// The page's own code.
const require = createRequire(import.meta.url);
const blocks = [...readFileSync(page, "utf8").matchAll(/```js\n(.*?)```/gs)].map((match) => match[1]);

// What is forged is refused, not stumbled over.
function forged(headers) {
  const spoilt = ["webhook-id", "webhook-timestamp", "webhook-signature"].flatMap((name) =>
    [undefined, "", "abc", "-1", "1e999", "9".repeat(5000), "v1", "v1,", "v1,é", "v1a,é"].map((value) => [name, value]));
  return spoilt.map(([name, value]) => ({ ...headers, [name]: value }));
}

// No library verifies v1a yet; Node's own Ed25519 does.
const publicly = blocks.find((block) => block.includes("function verifyV1a("));
const verifyV1a = new Function("require", `${publicly}; return verifyV1a;`)(require);
for (const row of endpoints) {
  for (const key of row.keys) {
    const good = (body) => verifyV1a([key], row.headers, body);
    assert.ok(good(row.body) && !good(spoilt(row.body)), `v1a, ${row.name}`);
    for (const headers of forged(row.headers)) assert.equal(verifyV1a([key], headers, row.body), false, `v1a, ${row.name}`);
  }
}
console.log(`interop: ${endpoints.length} deliveries held against the page's Node (v1a)`);

const clouds = deliveries.filter((row) => row.cloud);
for (const row of clouds) {
  const event = HTTP.toEvent({ headers: row.headers, body: row.body.toString() });
  const data = JSON.parse(row.body);
  assert.equal(event.validate(), true);
  assert.deepEqual([event.type, event.specversion, event.subject], ["job.queued", "1.0", data.jobId]);
  assert.deepEqual(event.data, data);
}
console.log(`interop: ${clouds.length} deliveries held against cloudevents (Node)`);

// The page's own code: a function by hand, and a server with a library.
const byHand = blocks.find((block) => block.includes("function verify("));
const served = blocks.find((block) => block.includes("createServer("));
const verify = new Function("require", `${byHand}; return verify;`)(require);
await heldAgainst("the page's Node, by hand", deliveries, (secret, row, body) => verify(secret, row.headers, body));
for (const row of deliveries) {
  for (const headers of forged(row.headers)) assert.equal(verify(row.secrets[0], headers, row.body), false, row.name);
}

const standard = deliveries.filter((row) => !row.cloud);
await heldAgainst("the page's Node, with a library", standard, async (secret, row, body) => {
  const code = served.replace(/whsec_[A-Za-z0-9+/=]+/, secret).replace(/createServer\(/, "const server = createServer(");
  const server = new Function("require", "console", `${code.replace("9000", "0")}; return server;`)(require, { log() {} });
  await new Promise((ready) => server.once("listening", ready));
  try {
    return (await post(server.address().port, row.headers, body)) === 204;
  } finally {
    server.close();
  }
});

function post(port, headers, body) {
  return new Promise((resolve, reject) => {
    const sent = { ...headers, host: `127.0.0.1:${port}`, "content-length": body.length };
    const asked = request({ host: "127.0.0.1", port, method: "POST", headers: sent }, (answer) => {
      answer.resume();
      resolve(answer.statusCode);
    });
    asked.once("error", reject);
    asked.end(body);
  });
}
