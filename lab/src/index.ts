/** What the extension adds to JupyterLab and, as far as it has the places, to Notebook. */
import { ILabShell, ILayoutRestorer, JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette, MainAreaWidget, Notification, WidgetTracker } from '@jupyterlab/apputils';
import { IDefaultFileBrowser } from '@jupyterlab/filebrowser';
import { ILauncher } from '@jupyterlab/launcher';
import { INotebookTracker } from '@jupyterlab/notebook';
import { IRunningSessionManagers } from '@jupyterlab/running';
import { ServerConnection } from '@jupyterlab/services';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { IStatusBar } from '@jupyterlab/statusbar';
import { ITranslator } from '@jupyterlab/translation';
import { Signal } from '@lumino/signaling';
import { Api, Runs } from './api';
import { __, runIcon, shared } from './base';
import { addCommands, ITrackers } from './commands';
import { RunWidget } from './document';
import { RunFactory } from './documents';
import { arranged, happened, visible } from './logic';
import { SeveralWidget } from './several';
import { SidebarWidget } from './sidebar';
import { StatusWidget } from './status';
import { ICard } from './types';

const ID = 'bsft_nb:plugin';

const { settings } = shared;

async function readSettings(registry: ISettingRegistry | null): Promise<void> {
  if (!registry) {
    return;
  }
  try {
    const known = await registry.load(ID);
    const take = () => {
      Object.assign(settings, known.composite);
      shared.runs.wish(settings.refresh, settings.folders);
      shared.settingsChanged.emit();
    };
    take();
    known.changed.connect(take);
  } catch (error) {
    console.warn('bsft_nb: its settings could not be read', error);
  }
}

const actionsFor = (card: ICard) => [
  { label: __('Open'), callback: () => void shared.commands.execute('bsft:open', { key: card.key }) },
  { label: __('Report'), callback: () => void shared.commands.execute('bsft:report', { key: card.key }) }
];

/** Tell when a run ends, fails, or warns of something. */
function notify(card: ICard, before: ICard | undefined): void {
  const what = happened(before, card);
  const warning = card.live?.warning ?? '';
  if (warning && before?.live && warning !== before.live.warning && settings.notifications === 'all') {
    Notification.warning(`${card.id}: ${visible(warning)}`, { actions: actionsFor(card), autoClose: 15000 });
  }
  if (!what || settings.notifications === 'none') {
    return;
  }
  const actions = actionsFor(card);
  const scores = ['tuned', 'teacher'].filter(w => card.scores[w]).map(w => `${w} ${card.scores[w].said}`);
  const said = [`${card.id}: ${card.status}`, scores.join(', ')].filter(Boolean).join(', ');
  if (what === 'stopped') {
    Notification.info(said, { actions, autoClose: 8000 });
  } else if (what === 'failed') {
    Notification.error(`${said}. ${card.error}`.slice(0, 300), { actions, autoClose: false });
  } else {
    Notification.success(said, { actions, autoClose: false });
  }
}

function addRunning(managers: IRunningSessionManagers): void {
  const changed = new Signal<object, void>({});
  shared.runs.changed.connect(() => changed.emit());
  const live = () => arranged(shared.runs.cards.values(), '', 'running', 'newest').live;
  managers.add({
    name: __('Fine-tuning'),
    running: () =>
      live().map(card => ({
        open: () => void shared.commands.execute('bsft:open', { key: card.key }),
        icon: () => runIcon,
        label: () => card.id,
        labelTitle: () => card.live?.line ?? card.where,
        detail: () => card.live?.said ?? '',
        shutdown: () => void shared.commands.execute('bsft:stop', { key: card.key })
      })),
    shutdownAll: () => live().forEach(card => void shared.commands.execute('bsft:stop', { key: card.key })),
    refreshRunning: () => undefined,
    runningChanged: changed,
    shutdownLabel: __('Stop'),
    shutdownAllLabel: __('Stop All'),
    shutdownAllConfirmationText: __('Stop all runs? Each ends at its next step and keeps what is finished.')
  });
}

const plugin: JupyterFrontEndPlugin<void> = {
  id: ID,
  description: 'Runs of bsft_nb: sidebar, pages, launcher, palette, status bar.',
  autoStart: true,
  requires: [ITranslator],
  optional: [
    ILabShell,
    ILayoutRestorer,
    ICommandPalette,
    ILauncher,
    INotebookTracker,
    IRunningSessionManagers,
    ISettingRegistry,
    IStatusBar,
    IDefaultFileBrowser
  ],
  activate: async (
    app: JupyterFrontEnd,
    translator: ITranslator,
    labShell: ILabShell | null,
    restorer: ILayoutRestorer | null,
    palette: ICommandPalette | null,
    launcher: ILauncher | null,
    notebooks: INotebookTracker | null,
    running: IRunningSessionManagers | null,
    registry: ISettingRegistry | null,
    statusBar: IStatusBar | null,
    browser: IDefaultFileBrowser | null
  ) => {
    shared.trans = translator.load('bsft_nb');
    shared.commands = app.commands;
    const server = app.serviceManager?.serverSettings ?? ServerConnection.makeSettings();
    shared.runs = new Runs(new Api(server));
    const trackers: ITrackers = {
      runs: new WidgetTracker<MainAreaWidget<RunWidget>>({ namespace: 'bsft-runs' }),
      several: new WidgetTracker<MainAreaWidget<SeveralWidget>>({ namespace: 'bsft-several' })
    };
    addCommands(app, trackers, {
      notebooks,
      folder: () => browser?.model.path ?? '',
      inLab: labShell !== null
    });
    app.docRegistry.addFileType({
      name: 'bsft-run',
      displayName: __('Fine-tuning run'),
      pattern: '^run\\.json$',
      contentType: 'file',
      fileFormat: 'text',
      icon: runIcon
    });
    app.docRegistry.addWidgetFactory(
      new RunFactory({
        name: __('Fine-tuning run'),
        fileTypes: ['bsft-run'],
        defaultFor: ['bsft-run'],
        readOnly: true
      })
    );
    if (restorer) {
      void restorer.restore(trackers.runs, {
        command: 'bsft:open',
        args: w => ({ key: w.content.key, name: w.content.title.label }),
        name: w => w.content.key
      });
      void restorer.restore(trackers.several, {
        command: 'bsft:compare-runs',
        args: w => ({ keys: w.content.keys }),
        name: w => w.content.keys.join('-')
      });
    }
    const sidebar = new SidebarWidget();
    app.shell.add(sidebar, 'left', { rank: 650 });
    restorer?.add(sidebar, 'bsft-sidebar');
    for (const command of ['bsft:new', 'bsft:open-run', 'bsft:stop-run', 'bsft:show-sidebar']) {
      palette?.addItem({ command, category: __('Fine-tuning') });
    }
    launcher?.add({ command: 'bsft:new', args: { isLauncher: true }, category: 'Other', rank: 0 });
    if (running) {
      addRunning(running);
    }
    const turned = new Signal<object, void>({});
    shared.runs.changed.connect(() => turned.emit());
    shared.settingsChanged.connect(() => turned.emit());
    statusBar?.registerStatusItem(ID, {
      item: new StatusWidget(),
      align: 'left',
      rank: 900,
      isActive: () =>
        settings.statusBar && arranged(shared.runs.cards.values(), '', 'running', 'newest').live.length > 0,
      activeStateChanged: turned
    });
    shared.runs.turned.connect((_, { before, after }) => notify(after, before));
    await readSettings(registry);
  }
};

export default plugin;
