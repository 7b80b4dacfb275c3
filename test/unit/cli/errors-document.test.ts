import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../../..', import.meta.url));
/** Every file of the product that may raise an error. */
const EXTENSIONS = /\.ts$|\/weft$/;
const CODE = /['"`](WEFT_[A-Z0-9]+_[A-Z0-9_]*[A-Z0-9])['"`]/g;
/** The launcher is a shell script, and the last resort is within a text. */
const CODE_IN_TEXT = /weft: (WEFT_[A-Z0-9]+_[A-Z0-9_]*[A-Z0-9]):/g;
/** certs/svid/peer-verifier.ts makes its codes: refuse('SAN', …) is WEFT_IDENTITY_PEER_SAN. */
const PEER_VERIFIER = 'certs/svid/peer-verifier.ts';
const PEER_REASON = /\brefuse\(\s*'([A-Z_]+)'/g;

function sources(): Map<string, string> {
  const files = new Map<string, string>();
  for (const folder of ['src', 'proxy', 'bpf', 'certs']) {
    for (const entry of readdirSync(join(root, folder), { recursive: true, withFileTypes: true })) {
      const path = join(entry.parentPath, entry.name);
      if (entry.isFile() && EXTENSIONS.test(path) && !path.includes('/node_modules/') && !path.includes('/libbpf-ts/')) {
        files.set(path.slice(root.length), readFileSync(path, 'utf8'));
      }
    }
  }
  return files;
}

function raisedCodes(): Set<string> {
  const codes = new Set<string>();
  for (const [path, text] of sources()) {
    for (const pattern of [CODE, CODE_IN_TEXT]) for (const [, code = ''] of text.matchAll(pattern)) codes.add(code);
    if (path === PEER_VERIFIER) for (const [, reason = ''] of text.matchAll(PEER_REASON)) codes.add(`WEFT_IDENTITY_PEER_${reason}`);
  }
  return codes;
}

const document = readFileSync(join(root, 'docs/errors.md'), 'utf8');
const documented = Array.from(document.matchAll(/^\| `(WEFT_[A-Z0-9_]+)` \| [^|]+ \| [^|]+ \|$/gm), ([, code = '']) => code);

test('docs/errors.md has a line for every error code in the source, and for no other', () => {
  const raised = raisedCodes();
  assert.ok(raised.has('WEFT_CLI_USAGE') && raised.has('WEFT_CLI_NO_NODE') && raised.has('WEFT_IDENTITY_PEER_SAN'));
  assert.deepEqual(
    { missing: [...raised].filter((code) => !documented.includes(code)).toSorted(), stale: documented.filter((code) => !raised.has(code)) },
    { missing: [], stale: [] },
  );
});

test('docs/errors.md has each code once, and every line of its tables is whole', () => {
  assert.deepEqual(
    documented.filter((code, index) => documented.indexOf(code) !== index),
    [],
  );
  assert.equal(documented.length, Array.from(document.matchAll(/^\| `WEFT_/gm)).length);
});

test('codes are not put together from parts, but where this test knows of it', () => {
  const found = [...sources()].filter(([, text]) => /WEFT_[A-Z0-9_]*\$\{/.test(text)).map(([path]) => path);
  assert.deepEqual(found, [PEER_VERIFIER]);
});
