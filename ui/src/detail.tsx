// Everything about one flow, one workload or one arrow, at the right side.
import type { ComponentChildren } from 'preact';
import { useEffect, useRef } from 'preact/hooks';
import { only } from './filter';
import { useStore } from './hooks';
import { PolicyDetail } from './policies';
import { portName, short, TONE, words, type Decision, type Row, type Side } from './model';
import { isBad, store, type Edge, type Graph } from './store';

export function Detail() {
  const { graph, chosen } = useStore();
  const panel = useRef<HTMLElement>(null);
  const { selected } = chosen;
  const key = selected && (selected.type === 'flow' ? `f${selected.row.id}` : selected.type === 'node' ? selected.id : selected.type === 'policy' ? selected.policy.key : selected.key);
  useEffect(() => panel.current?.scrollTo(0, 0), [key]);
  if (!selected) return null;
  return (
    <aside class="detail" ref={panel} tabIndex={-1} aria-label="Details">
      <button class="close" title="Close (Esc)" aria-label="Close" onClick={() => store.choose({ selected: undefined })}>×</button>
      {selected.type === 'flow' && <FlowDetail row={selected.row} />}
      {selected.type === 'node' && <NodeDetail graph={graph} id={selected.id} />}
      {selected.type === 'edge' && <EdgeDetail graph={graph} id={selected.key} />}
      {selected.type === 'policy' && <PolicyDetail key={selected.policy.key} counted={graph.policies.get(selected.policy.key)} policy={selected.policy} />}
    </aside>
  );
}

const filter = (query: string) => store.choose({ query });

function FlowDetail({ row }: { row: Row }) {
  const { flow } = row;
  const denied = row.decisions.filter((one) => !one.allowed);
  const dropped = isBad(row.verdict);
  return (
    <>
      <header>
        <span class={`verdict big ${TONE[row.verdict]}`}>{row.verdict.toLowerCase()}</span>
        <h2>{row.proto || flow.Type} {row.port > 0 && row.port}</h2>
        <p class="num">{flow.time}</p>
      </header>
      <div class="pair">
        <EndCard title={row.reply ? 'Client' : 'From'} side={row.from} end={row.reply ? flow.destination : flow.source} />
        <span class="to" aria-hidden="true">↓</span>
        <EndCard title={row.reply ? 'Server, which answers here' : 'To'} side={row.to} end={row.reply ? flow.source : flow.destination} />
      </div>
      <h3>{dropped ? 'Refused by' : 'Decided by'}</h3>
      {row.decisions.map((one) => <Decided one={one} />)}
      {!row.decisions.length && <p class="quiet">{whoDecided(row)}</p>}
      {dropped && denied.length === 0 && row.decisions.length > 0 && <p class="quiet">The policies above allow their side; the other side has none that allows it.</p>}
      <h3>What was seen</h3>
      <dl>
        {flow.Summary && <><dt>Packet</dt><dd>{flow.Summary}</dd></>}
        {row.where && <><dt>{dropped ? 'Reason' : 'Where'}</dt><dd>{row.where}</dd></>}
        {flow.traffic_direction && <><dt>Direction</dt><dd>{words(flow.traffic_direction)}</dd></>}
        {flow.destination_service?.name && <><dt>Service</dt><dd>{flow.destination_service.namespace}/{flow.destination_service.name}</dd></>}
        <dt>Node</dt><dd>{flow.node_name}</dd>
      </dl>
      <p class="actions">
        <button onClick={() => filter(only(only(store.chosen.query, 'pod', [podOf(row.from), podOf(row.to)].filter(Boolean)), 'ns', []))}>Flows of both ends</button>
        {row.port > 0 && <button onClick={() => filter(only(store.chosen.query, 'port', [String(row.port)]))}>Port {row.port}</button>}
        <button onClick={() => void navigator.clipboard?.writeText(JSON.stringify(flow, null, 2))}>Copy as JSON</button>
      </p>
      <h3>All fields</h3>
      <dl class="fields">{leaves(flow).map(([name, value]) => <><dt>{name}</dt><dd>{value}</dd></>)}</dl>
    </>
  );
}

