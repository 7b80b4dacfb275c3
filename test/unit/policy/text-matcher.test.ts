import assert from 'node:assert/strict';
import { it } from 'node:test';
import fc from 'fast-check';
import { TextMatcher } from '../../../proxy/policy/text-matcher.ts';

/** Short words over two letters: most are beginnings or ends of others. */
const word = fc.string({ unit: fc.constantFrom('a', 'b', '/'), minLength: 1, maxLength: 5 });
const value = fc.oneof(
  { weight: 1, arbitrary: word },
  { weight: 3, arbitrary: word.map((text) => `${text}*`) },
  { weight: 3, arbitrary: word.map((text) => `*${text}`) },
);

it('many values that overlap match what any one of them matches', () => {
  fc.assert(
    fc.property(fc.array(value, { minLength: 1, maxLength: 30 }), fc.array(word, { minLength: 1, maxLength: 20 }), (values, texts) => {
      const matcher = new TextMatcher('paths', values);
      for (const text of texts) {
        const expected = values.some((written) => new TextMatcher('paths', [written]).matches(text));
        assert.equal(matcher.matches(text), expected, `${text} of ${values.join(' ')}`);
      }
    }),
    { numRuns: 1000 },
  );
});

it('a longer value does not hide the shorter one that it starts or ends with', () => {
  const prefixes = new TextMatcher('paths', ['/a*', '/a/b*', '/a/b/c*', '/b*', '/c*', '/d*']);
  assert.equal(prefixes.matches('/a/c'), true);
  assert.equal(prefixes.matches('/a/b/d'), true);
  assert.equal(prefixes.matches('/e'), false);
  const suffixes = new TextMatcher('hosts', ['*.org', '*.a.org', '*.b.a.org', '*.net', '*.com', '*.edu']);
  assert.equal(suffixes.matches('z.org'), true);
  assert.equal(suffixes.matches('c.a.org'), true);
  assert.equal(suffixes.matches('z.info'), false);
});
