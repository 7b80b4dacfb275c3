/**
 * The tunnel beside node:http2, in one process over loopback TLS: CPU per 100-byte ping-pong on 1, 16 and 64 streams, and throughput of
 * one stream. Both ends run here, so a "message" is one send and one receive at each end.
 *
 *   node bench/micro/tunnel.ts [--json] [--rounds N]
 */
import { once } from 'node:events';
import http2 from 'node:http2';
import type net from 'node:net';
import type { AddressInfo, Server } from 'node:net';
import { parseArgs } from 'node:util';
import type { ByteStream } from '../../src/model/byte-stream.ts';
import type { TunnelClient } from '../../proxy/tunnel/tunnel-client.ts';
import { CLIENT_ID, connect, SERVER_ID, TunnelHost, TunnelWorld } from '../../test/integration/tunnel/tunnel-world.ts';
import { pemKey } from '../../test/unit/certs/forge.ts';

const { values: flags } = parseArgs({ options: { json: { type: 'boolean' }, rounds: { type: 'string' } } });
const rounds = Number(flags.rounds ?? 3);
const PING = Buffer.alloc(100, 0x61);
const STREAMS = [1, 16, 64] as const;
const MESSAGES = 30_000;
const BULK = 256 * 1024 * 1024;

/** One end under test: streams that echo, and a stream that swallows. */
interface Contender {
  readonly name: string;
  pingPong(streams: number, messages: number): Promise<void>;
  bulk(bytes: number): Promise<void>;
  close(): Promise<void>;
}

async function weft(world: TunnelWorld): Promise<Contender> {
  const host = await new TunnelHost(world, (request, responder) => {
    const stream = responder.accept();
    const echo = request.port === 1;
    stream.attach({
      onData: (chunk) => {
        if (echo && !stream.write(chunk)) stream.pause();
      },
      onEnd: () => stream.end(),
      onDrain: () => stream.resume(),
      onClose() {},
    });
    stream.resume();
  }).listen();
  const client: TunnelClient = connect(world, host);
  return {
    name: 'weft',
    async pingPong(streams, messages) {
      const opened: ByteStream[] = await Promise.all(Array.from({ length: streams }, () => client.open('10.0.0.1:1')));
      const each = Math.floor(messages / streams);
      await Promise.all(
        opened.map((stream) => {
          const done = Promise.withResolvers<void>();
          let left = each;
          let due = PING.length;
          stream.attach({
            onData: (chunk) => {
              due -= chunk.length;
              if (due > 0) return;
              due = PING.length;
              if (--left === 0) stream.end();
              else stream.write(PING);
            },
            onEnd() {},
            onDrain() {},
            onClose: () => done.resolve(),
          });
          stream.resume();
          stream.write(PING);
          return done.promise;
        }),
      );
    },
    async bulk(bytes) {
      const stream = await client.open('10.0.0.1:2');
      const done = Promise.withResolvers<void>();
      const chunk = Buffer.alloc(65_536, 0x62);
      let left = bytes;
      const fill = (): void => {
        while (left > 0) {
          left -= chunk.length;
          if (!stream.write(chunk)) return;
        }
        stream.end();
      };
      stream.attach({ onData() {}, onEnd() {}, onDrain: fill, onClose: () => done.resolve() });
      stream.resume();
      fill();
      await done.promise;
    },
    async close() {
      client.destroy();
      await host[Symbol.asyncDispose]();
    },
  };
}

