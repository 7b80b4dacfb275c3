import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { ConfigProblemLog } from '../../../src/agent/config-problem-log.ts';
import { createLog } from '../../../src/log/log.ts';
import type { ConfigProblem } from '../../../src/config/config-problem.ts';

function problem(line: number, code: ConfigProblem['code'] = 'WEFT_CONFIG_YAML'): ConfigProblem {
  return { file: '/etc/weft/a.yaml', line, column: 3, field: 'spec.rules', message: 'wrong', nextStep: 'correct it', code };
}

function fixture(): { problems: ConfigProblemLog; lines: Record<string, unknown>[] } {
  const lines: Record<string, unknown>[] = [];
  const log = createLog('debug', { write: (text: string) => lines.push(JSON.parse(text) as Record<string, unknown>) });
  return { problems: new ConfigProblemLog(log), lines };
}

describe('the log of configuration problems', () => {
  it('tells of each problem once, with its place and its code, and counts it', () => {
    const { problems, lines } = fixture();
    problems.report([problem(3)]);
    problems.report([problem(3), problem(9, 'WEFT_CONFIG_ALIAS')]);
    problems.report([problem(3), problem(9, 'WEFT_CONFIG_ALIAS')]);
    assert.deepEqual(
      lines.map(({ code, file, line }) => `${code} ${file}:${line}`),
      ['WEFT_CONFIG_YAML /etc/weft/a.yaml:3', 'WEFT_CONFIG_ALIAS /etc/weft/a.yaml:9'],
    );
    assert.deepEqual(problems.lines, [
      '/etc/weft/a.yaml:3:3: spec.rules: wrong (correct it)',
      '/etc/weft/a.yaml:9:3: spec.rules: wrong (correct it)',
    ]);
    assert.deepEqual(Object.fromEntries(problems.counts), { WEFT_CONFIG_YAML: 1, WEFT_CONFIG_ALIAS: 1 });
  });

  it('says when all is well again, and counts what comes back', () => {
    const { problems, lines } = fixture();
    problems.report([]);
    assert.equal(lines.length, 0);
    problems.report([problem(3)]);
    problems.report([]);
    assert.match(String(lines[1]?.['msg']), /in order again/);
    problems.report([problem(3)]);
    assert.deepEqual(Object.fromEntries(problems.counts), { WEFT_CONFIG_YAML: 2 });
  });

  it('writes some lines for a directory full of problems, not one for each', () => {
    const { problems, lines } = fixture();
    problems.report(Array.from({ length: 5_000 }, (_, line) => problem(line + 1)));
    assert.equal(lines.length, 21);
    assert.equal(lines[20]?.['more'], 4_980);
    assert.equal(problems.lines.length, 5_000);
  });
});
