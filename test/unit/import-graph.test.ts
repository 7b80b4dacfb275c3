import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { join, relative } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { importViolations, importsOf } from '../kit/import-graph.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));

function repositorySources(): Map<string, string> {
  const files = new Map<string, string>();
  for (const folder of ['src', 'proxy', 'bpf', 'certs', 'test', 'bench']) {
    for (const entry of readdirSync(join(root, folder), { recursive: true, withFileTypes: true })) {
      const path = join(entry.parentPath, entry.name);
      if (entry.isFile() && entry.name.endsWith('.ts') && !path.includes('/node_modules/')) {
        files.set(relative(root, path), readFileSync(path, 'utf8'));
      }
    }
  }
  return files;
}

test('rooms import each other only as DESIGN.md says, and files not in a circle', () => {
  const files = repositorySources();
  assert.ok(files.has('src/model/errors.ts'));
  assert.deepEqual(importViolations(files), []);
});

function violations(path: string, source: string): string[] {
  return importViolations(new Map([[path, source]]));
}

const ALLOWED: readonly (readonly [path: string, source: string])[] = [
  ['src/model/a.ts', "import type { Socket } from 'node:net';\nimport { WeftError } from './errors.ts';"],
  ['proxy/inbound/a.ts', "import { connect } from 'node:net';\nimport { relay } from '../relay.ts';\nimport '../../src/model/errors.ts';"],
  ['certs/a.ts', "import forge from 'node-forge';"],
  ['bpf/a.ts', "import { dup } from 'libbpf-ts/sys';"],
  ['bpf/libbpf-ts/src/ffi.ts', "import { dlopen } from 'node:ffi';"],
  ['src/cli/commands/agent.ts', "const { main } = await import('../../agent/main.ts');"],
  ['src/cli/policy/a.ts', "import '../../../proxy/policy/workload-policy.ts';\nimport '../../../proxy/http1/normalise-path.ts';"],
  ['test/unit/a.ts', "import '../../src/agent/main.ts';\nimport 'undici';"],
];

for (const [path, source] of ALLOWED) {
  test(`${path} may say ${source.replaceAll('\n', ' ')}`, () => assert.deepEqual(violations(path, source), []));
}

const REFUSED: readonly (readonly [path: string, source: string])[] = [
  ['src/model/a.ts', "import { isIP } from 'node:net';"],
  ['src/model/a.ts', "import type { Relay } from '../../proxy/relay.ts';"],
  ['proxy/a.ts', "import { maps } from '../bpf/maps.ts';"],
  ['proxy/a.ts', "export type { CertificateAuthority } from '../certs/ca.ts';"],
  ['proxy/a.ts', "import { Pool } from 'undici';"],
  ['proxy/a.ts', "import {\n  one,\n  two,\n} from '../src/config/parse.ts';"],
  ['proxy/inbound/a.ts', "import { Outbound } from '../outbound/outbound.ts';"],
  ['proxy/outbound/a.ts', "import { Inbound } from '../inbound/inbound.ts';"],
  ['src/cli/policy/a.ts', "import { MeshView } from '../../../proxy/mesh-view.ts';"],
  ['src/agent/policy/a.ts', "import { runCli } from '../../cli/program.ts';"],
  ['bpf/a.ts', "import { dlopen } from 'node:ffi';"],
  ['bpf/a.ts', "import { open } from './libbpf-ts/src/index.ts';"],
  ['bpf/libbpf-ts/src/a.ts', "import { WeftError } from '../../../src/model/errors.ts';"],
  ['src/agent/a.ts', "import { X509 } from '@peculiar/x509';"],
  ['src/agent/a.ts', "import { open } from 'libbpf-ts';"],
  ['src/cli/a.ts', "const agent = await import('../agent/main.ts');"],
  ['src/cli/commands/agent.ts', "import { other } from '../../agent/other.ts';"],
  ['src/config/a.ts', "import pino from 'pino';"],
  ['src/config/a.ts', "import leftPad from 'left-pad';"],
  ['src/agent/a.ts', "import { Child } from '../../test/kit/child.ts';"],
  ['src/elsewhere/a.ts', ''],
];

for (const [path, source] of REFUSED) {
  test(`${path} may not say ${source.replaceAll('\n', ' ') || 'that it exists'}`, () => assert.equal(violations(path, source).length, 1));
}

test('imports are found in every form, and not in comments or strings', () => {
  const source = [
    '/** import { no } from "in-comment"; */',
    "// import 'in-line-comment';",
    "import a, { type b } from 'one';",
    "import type { c } from 'two';",
    "import * as d from 'three';",
    "import 'four';",
    "export { e } from 'five';",
    "export type { f } from 'six';",
    'export const text = "g" + await import(\'seven\');',
    "const words = ' from \\'eight\\'';",
  ].join('\n');
  assert.deepEqual(
    importsOf(source).map(({ specifier, typeOnly }) => (typeOnly ? `type ${specifier}` : specifier)),
    ['one', 'type two', 'three', 'five', 'type six', 'four', 'seven'],
  );
});

test('a circle of files is refused; files of one folder may know the types of each other', () => {
  const circle = (path: string, back: string): string[] =>
    importViolations(
      new Map([
        ['src/agent/a.ts', `import { b } from './${path}';`],
        [`src/agent/${path}`, back],
      ]),
    );
  assert.match(
    circle('b.ts', "import { a } from './a.ts';").join('\n'),
    /files .* src\/agent\/a\.ts -> src\/agent\/b\.ts -> src\/agent\/a\.ts/,
  );
  assert.equal(circle('c/b.ts', "import type { A } from '../a.ts';").length, 1);
  assert.deepEqual(circle('b.ts', "import type { A } from './a.ts';"), []);
});

test('a circle of rooms is refused, even by way of types', () => {
  const files = new Map([
    ['src/agent/a.ts', "import type { B } from '../../bpf/b.ts';"],
    ['bpf/b.ts', "import type { A } from '../src/agent/a.ts';"],
  ]);
  assert.match(importViolations(files).join('\n'), /agent -> bpf -> agent/);
});
