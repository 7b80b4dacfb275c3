import { AUTHORIZATION_POLICY } from './authorization-policy.ts';
import { NAMESPACE } from './namespace.ts';
import { PEER_AUTHENTICATION } from './peer-authentication.ts';
import type { KindSchema } from './resource-schema.ts';
import { SERVICE } from './service.ts';
import { WORKLOAD } from './workload.ts';

/** Every kind that Weft reads. */
export const KINDS: readonly KindSchema[] = [NAMESPACE, WORKLOAD, SERVICE, PEER_AUTHENTICATION, AUTHORIZATION_POLICY];

/** Kinds that people apply beside these, and why they are refused. */
export const UNSUPPORTED_KINDS: Readonly<Record<string, string>> = {
  RequestAuthentication: 'end-user tokens are not checked',
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
  Sidecar: 'there are no sidecars',
  Telemetry: 'every request is in the access log and the metrics',
  ConfigMap: 'put its content into files of the directory',
  Secret: 'keys are made on the node',
};
