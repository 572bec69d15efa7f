/** `run.json` as a file type: a double-click opens the run's page. */
import { ABCWidgetFactory, DocumentRegistry, DocumentWidget } from '@jupyterlab/docregistry';
import { runIcon } from './base';
import { FoundRunWidget } from './document';

export class RunFactory extends ABCWidgetFactory<DocumentWidget<FoundRunWidget>, DocumentRegistry.IModel> {
  protected createNewWidget(context: DocumentRegistry.Context): DocumentWidget<FoundRunWidget> {
    const content = new FoundRunWidget(context.path);
    const widget = new DocumentWidget({ content, context });
    widget.title.icon = runIcon;
    return widget;
  }
}
