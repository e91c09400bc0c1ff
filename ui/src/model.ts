// What a line of /api/flows says, and what the page makes of it.

export interface Endpoint {
  ID?: number;
  identity?: number;
  cluster_name?: string;
  namespace?: string;
  labels?: string[];
  pod_name?: string;
  workloads?: { name?: string; kind?: string }[];
}

export interface Policy {
  name?: string;
  namespace?: string;
  kind?: string;
  labels?: string[];
  revision?: string;
}

interface Ports {
  source_port?: number;
  destination_port?: number;
}

export interface Flow {
  time?: string;
  uuid?: string;
  verdict?: Verdict;
  drop_reason_desc?: string;
  IP?: { source?: string; destination?: string; source_xlated?: string; ipVersion?: string };
  l4?: { TCP?: Ports; UDP?: Ports; SCTP?: Ports; ICMPv4?: object; ICMPv6?: object };
  l7?: { type?: string; dns?: { query?: string }; http?: { method?: string; url?: string; code?: number }; kafka?: { topic?: string } };
  source?: Endpoint;
  destination?: Endpoint;
  Type?: string;
  node_name?: string;
  source_names?: string[];
  destination_names?: string[];
  source_service?: { name?: string; namespace?: string };
  destination_service?: { name?: string; namespace?: string };
  event_type?: { type?: number; sub_type?: number };
  traffic_direction?: string;
  trace_observation_point?: string;
  sock_xlate_point?: string;
  is_reply?: boolean | null;
  Summary?: string;
  egress_allowed_by?: Policy[];
  ingress_allowed_by?: Policy[];
  egress_denied_by?: Policy[];
  ingress_denied_by?: Policy[];
}

/** A line: a flow, news of the nodes, flows that were lost, or why there are no more. */
export interface Line {
  flow?: Flow;
  node_status?: { state_change?: string; node_names?: string[]; message?: string };
  lost_events?: { source?: string; num_events_lost?: string };
  node_name?: string;
  time?: string;
  error?: string;
}

export type Verdict = 'FORWARDED' | 'DROPPED' | 'ERROR' | 'AUDIT' | 'REDIRECTED' | 'TRACED' | 'TRANSLATED' | 'VERDICT_UNKNOWN';

/** How a verdict looks: passed, refused, or something beside. */
export type Tone = 'ok' | 'bad' | 'warn' | 'info' | 'dim';

export const TONE: Record<Verdict, Tone> = {
  FORWARDED: 'ok', DROPPED: 'bad', ERROR: 'bad', AUDIT: 'warn', REDIRECTED: 'info', TRACED: 'dim', TRANSLATED: 'dim', VERDICT_UNKNOWN: 'dim',
};

/** One end of a connection. */
export interface Side {
  /** What it belongs to, as the map has it: `namespace/name`, or `reserved:world`. */
  id: string;
  /** Its namespace; empty for what is no pod. */
  ns: string;
  /** The workload's name, or that of the reserved identity. */
  name: string;
  /** Of the workload; empty if nobody has said it. */
  kind: string;
  /** The pod, a name or an address. */
  who: string;
  port: number;
  ip: string;
}

export interface Decision {
  allowed: boolean;
  direction: 'ingress' | 'egress';
  kind: string;
  ns: string;
  name: string;
  /** `kind namespace/name`. */
  key: string;
}

/** A flow as the page shows it. `from` opened the connection, as far as that is known. */
export interface Row {
  id: number;
  at: number;
  clock: string;
  verdict: Verdict;
  from: Side;
  to: Side;
  proto: string;
  port: number;
  reply: boolean;
  /** Where it was seen, or why it was dropped. */
  where: string;
  decisions: Decision[];
  /** The policy that decided, in words; empty if none did. */
  policy: string;
  node: string;
  /** Told by a policy's decision, not by a packet on its way: it counts no packet. */
  decided: boolean;
  socket: boolean;
  flow: Flow;
  /** Everything that free text looks at, in lower case. */
  text: string;
}

/** Reserved identities by number and by label. */
const RESERVED: Record<number, string> = {
  1: 'host', 2: 'world', 3: 'unmanaged', 4: 'health', 5: 'init', 6: 'remote-node', 7: 'kube-apiserver', 8: 'ingress', 9: 'world', 10: 'world',
};

export const SPECIAL: Record<string, string> = {
  world: 'World', host: 'Host', 'remote-node': 'Nodes', 'kube-apiserver': 'API server', health: 'Health', ingress: 'Ingress',
  unmanaged: 'Unmanaged', init: 'Starting', unknown: 'Unknown',
};

function special(end: Endpoint | undefined): string {
  const labels = end?.labels ?? [];
  if (labels.includes('reserved:kube-apiserver')) return 'kube-apiserver';
  const label = labels.find((one) => one.startsWith('reserved:'));
  if (label) return label.slice(9).replace(/^world-ipv[46]$/, 'world');
  return RESERVED[end?.identity ?? 0] ?? 'unknown';
}

/** Workloads of pods that some flow has named. */
const OWNERS = new Map<string, { name: string; kind: string }>();

/** What controllers add to their names: of Deployments, DaemonSets and StatefulSets. */
const ADDED = /-[bcdfghjklmnpqrstvwxz2456789]{5,10}-[bcdfghjklmnpqrstvwxz2456789]{5}$|-[bcdfghjklmnpqrstvwxz2456789]{5}$|-\d{1,4}$/;

