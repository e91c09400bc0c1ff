// The page: bar at the top, one of three views, details at the right.
import { render } from 'preact';
import { useEffect, useRef } from 'preact/hooks';
import './style.css';
import { Detail, Menu } from './detail';
import { toggle, values, type Key } from './filter';
import { useStore } from './hooks';
import { KEYS, listenKeys } from './keys';
import { MapView } from './map';
import { short, TONE, type Verdict } from './model';
import { Policies } from './policies';
import { store, VIEWS, type Theme } from './store';
import { FlowTable } from './table';

const NAMES = { map: 'Map', flows: 'Flows', policies: 'Policies' };

function App() {
  const { chosen } = useStore();
  const { view } = chosen;
  return (
    <>
      <Bar />
      <main class={`${view} ${chosen.selected ? 'with-detail' : ''}`}>
        <div class="view">
          {view === 'map' && <><MapView /><Splitter /></>}
          {view === 'policies' ? <Policies /> : <FlowTable />}
        </div>
        <Detail />
      </main>
      {chosen.help && <Help />}
    </>
  );
}

function Bar() {
  const { chosen, graph, terms } = useStore();
  const verdicts: Verdict[] = ['FORWARDED', 'DROPPED', 'AUDIT', 'REDIRECTED', 'ERROR', 'TRACED', 'TRANSLATED'];
  const namespaces = [...graph.namespaces].sort((a, b) => a[0].localeCompare(b[0]));
  const chosenNs = values(terms, 'ns');
  const names = [...new Set([...chosenNs, ...namespaces.map(([name]) => name)])];
  return (
    <header class="bar">
      <a class="brand" href="#map"><img src="icon.svg" alt="" width="26" height="26" /><b>Hypha</b></a>
      <nav aria-label="Views">
        {VIEWS.map((view) => <a href={`#${view}`} class={chosen.view === view ? 'on' : ''} aria-current={chosen.view === view ? 'page' : undefined} onClick={(event) => { event.preventDefault(); store.choose({ view }); }}>{NAMES[view]}</a>)}
      </nav>
      <Search />
      <Menu label="Namespace" count={chosenNs.length}>
        {names.map((name) => <Choice term="ns" value={name} text={name} count={graph.namespaces.get(name)} on={chosenNs.includes(name)} />)}
      </Menu>
      <Menu label="Verdict" count={values(terms, 'verdict').length}>
        {verdicts.map((verdict) => <Choice term="verdict" value={verdict.toLowerCase()} text={verdict.toLowerCase()} tone={TONE[verdict]} on={values(terms, 'verdict').includes(verdict.toLowerCase())} />)}
      </Menu>
      <span class="space" />
      <Health />
      <button class={`pause ${chosen.paused ? 'on' : ''}`} title="Pause and go on (p)" aria-pressed={chosen.paused} onClick={() => store.choose({ paused: !chosen.paused })}>
        {chosen.paused ? `Go on${store.waiting ? ` · ${short(store.waiting)}` : ''}` : 'Pause'}
      </button>
      <button class="icon" title={`Colours: ${chosen.theme} (d)`} aria-label={`Colours: ${chosen.theme}`} onClick={nextTheme}>{{ auto: '◐', light: '☀', dark: '☾' }[chosen.theme]}</button>
      <button class="icon" title="Keys (?)" aria-label="Keys" onClick={() => store.choose({ help: true })}>?</button>
    </header>
  );
}

function Choice({ term, value, text, count, tone, on }: { term: Key; value: string; text: string; count?: number; tone?: string; on: boolean }) {
  return (
    <label class={tone ? `verdict ${tone}` : ''}>
      <input type="checkbox" checked={on} onChange={() => store.choose({ query: toggle(store.chosen.query, term, value) })} />
      <span>{text}</span>{count !== undefined && <small>{short(count)}</small>}
    </label>
  );
}

