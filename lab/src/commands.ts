/** Everything that can be done to a run, from menus, palette, sidebar and page. */
import { JupyterFrontEnd } from '@jupyterlab/application';
import {
  Clipboard,
  Dialog,
  InputDialog,
  MainAreaWidget,
  Notification,
  showDialog,
  showErrorMessage,
  WidgetTracker
} from '@jupyterlab/apputils';
import { INotebookTracker, NotebookActions, NotebookPanel } from '@jupyterlab/notebook';
import { ReadonlyPartialJSONObject } from '@lumino/coreutils';
import { SplitPanel, TabPanel, Widget } from '@lumino/widgets';
import { __, runIcon, shared } from './base';
import { RunWidget } from './document';
import { arranged } from './logic';
import { SeveralWidget } from './several';
import { ICard } from './types';

export interface ITrackers {
  runs: WidgetTracker<MainAreaWidget<RunWidget>>;
  several: WidgetTracker<MainAreaWidget<SeveralWidget>>;
}

const PANEL = '%load_ext bsft_nb\n%bsft panel';

/** The cell that shows how a run stands, in a notebook from which it can be gone on with. */
function resumeCode(card: ICard): string {
  return `import bsft_nb\n\nrun = bsft_nb.attach(${JSON.stringify(card.path)})\nrun  # calls and checkpoints are kept: run the cell that compiled it again, and it goes on from there`;
}

/** Where things are put: the notebooks that are open, and the folder that is shown. */
export interface IPlaces {
  notebooks: INotebookTracker | null;
  folder: () => string;
  inLab: boolean;
}

/** A new notebook with `code` in it, in a page of its own, as Notebook has them. */
async function newPage(app: JupyterFrontEnd, folder: string, code: string): Promise<void> {
  const { contents, kernelspecs } = app.serviceManager;
  const name = kernelspecs.specs?.default ?? 'python3';
  const kernelspec = { name, display_name: kernelspecs.specs?.kernelspecs[name]?.display_name ?? name };
  const cell = { cell_type: 'code', source: code, metadata: {}, outputs: [], execution_count: null };
  const made = await contents.newUntitled({ path: folder, type: 'notebook' });
  await contents.save(made.path, {
    type: 'notebook',
    format: 'json',
    content: { cells: [cell], metadata: { kernelspec }, nbformat: 4, nbformat_minor: 4 }
  });
  await app.commands.execute('docmanager:open', { path: made.path });
}

/** Put `code` into a notebook: the one that is open, or a new one. */
async function insert(
  app: JupyterFrontEnd,
  places: IPlaces,
  code: string,
  here: boolean,
  run: boolean
): Promise<void> {
  const current = places.notebooks?.currentWidget;
  const inCurrent = here && current && current === app.shell.currentWidget;
  if (!inCurrent && !places.inLab) {
    return newPage(app, places.folder(), code);
  }
  const panel = inCurrent
    ? current
    : ((await app.commands.execute('notebook:create-new', {
        kernelName: app.serviceManager.kernelspecs.specs?.default
      })) as NotebookPanel);
  await panel.context.ready;
  if (inCurrent) {
    NotebookActions.insertBelow(panel.content);
  }
  panel.content.activeCell?.model.sharedModel.setSource(code);
  app.shell.activateById(panel.id);
  if (run) {
    void panel.sessionContext.ready.then(() => NotebookActions.run(panel.content, panel.sessionContext)); // takes as long as a kernel starts
  }
}

/** Notebook's lower panel neither turns to a page by itself nor gives it room. */
function uncover(widget: Widget): void {
  for (let at = widget.parent; at; at = at.parent) {
    if (at instanceof TabPanel) {
      at.currentWidget = widget;
    } else if (at instanceof SplitPanel && at.orientation === 'vertical' && widget.node.clientHeight < 100) {
      at.setRelativeSizes([1, 2]);
    }
  }
}

