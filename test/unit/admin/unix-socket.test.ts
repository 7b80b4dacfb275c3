import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { clearStaleSocket } from '../../../src/admin/unix-socket.ts';

/** Listens, takes no connection, and is sent as many as there is room for. */
const BUSY = `import socket, sys
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(0)
callers = []
while True:
    c = socket.socket(socket.AF_UNIX); c.setblocking(False); callers.append(c)
    try: c.connect(sys.argv[1])
    except BlockingIOError: break
print('busy', flush=True); sys.stdin.read()`;

test('the socket of a process that is gone makes room; that of one that is only busy, and what is no socket, stay', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'weft-socket-'));
  try {
    const path = join(directory, 'busy.sock');
    const busy = spawn('python3', ['-c', BUSY, path], { stdio: ['pipe', 'pipe', 'inherit'] });
    await once(busy.stdout, 'data');
    assert.equal(await clearStaleSocket(path), false);
    assert.equal(existsSync(path), true);
    busy.kill('SIGKILL');
    await once(busy, 'exit');
    assert.equal(await clearStaleSocket(path), true);
    assert.equal(existsSync(path), false);
    const file = join(directory, 'file');
    writeFileSync(file, 'precious');
    assert.equal(await clearStaleSocket(file), true);
    assert.equal(readFileSync(file, 'utf8'), 'precious');
    assert.equal(await clearStaleSocket(join(directory, 'nothing')), true);
  } finally {
    rmSync(directory, { recursive: true });
  }
});
