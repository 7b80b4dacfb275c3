import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import type { Socket } from 'node:net';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { BpfMap, Codec, NativeBuffer } from 'libbpf-ts';
import {
  endpointCodec,
  eventCodec,
  KERNEL_MODE,
  listenerCodec,
  OWN_KIND,
  originalCodec,
  ownCodec,
  peerCodec,
  workloadCodec,
} from '../../../bpf/contract.ts';
import { KernelOriginalDestinations } from '../../../bpf/kernel-original-destinations.ts';
import { OwnSockets } from '../../../bpf/own-sockets.ts';
import { KERNEL_REASONS } from '../../../src/model/kernel-reasons.ts';

const HEADER = fileURLToPath(new URL('../../../bpf/weft.h', import.meta.url));

/** The structs that cross the boundary, and what TypeScript takes them for. */
const CODECS: Readonly<Record<string, Codec<never>>> = {
  weft_workload: workloadCodec as Codec<never>,
  weft_listener: listenerCodec as Codec<never>,
  weft_endpoint: endpointCodec as Codec<never>,
  weft_original: originalCodec as Codec<never>,
  weft_peer: peerCodec as Codec<never>,
  weft_own: ownCodec as Codec<never>,
  weft_event: eventCodec as Codec<never>,
};
/** Only the kernel reads these. */
const KERNEL_ONLY = ['weft_socket'];

interface Node {
  readonly kind: string;
  readonly name?: string;
  readonly value?: unknown;
  readonly inner?: readonly Node[];
}

function clang(args: readonly string[], input: string): string {
  const run = spawnSync(
    'clang-19',
    ['-target', 'bpf', '-I/usr/include', `-idirafter/usr/include/${machine()}-linux-gnu`, ...args, '-xc', '-'],
    {
      input,
      encoding: 'utf8',
      maxBuffer: 64 * 1024 * 1024,
    },
  );
  assert.equal(run.status, 0, run.stderr || String(run.error));
  return run.stdout;
}

function machine(): string {
  return process.arch === 'arm64' ? 'aarch64' : 'x86_64';
}

/** bpf/weft.h as the compiler sees it. */
const declarations: readonly Node[] = (
  JSON.parse(clang(['-fsyntax-only', '-Xclang', '-ast-dump=json'], `#include "${HEADER}"\n`)) as Required<Node>
).inner.filter(({ name }) => name?.startsWith('weft_'));

function fieldsOf(struct: string): string[] {
  const record = declarations.find(({ kind, name }) => kind === 'RecordDecl' && name === struct);
  return (record?.inner ?? []).flatMap(({ kind, name }) => (kind === 'FieldDecl' && name !== undefined ? [name] : []));
}

/** Constants of an enum, in order, with their values. */
function constantsOf(enumeration: string): [name: string, value: number][] {
  const found = declarations.find(({ kind, name }) => kind === 'EnumDecl' && name === enumeration);
  const constants = (found?.inner ?? []).filter(({ kind }) => kind === 'EnumConstantDecl').map(({ name }) => name as string);
  const source = [`#include "${HEADER}"`, ...constants.map((name) => `int value_of_${name}[${name} + 1];`)].join('\n');
  // As array bounds: the compiler has computed them, with or without an explicit value.
  const sizes = new Map(
    [...clang(['-S', '-emit-llvm', '-o', '-'], source).matchAll(/@value_of_(\w+) = .*\[(\d+) x i32\]/g)].map((match) => [
      match[1],
      Number(match[2]) - 1,
    ]),
  );
  return constants.map((name) => [name, sizes.get(name) as number]);
}

/** Which bytes of the struct each field is read from, found by setting them one by one. */
function layoutOf(codec: Codec<never>): Map<string, { offset: number; size: number }> {
  const view = new DataView(new ArrayBuffer(codec.size));
  const zero = codec.decode(view, 0) as Record<string, unknown>;
  const layout = new Map<string, { offset: number; size: number }>();
  for (let offset = 0; offset < codec.size; offset++) {
    view.setUint8(offset, 0xff);
    const changed = codec.decode(view, 0) as Record<string, unknown>;
    for (const name of Object.keys(zero)) {
      if (String(changed[name]) === String(zero[name])) continue;
      const known = layout.get(name);
      layout.set(name, { offset: known?.offset ?? offset, size: (known?.size ?? 0) + 1 });
    }
    view.setUint8(offset, 0);
  }
  return layout;
}

