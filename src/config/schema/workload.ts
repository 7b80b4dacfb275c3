import { DNS_SUBDOMAIN } from './names.ts';
import type { KindSchema } from './resource-schema.ts';
import { defineKind } from './resource-schema.ts';

/** weft.dev/v1 Workload. */
export const WORKLOAD: KindSchema = defineKind({
  kind: 'Workload',
  apiVersions: ['weft.dev/v1'],
  namespaced: true,
  description: 'One pod, or one process group on a host. The label weft.dev/mode overrides the mode of its namespace.',
  name: DNS_SUBDOMAIN,
  specRequired: true,
  spec: {
    type: 'object',
    required: ['node'],
    additionalProperties: false,
    properties: {
      node: { ...DNS_SUBDOMAIN, description: 'The node it runs on. The agent of that node enrols it.' },
      serviceAccount: { ...DNS_SUBDOMAIN, description: 'Part of its identity. Absent: default.' },
      addresses: {
        description: 'Its IPv4 and IPv6 addresses.',
        type: 'array',
        maxItems: 64,
        items: { type: 'string', minLength: 1, maxLength: 64 },
      },
      networkNamespace: {
        description: 'Where the agent of its node finds its network namespace.',
        type: 'string',
        maxLength: 4096,
        pattern: '^/.*[^/]$',
        weftForm: 'an absolute path to a network namespace, such as /var/run/netns/web',
      },
      cgroup: {
        description: 'Its cgroup: a path in the cgroup v2 file system, or one from its root.',
        type: 'string',
        minLength: 1,
        maxLength: 4096,
        weftForm: 'the path of a cgroup v2 directory',
      },
      systemdUnit: {
        description: 'The systemd unit whose cgroup it is.',
        type: 'string',
        maxLength: 255,
        pattern: '^[A-Za-z0-9:_.\\\\@-]+\\.(service|scope|slice)$',
        weftForm: 'the name of a systemd service, scope or slice, such as web.service',
      },
    },
  },
});
