import type { DeclaredProtocol, ServicePort, ServiceResource } from '../../model/resources.ts';
import { quote } from '../config-problem.ts';
import { canonicalIp } from '../ip-address.ts';
import type { Draft } from './draft.ts';

interface ServiceSpec {
  readonly clusterIP?: string;
  readonly clusterIPs?: readonly string[];
  readonly selector?: Readonly<Record<string, string>>;
  readonly ports?: readonly {
    readonly name?: string;
    readonly port: number;
    readonly targetPort?: number;
    readonly appProtocol?: string;
  }[];
}

/** Names as Istio's protocol selection reads them. Databases whose server may speak first are declared TCP, so that nobody waits for a client. */
const PROTOCOLS: Readonly<Record<string, DeclaredProtocol>> = {
  http: 'http',
  http2: 'http2',
  'kubernetes.io/h2c': 'http2',
  'kubernetes.io/ws': 'http',
  'kubernetes.io/wss': 'tls',
  grpc: 'grpc',
  https: 'tls',
  tls: 'tls',
  tcp: 'tcp',
  mongo: 'tcp',
  mysql: 'tcp',
  redis: 'tcp',
};

/** v1 Service to the model. */
export function toService(draft: Draft): ServiceResource {
  const spec = draft.spec as ServiceSpec;
  return {
    kind: 'Service',
    metadata: draft.metadata,
    location: draft.location,
    spec: { addresses: addressesOf(draft, spec), selector: { ...spec.selector }, ports: portsOf(draft, spec.ports ?? []) },
  };
}

function addressesOf(draft: Draft, spec: ServiceSpec): string[] {
  const written: [string, (string | number)[]][] = (spec.clusterIPs ?? []).map((text, index) => [text, ['spec', 'clusterIPs', index]]);
  if (spec.clusterIP !== undefined && spec.clusterIP !== '') {
    const first = written[0];
    if (first === undefined) written.push([spec.clusterIP, ['spec', 'clusterIP']]);
    else if (first[0] !== spec.clusterIP) {
      draft.fail(['spec', 'clusterIP'], 'clusterIP is not the first of clusterIPs', 'write the same address first in clusterIPs');
      return [];
    }
  }
  if (written.length === 1 && written[0]?.[0] === 'None') return [];
  const addresses: string[] = [];
  for (const [text, path] of written) {
    const address = canonicalIp(text);
    if (address === null)
      draft.fail(path, `${quote(text)} is not an IP address`, 'write an address such as 10.96.0.10, or None alone for a headless Service');
    else if (addresses.some((other) => other.includes(':') === address.includes(':'))) {
      draft.fail(path, `${quote(text)} is a second address of its family`, 'leave one IPv4 and one IPv6 address at most');
    } else addresses.push(address);
  }
  return addresses;
}

function portsOf(draft: Draft, written: NonNullable<ServiceSpec['ports']>): ServicePort[] {
  const names = new Set<string>();
  const numbers = new Set<number>();
  return written.map((port, index) => {
    const path = ['spec', 'ports', index];
    const name = port.name ?? '';
    if (name === '' && written.length > 1)
      draft.fail([...path, 'name'], 'is required where a Service has several ports', 'give each port a name', 'WEFT_CONFIG_MISSING_FIELD');
    else if (names.has(name))
      draft.fail([...path, 'name'], `another port is named ${quote(name)} already`, 'give each port a name of its own');
    if (numbers.has(port.port)) draft.fail([...path, 'port'], `port ${port.port} is in the list already`, 'remove one of the two');
    names.add(name);
    numbers.add(port.port);
    return { name, port: port.port, targetPort: port.targetPort ?? port.port, protocol: protocolOf(name, port.appProtocol) };
  });
}

/** appProtocol decides alone where it is given; else the port's name up to its first '-'. What is not known is detected. */
function protocolOf(name: string, appProtocol: string | undefined): DeclaredProtocol {
  const word = (appProtocol ?? (name.startsWith('grpc-web') ? '' : (name.split('-', 1)[0] ?? ''))).toLowerCase();
  return Object.hasOwn(PROTOCOLS, word) ? (PROTOCOLS[word] as DeclaredProtocol) : 'auto';
}
