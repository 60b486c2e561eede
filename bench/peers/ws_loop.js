// ws on Node: `send` to each client, once a message.
const { WebSocketServer } = require("ws");

const [prefix, suffix] = process.argv.slice(2);
const server = new WebSocketServer({ host: "127.0.0.1", port: 0, backlog: 4096 });
let burst = 0;
let number = 0;

function turn() {
  if (burst === 0) return;
  for (let i = 0; i < burst; i++) {
    number += 1;
    const message = prefix + String(number).padStart(7, "0") + suffix;
    for (const client of server.clients) client.send(message);
  }
  setImmediate(turn);
}

server.on("listening", () => console.log(server.address().port));
server.on("connection", (client) => client.on("error", () => {}));
process.stdin.on("data", (line) => {
  const before = burst;
  burst = Number(line);
  if (before === 0) turn();
});
process.stdin.on("end", () => process.exit());
