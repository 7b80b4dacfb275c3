import type { ConnectionsAnswer, CountersAnswer, EnrolmentInfo, ReadyAnswer, StateAnswer, SvidsAnswer } from '../model/admin-api.ts';
import { KERNEL_REASONS } from '../model/kernel-reasons.ts';
import { table } from './table.ts';
import { oneLine } from './terminal.ts';

/** What the summary shows. */
export interface Summary {
  readonly ready: ReadyAnswer;
  readonly state: StateAnswer;
  readonly counters: CountersAnswer;
}

/** More than these many lines of one kind are cut; --json has them all. */
const MOST_LINES = 200;

/** `weft status`: one screen about this node. */
export function summaryText({ ready, state, counters }: Summary, now: number = Date.now()): string {
  const parts = [
    table([
      ['node', `${state.node}, trust domain ${state.trustDomain}`],
      [
        'agent',
        `weft ${state.version}, pid ${state.pid}, up ${duration(now - Date.parse(state.startedAt))}, ${plural(state.workers, 'worker')}`,
      ],
      ['ready', ready.ready ? 'yes' : `no, waiting for ${ready.waitingFor.join(', ')}`],
      [
        'mesh',
        `${plural(state.workloads.local, 'workload')} here, ${state.workloads.remote} elsewhere; ${plural(state.services, 'service')}, ` +
          `${state.policies.length === 1 ? '1 policy' : `${state.policies.length} policies`}; configuration ${state.snapshotVersion}`,
      ],
    ]),
    namespaces(state),
    enrolments(state.enrolments),
    refusals(counters),
    problems(state.problems),
  ];
  return parts.filter((part) => part !== '').join('\n');
}

function namespaces(state: StateAnswer): string {
  if (state.namespaces.length === 0) return '';
  const rows = state.namespaces.map(({ name, mode, workloads }) => [name, mode, String(workloads)]);
  return table([['NAMESPACE', 'MODE', 'WORKLOADS'], ...cut(rows)]);
}

function enrolments(list: readonly EnrolmentInfo[]): string {
  if (list.length === 0) return 'No workload of this node is to be enrolled.\n';
  const rows = list.map(({ workload, state, mode, modeSource, identity, place }) => [
    workload,
    state,
    `${mode} (${modeSource})`,
    identity,
    place.replace(/^network-namespace /, 'netns '),
  ]);
  const notes = list.flatMap(({ workload, conflicts, error }) => [
    ...(error === null ? [] : [`  ${workload}: ${error}`]),
    ...(conflicts.length === 0 ? [] : [`  ${workload}: its application holds port ${conflicts.join(', ')}, which the agent wanted`]),
  ]);
  const text = table([['WORKLOAD', 'STATE', 'MODE', 'IDENTITY', 'PLACE'], ...cut(rows)]);
  return notes.length === 0 ? text : `${text}${notes.map((note) => `${oneLine(note)}\n`).join('')}`;
}

/** Kernel reasons that stand for something that did not get through, or not as it should. */
const KERNEL_REFUSALS = KERNEL_REASONS.filter((reason) => /refused|full|lost/.test(reason));
const PROXY_REFUSALS = ['weft_connections_refused_total', 'weft_http_refusals_total'] as const;

function refusals({ kernel, proxy }: CountersAnswer): string {
  const rows: string[][] = [];
  for (const reason of KERNEL_REFUSALS) if (kernel[reason] > 0) rows.push(['kernel', reason, String(kernel[reason])]);
  const byReason = new Map<string, number>();
  for (const [text, value] of Object.entries(proxy)) {
    const { name, labels } = readSample(text);
    let key: string | null = null;
    if ((PROXY_REFUSALS as readonly string[]).includes(name)) {
      key = `${name === 'weft_http_refusals_total' ? 'malformed request' : 'connection'}: ${labels.get('reason') ?? 'other'}`;
    } else if (name === 'weft_requests_total' && labels.get('verdict') === 'deny') {
      key = 'request: policy';
    }
    if (key !== null) byReason.set(key, (byReason.get(key) ?? 0) + value);
  }
  const sorted = [...byReason].filter(([, value]) => value > 0).toSorted(([, a], [, b]) => b - a);
  for (const [reason, value] of sorted) rows.push(['proxy', reason, String(value)]);
  if (rows.length === 0) return 'Nothing was refused.\n';
  return `Refused (kernel: since its maps were made; proxy: since the agent's start)\n${table(rows, '  ')}`;
}

function problems(list: readonly string[]): string {
  if (list.length === 0) return '';
  return `Problems with the configuration; the last good state is in force\n${cut(list.map((problem) => [problem]))
    .map(([problem]) => `  ${oneLine(problem as string)}\n`)
    .join('')}`;
}

