// What the bench asks of a tab with stock PeerJS: `bench`. The tab that connects pumps, the other one sinks.
(() => {
  const BUFFERED = 1 << 20; // bytes

  let peer, connection;
  let received = 0;
  let arrived = () => {};

  function use(made) {
    connection = made;
    connection.on("data", (data) => {
      received += data.byteLength;
      arrived();
    });
  }

  window.bench = {
    open(id, server) {
      const { hostname, port, pathname } = new URL(server);
      peer = new peerjs.Peer(id, { host: hostname, port, path: pathname, config: { iceServers: [] } });
      peer.on("connection", use);
      return new Promise((resolve, reject) => peer.on("open", () => resolve()).on("error", reject));
    },

    connect(id, serialization) {
      use(peer.connect(id, { serialization, reliable: true }));
      return new Promise((resolve, reject) => connection.on("open", () => resolve()).on("error", reject));
    },

    async pump(count, size) {
      const { dataChannel } = connection;
      const message = new ArrayBuffer(size);
      dataChannel.bufferedAmountLowThreshold = BUFFERED / 2;
      for (let sent = 0; sent < count; sent++) {
        if (dataChannel.bufferedAmount > BUFFERED)
          await new Promise((resolve) => dataChannel.addEventListener("bufferedamountlow", resolve, { once: true }));
        connection.send(message);
      }
    },

    sink(size) {
      return new Promise((resolve) => {
        arrived = () => {
          if (received < size) return;
          received -= size;
          arrived = () => {};
          resolve();
        };
        arrived();
      });
    },
  };
})();