function Search() {
  const { chosen } = useStore();
  const input = useRef<HTMLInputElement>(null);
  return (
    <div class="search" role="search">
      <input
        id="filter" ref={input} type="text" spellcheck={false} autocomplete="off" placeholder="Filter: pod:cart port:80 -ns:kube-system or any word" aria-label="Filter"
        value={chosen.query} onInput={(event) => store.choose({ query: (event.target as HTMLInputElement).value })}
      />
      {chosen.query ? <button class="clear" aria-label="No filter" title="No filter" onClick={() => { store.choose({ query: '' }); input.current?.focus(); }}>×</button> : <kbd>/</kbd>}
    </div>
  );
}

function Health() {
  const { live, trouble, status, nodesAway, lost } = useStore();
  const nodes = status?.status.num_connected_nodes ?? 0;
  const away = Math.max(nodesAway.length, status?.status.num_unavailable_nodes ?? 0);
  const tone = !live ? 'bad' : away ? 'warn' : 'ok';
  const text = !live ? 'offline' : `${nodes}${away ? `/${nodes + away}` : ''} ${nodes + away === 1 ? 'node' : 'nodes'} · ${short(status?.status.flows_rate ?? 0)}/s`;
  const more = [trouble, away ? `away: ${(status?.status.unavailable_nodes ?? nodesAway).join(', ')}` : '', lost ? `${short(lost)} flows were lost before they came here` : ''];
  return <span class={`health ${tone}`} role="status" title={more.filter(Boolean).join('\n') || 'all nodes are connected'}><i />{text}</span>;
}

/** Between map and flows; the height is kept. */
function Splitter() {
  const set = (height: number) => {
    const share = Math.min(80, Math.max(12, height));
    document.documentElement.style.setProperty('--split', `${share}%`);
    localStorage.setItem('hypha.split', String(share));
  };
  const move = (event: PointerEvent) => {
    const target = event.currentTarget as HTMLElement;
    if (!target.hasPointerCapture(event.pointerId)) return;
    const room = target.parentElement!.getBoundingClientRect();
    set(((room.bottom - event.clientY) / room.height) * 100);
  };
  const key = (event: KeyboardEvent) => {
    const by = { ArrowUp: 4, ArrowDown: -4 }[event.key];
    if (by) set(Number(localStorage.getItem('hypha.split') ?? 36) + by);
  };
  return (
    <div class="splitter" role="separator" aria-orientation="horizontal" aria-label="Height of the flows" tabIndex={0} onKeyDown={key}
      onPointerDown={(event) => (event.currentTarget as HTMLElement).setPointerCapture(event.pointerId)} onPointerMove={move} />
  );
}

function Help() {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    if (!dialog.current?.open) dialog.current?.showModal();
  }, []);
  const close = () => store.choose({ help: false });
  return (
    <dialog class="help" ref={dialog} onClose={close} onClick={(event) => event.target === dialog.current && close()}>
      <h2>Keys</h2>
      <dl>{KEYS.map(([keys, what]) => <><dt>{keys.split(' ').map((key) => <kbd>{key}</kbd>)}</dt><dd>{what}</dd></>)}</dl>
      <h2>Filter</h2>
      <p><code>ns:</code> <code>pod:</code> <code>workload:</code> <code>verdict:</code> <code>proto:</code> <code>port:</code> <code>policy:</code> <code>node:</code> or any word. Of the same key one suffices, different keys must all hold, <code>-</code> before one leaves it out.</p>
      <button onClick={close}>Close</button>
    </dialog>
  );
}

export function setTheme(theme: Theme) {
  document.documentElement.dataset.theme = theme;
  localStorage.setItem('hypha.theme', theme);
  store.choose({ theme });
}

/** From what the system wants to the other, and back. */
function nextTheme() {
  const order: Theme[] = matchMedia('(prefers-color-scheme: dark)').matches ? ['auto', 'light', 'dark'] : ['auto', 'dark', 'light'];
  setTheme(order[(order.indexOf(store.chosen.theme) + 1) % order.length]!);
}

const kept = localStorage.getItem('hypha.theme');
setTheme(kept === 'light' || kept === 'dark' ? kept : 'auto');
const split = Number(localStorage.getItem('hypha.split'));
if (split) document.documentElement.style.setProperty('--split', `${split}%`);
store.start();
listenKeys(nextTheme);
render(<App />, document.getElementById('app')!);