const podOf = (side: Side) => (side.ns ? `${side.ns}/${side.who}` : '');

function whoDecided(row: Row): string {
  if (row.flow.drop_reason_desc === 'POLICY_DENIED' || (row.decided && isBad(row.verdict))) return 'No policy allows it, and policies that select this end make refusal the default.';
  if (isBad(row.verdict)) return `No policy: ${row.where || 'the datapath'}.`;
  if (row.decided) return 'No policy selects this end, so everything is allowed.';
  return 'This packet belongs to a connection that was let in before, or no policy selects its ends.';
}

const Decided = ({ one }: { one: Decision }) => (
  <button class={`decided ${one.allowed ? 'ok' : 'bad'}`} onClick={() => store.choose({ selected: { type: 'policy', policy: one } })} title="The policy">
    <span>{one.allowed ? 'allowed' : 'denied'} {one.direction}</span>
    <b>{one.ns && `${one.ns}/`}{one.name}</b>
    <i>{one.kind}</i>
  </button>
);

function EndCard({ title, side, end }: { title: string; side: Side; end: Row['flow']['source'] }) {
  const labels = (end?.labels ?? []).map((label) => label.replace(/^k8s:/, '')).filter((label) => !label.startsWith('io.'));
  return (
    <div class="endcard">
      <small>{title}</small>
      <b>{side.who}</b>
      <span>{side.ns ? `${side.ns} · ${side.kind || (side.name === side.who ? 'Pod' : 'Pods of')} ${side.name}` : side.name}</span>
      <span class="num">{side.ip}{side.port ? `:${side.port}` : ''}{end?.identity ? ` · identity ${end.identity}` : ''}</span>
      {labels.length > 0 && <span class="labels">{labels.slice(0, 6).map((label) => <code>{label}</code>)}</span>}
    </div>
  );
}

/** Every field that is set, by its path. */
function leaves(value: unknown, path = ''): [string, string][] {
  if (Array.isArray(value) && value.every((one) => typeof one !== 'object')) return value.length ? [[path, value.join('\n')]] : [];
  if (value !== null && typeof value === 'object') {
    return Object.entries(value).flatMap(([name, inner]) => leaves(inner, path ? `${path}.${name}` : name));
  }
  return value === null ? [] : [[path, String(value)]];
}

function NodeDetail({ graph, id }: { graph: Graph; id: string }) {
  const node = graph.nodes.get(id);
  if (!node) return <p class="quiet">Nothing of it is among the flows that are shown.</p>;
  const edges = [...graph.edges.values()];
  const [calls, called] = [edges.filter((edge) => edge.from === id), edges.filter((edge) => edge.to === id)];
  const policies = new Set([...calls, ...called].flatMap((edge) => [...edge.policies]));
  return (
    <>
      <header>
        <span class="kind">{node.kind === 'reserved' ? 'outside of namespaces' : node.kind || 'Pod'}</span>
        <h2>{node.name}</h2>
        <p>{node.ns}</p>
      </header>
      <p class="figures"><Figure name="flows" value={node.flows} /><Figure name="dropped" value={node.dropped} bad /><Figure name="callers" value={called.length} /><Figure name="calls" value={calls.length} /></p>
      {node.ns && (
        <p class="actions">
          <button onClick={() => filter(only(store.chosen.query, 'workload', [`${node.ns}/${node.name}`]))}>Only this workload</button>
          <button onClick={() => filter(only(store.chosen.query, 'ns', [node.ns]))}>Only {node.ns}</button>
        </p>
      )}
      <Peers title="Called by" edges={called} end={(edge) => edge.from} graph={graph} />
      <Peers title="Calls" edges={calls} end={(edge) => edge.to} graph={graph} />
      {policies.size > 0 && <h3>Policies that decided</h3>}
      {[...policies].sort().map((one) => <p class={`mark ${one[0] === '+' ? 'ok' : 'bad'}`}>{one.slice(1)}</p>)}
    </>
  );
}

