// The real PeerJS serializers and peerjs-js-binarypack, driven from Python over stdin and stdout.
//
// A request is a line of JSON, {op, …}, and so is its answer. Values are tagged lists (see `tag` and
// `untag`; peerjs_node.py has the same in Python), because JSON has neither bytes nor undefined, and
// rounds no number the way two parsers agree on: numbers travel as the 16 hex digits of their float64.

import { setMaxListeners } from "node:events";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const modules = pathToFileURL(process.argv[2] + "/");
const load = (path) => import(new URL(path, modules));

// What a browser has and Node lacks: just enough for PeerJS to construct connections over a fake channel.
class FakeChannel extends EventTarget {
  sent = [];
  bufferedAmount = 0;
  constructor() {
    super();
    setMaxListeners(0, this); // PeerJS's MsgPack adds one for every piece it sends
  }
  send(data) {
    this.sent.push(data);
  }
  close() {}
}
globalThis.location = { protocol: "http:" };
globalThis.RTCPeerConnection = class {
  createDataChannel() {
    return (lastChannel = new FakeChannel());
  }
  createOffer() {
    return new Promise(() => {});
  }
  close() {}
};
globalThis.WebSocket = class {};
let lastChannel;

const { pack, unpack } = await load("peerjs-js-binarypack/dist/binarypack.mjs");
const { Peer, MsgPack } = await load("peerjs/dist/bundler.mjs");
const serializers = { ...new Peer("a", { secure: false, debug: 0 })._serializers, MsgPack };

const bits = new DataView(new ArrayBuffer(8));

function tag(value) {
  if (value === null) return ["null"];
  if (value === undefined) return ["undefined"];
  if (typeof value === "boolean") return ["bool", value];
  if (typeof value === "string") return ["str", value];
  if (typeof value === "number") {
    bits.setFloat64(0, value);
    return ["number", bits.getBigUint64(0).toString(16).padStart(16, "0")];
  }
  if (value instanceof ArrayBuffer || ArrayBuffer.isView(value)) {
    const view = ArrayBuffer.isView(value) ? value : new Uint8Array(value);
    return ["bytes", Buffer.from(view.buffer, view.byteOffset, view.byteLength).toString("base64")];
  }
  if (value instanceof Date) return ["date", value.getTime()];
  if (Array.isArray(value)) return ["list", value.map(tag)];
  return ["map", Object.keys(value).map((key) => [key, tag(value[key])])];
}

function untag([type, value]) {
  switch (type) {
    case "null":
      return null;
    case "undefined":
      return undefined;
    case "number":
      bits.setBigUint64(0, BigInt("0x" + value));
      return bits.getFloat64(0);
    case "bytes":
      return new Uint8Array(Buffer.from(value, "base64"));
    case "date":
      return new Date(value);
    case "list":
      return value.map(untag);
    case "map":
      return Object.fromEntries(value.map(([key, item]) => [key, untag(item)]));
    case "js":
      return new Function(`return (${value})`)();
    default:
      return value;
  }
}

// An ArrayBuffer of its own, as a data channel hands it over.
const buffer = (text) => new Uint8Array(Buffer.from(text, "base64")).buffer;
const settled = () => new Promise((resolve) => setTimeout(resolve, 0));

function connect(serialization) {
  const provider = { options: { config: {} }, socket: { send() {} }, _removeConnection() {} };
  const connection = new serializers[serialization]("b", provider, {});
  const seen = { values: [], closed: false, errors: [] };
  connection.on("data", (value) => seen.values.push(tag(value)));
  connection.on("close", () => (seen.closed = true));
  connection.on("error", (error) => seen.errors.push(error.type));
  const channel = lastChannel;
  channel.onopen();
  return { connection, channel, seen };
}

const operations = {
  pack: ({ value }) => attempt(async () => tag(await pack(untag(value)))),
  unpack: ({ packed }) => attempt(() => tag(unpack(buffer(packed)))),
  parseDate: ({ text }) => Date.parse(text),
  async send({ serialization, values, flush }) {
    const { connection, channel, seen } = connect(serialization);
    for (const value of values) await connection.send(untag(value));
    if (flush) await connection.close({ flush });
    await settled();
    return { wire: channel.sent.map(tag), errors: seen.errors };
  },
  async receive({ serialization, wire }) {
    const { channel, seen } = connect(serialization);
    for (const message of wire) {
      const value = untag(message);
      const data = typeof value === "string" ? value : value.buffer;
      channel.dispatchEvent(new MessageEvent("message", { data }));
    }
    await settled();
    return seen;
  },
};

async function attempt(action) {
  try {
    return await action();
  } catch (error) {
    return ["error", error.message];
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  let answer;
  try {
    answer = { result: await operations[request.op](request) };
  } catch (error) {
    answer = { failure: error.stack };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
}
process.exit(0);
