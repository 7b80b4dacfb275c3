import { AUTHORIZATION_POLICY } from './authorization-policy.ts';
import { CLUSTER_FEDERATED_TRUST_DOMAIN, FEDERATED_TRUST_DOMAIN } from './federated-trust-domain.ts';
import { MESH_CONFIG } from './mesh-config.ts';
import { NAMESPACE } from './namespace.ts';
import { PEER_AUTHENTICATION } from './peer-authentication.ts';
import { REQUEST_AUTHENTICATION } from './request-authentication.ts';
import type { KindSchema } from './resource-schema.ts';
import { SERVICE } from './service.ts';
import { WORKLOAD } from './workload.ts';

/** Every kind that Weft reads. */
export const KINDS: readonly KindSchema[] = [
  NAMESPACE,
  WORKLOAD,
  SERVICE,
  PEER_AUTHENTICATION,
  REQUEST_AUTHENTICATION,
  AUTHORIZATION_POLICY,
  MESH_CONFIG,
  FEDERATED_TRUST_DOMAIN,
  CLUSTER_FEDERATED_TRUST_DOMAIN,
];

/** Kinds that people apply beside these, and why they are refused. */
export const UNSUPPORTED_KINDS: Readonly<Record<string, string>> = {
  Pod: 'describe it as a weft.dev/v1 Workload',
  Deployment: 'describe each instance as a weft.dev/v1 Workload',
  ServiceAccount: 'a service account needs no resource: name it in a Workload',
  ServiceEntry: 'destinations outside the mesh are dialled as they are',
  Endpoints: 'endpoints come from the selector of the Service',
  EndpointSlice: 'endpoints come from the selector of the Service',
  DestinationRule: 'there is no traffic policy',
  VirtualService: 'there is no routing',
  HTTPRoute: 'there is no routing',
  GRPCRoute: 'there is no routing',
  Gateway: 'there is no ingress; policy is enforced at the workloads',
  EnvoyFilter: 'there is no Envoy',
  WasmPlugin: 'there is no Envoy',
  ProxyConfig: 'there are no sidecars',
  Sidecar: 'there are no sidecars',
  Telemetry: 'every request is in the access log and the metrics',
  ConfigMap: 'put its content into files of the directory',
  Secret: 'keys are made on the node',
};
