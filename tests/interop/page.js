// What a test can ask of a page that runs stock PeerJS: `harness`, at the end. Everything it makes has a name,
// and everything that happens to a named thing is recorded from the start, so that nothing is missed between two calls.

import { MsgPack } from "./serializer.msgpack.mjs";

const { Peer } = window.peerjs;

// ---- Values, as JSON that keeps what JavaScript tells apart. Plain JSON stands for itself; anything else is {"$": its type, …}.

const LARGE = 65_536; // bytes; what is larger, a string in UTF-8 too, is told by length and digest

const base64 = {
  encode: (bytes) => btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join("")),
  decode: (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0)),
};

async function digest(bytes) {
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function encodeBytes(type, bytes) {
  if (bytes.length > LARGE) return { $: type, length: bytes.length, sha256: await digest(bytes) };
  return { $: type, base64: base64.encode(bytes) };
}

async function encode(value) {
  if (value === undefined) return { $: "undefined" };
  if (typeof value === "bigint") return { $: "bigint", value: String(value) };
  if (typeof value === "number" && (!Number.isFinite(value) || Object.is(value, -0)))
    return { $: "number", value: Object.is(value, -0) ? "-0" : String(value) };
  if (typeof value === "string") {
    const bytes = new TextEncoder().encode(value);
    return bytes.length > LARGE ? { $: "string", length: bytes.length, sha256: await digest(bytes) } : value;
  }
  if (value === null || typeof value !== "object") return value;
  if (value instanceof Date) return { $: "Date", value: value.getTime() };
  if (value instanceof Blob) return encodeBytes("Blob", new Uint8Array(await value.arrayBuffer()));
  if (value instanceof ArrayBuffer) return encodeBytes("ArrayBuffer", new Uint8Array(value));
  if (ArrayBuffer.isView(value))
    return encodeBytes(value.constructor.name, new Uint8Array(value.buffer, value.byteOffset, value.byteLength));
  if (Array.isArray(value)) return Promise.all(value.map(encode));
  const entries = Object.entries(value).map(async ([key, item]) => [key, await encode(item)]);
  return Object.fromEntries(await Promise.all(entries));
}

// `length` bytes that count: big-endian 32-bit 0, 1, 2, …, so that no piece of them equals another.
function counted(length) {
  const view = new DataView(new ArrayBuffer(Math.ceil(length / 4) * 4));
  for (let at = 0; at < length; at += 4) view.setUint32(at, at / 4);
  return new Uint8Array(view.buffer.slice(0, length));
}

function bytesAs(type, bytes) {
  if (type === "ArrayBuffer") return bytes.buffer;
  if (type === "Blob") return new Blob([bytes]);
  if (type === "File") return new File([bytes], "file.bin", { type: "application/x-test" });
  return new globalThis[type](bytes.buffer);
}

function decode(value) {
  if (value === null || typeof value !== "object") return value;
  if (Array.isArray(value)) return value.map(decode);
  switch (value.$) {
    case undefined:
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, decode(item)]));
    case "undefined":
      return undefined;
    case "bigint":
      return BigInt(value.value);
    case "number":
      return Number(value.value);
    case "string":
      return value.repeat.repeat(value.times);
    case "Date":
      return new Date(value.value);
    default:
      return bytesAs(value.$, "count" in value ? counted(value.count) : base64.decode(value.base64));
  }
}

// ---- What happened to one peer or connection, in order.

class Record {
  events = [];
  #waiting = new Set();

  constructor(name, subject) {
    this.name = name;
    this.subject = subject;
  }