export const Figure = ({ name, value, bad }: { name: string; value: number; bad?: boolean }) => (
  <span class={bad && value ? 'bad' : ''}><b>{short(value)}</b>{name}</span>
);

function Peers({ title, edges, end, graph }: { title: string; edges: Edge[]; end: (edge: Edge) => string; graph: Graph }) {
  if (!edges.length) return null;
  const sorted = edges.toSorted((a, b) => b.dropped - a.dropped || b.flows - a.flows);
  return (
    <>
      <h3>{title}</h3>
      {sorted.slice(0, 60).map((edge) => {
        const other = graph.nodes.get(end(edge));
        return (
          <button class="peer" onClick={() => store.choose({ selected: { type: 'edge', key: edge.key } })}>
            <b>{other?.ns && <i>{other.ns}/</i>}{other?.name}</b>
            <span>{[...edge.ports.keys()].slice(0, 3).join(' ')}</span>
            <em class={edge.dropped ? 'bad' : 'ok'}>{edge.dropped ? `${short(edge.dropped)} dropped` : short(edge.flows)}</em>
          </button>
        );
      })}
    </>
  );
}

function EdgeDetail({ graph, id }: { graph: Graph; id: string }) {
  const edge = graph.edges.get(id);
  const [from, to] = [graph.nodes.get(edge?.from ?? ''), graph.nodes.get(edge?.to ?? '')];
  if (!edge || !from || !to) return <p class="quiet">Nothing of it is among the flows that are shown.</p>;
  const End = ({ node }: { node: typeof from }) => (
    <button class="peer" onClick={() => store.choose({ selected: { type: 'node', id: node.id } })}><b>{node.ns && <i>{node.ns}/</i>}{node.name}</b><span>{node.kind || 'Pod'}</span></button>
  );
  const names = [from, to].filter((node) => node.ns).map((node) => `${node.ns}/${node.name}`);
  return (
    <>
      <header><span class="kind">connections</span><h2>{from.name} → {to.name}</h2></header>
      <End node={from} /><End node={to} />
      <p class="figures"><Figure name="flows" value={edge.flows} /><Figure name="dropped" value={edge.dropped} bad /></p>
      <h3>Ports</h3>
      {[...edge.ports].map(([port, { passed, dropped }]) => (
        <div class="peer plain"><b class="num">{port || portName(0, '')}</b><span>{short(passed)} passed</span><em class={dropped ? 'bad' : 'ok'}>{dropped ? `${short(dropped)} dropped` : ''}</em></div>
      ))}
      <h3>Policies that decided</h3>
      {[...edge.policies].sort().map((one) => <p class={`mark ${one[0] === '+' ? 'ok' : 'bad'}`}>{one.slice(1)}</p>)}
      {!edge.policies.size && <p class="quiet">{edge.dropped ? 'None allows what was dropped.' : 'None was named.'}</p>}
      <p class="actions"><button onClick={() => filter(only(store.chosen.query, 'workload', names))}>Their flows</button></p>
    </>
  );
}

/** A list of choices that a button opens. */
export function Menu({ label, count, children }: { label: string; count: number; children: ComponentChildren }) {
  const menu = useRef<HTMLDetailsElement>(null);
  useEffect(() => {
    const away = (event: Event) => {
      if (menu.current?.open && !menu.current.contains(event.target as globalThis.Node)) menu.current.open = false;
    };
    addEventListener('pointerdown', away);
    return () => removeEventListener('pointerdown', away);
  }, []);
  return (
    <details class="menu" ref={menu}>
      <summary class={count ? 'set' : ''}>{label}{count > 0 && <b>{count}</b>}</summary>
      <div role="group" aria-label={label}>{children}</div>
    </details>
  );
}
