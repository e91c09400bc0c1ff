// Flows as they come, newest first. Only what can be seen is drawn; whoever looks further down or picks one is not disturbed by new ones.
import { memo } from 'preact/compat';
import { useEffect, useRef, useState } from 'preact/hooks';
import { useSize, useStore } from './hooks';
import { portName, short, TONE, type Row, type Side } from './model';
import { store } from './store';

const HEIGHT = 32;

/** The rows that are shown while nothing moves; newest last. */
let still: Row[] | undefined;

function shown(): Row[] {
  return still ?? store.rows;
}

/** Picks the row so many further down, and gives it. */
export function step(by: number): Row | undefined {
  const rows = shown();
  still = rows;
  const { selected } = store.chosen;
  const at = selected?.type === 'flow' ? rows.findIndex((row) => row.id === selected.row.id) : rows.length;
  const next = rows[Math.min(rows.length - 1, Math.max(0, at < 0 ? rows.length - 1 : at - by))];
  if (next) store.choose({ selected: { type: 'flow', row: next } });
  return next;
}

export function FlowTable() {
  const { rows, chosen, graph, settled } = useStore();
  const [room, size] = useSize<HTMLDivElement>();
  const [top, setTop] = useState(0);
  const drawn = useRef<Row[]>(rows);
  const picked = chosen.selected?.type === 'flow' ? chosen.selected.row : undefined;
  const hold = top > 4 || picked !== undefined;
  // Another filter is another list.
  const serial = useRef(graph.serial);
  if (!hold || !settled || serial.current !== graph.serial || !drawn.current.length) still = undefined;
  else still ??= drawn.current;
  serial.current = graph.serial;
  const list = shown();
  drawn.current = list;
  const last = list.at(-1)?.id ?? 0;
  const held = list === rows ? 0 : rows.length - 1 - rows.findLastIndex((row) => row.id <= last);

  const index = picked ? list.findIndex((row) => row.id === picked.id) : -1;
  useEffect(() => {
    const element = room.current;
    if (!element || index < 0) return;
    const y = (list.length - 1 - index) * HEIGHT;
    if (y < element.scrollTop) element.scrollTop = y;
    else if (y + HEIGHT > element.scrollTop + element.clientHeight - 2 * HEIGHT) element.scrollTop = y - element.clientHeight + 3 * HEIGHT;
  }, [picked?.id]);

  const first = Math.max(0, Math.floor(top / HEIGHT) - 6);
  const count = Math.ceil(size.h / HEIGHT) + 12;
  const visible = [];
  for (let place = first; place < Math.min(list.length, first + count); place++) visible.push([place, list[list.length - 1 - place]!] as const);
  const resume = () => {
    if (picked) store.choose({ selected: undefined });
    if (room.current) room.current.scrollTop = 0;
    setTop(0);
  };
  return (
    <section class="flows" aria-label="Flows">
      <div
        class="rows" ref={room} role="grid" tabIndex={0} aria-rowcount={list.length} aria-label="Flows, newest first"
        aria-activedescendant={picked && `flow-${picked.id}`} onScroll={(event) => setTop((event.target as HTMLElement).scrollTop)}
      >
        <div class="row header" role="row">
          {['Time', 'Verdict', 'From', '', 'To', 'Port', 'Seen', 'Decided by', 'Node'].map((name) => <span role="columnheader">{name}</span>)}
        </div>
        <div class="height" style={{ height: `${list.length * HEIGHT}px` }}>
          {visible.map(([place, row]) => <FlowRow key={row.id} row={row} place={place} picked={row.id === picked?.id} />)}
        </div>
        {!list.length && <p class="none">{store.live ? 'No flow matches yet.' : store.trouble || 'Connecting…'}</p>}
      </div>
      {held > 0 && <button class="resume" onClick={resume}>↑ {short(held)} new</button>}
    </section>
  );
}

const End = ({ side }: { side: Side }) => (
  <span class="end" title={`${side.ns ? `${side.ns}/` : ''}${side.who}${side.port ? `:${side.port}` : ''} ${side.ip}`}>
    {side.ns && <i>{side.ns}/</i>}<b>{side.who}</b>
  </span>
);

const FlowRow = memo(({ row, place, picked }: { row: Row; place: number; picked: boolean }) => (
  <div
    id={`flow-${row.id}`} class={`row ${TONE[row.verdict]} ${picked ? 'picked' : ''}`} role="row" aria-selected={picked} aria-rowindex={place + 1}
    style={{ transform: `translateY(${place * HEIGHT}px)` }} onClick={() => store.choose({ selected: { type: 'flow', row } })}
  >
    <span class="num">{row.clock}</span>
    <span class={`verdict ${TONE[row.verdict]}`}>{row.verdict.toLowerCase()}</span>
    <End side={row.from} />
    <span class="to" aria-label={row.reply ? 'answered by' : 'to'}>{row.reply ? '←' : '→'}</span>
    <End side={row.to} />
    <span class="num">{portName(row.port, row.proto)}</span>
    <span class="where">{row.where}</span>
    <span class="where" title={row.policy}>{row.decisions[0] ? `${row.decisions[0].ns ? `${row.decisions[0].ns}/` : ''}${row.decisions[0].name}` : ''}</span>
    <span class="where">{row.node}</span>
  </div>
));
