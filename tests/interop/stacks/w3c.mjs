// The end of a stack that has the W3C's API in Node: `node w3c.mjs @roamhq/wrtc` or `node w3c.mjs werift`.
// Requests from stdin, answers to stdout; see the package's docstring.

import { createHash } from "node:crypto";
import { createInterface } from "node:readline";

const loaded = await import(process.argv[2]);
const { RTCPeerConnection } = loaded.RTCPeerConnection ? loaded : loaded.default;

const BUFFERED = 4 << 20; // bytes

// A queue whose readers wait.
class Queue {
  #items = [];
  #readers = [];

  put(item) {
    const reader = this.#readers.shift();
    if (reader) reader(item);
    else this.#items.push(item);
  }

  get() {
    if (this.#items.length) return this.#items.shift();
    return new Promise((resolve) => this.#readers.push(resolve));
  }
}

const happens = (target, event) => new Promise((resolve) => target.addEventListener(event, resolve));

class End {
  inbox = new Queue();

  constructor(channel) {
    this.channel = channel;
    channel.binaryType = "arraybuffer";
    channel.addEventListener("message", ({ data }) => this.inbox.put(data));
    this.opened = channel.readyState === "open" ? Promise.resolve() : happens(channel, "open");
    this.closed = happens(channel, "close");
  }

  async send(data) {
    // @roamhq/wrtc never says bufferedamountlow.
    while (this.channel.bufferedAmount > BUFFERED) await new Promise((resolve) => setTimeout(resolve, 1));
    this.channel.send(data);
  }
}

const channels = [];
const came = new Queue();
const connection = new RTCPeerConnection({ iceServers: [] });
connection.ondatachannel = ({ channel }) => came.put(new End(channel));

const add = (end) => channels.push(end) - 1;
const create = (label, ordered) => new End(connection.createDataChannel(label, { ordered }));
const octets = (message) => Buffer.from(message);

function counted(start, size) {
  const bytes = Buffer.allocUnsafeSlow(size);
  for (let at = 0; at < size; at += 4) bytes.writeUInt32BE((start + at) / 4, at);
  return bytes;
}

async function described(description) {
  await connection.setLocalDescription(description);
  while (connection.iceGatheringState !== "complete") await new Promise((resolve) => setTimeout(resolve, 5));
  return connection.localDescription.sdp;
}

const does = {
  async offer({ label, ordered }) {
    add(create(label, ordered));
    return described(await connection.createOffer());
  },

  async answer({ sdp }) {
    await connection.setRemoteDescription({ type: "offer", sdp });
    return described(await connection.createAnswer());
  },

  async accept({ sdp }) {
    await connection.setRemoteDescription({ type: "answer", sdp });
  },

  async open({ label, ordered }) {
    const end = create(label, ordered);
    await end.opened;
    return add(end);
  },

  async accepted() {
    const end = await came.get();
    return { channel: add(end), label: end.channel.label, ordered: end.channel.ordered };
  },

  async opened({ channel }) {
    await channels[channel].opened;
  },

  async send({ channel, messages }) {
    for (const { text, bytes } of messages) await channels[channel].send(text ?? counted(0, bytes));
  },

  async receive({ channel, count }) {
    const messages = [];
    while (messages.length < count) {
      const message = await channels[channel].inbox.get();
      const bytes = octets(message);
      const sha256 = createHash("sha256").update(bytes).digest("hex");
      messages.push({ text: typeof message === "string", size: bytes.length, sha256 });
    }
    return messages;
  },

  async pump({ channel, count, size, counting }) {
    const same = Buffer.alloc(size);
    for (let number = 0; number < count; number++)
      await channels[channel].send(counting ? counted(number * size, size) : same);
  },

  async sink({ channel, size, digest }) {
    const { inbox, channel: { ordered } } = channels[channel];
    const sha256 = createHash("sha256");
    const kept = [];
    let messages = 0;
    while (size > 0) {
      let message = inbox.get();
      if (message instanceof Promise) message = await message;
      size -= message.byteLength ?? message.length;
      messages += 1;
      if (digest && ordered) sha256.update(octets(message));
      else if (digest) kept.push(octets(message));
    }
    if (!digest) return messages;
    for (const message of kept.sort((a, b) => a.readUInt32BE() - b.readUInt32BE())) sha256.update(message);
    return [messages, sha256.digest("hex")];
  },

  async echo({ channel }) {
    channels[channel].inbox.put = (message) => channels[channel].channel.send(message);
  },

  async ping({ channel, count }) {
    const times = [];
    while (times.length < count) {
      const began = performance.now();
      await channels[channel].send(Buffer.alloc(1));
      await channels[channel].inbox.get();
      times.push((performance.now() - began) / 1000);
    }
    return times;
  },

  async close({ channel }) {
    channels[channel].channel.close();
  },

  async closed({ channel }) {
    await channels[channel].closed;
  },
};

const requests = createInterface({ input: process.stdin });
requests.on("line", async (line) => {
  const { id, do: what, ...parameters } = JSON.parse(line);
  try {
    console.log(JSON.stringify({ id, result: (await does[what](parameters)) ?? null }));
  } catch (error) {
    console.log(JSON.stringify({ id, error: String(error?.stack ?? error) }));
  }
});
requests.on("close", () => process.exit(0));
