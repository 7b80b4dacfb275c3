/**
 * The import rules of DESIGN.md (Rooms, Imports) as data, and a check of source texts against them. tests and benchmarks may import
 * anything; everything else may import its own room and what is said here.
 */

/** One import statement. */
export interface Import {
  /** As written: a package, a builtin, or a relative path. */
  readonly specifier: string;
  /** Erased before running: `import type`, `export type`. */
  readonly typeOnly: boolean;
}

/** Each room: its folder, and the rooms it may import. The most specific folder decides. */
const ROOMS: Readonly<Record<string, { readonly folder: string; readonly may: readonly string[] }>> = {
  model: { folder: 'src/model/', may: [] },
  // Tokens and keys as JSON (JWS, JWK), read strictly: for identities and for RequestAuthentication alike.
  jose: { folder: 'src/jose/', may: ['model'] },
  // Byte streams over sockets, and HTTP/2 over byte streams.
  transport: { folder: 'src/transport/', may: ['model'] },
  // Protobuf messages and gRPC over HTTP/2, both ends.
  grpc: { folder: 'src/grpc/', may: ['model', 'transport'] },
  // Metrics as Prometheus reads them.
  metrics: { folder: 'src/metrics/', may: ['model'] },
  // The JSON endpoints on root's own unix sockets.
  admin: { folder: 'src/admin/', may: ['model', 'metrics'] },
  // The log that a process writes.
  log: { folder: 'src/log/', may: [] },
  config: { folder: 'src/config/', may: ['model'] },
  control: { folder: 'src/control/', may: ['model', 'config', 'certs', 'admin', 'log'] },
  agent: { folder: 'src/agent/', may: ['model', 'config', 'proxy', 'certs', 'bpf', 'admin', 'grpc', 'log', 'metrics'] },
  // The kernel features for `doctor`, and the pins for `uninstall`.
  cli: { folder: 'src/cli/', may: ['model', 'config', 'bpf'] },
  console: { folder: 'src/console/', may: ['model'] },
  proxy: { folder: 'proxy/', may: ['model', 'jose', 'transport', 'grpc'] },
  certs: { folder: 'certs/', may: ['model', 'jose', 'grpc'] },
  bpf: { folder: 'bpf/', may: ['model'] },
  'libbpf-ts': { folder: 'bpf/libbpf-ts/', may: [] },
};

/** Where an npm package may be imported. A package that is not here may not be imported at all. */
const PACKAGES: Readonly<Record<string, readonly string[]>> = {
  '@kubernetes/client-node': ['control'],
  'node-forge': ['certs'],
  'libbpf-ts': ['bpf'],
  yaml: ['config'],
  ajv: ['config'],
  undici: ['control', 'cli', 'certs'],
  pino: ['log'],
  'prom-client': ['metrics'],
  commander: ['cli'],
};

/** What the command line starts: the one file that may import each composition root, and its entry. Loaded by that command alone. */
const COMPOSITION_ROOTS: Readonly<Record<string, { readonly importer: string; readonly entry: string }>> = {
  agent: { importer: 'src/cli/commands/agent.ts', entry: 'src/agent/main.ts' },
  control: { importer: 'src/cli/commands/ca-control.ts', entry: 'src/control/main.ts' },
};
const ROOT_IMPORTERS: ReadonlySet<string> = new Set(Object.values(COMPOSITION_ROOTS).map(({ importer }) => importer));
/**
 * What the command line may use of the data plane: `weft policy` decides with the code that decides in the proxy, since a second copy of its
 * meaning would sooner or later say something else. These are pure: no sockets, no threads.
 */
const PROXY_FOR_CLI: readonly string[] = ['proxy/policy/', 'proxy/http1/normalise-path.ts', 'proxy/gate/forwarded-for.ts'];
/** And of identities: it is a client of the Workload API as any workload is, and writes what it got as PEM and keystores. */
const CERTS_FOR_CLI: readonly string[] = ['certs/workload-api/', 'certs/keystore/', 'certs/x509/pem.ts'];
/** The one file with unsafe code. */
const FFI_FILE = 'bpf/libbpf-ts/src/ffi.ts';

