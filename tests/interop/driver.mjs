// Drives real browsers for the tests: one JSON object a line, requests on stdin, answers and events on stdout.
//
//   {"id", "op": "launch", "browser": "chromium"|"firefox", "executable", "stranger", "args", "prefs"} -> {"browser", "version", "pid"}
//   {"id", "op": "open", "browser", "url"}                -> the page's name
//   {"id", "op": "evaluate", "page", "expression"}        -> the JSON value that the expression (or its promise) comes to
//   {"id", "op": "reload", "page"}                        -> null, once the page has loaded again
//   {"id", "op": "close", "name": a page or a browser}    -> null
//
// Pages are trusted with camera and microphone, unless the browser is launched as a `stranger`: then they see
// what any page on the web sees, and mDNS names stand for the machine's addresses.
//
// Answers are {"id", "result"} or {"id", "error"}; what a page prints or throws comes unasked as {"page", "console"}.
// Everything is closed when stdin ends.

import { createInterface } from "node:readline";
import puppeteer from "puppeteer-core";

const open = new Map(); // name -> browser or page
let made = 0;

const CHROMIUM_ARGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-dev-shm-usage",
  "--no-first-run",
  "--disable-sync",
];

// A page allowed to use the camera learns every address of the machine, and may then use loopback too:
// the browser works even where loopback is the only network. The devices are the browser's own fakes.
const CHROMIUM_TRUSTED = [
  "--use-fake-ui-for-media-stream",
  "--use-fake-device-for-media-stream",
  "--allow-loopback-in-peer-connection",
  "--autoplay-policy=no-user-gesture-required",
];
const FIREFOX_TRUSTED = {
  "permissions.default.camera": 1,
  "permissions.default.microphone": 1,
  "media.navigator.streams.fake": true,
  "media.autoplay.default": 0,
  "media.peerconnection.ice.loopback": true,
  "media.peerconnection.ice.obfuscate_host_addresses": false,
};

function launchOptions({ browser, executable, stranger = false, args = [], prefs = {} }) {
  const common = { browser: browser === "chromium" ? "chrome" : browser, executablePath: executable, headless: true };
  return browser === "chromium"
    ? { ...common, args: [...CHROMIUM_ARGS, ...(stranger ? [] : CHROMIUM_TRUSTED), ...args] }
    : { ...common, args, extraPrefsFirefox: { ...(stranger ? {} : FIREFOX_TRUSTED), ...prefs } };
}

const operations = {
  async launch(request) {
    const browser = await puppeteer.launch(launchOptions(request));
    const name = `${request.browser}-${++made}`;
    open.set(name, browser);
    return { browser: name, version: await browser.version(), pid: browser.process().pid };
  },

  async open({ browser, url }) {
    const page = await open.get(browser).newPage();
    const name = `page-${++made}`;
    open.set(name, page);
    page.on("console", (message) => say({ page: name, console: `${message.type()}: ${message.text()}` }));
    page.on("pageerror", (error) => say({ page: name, console: `uncaught: ${error?.stack ?? error}` }));
    await page.goto(url);
    return name;
  },

  async evaluate({ page, expression }) {
    return (await open.get(page).evaluate(expression)) ?? null;
  },

  async reload({ page }) {
    await open.get(page).reload();
    return null;
  },

  async close({ name }) {
    const what = open.get(name);
    open.delete(name);
    await what?.close();
    return null;
  },
};

function say(message) {
  process.stdout.write(JSON.stringify(message) + "\n");
}

async function answer(line) {
  const { id, op, ...request } = JSON.parse(line);
  try {
    say({ id, result: await operations[op](request) });
  } catch (error) {
    say({ id, error: String(error?.stack ?? error) });
  }
}

for await (const line of createInterface({ input: process.stdin })) void answer(line);
await Promise.allSettled([...open.values()].map((what) => what.close()));
process.exit(0);
