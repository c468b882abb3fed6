// The peer of tests/interop/foreign.py on grpc-js: `main.js` serves on PLUGIN_SOCKET,
// `main.js client TARGET` makes the calls that it reads from stdin, `main.js page` serves on
// PLUGIN_SOCKET with Node's http2 and no gRPC library.
'use strict';

const http2 = require('node:http2');
const readline = require('node:readline');
const grpc = require('@grpc/grpc-js');

const SERVICE = 'peer.v1.Peer';
const HELD_MS = 300; // A call that takes so long is announced on stderr.

const bytes = (message) => message;

function method(name, requestStream, responseStream) {
  return {
    path: `/${SERVICE}/${name}`,
    requestStream,
    responseStream,
    requestSerialize: bytes,
    requestDeserialize: bytes,
    responseSerialize: bytes,
    responseDeserialize: bytes,
  };
}

const METHODS = {
  Unary: method('Unary', false, false),
  ServerStream: method('ServerStream', false, true),
  ClientStream: method('ClientStream', true, false),
  Bidi: method('Bidi', true, true),
};

// -- server ------------------------------------------------------------------------------------

function asked(call, key) {
  return call.metadata.get(key)[0];
}

/** The metadata that the caller asks for; grpc-js can send no `x-raw`. */
function echoed(call, sizeKey) {
  const metadata = new grpc.Metadata();
  for (const key of Object.keys(call.metadata.getMap())) {
    if (key.startsWith('x-echo')) {
      for (const value of call.metadata.get(key)) metadata.add(key, value);
    }
  }
  const size = Number(asked(call, sizeKey) ?? 0);
  if (size) metadata.set('x-large', 'a'.repeat(size));
  return metadata;
}

function wait(call) {
  const early = asked(call, 'x-before-deadline-ms');
  let delay = Number(asked(call, 'x-sleep-ms') ?? 0);
  if (early !== undefined) delay = call.getDeadline() - Date.now() - Number(early);
  if (delay <= 0) return Promise.resolve();
  if (delay >= HELD_MS) process.stderr.write('holding\n');
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, delay);
    call.on('cancelled', () => clearTimeout(timer));
  });
}

/** Wait as the caller asks; return the error to end with, or null. */
async function outcome(call) {
  await wait(call);
  const code = Number(asked(call, 'x-status') ?? 0);
  if (code === 0) return null;
  const details = (asked(call, 'x-message-bin') ?? '').toString();
  return { code, details, metadata: echoed(call, 'x-trailing-size') };
}

async function answer(call, callback, reply) {
  const error = await outcome(call);
  if (error) return callback(error);
  call.sendMetadata(echoed(call, 'x-initial-size'));
  callback(null, reply, echoed(call, 'x-trailing-size'));
}

async function endStream(call, replies) {
  const error = await outcome(call);
  if (error) return call.emit('error', error);
  for (const reply of replies) call.write(reply);
  call.end(echoed(call, 'x-trailing-size'));
}

const HANDLERS = {
  Unary: (call, callback) => answer(call, callback, call.request),
  ServerStream: (call) => {
    call.sendMetadata(echoed(call, 'x-initial-size'));
    endStream(call, [...call.request].map((byte) => Buffer.of(byte)));
  },
  ClientStream: (call, callback) => {
    const messages = [];
    call.on('data', (message) => messages.push(message));
    call.on('end', () => answer(call, callback, Buffer.concat(messages)));
  },
  Bidi: (call) => {
    call.sendMetadata(echoed(call, 'x-initial-size'));
    call.on('data', (message) => call.write(message));
    call.on('end', () => endStream(call, []));
  },
};

function serve(socket) {
  const server = new grpc.Server();
  server.addService(METHODS, HANDLERS);
  server.bindAsync(`unix:${socket}`, grpc.ServerCredentials.createInsecure(), (error) => {
    if (error) throw error;
  });
  process.on('SIGTERM', () => server.tryShutdown(() => process.exit(0)));
}

/** Answer Unary in bare HTTP/2, and everything else with a page: 404, or the status asked for. */
function servePages(socket) {
  const server = http2.createServer();
  server.on('stream', (stream, headers) => {
    const status = Number(headers['x-http-status'] ?? 404);
    if (headers['x-http-status'] || headers[':path'] !== METHODS.Unary.path) {
      stream.respond({ ':status': status, 'content-type': 'text/html' });
      stream.end(`<html>${status}: there is no such page here</html>\n`);
      return;
    }
    const parts = [];
    stream.on('data', (part) => parts.push(part));
    stream.on('end', () => {
      const head = { ':status': 200, 'content-type': 'application/grpc' };
      stream.respond(head, { waitForTrailers: true });
      stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
      stream.end(Buffer.concat(parts));
    });
  });
  server.listen(socket);
  process.on('SIGTERM', () => process.exit(0));
}

// -- client ------------------------------------------------------------------------------------

function toMetadata(pairs) {
  const metadata = new grpc.Metadata();
  for (const [key, value] of pairs) {
    metadata.add(key, key.endsWith('-bin') ? Buffer.from(value, 'base64') : value);
  }
  return metadata;
}

function toPairs(metadata) {
  const pairs = [];
  for (const key of Object.keys(metadata?.getMap() ?? {})) {
    for (const value of metadata.get(key)) {
      const text = Buffer.isBuffer(value) ? value.toString('base64') : value;
      pairs.push([key, text]);
    }
  }
  return pairs;
}

function call(client, order) {
  const { path, requestStream, responseStream } = METHODS[order.method];
  const messages = order.messages.map((message) => Buffer.from(message, 'base64'));
  const options = order.timeout ? { deadline: Date.now() + order.timeout * 1000 } : {};
  const result = { id: order.id, replies: [], initial: [], trailing: [] };
  const common = [path, bytes, bytes];
  const tail = [toMetadata(order.metadata), options];
  const add = (reply) => reply && result.replies.push(reply.toString('base64'));
  const done = (_error, reply) => add(reply);

  let running;
  if (requestStream && responseStream) running = client.makeBidiStreamRequest(...common, ...tail);
  else if (requestStream) running = client.makeClientStreamRequest(...common, ...tail, done);
  else if (responseStream) {
    running = client.makeServerStreamRequest(...common, messages[0], ...tail);
  } else running = client.makeUnaryRequest(...common, messages[0], ...tail, done);

  if (responseStream) running.on('data', add).on('error', () => {});
  running.on('metadata', (metadata) => { result.initial = toPairs(metadata); });
  running.on('status', ({ code, details, metadata }) => {
    // The callback of a unary call, which has the reply, runs right after this event.
    setImmediate(() => {
      Object.assign(result, { code, message: details, trailing: toPairs(metadata) });
      process.stdout.write(`${JSON.stringify(result)}\n`);
    });
  });
  if (requestStream) {
    for (const message of messages) running.write(message);
    running.end();
  }
}

function runClient(target) {
  const client = new grpc.Client(target, grpc.credentials.createInsecure());
  const lines = readline.createInterface({ input: process.stdin });
  lines.on('line', (line) => call(client, JSON.parse(line)));
  lines.on('close', () => process.exit(0));
}

const [mode, target] = process.argv.slice(2);
if (mode === 'client') runClient(target);
else if (mode === 'page') servePages(process.env.PLUGIN_SOCKET);
else serve(process.env.PLUGIN_SOCKET);