/** `weft status connections`. */
export function connectionsText({ connections }: ConnectionsAnswer, now: number = Date.now()): string {
  if (connections.length === 0) return 'No connection is open.\n';
  const rows = connections.map((each) => [
    each.direction,
    each.state,
    each.protocol,
    each.security,
    end(each.source, each.sourceIdentity),
    end(each.destination, each.destinationIdentity),
    duration(now - Date.parse(each.openedAt)),
    `${bytes(each.bytesReceived)}/${bytes(each.bytesSent)}`,
  ]);
  return table([['DIRECTION', 'STATE', 'PROTOCOL', 'SECURITY', 'SOURCE', 'DESTINATION', 'AGE', 'IN/OUT'], ...cut(rows)]);
}

function end(address: string, identity: string | null): string {
  return identity === null ? address : `${address} ${identity.replace(/^spiffe:\/\/[^/]*/, '')}`;
}

/** `weft status svids`. */
export function svidsText({ svids, bundles }: SvidsAnswer, now: number = Date.now()): string {
  const rows = svids.map(({ identity, state, notAfter, renewsAt, error }) => [
    identity,
    state,
    notAfter === null ? 'none' : until(Date.parse(notAfter) - now),
    renewsAt === null ? '-' : until(Date.parse(renewsAt) - now),
    error ?? '-',
  ]);
  const list =
    rows.length === 0
      ? 'No workload of this node needs an SVID.\n'
      : table([['IDENTITY', 'STATE', 'VALID FOR', 'RENEWED IN', 'LAST FAILURE'], ...cut(rows)]);
  const roots = bundles.map(({ trustDomain, sequence, roots: count }) => [trustDomain, plural(count, 'root'), `sequence ${sequence}`]);
  return roots.length === 0 ? list : `${list}\n${table([['TRUST DOMAIN', 'ROOTS', 'BUNDLE'], ...roots])}`;
}

/** `weft status counters`. */
export function countersText(counters: CountersAnswer): string {
  const kernel = KERNEL_REASONS.filter((reason) => counters.kernel[reason] > 0).map((reason) => [reason, String(counters.kernel[reason])]);
  const proxy = Object.entries(counters.proxy).map(([name, value]) => [name, String(value)]);
  return [
    table([
      ['memory', bytes(counters.rssBytes)],
      ['open descriptors', String(counters.openFileDescriptors)],
      ['original destinations in the kernel', String(counters.kernelEntries.originalDestinations)],
      ['presented peers in the kernel', String(counters.kernelEntries.presentedPeers)],
    ]),
    `Kernel, since its maps were made\n${kernel.length === 0 ? '  nothing\n' : table(kernel, '  ')}`,
    `Proxy, since the agent's start\n${proxy.length === 0 ? '  nothing\n' : table(proxy, '  ')}`,
  ].join('\n');
}

/** Reads `name{label="value",…}`. */
function readSample(text: string): { name: string; labels: ReadonlyMap<string, string> } {
  const [, name = text, inside = ''] = /^([^{]*)(?:\{(.*)\})?$/.exec(text) ?? [];
  return { name, labels: new Map(Array.from(inside.matchAll(/([^=,]+)="([^"]*)"/g), ([, key = '', value = '']) => [key, value])) };
}

function cut(rows: readonly string[][]): readonly string[][] {
  if (rows.length <= MOST_LINES) return rows;
  return [...rows.slice(0, MOST_LINES), [`… and ${rows.length - MOST_LINES} more: see --json`]];
}

function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`;
}

const UNITS: readonly (readonly [string, number])[] = [
  ['d', 86_400],
  ['h', 3600],
  ['m', 60],
  ['s', 1],
];

/** A span of milliseconds in its two largest units. */
function duration(ms: number): string {
  let seconds = Math.max(0, Math.round(ms / 1000));
  const parts: string[] = [];
  for (const [unit, size] of UNITS) {
    const count = Math.floor(seconds / size);
    seconds -= count * size;
    if (count > 0 || (unit === 's' && parts.length === 0)) parts.push(`${count}${unit}`);
  }
  return parts.slice(0, 2).join(' ');
}

function until(ms: number): string {
  return ms < 0 ? `expired ${duration(-ms)} ago` : duration(ms);
}

function bytes(count: number): string {
  for (const [unit, size] of [
    ['GiB', 2 ** 30],
    ['MiB', 2 ** 20],
    ['KiB', 2 ** 10],
  ] as const) {
    if (count >= size) return `${(count / size).toFixed(1)} ${unit}`;
  }
  return `${count} B`;
}