  add(event, detail = null) {
    this.events.push({ event, detail });
    for (const check of this.#waiting) check();
  }

  // The details of `count` events of that name, after the first `seen`, once there are as many.
  wait(event, seen, count, milliseconds) {
    const found = () => this.events.filter((each) => each.event === event).map((each) => each.detail);
    return new Promise((resolve, reject) => {
      const check = () => {
        if (found().length < seen + count) return;
        clearTimeout(timer);
        this.#waiting.delete(check);
        resolve(found().slice(seen, seen + count));
      };
      const timer = setTimeout(() => {
        this.#waiting.delete(check);
        const happened = this.events.map((each) => each.event).join(", ") || "nothing";
        reject(new Error(`${this.name}: no ${event} #${seen + count} within ${milliseconds} ms; happened: ${happened}`));
      }, milliseconds);
      this.#waiting.add(check);
      check();
    });
  }
}

const records = new Map();

function record(name, subject) {
  if (records.has(name)) throw new Error(`there is a ${name} already`);
  const made = new Record(name, subject);
  records.set(name, made);
  return made;
}

function get(name) {
  const found = records.get(name);
  if (!found) throw new Error(`no peer or connection is called ${name}; there are: ${[...records.keys()]}`);
  return found;
}

const failure = (error) => ({ type: error.type ?? error.name, message: error.message });

function recordConnection(name, connection) {
  const happened = record(name, connection);
  connection.on("open", () => happened.add("open"));
  connection.on("data", (data) => {
    happened.add("data", data);
    if (happened.echo) connection.send(data);
  });
  connection.on("close", () => happened.add("close"));
  connection.on("error", (error) => happened.add("error", failure(error)));
  return {
    name,
    peer: connection.peer,
    label: connection.label,
    metadata: connection.metadata ?? null,
    serialization: connection.serialization,
    reliable: connection.reliable,
    connectionId: connection.connectionId,
  };
}

// ---- Calls. What the page sends is red on the left and blue on the right, and the tone of the browser's fake microphone.

async function localStream(kinds) {
  const stream = new MediaStream();
  if (kinds.includes("video")) {
    const canvas = Object.assign(document.createElement("canvas"), { width: 320, height: 240 });
    const paint = canvas.getContext("2d");
    let drawn = 0;
    setInterval(() => {
      paint.fillStyle = "#f00";
      paint.fillRect(0, 0, 160, 240);
      paint.fillStyle = "#00f";
      paint.fillRect(160, 0, 160, 240);
      paint.fillStyle = "#fff";
      paint.fillRect(156, drawn++ % 240, 8, 8); // a canvas that does not change gives no frames
    }, 50);
    stream.addTrack(canvas.captureStream(20).getVideoTracks()[0]);
  }
  if (kinds.includes("camera"))
    stream.addTrack((await navigator.mediaDevices.getUserMedia({ video: true })).getVideoTracks()[0]);
  if (kinds.includes("audio"))
    stream.addTrack((await navigator.mediaDevices.getUserMedia({ audio: true })).getAudioTracks()[0]);
  return stream;
}

function hear(stream) {
  if (!stream.getAudioTracks().length) return null;
  const context = new AudioContext();
  const ear = context.createAnalyser();
  context.createMediaStreamSource(stream).connect(ear);
  ear.fftSize = 8192;
  return ear;
}

// The frequency that is loudest, in Hz; 0 when there is silence; null where a browser without a sound card hears nothing.
function tone(ear) {
  if (ear.context.state !== "running") return null;
  const levels = new Float32Array(ear.frequencyBinCount);
  ear.getFloatFrequencyData(levels);
  const loudest = levels.reduce((best, each, index) => (each > levels[best] ? index : best), 0);
  return levels[loudest] > -60 ? (loudest * ear.context.sampleRate) / ear.fftSize : 0;
}

function recordCall(name, call) {
  const happened = record(name, call);
  call.on("stream", (stream) => {
    if (happened.video?.srcObject === stream) return; // PeerJS says it once for each track
    happened.video = Object.assign(document.createElement("video"), { muted: true, autoplay: true, srcObject: stream });
    happened.ear = hear(stream);
    happened.add("stream", stream.getTracks().map((track) => track.kind).sort());
  });
  call.on("willCloseOnRemote", () => happened.add("willCloseOnRemote"));
  call.on("close", () => happened.add("close", performance.now()));
  call.on("error", (error) => happened.add("error", failure(error)));
  return { name, peer: call.peer, metadata: call.metadata ?? null, connectionId: call.connectionId };
}

// What the <video> of a call shows: its size, and the colours in the middle of its left and right half; how much has come.
async function seen(name) {
  const { video, ear, subject } = get(name);
  const report = { width: 0, height: 0, frames: 0, left: [], right: [], packets: 0, tone: ear ? tone(ear) : 0 };
  if (!video) return report;
  for (const stats of (await subject.peerConnection.getStats()).values()) {
    if (stats.type !== "inbound-rtp") continue;
    if (stats.kind === "audio") report.packets = stats.packetsReceived;
    else report.frames = stats.framesDecoded;
  }
  report.width = video.videoWidth;
  report.height = video.videoHeight;
  if (!report.width) return report;
  const canvas = Object.assign(document.createElement("canvas"), { width: report.width, height: report.height });
  const paint = canvas.getContext("2d", { willReadFrequently: true });
  paint.drawImage(video, 0, 0);
  const colour = (x) => Array.from(paint.getImageData(report.width * x, report.height / 2, 1, 1).data.slice(0, 3));
  return { ...report, left: colour(0.25), right: colour(0.75) };
}

window.harness = {
  // Make a peer called `name`; the connections and calls that come to it are called name:1, name:2, …
  peer(name, id, options) {
    const peer = new Peer(id ?? undefined, { serializers: { MsgPack }, ...options });
    const happened = record(name, peer);
    let incoming = 0;
    peer.on("open", (id) => happened.add("open", id));
    peer.on("connection", (connection) =>
      happened.add("connection", recordConnection(`${name}:${++incoming}`, connection)),
    );
    peer.on("call", (call) => happened.add("call", recordCall(`${name}:${++incoming}`, call)));
    peer.on("disconnected", () => happened.add("disconnected"));
    peer.on("close", () => happened.add("close"));
    peer.on("error", (error) => happened.add("error", failure(error)));
  },

  connect(peer, name, id, options) {
    return recordConnection(name, get(peer).subject.connect(id, options));
  },

  async call(peer, name, id, kinds, options) {
    return recordCall(name, get(peer).subject.call(id, await localStream(kinds), options));
  },

  // Take a call; with no kinds of media, without a stream.
  async answer(call, kinds) {
    get(call).subject.answer(kinds.length ? await localStream(kinds) : undefined);
  },

  seen,

  // Send every value, in order: a Blob takes PeerJS a moment to read.
  async send(connection, values) {
    for (const value of values) await get(connection).subject.send(decode(value));
  },

  // How many messages wait in PeerJS, once they have not become fewer for so long.
  async stuck(connection, milliseconds) {
    const { subject } = get(connection);
    for (let before = Infinity; before !== subject.bufferSize; ) {
      before = subject.bufferSize;
      await new Promise((resolve) => setTimeout(resolve, milliseconds));
    }
    return subject.bufferSize;
  },

  sendAndClose(connection, values) {
    for (const value of values) get(connection).subject.send(decode(value));
    get(connection).subject.close();
  },

  // When the browser has told all addresses that a peer's connections can be reached at.
  async gathered(peer) {
    const connections = Object.values(get(peer).subject.connections).flat();
    while (!connections.every(({ peerConnection }) => peerConnection.iceGatheringState === "complete"))
      await new Promise((resolve) => setTimeout(resolve, 20));
  },

  // Send back what comes, from now on and what has come already.
  echo(connection) {
    const happened = get(connection);
    happened.echo = true;
    for (const { event, detail } of happened.events) if (event === "data") happened.subject.send(detail);
  },

  wait(name, event, seen, count, milliseconds) {
    return get(name).wait(event, seen, count, milliseconds);
  },

  async received(name, event, seen, count, milliseconds) {
    return encode(await get(name).wait(event, seen, count, milliseconds));
  },

  // What a peer or a connection is asked to do: "close", "disconnect", "reconnect", "destroy", …
  tell(name, method, ...parameters) {
    get(name).subject[method](...parameters);
  },
};
