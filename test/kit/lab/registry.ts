import { linkSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import type { AddressPair } from './address-plan.ts';
import { MAX_SLOTS } from './address-plan.ts';
import { LabError } from './errors.ts';

/**
 * The list of labs on this machine, one file each under /run/weft-lab, so that a lab whose owner died is found and swept.
 * `<id>.json` is a lab, `<id>.sweep-<n>.json` one that is being swept, `slot-<n>` holds the id of the lab that has the slot.
 * A rename decides which of two sweepers does the work. Only the owner of an id, or the sweeper that won it, frees its slot.
 */
export const REGISTRY_DIRECTORY = '/run/weft-lab';

/** A process, told apart from a later one with the same pid. */
export interface ProcessIdentity {
  readonly pid: number;
  /** Clock ticks after boot: field 22 of /proc/<pid>/stat. */
  readonly startTime: number;
}

export interface PodRecord {
  readonly name: string;
  readonly namespace: string;
  readonly serviceAccount: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly inConfig: boolean;
  readonly index: number;
  readonly addresses: AddressPair;
}

export interface NodeRecord {
  readonly name: string;
  readonly index: number;
  readonly pods: PodRecord[];
}

/** What is written of a lab: enough to list it, to run commands in it, and to remove it. */
export interface LabRecord {
  readonly id: string;
  readonly name: string;
  readonly slot: number;
  readonly owner: ProcessIdentity;
  /** Kept labs outlive their owner: they are removed by hand only. */
  readonly kept: boolean;
  readonly createdAt: string;
  readonly cgroupPath: string;
  readonly directory: string;
  readonly nodes: readonly NodeRecord[];
}

/** @returns null when there is no such process */
export function processIdentity(pid: number): ProcessIdentity | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The second field is a name in parentheses that may itself hold spaces and parentheses. A zombie (Z) is gone for our purpose.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return fields[0] === 'Z' || fields[0] === 'X' ? null : { pid, startTime: Number(fields[19]) };
  } catch {
    return null;
  }
}

export function isAlive(owner: ProcessIdentity): boolean {
  return processIdentity(owner.pid)?.startTime === owner.startTime;
}

/**
 * Writes a new lab down before anything of it exists, with an id and a slot nobody else has.
 * @throws LabError WEFT_LAB_FULL when all slots are taken
 */
export function register(describe: (id: string, slot: number) => LabRecord): LabRecord {
  mkdirSync(REGISTRY_DIRECTORY, { recursive: true, mode: 0o700 });
  let id: string;
  do {
    id = `wl${randomBytes(3).toString('hex')}`;
  } while (!createExclusively(recordPath(id), JSON.stringify(describe(id, 0))));
  for (let slot = 1; slot <= MAX_SLOTS; slot++) {
    if (createExclusively(slotPath(slot), id)) {
      const record = describe(id, slot);
      save(record);
      return record;
    }
  }
  rmSync(recordPath(id), { force: true });
  throw new LabError('WEFT_LAB_FULL', `all ${MAX_SLOTS} lab slots are taken`, { nextStep: 'npm run lab -- list, then down or sweep' });
}

/** Replaces the record of a lab at once. */
export function save(record: LabRecord): void {
  writeWhole(recordPath(record.id), JSON.stringify(record));
}

/** Removes a lab from the list: the last step of its teardown. */
export function unregister(record: LabRecord): void {
  freeSlots(record.id);
  rmSync(recordPath(record.id), { force: true });
}

/** All labs on the list. */
export function records(): LabRecord[] {
  return recordFiles().flatMap(({ path, sweeper }) => {
    const record = read(path);
    return record === null || sweeper !== null ? [] : [record];
  });
}

/** @throws LabError WEFT_LAB_UNKNOWN */
export function find(id: string): LabRecord {
  const record = /^[\w-]+$/.test(id) ? read(recordPath(id)) : null;
  if (record === null) throw new LabError('WEFT_LAB_UNKNOWN', `there is no lab ${id}`, { nextStep: 'npm run lab -- list' });
  return record;
}

/**
 * Tears down every lab whose owner is dead and which was not kept, and those whose sweeper died on the way. Safe to run in several
 * processes at once: each dead lab is swept by one of them.
 * @returns the ids that were swept
 */
export function sweep(tearDown: (record: LabRecord) => void): string[] {
  const swept: string[] = [];
  const self = processIdentity(process.pid) as ProcessIdentity;
  for (const { path, sweeper } of recordFiles()) {
    const record = read(path);
    if (record === null || (sweeper === null ? record.kept || isAlive(record.owner) : isAlive(sweeper))) continue;
    const claimed = join(REGISTRY_DIRECTORY, `${record.id}.sweep-${self.pid}-${self.startTime}.json`);
    try {
      renameSync(path, claimed);
    } catch {
      continue;
    }
    tearDown(record);
    freeSlots(record.id);
    rmSync(claimed, { force: true });
    swept.push(record.id);
  }
  return swept;
}

function recordPath(id: string): string {
  return join(REGISTRY_DIRECTORY, `${id}.json`);
}

function slotPath(slot: number): string {
  return join(REGISTRY_DIRECTORY, `slot-${slot}`);
}

/** By content, not by the record's slot: its owner may have died between taking a slot and writing that down. */
function freeSlots(id: string): void {
  for (const name of readdirSync(REGISTRY_DIRECTORY)) {
    const path = join(REGISTRY_DIRECTORY, name);
    if (name.startsWith('slot-') && readText(path) === id) rmSync(path, { force: true });
  }
}

function recordFiles(): { path: string; sweeper: ProcessIdentity | null }[] {
  let names: string[];
  try {
    names = readdirSync(REGISTRY_DIRECTORY);
  } catch {
    return [];
  }
  return names.flatMap((name) => {
    const match = /^wl[0-9a-f]+(?:\.sweep-(\d+)-(\d+))?\.json$/.exec(name);
    if (match === null) return [];
    const sweeper = match[1] === undefined ? null : { pid: Number(match[1]), startTime: Number(match[2]) };
    return [{ path: join(REGISTRY_DIRECTORY, name), sweeper }];
  });
}

function read(path: string): LabRecord | null {
  const text = readText(path);
  return text === null ? null : (JSON.parse(text) as LabRecord);
}

function readText(path: string): string | null {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return null;
  }
}

/** Creates a file with its content in one step; false when it exists. */
function createExclusively(path: string, content: string): boolean {
  const temporary = temporaryPath();
  writeFileSync(temporary, content, { mode: 0o600 });
  try {
    linkSync(temporary, path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  } finally {
    rmSync(temporary, { force: true });
  }
}

function writeWhole(path: string, content: string): void {
  const temporary = temporaryPath();
  writeFileSync(temporary, content, { mode: 0o600 });
  renameSync(temporary, path);
}

let temporaryCount = 0;
function temporaryPath(): string {
  return join(REGISTRY_DIRECTORY, `.new-${process.pid}-${temporaryCount++}`);
}
