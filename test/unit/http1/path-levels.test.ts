import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { normalisationLevel, normalisePath, type PathNormalisation } from '../../../proxy/http1/normalise-path.ts';

function path(target: string, level: PathNormalisation): string {
  const normal = normalisePath(target, level);
  return typeof normal === 'string' ? normal : normal.path + normal.query;
}

describe('levels of path normalisation', () => {
  for (const [target, base, merged, decoded] of [
    ['/a/b', '/a/b', '/a/b', '/a/b'],
    ['*', '*', '*', '*'],
    ['//', '//', '/', '/'],
    ['///a////b///', '///a////b///', '/a/b/', '/a/b/'],
    ['/a//?b//c', '/a//?b//c', '/a/?b//c', '/a/?b//c'],
    ['/a%2fb', '/a%2fb', '/a%2fb', '/a/b'],
    ['/a%2F/%5cb', '/a%2F/%5cb', '/a%2F/%5cb', '/a/b'],
    ['/a?%2f%2f', '/a?%2f%2f', '/a?%2f%2f', '/a?%2f%2f'],
    ['/a%252fb%255c', '/a%252fb%255c', '/a%252fb%255c', '/a%252fb%255c'],
    ['/a\\\\b', '/a//b', '/a/b', '/a/b'],
    // Empty segments count while dots are resolved.
    ['/a//../b', '/a/b', '/a/b', '/a/b'],
    ['/a/b//..//../c', '/a/b/c', '/a/b/c', '/a/b/c'],
    ['/a%2f..%2fb', '/a%2f..%2fb', '/a%2f..%2fb', '/b'],
    ['/a/b%2f%2e%2e%5cc', '/a/b%2f..%5cc', '/a/b%2f..%5cc', '/a/c'],
    ['/%2f..', '/%2f..', '/%2f..', '/'],
    ['/a%3fb%2f%23', '/a%3fb%2f%23', '/a%3fb%2f%23', '/a%3fb/%23'],
    ['/a%00%2f', 'escaped NUL in path', 'escaped NUL in path', 'escaped NUL in path'],
    ['/a%2', 'malformed escape in path', 'malformed escape in path', 'malformed escape in path'],
    ['/%2%46', 'malformed escape in path', 'malformed escape in path', 'malformed escape in path'],
    ['%2fa', 'target form', 'target form', 'target form'],
  ] as const) {
    test(JSON.stringify(target), () => {
      assert.deepEqual(
        [path(target, 'base'), path(target, 'merge-slashes'), path(target, 'decode-and-merge-slashes')],
        [base, merged, decoded],
      );
    });
  }

  test('have the names of the settings', () => {
    const levels = (['BASE', 'MERGE_SLASHES', 'DECODE_AND_MERGE_SLASHES'] as const).map(normalisationLevel);
    assert.deepEqual(levels, ['base', 'merge-slashes', 'decode-and-merge-slashes']);
  });

  test('normalising twice changes nothing more, and what a level takes away is gone', () => {
    const piece = fc.constantFrom('/', '//', '.', '..', '%2e', '%2f', '%2F', '%5c', '%5C', '\\', 'a', '%61', '%252f', '%25', ';', '?', 'B');
    const target = fc.array(piece, { maxLength: 16 }).map((pieces) => `/${pieces.join('')}`);
    const levels = fc.constantFrom<PathNormalisation>('base', 'merge-slashes', 'decode-and-merge-slashes');
    fc.assert(
      fc.property(target, levels, (written, level) => {
        const first = normalisePath(written, level);
        if (typeof first === 'string') return;
        const once = { ...first };
        assert.deepEqual({ ...(normalisePath(once.path + once.query, level) as object) }, { ...once, changed: false });
        assert.equal(once.changed, once.path + once.query !== written);
        if (level !== 'base') assert.ok(!once.path.includes('//'), once.path);
        if (level === 'decode-and-merge-slashes') assert.ok(!/%(?:2f|5c)/i.test(once.path), once.path);
        for (const segment of once.path.split('/')) assert.ok(segment !== '.' && segment !== '..', once.path);
      }),
      { numRuns: 5000 },
    );
  });
});
