import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { ConfigProblem } from '../../../src/config/config-problem.ts';
import { formatProblem } from '../../../src/config/format-problem.ts';

const problem: ConfigProblem = {
  file: '/etc/weft/policy.yaml',
  line: 2,
  column: 11,
  field: 'spec.action',
  message: '"ALOW" is not one of ALLOW, DENY',
  nextStep: 'use one of ALLOW, DENY',
  code: 'WEFT_CONFIG_INVALID_VALUE',
};

describe('formatProblem', () => {
  it('is one line with the place, the field and the next step', () => {
    assert.equal(
      formatProblem(problem),
      '/etc/weft/policy.yaml:2:11: spec.action: "ALOW" is not one of ALLOW, DENY (use one of ALLOW, DENY)',
    );
    assert.equal(
      formatProblem({ ...problem, line: 0, column: 0, field: '' }, 'x'),
      '/etc/weft/policy.yaml: "ALOW" is not one of ALLOW, DENY (use one of ALLOW, DENY)',
    );
  });

  it('says what is in force until then', () => {
    assert.match(
      formatProblem({ ...problem, consequence: 'the rule denies everything' }),
      /\(use one of ALLOW, DENY; until then the rule denies everything\)$/,
    );
  });

  it('shows the source line with a mark under the place', () => {
    const [, line, mark] = formatProblem(problem, 'spec:\r\n\taction: ALOW\r\n').split('\n');
    assert.equal(line, ' 2 |  action: ALOW');
    assert.equal(mark, '   |           ^');
  });

  it('cuts a long line around the place', () => {
    const [, line = '', mark = ''] = formatProblem({ ...problem, line: 1, column: 5001 }, `${'a'.repeat(5000)}X${'b'.repeat(5000)}`).split(
      '\n',
    );
    assert.ok(line.length < 120);
    assert.equal(line[mark.indexOf('^')], 'X');
  });

  it('lets no control characters of a file through to the terminal', () => {
    const text = formatProblem({ ...problem, line: 1, column: 1, file: 'a\u001b[2J.yaml', field: '["\u202e"]' }, '\u001b]0;x\u0007\n');
    // oxlint-disable-next-line no-control-regex
    assert.doesNotMatch(text, /[\u0000-\u0009\u000b-\u001f\u202e]/);
  });

  it('shows no excerpt of a line that the text does not have', () => {
    assert.equal(formatProblem({ ...problem, line: 9 }, 'a\n').split('\n').length, 1);
  });
});