test('every struct of bpf/weft.h is in bpf/contract.ts, field by field at the same offset and of the same size', () => {
  const structs = declarations.flatMap(({ kind, name }) => (kind === 'RecordDecl' && name !== undefined ? [name] : []));
  assert.deepEqual(structs.toSorted(), [...Object.keys(CODECS), ...KERNEL_ONLY].toSorted());
  const asserts = [`#include "${HEADER}"`];
  for (const [struct, codec] of Object.entries(CODECS)) {
    const layout = layoutOf(codec);
    const fields = fieldsOf(struct).filter((name) => !name.startsWith('reserved'));
    assert.deepEqual([...layout.keys()].toSorted(), fields.toSorted(), struct);
    asserts.push(`_Static_assert(sizeof(struct ${struct}) == ${codec.size}, "size of ${struct}");`);
    for (const [name, { offset, size }] of layout) {
      asserts.push(`_Static_assert(__builtin_offsetof(struct ${struct}, ${name}) == ${offset}, "offset of ${struct}.${name}");`);
      asserts.push(`_Static_assert(sizeof(((struct ${struct} *)0)->${name}) == ${size}, "size of ${struct}.${name}");`);
    }
  }
  assert.ok(asserts.length > 40);
  clang(['-fsyntax-only'], `${asserts.join('\n')}\n`);
});

test('the reasons of the kernel and their names are the same, in the same order', () => {
  const reasons = constantsOf('weft_reason');
  const last = reasons.pop();
  assert.deepEqual(
    reasons,
    KERNEL_REASONS.map((name, index) => [`WEFT_${name.toUpperCase()}`, index]),
  );
  assert.deepEqual(last, ['WEFT_REASON_COUNT', KERNEL_REASONS.length]);
});

/** What constants are called in C. */
function names(prefix: string, values: Readonly<Record<string, number>>): [string, number][] {
  return Object.entries(values).map(([name, value]) => [`${prefix}_${name.toUpperCase()}`, value]);
}

test('modes and kinds of sockets have the same numbers on both sides', () => {
  assert.deepEqual(constantsOf('weft_mode'), names('WEFT_MODE', KERNEL_MODE));
  assert.deepEqual(constantsOf('weft_own_kind'), names('WEFT_OWN', OWN_KIND));
});

test('what is written without a codec, for speed, is what the codecs read', () => {
  let written: { readonly fd: number; readonly own: unknown } | null = null;
  const ownMap = {
    updateRaw: (key: NativeBuffer, value: NativeBuffer) => {
      assert.equal(value.size, ownCodec.size);
      written = { fd: key.view.getUint32(0, true), own: ownCodec.decode(value.view, 0) };
    },
  } as unknown as BpfMap<number, unknown>;
  const address = Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 1, 2, 3);
  new OwnSockets(ownMap).mark(7, 'upstream', { address: '10.1.2.3', port: 4567 });
  assert.deepEqual(written, { fd: 7, own: { kind: OWN_KIND.upstream, presented_port: 4567, presented_address: address } });

  const originals = {
    lookupRaw: (key: NativeBuffer, value: NativeBuffer) => {
      assert.deepEqual(endpointCodec.decode(key.view, 0), { netns: 0x1_0000_0009n, address, port: 4567 });
      originalCodec.encode({ address, port: 80, workload_id: 3, cookie: 5n }, value.view, 0);
      return true;
    },
  } as unknown as BpfMap<unknown, unknown>;
  const leg = { remoteAddress: '10.1.2.3', remotePort: 4567 } as Socket;
  const found = new KernelOriginalDestinations(originals, () => 0x1_0000_0009n).find(leg, 3);
  assert.deepEqual(found, { address: '10.1.2.3', port: 80, workloadId: 3 });
});
