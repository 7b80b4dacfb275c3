import { writeSync } from 'node:fs';
import { runCli } from './program.ts';

/** Writes whole texts at once, so that nothing is lost when the process ends. A reader that has gone is no error of ours. */
function write(fd: number, text: string): void {
  const bytes = Buffer.from(text);
  let written = 0;
  while (written < bytes.length) {
    try {
      written += writeSync(fd, bytes, written);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') return;
      // A full pipe in non-blocking mode: let its reader read.
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5);
    }
  }
}

const exitCode = await runCli(process.argv.slice(2), { out: (text) => write(1, text), err: (text) => write(2, text) });
process.exit(exitCode);