/** The imports of a TypeScript source, dynamic ones with a literal included. */
export function importsOf(source: string): Import[] {
  const code = source.replace(/^\s*\/\*[\s\S]*?\*\//gm, '').replace(/^\s*\/\/.*$/gm, '');
  const found: Import[] = [];
  for (const [, clause = '', specifier = ''] of code.matchAll(/^\s*(?:import|export)\b([^'"`;=]*?)\bfrom\s*['"]([^'"]+)['"]/gm)) {
    found.push({ specifier, typeOnly: /^\s*type\s+[{*\w]/.test(clause) });
  }
  for (const [, specifier = ''] of code.matchAll(/^\s*import\s*['"]([^'"]+)['"]/gm)) found.push({ specifier, typeOnly: false });
  for (const [, specifier = ''] of code.matchAll(/\bimport\(\s*['"]([^'"]+)['"]/g)) found.push({ specifier, typeOnly: false });
  return found;
}

/**
 * What is wrong with the imports of these files (path from the root of the repository -> source), one line each; none when all is well.
 */
export function importViolations(files: ReadonlyMap<string, string>): string[] {
  const wrong: string[] = [];
  const rooms = new Map<string, Set<string>>();
  const imports = new Map<string, Set<string>>();
  for (const [path, source] of files) {
    if (isFree(path)) continue;
    const room = roomOf(path);
    if (room === null) {
      wrong.push(`${path} is in no room: say in test/kit/import-graph.ts what its folder may import`);
      continue;
    }
    for (const each of importsOf(source)) {
      const target = each.specifier.startsWith('.') ? resolve(path, each.specifier) : null;
      const reason = target === null ? outsideProblem(path, room, each) : insideProblem(path, room, target);
      if (reason !== null) wrong.push(`${path} imports ${each.specifier}: ${reason}`);
      const targetRoom = target === null ? null : roomOf(target);
      if (targetRoom !== null && targetRoom !== room && !ROOT_IMPORTERS.has(path)) {
        rooms.set(room, (rooms.get(room) ?? new Set()).add(targetRoom));
      }
      // Files of one folder may be halves of one thing, and know the types of each other.
      const isHalf = each.typeOnly && target !== null && folderOf(target) === folderOf(path);
      if (target !== null && !isHalf) imports.set(path, (imports.get(path) ?? new Set()).add(target));
    }
  }
  for (const [what, edges] of Object.entries({ rooms, files: imports })) {
    const cycle = findCycle(edges);
    if (cycle !== null) wrong.push(`${what} import each other in a circle: ${cycle.join(' -> ')}`);
  }
  return wrong;
}

function isFree(path: string): boolean {
  return /^(test|bench|bpf\/libbpf-ts\/test)\//.test(path);
}

function roomOf(path: string): string | null {
  let best: string | null = null;
  for (const [name, { folder }] of Object.entries(ROOMS)) {
    if (path.startsWith(folder) && (best === null || folder.length > (ROOMS[best]?.folder.length ?? 0))) best = name;
  }
  return best;
}

function outsideProblem(path: string, room: string, { specifier, typeOnly }: Import): string | null {
  if (specifier.startsWith('node:')) {
    if (specifier === 'node:ffi' && path !== FFI_FILE) return `only ${FFI_FILE} may`;
    if (room === 'model' && !typeOnly) return 'the model is pure: types of Node only';
    return null;
  }
  const name = specifier
    .split('/')
    .slice(0, specifier.startsWith('@') ? 2 : 1)
    .join('/');
  const rooms = PACKAGES[name];
  if (rooms === undefined) return 'no room may import this package';
  return rooms.includes(room) ? null : `only ${rooms.join(', ')} may`;
}

function insideProblem(path: string, room: string, target: string): string | null {
  if (isFree(target)) return 'the product imports no tests';
  const targetRoom = roomOf(target);
  if (targetRoom === null) return target.endsWith('.ts') ? 'it is in no room' : null;
  const root = COMPOSITION_ROOTS[targetRoom];
  if (root !== undefined && room !== targetRoom) {
    return path === root.importer && target === root.entry ? null : `nothing imports ${targetRoom}, but ${root.importer} its entry`;
  }
  if (targetRoom === 'libbpf-ts' && room !== 'libbpf-ts') return "import it by its name, 'libbpf-ts'";
  if (room === 'cli' && [...PROXY_FOR_CLI, ...CERTS_FOR_CLI].some((allowed) => target.startsWith(allowed))) return null;
  if (targetRoom !== room) return ROOMS[room]?.may.includes(targetRoom) ? null : `${room} may not import ${targetRoom}`;
  const [own, other] = [direction(path), direction(target)];
  return own !== null && other !== null && own !== other ? 'inbound and outbound never import each other' : null;
}

/** The half of the data plane that a file is part of, if it is of one. */
function direction(path: string): string | null {
  return /^proxy\/(inbound|outbound)/.exec(path)?.[1] ?? null;
}

function folderOf(path: string): string {
  return path.slice(0, path.lastIndexOf('/'));
}

function resolve(from: string, specifier: string): string {
  const parts = folderOf(from).split('/');
  for (const part of specifier.split('/')) {
    if (part === '..') parts.pop();
    else if (part !== '.') parts.push(part);
  }
  return parts.join('/');
}

function findCycle(edges: ReadonlyMap<string, ReadonlySet<string>>): string[] | null {
  const done = new Set<string>();
  const visit = (node: string, trail: readonly string[]): string[] | null => {
    if (trail.includes(node)) return [...trail.slice(trail.indexOf(node)), node];
    if (done.has(node)) return null;
    for (const next of edges.get(node) ?? []) {
      const cycle = visit(next, [...trail, node]);
      if (cycle !== null) return cycle;
    }
    done.add(node);
    return null;
  };
  for (const node of edges.keys()) {
    const cycle = visit(node, []);
    if (cycle !== null) return cycle;
  }
  return null;
}
