import type { AuthorityStatusAnswer, NodeAnswer, RotationAnswer, SlotAnswer } from '../model/authority-api.ts';
import { table } from './table.ts';
import { oneLine } from './terminal.ts';

const KEY_ID_LENGTH = 16;
/** Certificates are valid from 30 s before their issue: beyond this a node's clock breaks handshakes. */
const TOLERATED_SKEW_SECONDS = 10;

/** `weft ca status` as text. */
export function authorityText({ trustDomain, sequence, slots, rotation, nodes, warnings }: AuthorityStatusAnswer): string {
  const parts = [`trust domain ${trustDomain}, bundle sequence ${sequence}\n`, slotsText(slots), rotationText(rotation)];
  if (warnings.length > 0) parts.push(warnings.map((warning) => `warning: ${oneLine(warning)}\n`).join(''));
  return [...parts, nodesText(nodes)].join('\n');
}

function slotsText(slots: readonly SlotAnswer[]): string {
  const rows = slots.map(({ id, state, tainted, subject, keyId, notAfter, issuedUntil }) => [
    id,
    tainted ? `${state}, tainted` : state,
    notAfter,
    issuedUntil ?? '-',
    keyId.slice(0, KEY_ID_LENGTH),
    subject,
  ]);
  return table([['AUTHORITY', 'STATE', 'EXPIRES', 'SVIDS UNTIL', 'KEY', 'SUBJECT'], ...rows]);
}

function rotationText(rotation: RotationAnswer | null): string {
  return rotation === null ? 'no rotation is under way\n' : `${rotationLine(rotation)}\n`;
}

/** Where a rotation stands, in one line. */
export function rotationLine({ phase, slot, waitingFor, waitingUntil }: RotationAnswer): string {
  if (phase === 'retiring') {
    const until = waitingUntil === null ? '' : `, until ${waitingUntil} at the latest`;
    return `rotation, step 2 of 2: ${slot} signs now; the old root stays in the bundle while anything it has signed is valid${until}`;
  }
  const first = `rotation, step 1 of 2: ${slot} is in the bundle and signs nothing yet`;
  if (waitingUntil === null) return `${first}; every node verifies with it, it signs soon`;
  return `${first}; waiting until it has reached ${waitingFor.join(', ')} (a node that is not heard of is given up at ${waitingUntil})`;
}

function nodesText(nodes: readonly NodeAnswer[]): string {
  if (nodes.length === 0) return 'no node has joined: see `weft ca token --help`\n';
  const rows = nodes.map(({ name, evicted, lastSeen, acknowledged, liveUntil, clockSkewSeconds }) => [
    evicted ? `${name}, evicted` : name,
    lastSeen ?? '-',
    acknowledged ?? '-',
    liveUntil ?? '-',
    clockSkewSeconds === null ? '-' : skewText(clockSkewSeconds),
  ]);
  return table([['NODE', 'LAST SEEN', 'ACKNOWLEDGED', 'LIVE UNTIL', 'CLOCK'], ...rows]);
}

function skewText(seconds: number): string {
  const text = `${Math.abs(seconds).toFixed(1)} s ${seconds < 0 ? 'behind' : 'ahead'}`;
  return Math.abs(seconds) > TOLERATED_SKEW_SECONDS ? `${text}, too much` : text;
}
