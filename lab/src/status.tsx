/** One line in the status bar: the run under way. */
import { ReactWidget, UseSignal } from '@jupyterlab/ui-components';
import React from 'react';
import { __, does, shared } from './base';
import { arranged } from './logic';

export class StatusWidget extends ReactWidget {
  constructor() {
    super();
    this.addClass('bsft-statusbar');
  }

  render(): JSX.Element {
    return (
      <UseSignal signal={shared.runs.changed}>
        {() => {
          const { live } = arranged(shared.runs.cards.values(), '', 'running', 'newest');
          const card = live[0];
          if (!card) {
            return null;
          }
          const said = [card.live?.said, card.live?.left].filter(Boolean).join(', ');
          return (
            <button
              type="button"
              title={__('%1: open its page', card.id)}
              onClick={() => does('bsft:open', { key: card.key })}
            >
              {card.program || card.id} {said}
              {live.length > 1 ? ` (+${live.length - 1})` : ''}
            </button>
          );
        }}
      </UseSignal>
    );
  }
}
