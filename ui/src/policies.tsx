// Which policies decided what, and their objects.
import { useEffect, useState } from 'preact/hooks';
import { Figure } from './detail';
import { only } from './filter';
import { useStore } from './hooks';
import { clock, short, type Decision } from './model';
import { store, type PolicyCount } from './store';
import { manifest } from './stream';

const top = (counts: Map<string, number>, count: number) => [...counts].sort((a, b) => b[1] - a[1]).slice(0, count);

const ORDER: Record<string, (policy: PolicyCount) => number | string> = {
  Policy: (one) => one.name,
  Allowed: (one) => -one.allowed_count,
  Denied: (one) => -one.denied_count,
  Last: (one) => -one.last,
};

export function Policies() {
  const { graph } = useStore();
  const [order, setOrder] = useState('Denied');
  const by = ORDER[order]!;
  const compare = (a: number | string, b: number | string) => (a < b ? -1 : a > b ? 1 : 0);
  const all = [...graph.policies.values()].sort((a, b) => compare(by(a), by(b)) || compare(a.key, b.key));
  const most = Math.max(1, ...all.map((one) => one.allowed_count + one.denied_count));
  const Head = ({ name }: { name: string }) => (
    <th aria-sort={order === name ? 'ascending' : 'none'}><button onClick={() => setOrder(name)}>{name}{order === name && ' ↓'}</button></th>
  );
  return (
    <section class="policies" aria-label="Policies">
      <p class="figures">
        <span><b>{all.length}</b>policies decided</span>
        <span><b>{short(all.reduce((sum, one) => sum + one.allowed_count, 0))}</b>allowed</span>
        <span class="bad"><b>{short(all.reduce((sum, one) => sum + one.denied_count, 0))}</b>denied by a rule</span>
        <span class="bad"><b>{short(graph.undecided)}</b>allowed by none</span>
      </p>
      <table>
        <thead><tr><Head name="Policy" /><th>Directions</th><th>Applies to</th><th>Ports</th><Head name="Allowed" /><Head name="Denied" /><Head name="Last" /></tr></thead>
        <tbody>{all.map((one) => <Line key={one.key} one={one} most={most} />)}</tbody>
      </table>
      {!all.length && <p class="none">No flow among these was decided by a policy that has a name.</p>}
    </section>
  );
}

function Line({ one, most }: { one: PolicyCount; most: number }) {
  const look = () => store.choose({ selected: { type: 'policy', policy: one } });
  return (
    <tr>
      <th scope="row">
        <button class="link" onClick={look} title="The policy">{one.ns && <i>{one.ns}/</i>}{one.name}</button>
        <small>{one.kind}</small>
      </th>
      <td>{[...one.directions].sort().join(', ')}</td>
      <td class="tags">{top(one.ends, 3).map(([end]) => <code>{end}</code>)}{one.ends.size > 3 && <small>+{one.ends.size - 3}</small>}</td>
      <td class="num">{top(one.ports, 3).map(([port]) => port).join('  ')}</td>
      <td class="num"><Bar share={one.allowed_count / most} tone="ok" />{short(one.allowed_count)}</td>
      <td class="num"><Bar share={one.denied_count / most} tone="bad" />{short(one.denied_count)}</td>
      <td class="num">{clock(one.last).slice(0, 8)}</td>
    </tr>
  );
}

const Bar = ({ share, tone }: { share: number; tone: string }) => (
  <span class={`share ${tone}`} aria-hidden="true"><i style={{ width: `${share > 0 ? Math.max(3, share * 100) : 0}%` }} /></span>
);

/** A policy: what it decided, and its object beside it. */
export function PolicyDetail({ policy, counted }: { policy: Decision; counted: PolicyCount | undefined }) {
  const name = policy.ns ? `${policy.ns}/${policy.name}` : policy.name;
  const flows = () => store.choose({ view: 'flows', query: only(store.chosen.query, 'policy', [name]) });
  return (
    <>
      <header><span class="kind">{policy.kind}</span><h2>{policy.name}</h2><p>{policy.ns}</p></header>
      <p class="figures"><Figure name="allowed" value={counted?.allowed_count ?? 0} /><Figure name="denied" value={counted?.denied_count ?? 0} bad /></p>
      <p class="actions"><button onClick={flows}>Flows that it decided</button></p>
      <Manifest policy={policy} />
    </>
  );
}

function Manifest({ policy }: { policy: Decision }) {
  const [text, setText] = useState('');
  const [trouble, setTrouble] = useState('');
  useEffect(() => {
    const left = new AbortController();
    const failed = (error: Error) => left.signal.aborted || setTrouble(error instanceof TypeError ? 'the relay does not answer' : error.message);
    manifest(policy, left.signal).then(setText, failed);
    return () => left.abort();
  }, [policy.key]);
  return (
    <>
      <h3>Object, as it is now</h3>
      {trouble && <p class="quiet trouble">{trouble}</p>}
      {!trouble && !text && <p class="quiet">…</p>}
      {text && <pre class="manifest" tabIndex={0}>{text}</pre>}
      {text && <p class="actions"><button onClick={() => void navigator.clipboard?.writeText(text)}>Copy as YAML</button></p>}
    </>
  );
}
