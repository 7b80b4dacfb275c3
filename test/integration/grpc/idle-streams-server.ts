import { echoWorld } from './echo-fixture.ts';

/** The echo server in a process of its own, which reports its memory to the process that forked it. */
const world = await echoWorld();
const { address, seen } = world;
process.on('message', () => {
  globalThis.gc?.();
  process.send?.({ path: 'path' in address ? address.path : '', watching: seen.watching, rss: process.memoryUsage.rss() });
});
process.once('disconnect', () => void world[Symbol.asyncDispose]());
process.send?.('ready');
