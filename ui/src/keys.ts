// What keys do, wherever the focus is but in a text.
import { openAll } from './map';
import { store, type View } from './store';
import { step } from './table';

/** For the help: keys, and what they do. */
export const KEYS: [string, string][] = [
  ['/', 'to the filter'],
  ['j k', 'next and previous flow'],
  ['Enter', 'to the details of what is picked'],
  ['Esc', 'close, pick nothing, leave the filter'],
  ['g m', 'map'],
  ['g f', 'flows'],
  ['g p', 'policies'],
  ['p', 'pause and go on'],
  ['e c', 'show all workloads, or namespaces alone'],
  ['← ↑ → ↓', 'on the map: from one to the next, Enter opens it'],
  ['+ - f', 'on the map: nearer, farther, all of it'],
  ['d', 'light or dark'],
  ['?', 'this'],
];

const VIEW: Record<string, View> = { m: 'map', f: 'flows', p: 'policies' };

export function listenKeys(nextTheme: () => void) {
  let went = 0;
  addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const target = event.target as HTMLElement;
    const typing = target.tagName === 'INPUT' && (target as HTMLInputElement).type === 'text';
    if (event.key === 'Escape') escape(target, typing);
    if (typing || event.key === 'Escape' || store.chosen.help) return;
    const after_g = Date.now() - went < 1200 ? VIEW[event.key] : undefined;
    went = event.key === 'g' ? Date.now() : 0;
    if (after_g) store.choose({ view: after_g });
    else if (!plain(event, nextTheme)) return;
    event.preventDefault();
  });
}

function escape(target: HTMLElement, typing: boolean) {
  const menu = target.closest<HTMLDetailsElement>('details[open]');
  if (menu) menu.open = false;
  else if (store.chosen.help) store.choose({ help: false });
  else if (typing) target.blur();
  else if (store.chosen.selected) store.choose({ selected: undefined });
}

/** Whether the key is one that does something. */
function plain(event: KeyboardEvent, nextTheme: () => void): boolean {
  const { graph, chosen } = store;
  switch (event.key) {
    case '/':
      document.querySelector<HTMLInputElement>('#filter')?.focus();
      document.querySelector<HTMLInputElement>('#filter')?.select();
      return true;
    case 'j': case 'k':
      if (chosen.view === 'policies') return false;
      step(event.key === 'j' ? 1 : -1);
      return true;
    case 'Enter':
      if (!chosen.selected || (event.target as HTMLElement).closest('button,a,summary,[role=separator]')) return false;
      document.querySelector<HTMLElement>('.detail')?.focus();
      return true;
    case 'p': store.choose({ paused: !chosen.paused }); return true;
    case 'e': openAll(graph, true); return true;
    case 'c': openAll(graph, false); return true;
    case 'd': nextTheme(); return true;
    case '?': store.choose({ help: true }); return true;
    case 'g': return true;
    default: return false;
  }
}