async function nodeHttp2(world: TunnelWorld): Promise<Contender> {
  const svid = world.mirror.current(SERVER_ID);
  const own = world.mirror.current(CLIENT_ID);
  if (svid === null || own === null) throw new Error('no SVID');
  const settings = { initialWindowSize: 4 << 20, maxFrameSize: 1 << 20 };
  const server = http2.createSecureServer({
    key: pemKey(svid.privateKey),
    cert: svid.certificateChain,
    ca: world.root.pem,
    requestCert: true,
    minVersion: 'TLSv1.3',
    settings,
  });
  server.on('session', (session) => session.setLocalWindowSize(16 << 20));
  server.on('stream', (stream: http2.ServerHttp2Stream, headers) => {
    stream.on('error', () => {});
    stream.respond({ ':status': 200 });
    if (headers[':authority'] === '10.0.0.1:1') stream.on('data', (chunk: Buffer) => stream.write(chunk));
    else stream.resume();
    stream.on('end', () => stream.end());
  });
  (server as unknown as Server).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const session = http2.connect(`https://127.0.0.1:${(server.address() as AddressInfo).port}`, {
    key: pemKey(own.privateKey),
    cert: own.certificateChain,
    ca: world.root.pem,
    checkServerIdentity: () => undefined,
    settings,
  });
  await once(session, 'connect');
  session.setLocalWindowSize(16 << 20);
  const open = async (authority: string): Promise<http2.ClientHttp2Stream> => {
    const stream = session.request({ ':method': 'CONNECT', ':authority': authority });
    await once(stream, 'response');
    return stream;
  };
  return {
    name: 'node:http2',
    async pingPong(streams, messages) {
      const opened = await Promise.all(Array.from({ length: streams }, () => open('10.0.0.1:1')));
      const each = Math.floor(messages / streams);
      await Promise.all(
        opened.map((stream) => {
          let left = each;
          let due = PING.length;
          stream.on('data', (chunk: Buffer) => {
            due -= chunk.length;
            if (due > 0) return;
            due = PING.length;
            if (--left === 0) stream.end();
            else stream.write(PING);
          });
          stream.write(PING);
          return once(stream, 'close');
        }),
      );
    },
    async bulk(bytes) {
      const stream = await open('10.0.0.1:2');
      const chunk = Buffer.alloc(65_536, 0x62);
      let left = bytes;
      const fill = (): void => {
        while (left > 0) {
          left -= chunk.length;
          if (!stream.write(chunk)) return;
        }
        stream.end();
      };
      stream.on('drain', fill);
      stream.resume();
      fill();
      await once(stream, 'close');
    },
    async close() {
      session.destroy();
      (server as unknown as net.Server).close();
    },
  };
}

interface Measured {
  wallUs: number;
  cpuUs: number;
}

async function measure(work: () => Promise<void>): Promise<Measured> {
  const cpu = process.cpuUsage();
  const begin = performance.now();
  await work();
  const used = process.cpuUsage(cpu);
  return { wallUs: (performance.now() - begin) * 1000, cpuUs: used.user + used.system };
}

const world = await TunnelWorld.make();
const contenders = [await weft(world), await nodeHttp2(world)];
const best = new Map<string, Measured>();
const keep = (key: string, measured: Measured): void => {
  const before = best.get(key);
  if (before === undefined || measured.cpuUs < before.cpuUs) best.set(key, measured);
};
for (const contender of contenders) await contender.pingPong(16, 20_000);
for (let round = 0; round < rounds; round++) {
  for (const streams of STREAMS) {
    const messages = streams === 1 ? MESSAGES / 3 : MESSAGES;
    // Interleaved, so that a noisy minute hits both.
    for (const contender of contenders) keep(`${contender.name} ${streams}`, await measure(() => contender.pingPong(streams, messages)));
  }
  for (const contender of contenders) keep(`${contender.name} bulk`, await measure(() => contender.bulk(BULK)));
}
for (const contender of contenders) await contender.close();

const runs: Record<string, unknown>[] = [];
for (const { name } of contenders) {
  for (const streams of STREAMS) {
    const messages = streams === 1 ? MESSAGES / 3 : MESSAGES;
    const measured = best.get(`${name} ${streams}`) as Measured;
    runs.push({
      name,
      streams,
      cpu_us_per_message: Number((measured.cpuUs / messages).toFixed(2)),
      wall_us_per_message: Number((measured.wallUs / messages).toFixed(2)),
    });
  }
  const bulk = best.get(`${name} bulk`) as Measured;
  runs.push({
    name,
    streams: 1,
    bulk_mib_per_s: Math.round(BULK / 1048576 / (bulk.wallUs / 1e6)),
    cpu_us_per_mib: Math.round(bulk.cpuUs / (BULK / 1048576)),
  });
}
if (flags.json) console.log(JSON.stringify({ scenario: 'tunnel', runs }, null, 2));
else console.table(runs);
process.exit(0);