export function addCommands(app: JupyterFrontEnd, trackers: ITrackers, places: IPlaces): void {
  const { commands, shell } = app;
  const { runs } = shared;

  /** The run that a command is about: said, under the pointer, or open in front. */
  const keyOf = (args: ReadonlyPartialJSONObject): string | undefined => {
    if (typeof args.key === 'string') {
      return args.key;
    }
    const node = app.contextMenuHitTest(n => n.classList.contains('bsft-card'));
    return (
      node?.dataset.key ??
      (trackers.runs.currentWidget === shell.currentWidget
        ? trackers.runs.currentWidget?.content.key
        : undefined)
    );
  };
  const cardOf = (args: ReadonlyPartialJSONObject): ICard | undefined =>
    runs.cards.get(keyOf(args) ?? '') ?? runs.views.get(keyOf(args) ?? '')?.card;

  const show = <T extends Widget>(
    tracker: WidgetTracker<MainAreaWidget<T>>,
    id: string,
    make: () => T
  ): void => {
    const known = tracker.find(w => w.id === id);
    const widget = known ?? new MainAreaWidget<T>({ content: make() });
    if (!known) {
      widget.id = id;
      widget.toolbar.hide();
      void tracker.add(widget);
    }
    for (const area of places.inLab ? ['main'] : ['down', 'right']) {
      // Notebook's main area holds its document alone
      if (!widget.isAttached) {
        shell.add(widget, area);
      }
    }
    shell.activateById(widget.id);
    if (!places.inLab) {
      uncover(widget);
    }
  };

  const pick = async (title: string, cards: ICard[], none: string): Promise<ICard | undefined> => {
    if (!cards.length) {
      await showDialog({ title, body: none, buttons: [Dialog.okButton()] });
      return undefined;
    }
    const names = cards.map(c => `${c.id} (${c.status}${c.target ? `, ${c.target}` : ''})`);
    const chosen = await InputDialog.getItem({ title, items: names });
    return chosen.button.accept && chosen.value !== null ? cards[names.indexOf(chosen.value)] : undefined;
  };

  const all = (): { live: ICard[]; ended: ICard[] } => arranged(runs.cards.values(), '', 'all', 'newest');

  const tell = async (title: string, work: Promise<unknown>): Promise<boolean> => {
    try {
      await work;
      return true;
    } catch (error) {
      await showErrorMessage(title, (error as Error).message);
      return false;
    }
  };

  commands.addCommand('bsft:open', {
    label: __('Open'),
    caption: __("Open the run's page"),
    icon: runIcon,
    isVisible: args => keyOf(args) !== undefined,
    execute: args => {
      const key = keyOf(args);
      if (key) {
        show(
          trackers.runs,
          `bsft-run-${key}`,
          () =>
            new RunWidget(
              key,
              runs.cards.get(key)?.id ?? (typeof args.name === 'string' ? args.name : __('Run'))
            )
        );
      }
    }
  });

  commands.addCommand('bsft:report', {
    label: __('Report'),
    caption: __('The run as one page, in a new tab'),
    execute: args => {
      const key = keyOf(args);
      if (key) {
        window.open(runs.api.url('runs', key, 'report'), '_blank', 'noopener');
      }
    }
  });

  commands.addCommand('bsft:compare-runs', {
    label: __('Compare with…'),
    execute: async args => {
      let keys = Array.isArray(args.keys) ? args.keys.filter((k): k is string => typeof k === 'string') : [];
      if (keys.length < 2) {
        const first = keyOf(args);
        const { live, ended } = all();
        const other = await pick(
          __('Compare with'),
          [...live, ...ended].filter(c => c.key !== first),
          __('There is no other run.')
        );
        if (!first || !other) {
          return;
        }
        keys = [first, other.key];
      }
      keys = [...keys].sort();
      show(trackers.several, `bsft-several-${keys.join('-')}`, () => new SeveralWidget(keys));
    }
  });

  commands.addCommand('bsft:copy-id', {
    label: __('Copy id'),
    execute: args => Clipboard.copyToSystem(cardOf(args)?.id ?? '')
  });
  commands.addCommand('bsft:copy-code', {
    label: __('Copy code'),
    caption: __('Python that opens the run'),
    execute: args => {
      Clipboard.copyToSystem(cardOf(args)?.code ?? '');
      Notification.info(__('Copied: Python that opens the run'), { autoClose: 2000 });
    }
  });

  commands.addCommand('bsft:stop', {
    label: __('Stop'),
    caption: __('Ends at the next step and keeps what is finished'),
    isEnabled: args => cardOf(args)?.status === 'running',
    execute: async args => {
      const card = cardOf(args);
      if (card && (await tell(__('The run was not stopped'), runs.api.stop(card.key)))) {
        Notification.info(
          __('Asked %1 to stop: it ends at the next step and keeps what is finished', card.id),
          { autoClose: 4000 }
        );
      }
    }
  });

  commands.addCommand('bsft:resume', {
    label: __('Resume in a notebook'),
    execute: args => {
      const card = cardOf(args);
      return card ? insert(app, places, resumeCode(card), false, false) : undefined;
    }
  });

  commands.addCommand('bsft:delete', {
    label: __('Delete…'),
    isEnabled: args => cardOf(args)?.status !== 'running',
    execute: async args => {
      const card = cardOf(args);
      if (!card) {
        return;
      }
      const answer = await showDialog({
        title: __('Move the run to the trash?'),
        body: __('%1, with its student, in %2', card.id, card.path),
        buttons: [Dialog.cancelButton(), Dialog.warnButton({ label: __('Move to trash') })]
      });
      if (answer.button.accept && (await tell(__('The run was not deleted'), runs.api.delete(card.key)))) {
        trackers.runs.find(w => w.content.key === card.key)?.dispose();
      }
    }
  });

  commands.addCommand('bsft:new', {
    label: args => (args.isLauncher ? __('New fine-tuning') : __('New Fine-Tuning')),
    caption: __('The compile panel, in this notebook or a new one'),
    icon: runIcon,
    execute: args =>
      tell(__('No notebook could be opened'), insert(app, places, PANEL, !args.isLauncher, true))
  });

  commands.addCommand('bsft:open-run', {
    label: __('Open Fine-Tuning Run…'),
    execute: async () => {
      const { live, ended } = all();
      const card = await pick(__('Open run'), [...live, ...ended], __('There are no runs yet.'));
      return card ? commands.execute('bsft:open', { key: card.key }) : undefined;
    }
  });

  commands.addCommand('bsft:stop-run', {
    label: __('Stop Fine-Tuning Run…'),
    isEnabled: () => all().live.length > 0,
    execute: async () => {
      const { live } = all();
      const card = live.length === 1 ? live[0] : await pick(__('Stop run'), live, __('No run is under way.'));
      return card ? commands.execute('bsft:stop', { key: card.key }) : undefined;
    }
  });

  commands.addCommand('bsft:show-sidebar', {
    label: __('Show Fine-Tuning Runs'),
    execute: () => {
      const show = () => shell.activateById('bsft-sidebar');
      show();
      setTimeout(show); // the palette hands the focus back to the main area as soon as a command has begun
    }
  });

  runs.changed.connect(() => commands.notifyCommandChanged('bsft:stop-run'));
}
