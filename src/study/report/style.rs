//! How the page looks, on light and dark screens, wide and narrow, and on paper.

/// Charts are black with the colours of [`crate::study::chart::COLOURS`]; both
/// are painted anew here for dark screens.
pub(super) const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --paper: #ffffff;
  --line: #d0d7de; --card: #f6f8fa; --warn: #b54708; --warn-paper: #fff4e5; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9da7b3;
  --paper: #0d1117; --line: #30363d; --card: #161b22; --warn: #ffb86b; --warn-paper: #2b1d0e; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 70rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
h3 { margin-bottom: .3rem; } p, li { max-width: 46rem; } .note { color: var(--soft); font-size: .9rem; }
.banner { border: 2px solid var(--warn); background: var(--warn-paper); color: var(--warn);
  padding: .6rem 1rem; border-radius: .4rem; font-weight: 600; }
.wide { overflow-x: auto; } table { border-collapse: separate; border-spacing: 0; font-size: .88rem; margin: .5rem 0; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; vertical-align: top; }
th:first-child, td:first-child, .text { text-align: left; } td small { color: var(--soft); display: block; } th small { margin-left: .3em; }
td.wrap { white-space: normal; min-width: 14rem; }
td.wrong { color: var(--warn); font-weight: 600; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); gap: 1rem; }
figure { margin: 0; padding: .6rem; background: var(--card); border: 1px solid var(--line); border-radius: .4rem; }
figcaption { font-size: .88rem; color: var(--soft); } figure svg, figure img { width: 100%; height: auto; display: block; }
svg text { fill: var(--ink); } svg [stroke=\"#000000\"] { stroke: var(--ink); }
svg rect[fill=\"#FFFFFF\"] { fill: var(--card); }
@media (prefers-color-scheme: dark) {
  svg [stroke=\"#0072B2\"] { stroke: #58a6ff; } svg [fill=\"#0072B2\"] { fill: #58a6ff; }
  svg [stroke=\"#D55E00\"] { stroke: #ff8c42; } svg [fill=\"#D55E00\"] { fill: #ff8c42; }
  svg [stroke=\"#56B4E9\"] { stroke: #c6e6ff; } svg [fill=\"#56B4E9\"] { fill: #c6e6ff; } }
.flow { list-style: none; padding: 0; } .flow li { border: 1px solid var(--line); border-radius: .4rem;
  background: var(--card); padding: .4rem .8rem; margin: 0 0 1.4rem; position: relative; max-width: 34rem; }
.flow li + li::before { content: '\\2193'; position: absolute; top: -1.45rem; left: 1rem; color: var(--soft); }
.flow .out { margin-left: 3rem; border-style: dashed; } .flow .out::before { content: '\\21B3' !important; }
dl { display: grid; grid-template-columns: minmax(8rem, max-content) 1fr; gap: .2rem 1rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
nav { display: flex; flex-wrap: wrap; gap: .3rem .9rem; } nav a { white-space: nowrap; } a { color: inherit; }
@media (max-width: 40rem) { body { padding: .7rem; }
  .wide th:first-child, .wide td:first-child { position: sticky; left: 0; background: var(--paper); }
  .cards table, .cards tbody, .cards tr { display: block; } .cards thead { display: none; }
  .cards tr { border-bottom: 2px solid var(--line); padding: .4rem 0; }
  .cards td { display: grid; grid-template-columns: 1fr auto 8rem; gap: .8rem; border: 0; padding: .15rem 0; white-space: normal; }
  .cards td:first-child { position: static; display: block; font-weight: 600; }
  .cards td:first-child small { display: inline; margin-left: .5em; }
  .cards td::before { content: attr(data-title); color: var(--soft); text-align: left; }
  .cards td:first-child::before { content: none; }
  dl { display: block; } dd { margin-bottom: .6rem; } dt { font-size: .85rem; } }
@media print { figure, tr, .flow li { break-inside: avoid; } }
";
