/**
 * `npm run lab`: labs by hand. Nodes are node-a, node-b, …; pods pod-<node letter>-<number>.
 */
import { spawn } from 'node:child_process';
import { Command } from 'commander';
import { errorText } from '../../src/model/errors.ts';
import { Lab, LabError, type LabNode, type LabPod } from './lab/index.ts';

interface UpOptions {
  readonly nodes: string;
  readonly pods: string;
  readonly name: string;
  readonly namespace: string;
}

async function up(options: UpOptions): Promise<void> {
  const lab = await Lab.create({ name: options.name });
  for (let index = 0; index < count(options.nodes, 26); index++) {
    const letter = String.fromCharCode('a'.charCodeAt(0) + index);
    const node = await lab.node(`node-${letter}`);
    for (let pod = 1; pod <= count(options.pods, 250); pod++) await node.pod(`pod-${letter}-${pod}`, { namespace: options.namespace });
  }
  const config = lab.writeConfig();
  lab.keep();
  const example = lab.pods[0] ?? lab.nodes[0];
  console.log(`lab ${lab.id} is up; it stays until you take it down`);
  for (const place of [...lab.nodes, ...lab.pods]) console.log(`  ${describe(place)}`);
  console.log(`configuration for weft agent --config: ${config.directory}`);
  console.log(`  npm run lab -- exec ${lab.id} ${example?.name ?? 'POD'} -- ip addr`);
  console.log(`  npm run lab -- down ${lab.id}`);
}

function list(): void {
  const labs = Lab.list();
  if (labs.length === 0) console.log('no labs');
  for (const lab of labs) {
    const pods = lab.nodes.reduce((sum, node) => sum + node.pods.length, 0);
    const owner = lab.kept ? 'kept' : `owned by pid ${lab.owner.pid}`;
    console.log(`${lab.id}  ${lab.name}  ${lab.nodes.length} nodes, ${pods} pods, ${owner}, made ${lab.createdAt}`);
  }
}

/** Runs a command in a pod or node with this terminal. Its exit code becomes ours. */
async function execute(id: string, where: string, command: string[]): Promise<void> {
  const lab = Lab.open(id);
  const place = [...lab.pods, ...lab.nodes].find((each) => each.name === where || each.netnsName === `${id}.${where}`);
  if (place === undefined) {
    throw new LabError('WEFT_LAB_UNKNOWN', `lab ${id} has no pod or node ${where}`, {
      nextStep: `name one of ${[...lab.nodes, ...lab.pods].map((each) => each.name).join(', ')}`,
    });
  }
  const words = command[0] === '--' ? command.slice(1) : command;
  const [file = 'sh', ...args] = [...place.commandPrefix(), ...(words.length === 0 ? ['sh'] : words)];
  const child = spawn(file, args, { stdio: 'inherit' });
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => child.kill(signal));
  process.exitCode = await new Promise<number>((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code, signal) => resolve(code ?? (signal === 'SIGINT' ? 130 : 128)));
  });
}

function describe(place: LabNode | LabPod): string {
  return `${place.name.padEnd(12)} ${place.addresses.v4.padEnd(14)} ${place.addresses.v6.padEnd(20)} ${place.netnsPath}`;
}

function count(text: string, most: number): number {
  const value = Number(text);
  if (Number.isInteger(value) && value >= 1 && value <= most) return value;
  throw new LabError('WEFT_LAB_USAGE', `not a number from 1 to ${most}: ${text}`, { nextStep: 'npm run lab -- up --help' });
}

const program = new Command('lab')
  .description('Nodes and pods as network namespaces and cgroups on this machine (root)')
  .enablePositionalOptions();
program
  .command('up')
  .description('make a lab that stays up')
  .option('--nodes <n>', 'nodes', '2')
  .option('--pods <n>', 'pods on each node', '2')
  .option('--name <name>', 'a name for the list', 'lab')
  .option('--namespace <name>', 'Kubernetes namespace of the pods', 'default')
  .action(up);
program.command('list').description('show the labs on this machine').action(list);
program
  .command('exec <lab> <where> [command...]')
  .description('run a command (default: sh) in a pod or node')
  .passThroughOptions()
  .action(execute);
program
  .command('down <lab>')
  .description('remove a lab and everything in it')
  .action((id: string) => {
    Lab.remove(id);
    console.log(`lab ${id} is gone`);
  });
program
  .command('sweep')
  .description('remove labs whose owner crashed')
  .action(() => {
    const swept = Lab.sweep();
    console.log(swept.length === 0 ? 'nothing to sweep' : `swept ${swept.join(', ')}`);
  });

try {
  await program.parseAsync();
} catch (error) {
  console.error(errorText(error));
  process.exitCode = 1;
}
