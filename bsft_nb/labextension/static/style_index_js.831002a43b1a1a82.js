"use strict";(self.rspackChunkbsft_nb=self.rspackChunkbsft_nb||[]).push([["style_index_js"],{26(t,o,r){var e=r(27),a=r.n(e),i=r(28),s=(r.n(i))()(a());s.push([t.id,`.bsft-sidebar,
.bsft-document {
  --bsft-good: #2e7d46;
  --bsft-bad: #c0392b;
  --bsft-warn: #9a6200;
  --bsft-line: var(--jp-border-color2);
  --bsft-faint: var(--jp-layout-color2);
  color: var(--jp-ui-font-color1);
  background: var(--jp-layout-color1);
  font-family: var(--jp-ui-font-family);
  font-size: var(--jp-ui-font-size1);
  line-height: 1.45;
}
[data-jp-theme-light='false'] .bsft-sidebar,
[data-jp-theme-light='false'] .bsft-document {
  --bsft-good: #6fcf8e;
  --bsft-bad: #ff8a7a;
  --bsft-warn: #f0b458;
}
.bsft-sidebar {
  display: flex;
  flex-direction: column;
  min-width: 200px;
  overflow: hidden;
  height: 100%;
}
.bsft-top {
  padding: 8px 12px;
  border-bottom: 1px solid var(--bsft-line);
  display: flex;
  flex-direction: column;
  gap: 6px;
}
.bsft-top h2 {
  font-size: var(--jp-ui-font-size1);
  font-weight: 600;
  margin: 0;
}
.bsft-list {
  overflow-y: auto;
  flex: 1;
  padding-bottom: 12px;
}
.bsft-list h3 {
  font-size: var(--jp-ui-font-size0);
  font-weight: 600;
  margin: 10px 12px 4px;
  text-transform: uppercase;
  letter-spacing: 0.04em;
  color: var(--jp-ui-font-color1);
}
.bsft-list ul {
  list-style: none;
  margin: 0;
  padding: 0;
}
.bsft-list > section > .bsft-button {
  margin: 8px 12px;
}
.bsft-card {
  padding: 6px 12px 7px 10px;
  border-left: 2px solid transparent;
  content-visibility: auto;
  contain-intrinsic-size: auto 62px;
}
.bsft-card:hover {
  background: var(--jp-layout-color2);
}
.bsft-card[data-status='running'] {
  border-left-color: var(--jp-brand-color1);
}
.bsft-card input[type='checkbox'] {
  margin: 0;
  opacity: 0.45;
}
.bsft-card:hover input,
.bsft-card input:checked,
.bsft-card input:focus-visible {
  opacity: 1;
}
.bsft-about {
  color: var(--jp-ui-font-color2);
  font-size: var(--jp-ui-font-size0);
  overflow: hidden;
  text-overflow: ellipsis;
  white-space: nowrap;
  padding-left: 21px;
}
.bsft-about .bsft-said {
  white-space: nowrap;
}
.bsft-card .bsft-bar {
  margin: 5px 0 5px 21px;
}
.bsft-card .bsft-row + .bsft-bar + .bsft-row {
  padding-left: 21px;
  font-size: var(--jp-ui-font-size0);
}
.bsft-scores {
  display: flex;
  gap: 10px;
  flex-wrap: wrap;
  font-size: var(--jp-ui-font-size0);
  padding-left: 21px;
  color: var(--jp-ui-font-color2);
}
.bsft-scores b {
  color: var(--jp-ui-font-color1);
  font-variant-numeric: tabular-nums;
}
.bsft-scores [data-which='tuned'] {
  color: var(--jp-ui-font-color1);
}
.bsft-row {
  display: flex;
  align-items: center;
  gap: 6px;
  min-width: 0;
}
.bsft-wrap {
  flex-wrap: wrap;
}
.bsft-grow {
  flex: 1;
  min-width: 0;
}
.bsft-open {
  all: unset;
  cursor: pointer;
  flex: 1;
  min-width: 0;
  overflow: hidden;
  text-overflow: ellipsis;
  white-space: nowrap;
  font-weight: 500;
}
.bsft-open .bsft-said {
  white-space: nowrap;
}
.bsft-open:hover {
  text-decoration: underline;
}
.bsft-open:focus-visible,
.bsft-button:focus-visible,
.bsft-tabs button:focus-visible,
.bsft-log:focus-visible {
  outline: 2px solid var(--jp-brand-color1);
  outline-offset: 1px;
}
.bsft-button {
  font: inherit;
  font-size: var(--jp-ui-font-size0);
  color: var(--jp-ui-font-color1);
  background: var(--jp-layout-color1);
  border: 1px solid var(--jp-border-color1);
  border-radius: 3px;
  padding: 2px 8px;
  cursor: pointer;
  white-space: nowrap;
}
.bsft-button:hover:not(:disabled) {
  background: var(--jp-layout-color3);
}
.bsft-button:disabled {
  opacity: 0.4;
  cursor: default;
}
.bsft-stop {
  color: var(--bsft-bad);
  border-color: var(--bsft-bad);
  font-weight: 600;
}
.bsft-chip {
  border-radius: 10px;
}
.bsft-chip[aria-pressed='true'],
.bsft-tab[aria-pressed='true'] {
  background: var(--jp-brand-color1);
  border-color: var(--jp-brand-color1);
  color: var(--jp-ui-inverse-font-color0, #fff);
}
.bsft-chip[aria-pressed='true']:hover,
.bsft-tab[aria-pressed='true']:hover {
  background: var(--jp-brand-color0) !important;
}
.bsft-search,
.bsft-choice {
  font: inherit;
  height: 26px;
  box-sizing: border-box;
  text-overflow: ellipsis;
  min-width: 0;
  color: var(--jp-ui-font-color1);
  background: var(--jp-layout-color1);
  border: 1px solid var(--jp-border-color1);
  border-radius: 3px;
  padding: 3px 6px;
}
.bsft-top .bsft-search {
  width: 100%;
  box-sizing: border-box;
}
.bsft-top .bsft-choice {
  flex: 1 1 auto;
}
.bsft-panel .bsft-search {
  width: 200px;
}
.bsft-panel .bsft-choice {
  max-width: 220px;
}
.bsft-bar {
  height: 6px;
  border-radius: 3px;
  background: var(--jp-layout-color3);
  overflow: hidden;
}
.bsft-bar > div {
  height: 100%;
  background: var(--jp-brand-color1);
  border-radius: 3px;
  transition: width 0.4s;
}
.bsft-mod-unknown > div {
  width: 30%;
  animation: bsft-slide 1.6s infinite ease-in-out;
}
@keyframes bsft-slide {
  from {
    margin-left: -30%;
  }
  to {
    margin-left: 100%;
  }
}
@media (prefers-reduced-motion: reduce) {
  .bsft-mod-unknown > div {
    animation: none;
    width: 100%;
    opacity: 0.4;
  }
  .bsft-bar > div {
    transition: none;
  }
}
.bsft-status {
  font-size: var(--jp-ui-font-size0);
  color: var(--jp-ui-font-color2);
  white-space: nowrap;
}
.bsft-status[data-status='finished'] {
  color: var(--bsft-good);
}
.bsft-status[data-status='failed'],
.bsft-status[data-status='died'],
.bsft-status[data-status='unreadable'] {
  color: var(--bsft-bad);
}
.bsft-status[data-status='running'] {
  color: var(--jp-brand-color1);
}
.bsft-count,
.bsft-quiet {
  color: var(--jp-ui-font-color2);
  font-weight: normal;
}
.bsft-reading {
  color: var(--jp-ui-font-color2);
  margin-bottom: 12px;
}
.bsft-away {
  margin: 0;
  color: var(--bsft-warn);
}
.bsft-empty {
  color: var(--jp-ui-font-color2);
  padding: 8px 12px;
  margin: 0;
  overflow-wrap: anywhere;
}
.bsft-hidden {
  position: absolute;
  width: 1px;
  height: 1px;
  overflow: hidden;
  clip-path: inset(50%);
}
.bsft-said {
  white-space: pre-wrap;
  overflow-wrap: anywhere;
}
.bsft-document {
  overflow: auto;
  container-type: inline-size;
}
.bsft-run {
  max-width: 1240px;
  margin: 0 auto;
  padding: 14px 20px 40px;
}
.bsft-run h1 {
  font-size: 20px;
  font-weight: 600;
  margin: 0;
  overflow-wrap: anywhere;
}
.bsft-run h3,
.bsft-several h2 {
  font-size: var(--jp-ui-font-size1);
  font-weight: 600;
  margin: 18px 0 6px;
}
.bsft-run h4 {
  font-size: var(--jp-ui-font-size1);
  font-weight: 600;
  margin: 8px 0 4px;
  overflow-wrap: anywhere;
}
.bsft-verdict[data-decision='failed'] h2,
.bsft-verdict[data-decision='died'] h2,
.bsft-verdict[data-decision='stopped'] h2 {
  font-size: var(--jp-ui-font-size1) !important;
}
.bsft-detail h3 {
  margin: 8px 0 4px !important;
}
.bsft-detail h4 {
  font-size: var(--jp-ui-font-size0);
  font-weight: 600;
  margin: 8px 0 2px;
  color: var(--jp-ui-font-color2);
}
.bsft-answer {
  display: flex;
  gap: 20px;
  margin: 14px 0;
  align-items: stretch;
  flex-wrap: wrap;
}
.bsft-verdict {
  flex: 1 1 320px;
  min-width: 0;
  border-left: 4px solid var(--jp-border-color1);
  padding: 2px 0 2px 14px;
}
.bsft-verdict[data-decision^='ahead'],
.bsft-verdict[data-decision^='no difference'] {
  border-color: #3fa45b;
}
.bsft-verdict[data-decision='stopped'],
.bsft-verdict[data-decision^='behind'],
.bsft-verdict[data-decision^='too little'] {
  border-color: #d98c2f;
}
.bsft-verdict[data-decision='failed'],
.bsft-verdict[data-decision='died'],
.bsft-verdict[data-decision^='worse'] {
  border-color: #d9534f;
}
.bsft-verdict h2 {
  font-size: 16px;
  font-weight: 600;
  margin: 0 0 4px;
  overflow-wrap: anywhere;
}
.bsft-verdict h2::first-letter {
  text-transform: uppercase;
}
.bsft-verdict ul,
.bsft-warnings {
  margin: 0;
  padding-left: 18px;
}
.bsft-verdict summary {
  cursor: pointer;
  color: var(--jp-ui-font-color2);
}
.bsft-warnings li::marker {
  content: '⚠ ';
}
.bsft-cards {
  align-self: flex-start;
  display: flex;
  gap: 10px;
  flex: 0 1 auto;
  flex-wrap: wrap;
}
.bsft-score {
  border: 1px solid var(--bsft-line);
  border-radius: 4px;
  padding: 8px 16px;
  min-width: 92px;
}
.bsft-score[data-which='tuned'] {
  border-color: var(--jp-brand-color1);
  background: var(--jp-layout-color2);
}
.bsft-figure {
  font-size: 24px;
  font-weight: 600;
  font-variant-numeric: tabular-nums;
  line-height: 1.3;
}
.bsft-steps {
  list-style: none;
  margin: 0;
  padding: 0;
  display: grid;
  grid-template-columns: repeat(5, minmax(0, 1fr));
  gap: 8px;
}
.bsft-steps li {
  border-top: 3px solid var(--jp-border-color2);
  padding-top: 6px;
  min-width: 0;
  overflow-wrap: anywhere;
  font-size: var(--jp-ui-font-size0);
}
.bsft-steps li[data-how='done'] {
  border-color: #3fa45b;
}
.bsft-steps li[data-how='now'] {
  border-color: var(--jp-brand-color1);
}
.bsft-steps li[data-how='stopped'] {
  border-color: #d98c2f;
}
.bsft-steps li[data-how='broken'] {
  border-color: #d9534f;
}
.bsft-steps li[data-how='ahead'] .bsft-step {
  color: var(--jp-ui-font-color2);
  font-weight: normal;
}
.bsft-step {
  font-weight: 600;
  font-size: var(--jp-ui-font-size1);
}
.bsft-steps .bsft-bar {
  margin: 4px 0;
}
.bsft-tabs {
  display: flex;
  gap: 2px;
  border-bottom: 1px solid var(--bsft-line);
  margin-top: 18px;
  flex-wrap: wrap;
}
.bsft-tabs button {
  all: unset;
  cursor: pointer;
  padding: 6px 14px;
  border-bottom: 2px solid transparent;
  color: var(--jp-ui-font-color2);
}
.bsft-tabs button:hover {
  color: var(--jp-ui-font-color1);
}
.bsft-tabs button[aria-selected='true'] {
  border-color: var(--jp-brand-color1);
  color: var(--jp-ui-font-color1);
  font-weight: 600;
}
.bsft-panel {
  padding-top: 10px;
}
.bsft-panel > .bsft-row {
  margin-bottom: 8px;
}
.bsft-tab {
  padding: 3px 10px;
}
.bsft-problem {
  color: var(--bsft-bad);
  border-left: 4px solid #d9534f;
  padding: 4px 12px;
  margin: 8px 0;
  max-height: 200px;
  overflow: auto;
}
.bsft-bad,
[data-right='false'] {
  color: var(--bsft-bad);
}
[data-right='true'],
[data-outcome='accepted'] {
  color: var(--bsft-good);
}
.bsft-scroll {
  overflow-x: auto;
}
.bsft-table {
  border-collapse: collapse;
  width: 100%;
  font-size: var(--jp-ui-font-size1);
  margin: 0;
}
.bsft-table caption {
  text-align: left;
  color: var(--jp-ui-font-color2);
  padding: 2px 0 4px;
  overflow-wrap: anywhere;
}
.bsft-table th,
.bsft-table td {
  text-align: left;
  vertical-align: top;
  padding: 5px 10px 5px 0;
  border-bottom: 1px solid var(--bsft-line);
}
.bsft-table thead th {
  font-weight: 600;
  color: var(--jp-ui-font-color2);
  white-space: nowrap;
}
.bsft-table tbody th {
  font-weight: normal;
}
.bsft-panel .bsft-scroll > .bsft-table > tbody > tr:hover {
  background: var(--jp-layout-color2);
}
.bsft-table .bsft-number {
  white-space: nowrap;
  font-variant-numeric: tabular-nums;
}
.bsft-compare td,
.bsft-compare th {
  min-width: 110px;
}
.bsft-compare td.bsft-number,
.bsft-compare th:first-child {
  min-width: 0;
}
.bsft-mod-open {
  background: var(--jp-layout-color2);
}
.bsft-mod-detail > td {
  background: var(--jp-layout-color2);
  padding-left: 12px;
}
.bsft-detail {
  padding: 2px 4px 10px;
}
.bsft-detail summary {
  cursor: pointer;
  font-weight: 600;
  margin-top: 6px;
}
.bsft-fields {
  margin: 0;
}
.bsft-fields > div {
  margin: 0;
}
.bsft-fields dt {
  display: inline;
  color: var(--jp-ui-font-color2);
}
.bsft-fields dt::after {
  content: ': ';
}
.bsft-fields dd {
  display: inline;
  margin: 0;
}
.bsft-clip {
  display: -webkit-box;
  -webkit-line-clamp: 3;
  -webkit-box-orient: vertical;
  overflow: hidden;
}
.bsft-two {
  display: grid;
  align-items: start;
  grid-template-columns: 1fr 1fr;
  gap: 8px 28px;
}
.bsft-funnel td,
.bsft-funnel th {
  border: none;
  padding: 2px 10px 2px 0;
}
.bsft-funnel th {
  width: 110px;
  white-space: nowrap;
}
.bsft-track {
  width: 60%;
  vertical-align: middle !important;
}
.bsft-track > div {
  height: 8px;
  background: #4c8eda;
  border-radius: 2px;
}
.bsft-many {
  display: grid;
  grid-template-columns: repeat(auto-fill, minmax(320px, 1fr));
  gap: 4px 24px;
}
.bsft-chart {
  margin: 0 0 6px;
}
.bsft-chart figcaption {
  display: flex;
  gap: 14px;
  flex-wrap: wrap;
  align-items: center;
  min-height: 24px;
}
.bsft-chart svg {
  display: block;
  cursor: crosshair;
  touch-action: none;
  overflow: visible;
  user-select: none;
}
.bsft-chart text {
  fill: var(--jp-ui-font-color2);
  font-size: 11px;
  font-family: var(--jp-ui-font-family);
}
.bsft-grid {
  stroke: var(--jp-border-color2);
  stroke-width: 1;
}
.bsft-cursor {
  stroke: var(--jp-ui-font-color2);
  stroke-dasharray: 3 3;
}
.bsft-zoom {
  fill: var(--jp-brand-color1);
  opacity: 0.15;
}
.bsft-key {
  overflow-wrap: anywhere;
}
.bsft-key i,
.bsft-dot {
  display: inline-block;
  width: 10px;
  height: 10px;
  border-radius: 2px;
  margin-right: 5px;
}
.bsft-pager {
  display: flex;
  align-items: center;
  gap: 4px;
  margin-left: auto;
  white-space: nowrap;
}
.bsft-pre {
  margin: 0;
  padding: 6px 10px;
  background: var(--jp-layout-color2);
  border-radius: 3px;
  font-family: var(--jp-code-font-family);
  font-size: var(--jp-code-font-size);
  white-space: pre-wrap;
  overflow-wrap: anywhere;
  max-height: 340px;
  overflow: auto;
}
.bsft-mod-detail .bsft-pre {
  background: var(--jp-layout-color1);
}
.bsft-completion .bsft-pre {
  border-left: 3px solid var(--jp-brand-color1);
}
.bsft-log {
  max-height: 60vh;
}
.bsft-tokens {
  max-height: 340px;
  overflow: auto;
  line-height: 1.9;
  font-family: var(--jp-code-font-family);
}
.bsft-tokens > span {
  border: 1px solid var(--bsft-line);
  border-radius: 3px;
  padding: 0 2px;
  margin-right: 1px;
}
.bsft-document del {
  background: rgba(220, 60, 60, 0.2);
}
.bsft-document ins {
  background: rgba(40, 160, 80, 0.2);
}
.bsft-interval {
  white-space: nowrap;
}
.bsft-slices {
  max-height: 260px;
  overflow: auto;
  margin-bottom: 10px;
}
.bsft-slices tr {
  cursor: pointer;
}
.bsft-settings th[scope='row'] {
  width: 260px;
  color: var(--jp-ui-font-color2);
}
.bsft-settings tr[data-differs='true'] td {
  font-weight: 600;
}
.bsft-threshold input {
  width: 180px;
}
.bsft-threshold {
  margin-bottom: 8px;
}
.bsft-statusbar {
  display: flex;
  align-items: center;
}
.bsft-statusbar button {
  all: unset;
  line-height: 24px;
  cursor: pointer;
  padding: 0 6px;
  font-size: var(--jp-ui-font-size1);
  color: var(--jp-ui-font-color1);
}
.bsft-statusbar button:hover {
  background: var(--jp-layout-color3);
}
@container (max-width: 640px) {
  .bsft-run {
    padding: 10px 12px 30px;
  }
  .bsft-steps {
    grid-template-columns: 1fr;
    gap: 4px;
  }
  .bsft-steps li {
    border-top: none;
    border-left: 3px solid var(--jp-border-color2);
    padding: 0 0 2px 8px;
  }
  .bsft-two {
    grid-template-columns: 1fr;
  }
  .bsft-cards {
    width: 100%;
  }
  .bsft-score {
    flex: 1;
    padding: 6px 10px;
    min-width: 70px;
  }
  .bsft-pager {
    margin-left: 0;
  }
}
`,""]),r.d(o,{},{A:s})},28(t){t.exports=function(t){var o=[];return o.toString=function(){return this.map(function(o){var r="",e=void 0!==o[5];return o[4]&&(r+="@supports (".concat(o[4],") {")),o[2]&&(r+="@media ".concat(o[2]," {")),e&&(r+="@layer".concat(o[5].length>0?" ".concat(o[5]):""," {")),r+=t(o),e&&(r+="}"),o[2]&&(r+="}"),o[4]&&(r+="}"),r}).join("")},o.i=function(t,r,e,a,i){"string"==typeof t&&(t=[[null,t,void 0]]);var s={};if(e)for(var n=0;n<this.length;n++){var p=this[n][0];null!=p&&(s[p]=!0)}for(var f=0;f<t.length;f++){var d=[].concat(t[f]);e&&s[d[0]]||(void 0!==i&&(void 0===d[5]||(d[1]="@layer".concat(d[5].length>0?" ".concat(d[5]):""," {").concat(d[1],"}")),d[5]=i),r&&(d[2]&&(d[1]="@media ".concat(d[2]," {").concat(d[1],"}")),d[2]=r),a&&(d[4]?(d[1]="@supports (".concat(d[4],") {").concat(d[1],"}"),d[4]=a):d[4]="".concat(a)),o.push(d))}},o}},27(t){t.exports=function(t){return t[1]}},20(t){var o=[];function r(t){for(var r=-1,e=0;e<o.length;e++)if(o[e].identifier===t){r=e;break}return r}function e(t,e){for(var a={},i=[],s=0;s<t.length;s++){var n=t[s],p=e.base?n[0]+e.base:n[0],f=a[p]||0,d="".concat(p," ").concat(f);a[p]=f+1;var l=r(d),b={css:n[1],media:n[2],sourceMap:n[3],supports:n[4],layer:n[5]};if(-1!==l)o[l].references++,o[l].updater(b);else{var c=function(t,o){var r=o.domAPI(o);return r.update(t),function(o){o?(o.css!==t.css||o.media!==t.media||o.sourceMap!==t.sourceMap||o.supports!==t.supports||o.layer!==t.layer)&&r.update(t=o):r.remove()}}(b,e);e.byIndex=s,o.splice(s,0,{identifier:d,updater:c,references:1})}i.push(d)}return i}t.exports=function(t,a){var i=e(t=t||[],a=a||{});return function(t){t=t||[];for(var s=0;s<i.length;s++){var n=r(i[s]);o[n].references--}for(var p=e(t,a),f=0;f<i.length;f++){var d=r(i[f]);0===o[d].references&&(o[d].updater(),o.splice(d,1))}i=p}}},22(t){var o={};t.exports=function(t,r){var e=function(t){if(void 0===o[t]){var r=document.querySelector(t);if(window.HTMLIFrameElement&&r instanceof window.HTMLIFrameElement)try{r=r.contentDocument.head}catch(t){r=null}o[t]=r}return o[t]}(t);if(!e)throw Error("Couldn't find a style target. This probably means that the value for the 'insert' parameter is invalid.");e.appendChild(r)}},24(t){t.exports=function(t){var o=document.createElement("style");return t.setAttributes(o,t.attributes),t.insert(o,t.options),o}},23(t,o,r){t.exports=function(t){var o=r.nc;o&&t.setAttribute("nonce",o)}},21(t){t.exports=function(t){if("u"<typeof document)return{update:function(){},remove:function(){}};var o=t.insertStyleElement(t);return{update:function(r){var e,a,i;e="",r.supports&&(e+="@supports (".concat(r.supports,") {")),r.media&&(e+="@media ".concat(r.media," {")),(a=void 0!==r.layer)&&(e+="@layer".concat(r.layer.length>0?" ".concat(r.layer):""," {")),e+=r.css,a&&(e+="}"),r.media&&(e+="}"),r.supports&&(e+="}"),(i=r.sourceMap)&&"u">typeof btoa&&(e+="\n/*# sourceMappingURL=data:application/json;base64,".concat(btoa(unescape(encodeURIComponent(JSON.stringify(i))))," */")),t.styleTagTransform(e,o,t.options)},remove:function(){var t;null===(t=o).parentNode||t.parentNode.removeChild(t)}}}},25(t){t.exports=function(t,o){if(o.styleSheet)o.styleSheet.cssText=t;else{for(;o.firstChild;)o.removeChild(o.firstChild);o.appendChild(document.createTextNode(t))}}},19(t,o,r){var e=r(20),a=r.n(e),i=r(21),s=r.n(i),n=r(22),p=r.n(n),f=r(23),d=r.n(f),l=r(24),b=r.n(l),c=r(25),u=r.n(c),h=r(26),x={};x.styleTagTransform=u(),x.setAttributes=d(),x.insert=p().bind(null,"head"),x.domAPI=s(),x.insertStyleElement=b(),a()(h.A,x),h.A&&h.A.locals&&h.A.locals}}]);