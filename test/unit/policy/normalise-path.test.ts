import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { normalisePath } from '../../../proxy/http1/normalise-path.ts';

/** The path, or the reason of the refusal. */
function path(target: string): string {
  const normal = normalisePath(target);
  return typeof normal === 'string' ? normal : normal.path;
}

describe('a request target', () => {
  const targets: readonly (readonly [target: string, path: string])[] = [
    ['/', '/'],
    ['/a/b', '/a/b'],
    ['/a/', '/a/'],
    // Dot segments: RFC 3986 section 5.2.4 and its examples in section 5.4, as absolute paths.
    ['/a/b/c/./../../g', '/a/g'],
    ['/b/c/./g', '/b/c/g'],
    ['/b/c/.', '/b/c/'],
    ['/b/c/./', '/b/c/'],
    ['/b/c/..', '/b/'],
    ['/b/c/../', '/b/'],
    ['/b/c/../g', '/b/g'],
    ['/b/c/../..', '/'],
    ['/b/c/../../../g', '/g'],
    ['/../g', '/g'],
    ['/./g', '/g'],
    ['/b/c/g.', '/b/c/g.'],
    ['/b/c/.g', '/b/c/.g'],
    ['/b/c/g..', '/b/c/g..'],
    ['/b/c/..g', '/b/c/..g'],
    ['/b/c/...', '/b/c/...'],
    ['/.', '/'],
    ['/..', '/'],
    ['/a//../b', '/a/b'],
    ['//../b', '/b'],
    // Escaped dots are dots.
    ['/a/%2e%2e/b', '/b'],
    ['/a/%2E./b', '/b'],
    ['/a/.%2e', '/'],
    ['/%2e/a', '/a'],
    // A backslash is a slash.
    ['/a\\b', '/a/b'],
    ['/a\\..\\b', '/b'],
    ['/a\\..', '/'],
    // Unreserved escapes are decoded, once.
    ['/%61%62%5A%7e%2D%5f%30', '/abZ~-_0'],
    ['/%252e%252e/a', '/%252e%252e/a'],
    ['/%2561', '/%2561'],
    // What stays.
    ['/a%2fb', '/a%2fb'],
    ['/a%2F..%2Fb', '/a%2F..%2Fb'],
    ['/a%5c..%5cb', '/a%5c..%5cb'],
    ['//evil.example/a', '//evil.example/a'],
    ['/a///b', '/a///b'],
    ['/a;v=1/..;x/b', '/a;v=1/..;x/b'],
    ['/a%20b%c3%a9', '/a%20b%c3%a9'],
    ['/a%3Fb%23c', '/a%3Fb%23c'],
    ['/A', '/A'],
    ['*', '*'],
    // Refusals.
    ['', 'target form'],
    ['a', 'target form'],
    ['http://host/a', 'target form'],
    ['**', 'target form'],
    ['?a', 'target form'],
    ['\\a', 'target form'],
    ['/a#b', 'fragment in target'],
    ['/a?b#c', 'fragment in target'],
    ['/a%00b', 'escaped NUL in path'],
    ['/%', 'malformed escape in path'],
    ['/%4', 'malformed escape in path'],
    ['/%4?1', 'malformed escape in path'],
    ['/%g1', 'malformed escape in path'],
    ['/%1g', 'malformed escape in path'],
    ['/%%34%31', 'malformed escape in path'],
    ['/%u0041', 'malformed escape in path'],
    ['/a b', 'invalid character in target'],
    ['/a\tb', 'invalid character in target'],
    ['/a\u0000b', 'invalid character in target'],
    ['/a\u007f', 'invalid character in target'],
    ['/\u00e9', 'invalid character in target'],
    ['/a?b c', 'invalid character in target'],
    ['/a?b\r\nX: y', 'invalid character in target'],
  ];
  for (const [target, expected] of targets) {
    it(`${JSON.stringify(target)} becomes ${expected}`, () => assert.equal(path(target), expected));
  }

  it('keeps its query byte for byte, and out of the path', () => {
    for (const [target, expectedPath, query, changed] of [
      ['/a?x=/../%2e%zz\\&y=1?2', '/a', '?x=/../%2e%zz\\&y=1?2', false],
      ['/a/../b?x', '/b', '?x', true],
      ['/a/..?x', '/', '?x', true],
      ['/a?', '/a', '?', false],
      ['/a/.?/b/..', '/a/', '?/b/..', true],
    ] as const) {
      assert.deepEqual({ ...(normalisePath(target) as object) }, { path: expectedPath, query, changed });
    }
  });

  it('that is normal is given back as the string it came as', () => {
    const target = '/api/v1/items;a=b/%20/.well-known';
    const normal = normalisePath(target);
    assert.ok(typeof normal !== 'string');
    assert.equal(normal.changed, false);
    assert.ok(Object.is(normal.path, target));
  });
});

/** Targets made of the pieces that matter to a normaliser, and of any other characters. */
const pieces = fc.constantFrom(
  '/',
  '//',
  '.',
  '..',
  '%2e',
  '%2E',
  '%2f',
  '%5c',
  '\\',
  'a',
  'B',
  '%61',
  '%25',
  '%',
  '%0',
  ';',
  '?',
  '#',
  '%00',
  '~',
  ' ',
);
const target = fc
  .array(
    fc.oneof(
      { weight: 8, arbitrary: pieces },
      { weight: 1, arbitrary: fc.integer({ min: 0, max: 255 }).map((code) => String.fromCharCode(code)) },
    ),
    {
      maxLength: 16,
    },
  )
  .map((parts) => `/${parts.join('')}`);

it('normalising twice changes nothing more, and leaves nothing to resolve or decode', () => {
  fc.assert(
    fc.property(target, (written) => {
      const first = normalisePath(written);
      if (typeof first === 'string') return;
      const once = { ...first };
      assert.ok(once.path.startsWith('/'));
      assert.ok(!once.path.includes('\\'));
      assert.ok(!/%(?:2[dDeE]|3\d|[46][1-9a-fA-F]|[57][0-9aA]|5[fF]|7[eE])/.test(once.path), once.path);
      for (const segment of once.path.split('/')) assert.ok(segment !== '.' && segment !== '..', once.path);
      assert.equal(once.changed, once.path + once.query !== written);
      assert.deepEqual({ ...(normalisePath(once.path + once.query) as object) }, { path: once.path, query: once.query, changed: false });
    }),
    { numRuns: 5000 },
  );
});

it('agrees with the URL standard on paths that both read alike', () => {
  // WHATWG URLs keep unreserved escapes and read no others than dots: compared where there are none.
  const part = fc.constantFrom('/', '.', '..', '%2e', 'a', 'b', '\\', '/./', '/../');
  fc.assert(
    fc.property(fc.array(part, { maxLength: 12 }), (parts) => {
      const written = `/${parts.join('')}`;
      // A second slash would start an authority.
      fc.pre(!/^\/[/\\]/.test(written));
      const expected = new URL(`http://host${written}`).pathname.replaceAll(/%2e/gi, '.');
      assert.equal(path(written), expected);
    }),
    { numRuns: 2000 },
  );
});
