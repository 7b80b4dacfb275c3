import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { RefusalLog } from '../../../proxy/refusal-log.ts';

interface Line {
  readonly level: string;
  readonly message: string;
  readonly fields: Readonly<Record<string, unknown>>;
}

function fixture(): { log: RefusalLog; lines: Line[]; clock: { now: number } } {
  const lines: Line[] = [];
  const clock = { now: 0 };
  const log = new RefusalLog(
    (level, message, fields) => lines.push({ level, message, fields }),
    () => clock.now,
  );
  return { log, lines, clock };
}

describe('the log of refusals', () => {
  it('says what and who at once, and later how often it was repeated', () => {
    const { log, lines, clock } = fixture();
    for (let i = 0; i < 1000; i++) log.add('warn', 'a tunnel was refused', { reason: 'not_tls', remoteAddress: '10.0.0.1' });
    assert.deepEqual(lines, [{ level: 'warn', message: 'a tunnel was refused', fields: { reason: 'not_tls', remoteAddress: '10.0.0.1' } }]);
    clock.now = 10_000;
    log.add('warn', 'a tunnel was refused', { reason: 'not_tls', remoteAddress: '10.0.0.1' });
    assert.deepEqual(lines[1]?.fields, { reason: 'not_tls', remoteAddress: '10.0.0.1', repeated: 999 });
    clock.now = 20_000;
    log.add('warn', 'a tunnel was refused', { reason: 'not_tls', remoteAddress: '10.0.0.1' });
    assert.equal('repeated' in (lines[2]?.fields ?? {}), false);
  });

  it('tells those who are known by their account apart', () => {
    const { log, lines } = fixture();
    for (const account of ['workload shop/cart', 'workload shop/db', 'workload shop/cart'])
      log.add('info', 'refused', { reason: 'too_many', account });
    assert.deepEqual(
      lines.map(({ fields }) => fields['account']),
      ['workload shop/cart', 'workload shop/db'],
    );
  });

  it('a local workload is a subject by its number', () => {
    const { log, lines } = fixture();
    for (const workloadId of [1, 1, 2]) log.add('warn', 'refused', { reason: 'refused_device', workloadId });
    assert.deepEqual(
      lines.map(({ fields }) => fields['workloadId']),
      [1, 2],
    );
  });

  it('one who floods does not hide another, nor one reason another', () => {
    const { log, lines } = fixture();
    for (let i = 0; i < 100; i++) log.add('warn', 'refused', { reason: 'not_tls', remoteAddress: '10.0.0.1' });
    log.add('warn', 'refused', { reason: 'not_tls', remoteAddress: '10.0.0.2' });
    log.add('warn', 'refused', { reason: 'certificate', remoteAddress: '10.0.0.1' });
    assert.deepEqual(
      lines.map(({ fields }) => `${fields['reason']} ${fields['remoteAddress']}`),
      ['not_tls 10.0.0.1', 'not_tls 10.0.0.2', 'certificate 10.0.0.1'],
    );
  });

  it('many who flood together are written at a bounded rate', () => {
    const { log, lines } = fixture();
    for (let i = 0; i < 100_000; i++) log.add('warn', 'refused', { reason: 'not_tls', remoteAddress: `10.0.${i >> 8}.${i & 255}` });
    assert.ok(lines.length >= 50 && lines.length < 80, `${lines.length}`);
  });
});
