"""The style sheet of the report, for light and dark screens, phones and paper, and a script that sorts tables.

The page is complete without the script; if scripts are disabled, the tables keep their written order.
"""

CSS = """
:root { color-scheme: light dark;
  --page: #ffffff; --panel: #f6f7f9; --ink: #202124; --quiet: #5f6368; --faint: #c9ccd1; --line: #e3e5e8;
  --dot: #3b7dc4; --best: #c2630a; --failed: #b3261e; --good: #1b7f4d; --bad: #a3462b; --glow: #fff4e5;
  --op0: #2f6fb5; --op1: #b3541e; --op2: #2c7d55; --op3: #8a3f9e; --op4: #a88a00; --op5: #0f7f8c; --op6: #b0306a;
  --op7: #5a5f66; }
@media (prefers-color-scheme: dark) { :root {
  --page: #17191c; --panel: #202327; --ink: #e8eaed; --quiet: #a2a8b0; --faint: #4b5058; --line: #33373d;
  --dot: #6aa6e8; --best: #f0994a; --failed: #f28b82; --good: #6fcf9b; --bad: #e8a083; --glow: #3a2d1c;
  --op0: #74aef0; --op1: #eb9a68; --op2: #6fc79a; --op3: #cf93e0; --op4: #d9c04a; --op5: #5cc6d2; --op6: #ec85b4;
  --op7: #a9b0b8; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 1180px; padding: 24px 20px 60px; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 40px 0 10px; padding-top: 14px; border-top: 1px solid var(--line); }
h3 { font-size: 15px; margin: 18px 0 8px; }
p { margin: 6px 0; }
.quiet, figcaption, .card small { color: var(--quiet); }
.notice { background: var(--glow); border-radius: 8px; padding: 10px 14px; margin: 14px 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(168px, 1fr)); gap: 12px; margin: 18px 0; }
.card { background: var(--panel); border-radius: 10px; padding: 12px 14px; }
.card b { display: block; font-size: 22px; font-weight: 600; line-height: 1.3; }
.card span, .card small { display: block; font-size: 13px; line-height: 1.4; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 390px), 1fr)); gap: 18px; }
figure { margin: 0; min-width: 0; }
figcaption { font-size: 13px; margin-top: 4px; }
.plot { display: block; width: 100%; max-width: 620px; height: auto; }
.wide { overflow-x: auto; max-width: 100%; padding-bottom: 4px; }
.drawing { display: block; width: 100%; height: auto; font-size: 12px; }
.edge, .branch { fill: none; stroke-width: 1.6; }
.branch.good { stroke: var(--good); } .branch.bad { stroke: var(--faint); }
.node { fill: var(--panel); stroke: var(--faint); } .node.end { fill: var(--page); stroke: var(--ink); }
.label { fill: var(--page); stroke-width: 1.2; }
.name, .operation { text-anchor: middle; dominant-baseline: central; fill: var(--ink); }
.operation { font: 11px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.split, .region { fill: var(--dot); stroke: var(--faint); }
.count { fill: var(--ink); font-weight: 600; } .region ~ .count + .count { font-weight: 400; }
.weight { text-anchor: end; font-variant-numeric: tabular-nums; }
.weight.good { fill: var(--good); } .weight.bad { fill: var(--bad); } .feature { fill: var(--ink); }
pre { background: var(--panel); border-radius: 8px; padding: 12px 14px; overflow-x: auto; font-size: 13px;
  margin: 8px 0; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
.wide > table { min-width: 100%; }
th { text-align: left; font-weight: 600; color: var(--quiet); border-bottom: 1px solid var(--faint);
  padding: 6px 12px 6px 0; white-space: nowrap; }
td { border-bottom: 1px solid var(--line); padding: 5px 12px 5px 0; vertical-align: top; white-space: nowrap; }
th.number, td.number { text-align: right; }
td.code { font: 12px/1.6 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; white-space: normal;
  min-width: 230px; overflow-wrap: anywhere; }
.plots td.code { min-width: 130px; }
td.words { white-space: normal; min-width: 170px; overflow-wrap: anywhere; }
tr.best td { background: var(--glow); font-weight: 600; } tr.failed td { color: var(--failed); }
tr.pending td { color: var(--quiet); }
.sorts th { cursor: pointer; } .sorts th:hover { color: var(--ink); }
.sorts th::after { content: "\\2195"; opacity: .35; padding-left: 4px; }
.sorts th[aria-sort=ascending]::after { content: "\\2191"; opacity: 1; }
.sorts th[aria-sort=descending]::after { content: "\\2193"; opacity: 1; }
.panel { min-width: 0; } .panel code { overflow-wrap: anywhere; }
summary { cursor: pointer; }
.network { border-bottom: 1px solid var(--line); padding: 4px 0; font-variant-numeric: tabular-nums; }
.network > figure, .network > pre { margin: 8px 0; } .network > summary:hover { color: var(--dot); }
@media (max-width: 600px) { body { padding: 16px 14px 40px; } h1 { font-size: 23px; }
  .cards { grid-template-columns: repeat(2, 1fr); gap: 8px; } .card b { font-size: 19px; } }
@media print { :root { color-scheme: light; --page: #fff; --panel: #f6f7f9; --ink: #000; --quiet: #444; --faint: #bbb;
    --line: #ddd; --dot: #3b7dc4; --best: #c2630a; --failed: #b3261e; --good: #1b7f4d; --bad: #a3462b; --glow: #fff4e5;
    --op0: #2f6fb5; --op1: #b3541e; --op2: #2c7d55; --op3: #8a3f9e; --op4: #a88a00; --op5: #0f7f8c; --op6: #b0306a;
    --op7: #5a5f66; }
  body { max-width: none; padding: 0; font-size: 11pt; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .plots { grid-template-columns: 1fr 1fr; } .wide { overflow: visible; } .drawing { min-width: 0 !important; }
  figure, .card, tr { break-inside: avoid; } h2, h3 { break-after: avoid; }
  table { font-size: 8pt; } td, th { padding-right: 6px; } td.code { font-size: 7pt; min-width: 0; }
  .sorts th::after { content: none; } }
"""

SCRIPT = """
for (const table of document.querySelectorAll("table.trials")) {
  table.classList.add("sorts");
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") !== "descending";
    const key = row => row.cells[column].dataset.sort ?? row.cells[column].textContent;
    const compare = (a, b) => {
      const x = key(a), y = key(b);
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
      return down ? -order : order;
    };
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    body.append(...[...body.rows].sort(compare));
  }));
}
"""