/** The workload of a pod. Nodes name those of their own pods alone; of others it is what another flow said, or what the name says. */
function owner(end: Endpoint, pod: string): { name: string; kind: string } {
  const said = end.workloads?.[0];
  const key = `${end.namespace}/${pod}`;
  if (said?.name) {
    const known = { name: said.name, kind: said.kind || 'Pod' };
    if (OWNERS.size > 20_000) OWNERS.clear();
    if (pod) OWNERS.set(key, known);
    return known;
  }
  return OWNERS.get(key) ?? { name: pod.replace(ADDED, '') || `identity ${end.identity ?? 0}`, kind: '' };
}

function side(end: Endpoint | undefined, ip: string | undefined, names: string[] | undefined, port: number): Side {
  const address = ip ?? '';
  if (end?.namespace) {
    const pod = end.pod_name ?? '';
    const { name, kind } = owner(end, pod);
    return { id: `${end.namespace}/${name}`, ns: end.namespace, name, kind, who: pod || name, port, ip: address };
  }
  const which = special(end);
  const name = SPECIAL[which] ?? which;
  return { id: `reserved:${which}`, ns: '', name, kind: 'reserved', who: names?.[0] || address || name, port, ip: address };
}

const word = (text: string | undefined) => (text ?? '').toLowerCase().replaceAll('_', '-');

function protocol(flow: Flow): [string, Ports] {
  const l4 = flow.l4 ?? {};
  for (const name of ['TCP', 'UDP', 'SCTP'] as const) {
    const ports = l4[name];
    if (ports) return [name, ports];
  }
  if (l4.ICMPv4) return ['ICMP', {}];
  if (l4.ICMPv6) return ['ICMPv6', {}];
  return ['', {}];
}

/** The application's protocol, where a proxy has read it. */
export function layer7(flow: Flow): string {
  const l7 = flow.l7;
  if (l7?.http) return 'HTTP';
  if (l7?.dns) return 'DNS';
  return l7?.kafka ? 'Kafka' : '';
}

function decisions(flow: Flow): Decision[] {
  const of = (list: Policy[] | undefined, allowed: boolean, direction: Decision['direction']) =>
    (list ?? []).map((one): Decision => {
      const [kind, ns, name] = [one.kind ?? 'Policy', one.namespace ?? '', one.name ?? ''];
      return { allowed, direction, kind, ns, name, key: `${kind} ${ns ? `${ns}/` : ''}${name}` };
    });
  return [
    ...of(flow.egress_denied_by, false, 'egress'), ...of(flow.ingress_denied_by, false, 'ingress'),
    ...of(flow.egress_allowed_by, true, 'egress'), ...of(flow.ingress_allowed_by, true, 'ingress'),
  ];
}

function seenAt(flow: Flow, decided: boolean): string {
  if (flow.drop_reason_desc && flow.drop_reason_desc !== 'DROP_REASON_UNKNOWN') return words(flow.drop_reason_desc);
  if (flow.sock_xlate_point) return word(flow.sock_xlate_point).replace('sock-xlate-point-', '').replace('direction-', '');
  if (decided) return `policy ${word(flow.traffic_direction)}`;
  return word(flow.trace_observation_point);
}

/** `POLICY_DENIED` as people write it. */
export function words(name: string): string {
  const text = name.toLowerCase().replaceAll('_', ' ');
  return text.charAt(0).toUpperCase() + text.slice(1);
}

const two = (number: number) => String(number).padStart(2, '0');

/** The time of day with milliseconds, as this machine has it. */
export function clock(at: number): string {
  const date = new Date(at);
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${String(date.getMilliseconds()).padStart(3, '0')}`;
}

let count = 0;

/** A row of a flow. */
export function row(flow: Flow): Row {
  const [proto, ports] = protocol(flow);
  const source = side(flow.source, flow.IP?.source, flow.source_names, ports.source_port ?? 0);
  const destination = side(flow.destination, flow.IP?.destination, flow.destination_names, ports.destination_port ?? 0);
  const reply = flow.is_reply === true;
  const [from, to] = reply ? [destination, source] : [source, destination];
  const verdict = flow.verdict ?? 'VERDICT_UNKNOWN';
  const decided = flow.event_type?.type === 5;
  const all = decisions(flow);
  const at = Date.parse(flow.time ?? '') || 0;
  const where = seenAt(flow, decided);
  const service = flow.destination_service?.name ?? flow.source_service?.name ?? '';
  const text = [
    from.ns, from.name, from.who, from.ip, to.ns, to.name, to.who, to.ip, proto, to.port, verdict, where, service, flow.Summary, flow.node_name,
    ...all.map((one) => one.key), flow.l7?.http?.url, flow.l7?.dns?.query,
  ].join(' ').toLowerCase();
  return {
    id: ++count, at, clock: clock(at), verdict, from, to, proto, port: to.port, reply, where, decisions: all, policy: all[0]?.key ?? '',
    node: (flow.node_name ?? '').replace(/^default\//, ''), decided, socket: flow.Type === 'SOCK', flow, text,
  };
}

/** A number that fits anywhere: 950, 1.2k, 35k, 4.1M. */
export function short(number: number): string {
  if (number < 1000) return String(Math.round(number));
  if (number < 1e6) return `${(number / 1e3).toFixed(number < 1e4 ? 1 : 0)}k`;
  return `${(number / 1e6).toFixed(number < 1e7 ? 1 : 0)}M`;
}

/** `80/TCP`; the protocol alone where there are no ports. */
export const portName = (port: number, proto: string) => (port ? `${port}/${proto}` : proto || 'any');
