const data = JSON.parse(document.getElementById("data").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const color = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const changed = (value, change) => JSON.parse(JSON.stringify(value), change);

// The colors of light mode in those of the page.
const themed = value => {
  const colors = {[data.ink]: color("--ink"), [data.paper]: color("--paper"), "#dddddd": color("--line"), "#bbbbbb": color("--line")};
  return changed(value, (key, part) => Object.hasOwn(colors, part) ? colors[part] : part);
};

// On the page the caption is the title and the checkboxes are the legend.
const forPage = spec => ({
  ...themed(changed(spec, (key, part) => part?.field === "init" ? {...part, legend: null} : part)),
  title: undefined, width: "container", autosize: {type: "fit-x", contains: "padding"}, background: null,
});

// As in the folder report/, but only with the initializers that are shown.
const forFile = (name, shown) => ({
  ...data.specs[name], width: data.widths[name], autosize: {type: "fit-x", contains: "padding"}, background: data.paper,
  config: data.config,
  layer: data.specs[name].layer.filter(layer => layer.description !== data.hover),
  params: data.specs[name].params.map(param => param.name === "shown" ? {...param, value: shown} : param),
});

const drawn = new Map();  // the views of each section that has been drawn
const boxes = section => [...section.querySelectorAll("fieldset input")];
const shown = section => boxes(section).filter(box => box.checked).map(box => box.value);
const signal = (section, name, value) => Promise.all((drawn.get(section) ?? []).map(view => view.signal(name, value).runAsync()));

const draw = async section => {
  drawn.get(section)?.forEach(view => view.finalize());
  drawn.set(section, []);
  let focused = "";
  const focus = init => {
    if (init !== focused) signal(section, "focus", focused = init);
  };
  const config = {...themed(data.config), padding: 5, font: getComputedStyle(document.body).fontFamily};
  const options = {actions: false, renderer: "svg", config, tooltip: {theme: dark.matches ? "dark" : "light"}};
  for (const chart of section.querySelectorAll(".chart")) {
    const {view} = await vegaEmbed(chart, forPage(data.specs[chart.id]), options);
    view.addEventListener("mouseover", (event, item) => focus(item?.datum?.init ?? item?.mark?.items?.[0]?.datum?.init ?? ""));
    view.addEventListener("mouseout", () => focus(""));
    drawn.get(section).push(view);
  }
  for (const box of boxes(section)) {
    const label = box.closest("label");
    box.onchange = () => signal(section, "shown", shown(section));
    label.onmouseenter = box.onfocus = () => focus(box.checked ? box.value : "");
    label.onmouseleave = box.onblur = () => focus("");
  }
  await signal(section, "shown", shown(section));
};

const save = (address, name) => Object.assign(document.createElement("a"), {href: address, download: name}).click();
for (const link of document.querySelectorAll("[data-figure]")) {
  link.addEventListener("click", async event => {
    event.preventDefault();
    const {figure, kind} = link.dataset;
    const spec = forFile(figure, shown(link.closest("section")));
    const {view} = await vegaEmbed(document.createElement("div"), spec, {actions: false, renderer: "svg"});
    save(await view.toImageURL(kind, 2), `${figure}.${kind}`);
    view.finalize();
  });
}

// Tables are sorted by a click: by the first number in each cell if they all start with one, else by text.
const number = text => text === "-" ? -Infinity : Number(text.match(/^(?:[<≈]|more than )?([+-]?[\d.,]+(?:e[+-]?\d+)?)/)?.[1].replace(/,/g, "") ?? NaN);
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = Object.assign(document.createElement("button"), {type: "button"});
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.ariaSort !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.ariaSort = up ? "ascending" : "descending";
      const rows = [...body.rows].map(row => [row.cells[column].textContent.trim(), row]);
      const numeric = rows.every(([text]) => !Number.isNaN(number(text)));
      rows.sort(([a], [b]) => (up ? 1 : -1) * (numeric ? number(a) - number(b) || a.localeCompare(b) : a.localeCompare(b)));
      body.append(...rows.map(([, row]) => row));
    });
  });
}
for (const cell of document.querySelectorAll("td")) cell.classList.toggle("long", cell.textContent.length > 60);

// Every table, and the commands, can be copied: tables in the order of their files, which are in the links.
const copy = async text => {
  try {
    await navigator.clipboard.writeText(text);
  } catch {  // a browser that gives files no clipboard
    const area = Object.assign(document.createElement("textarea"), {value: text});
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
};
const copying = (name, label, text) => {
  const button = Object.assign(document.createElement("button"), {type: "button", textContent: name, className: "copy", ariaLabel: label});
  button.addEventListener("click", async () => {
    await copy(text());
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = name; }, 1500);
  });
  return button;
};
const decoded = address => new TextDecoder().decode(Uint8Array.from(atob(address.split(",")[1]), character => character.charCodeAt(0)));
for (const line of document.querySelectorAll(".files:has(a[href^='data:'])")) {
  const links = [...line.querySelectorAll("a")];
  line.append("Copy: ", ...links.map(link => copying(link.dataset.kind, `Copy ${link.download}`, () => decoded(link.href))));
}
const commands = document.getElementById("commands");
commands.after(copying("Copy", "Copy the commands", () => commands.textContent));

// On paper, figures are as in their files, also those that have not been drawn so far.
addEventListener("beforeprint", () => {
  for (const figure of document.querySelectorAll("figure:not(:has(.paper))")) {
    const still = Object.assign(document.createElement("div"), {className: "paper static", innerHTML: figure.querySelector("noscript").textContent});
    figure.querySelector("figcaption").after(still);
  }
});

// What goes on beyond its box says so, and can be scrolled by the keyboard.
const scrolling = new ResizeObserver(entries => entries.forEach(({target}) => {
  const box = target.closest(".scroll"), more = box.scrollWidth > box.clientWidth + 1;
  if (!box.hint) box.before(box.hint = Object.assign(document.createElement("p"), {className: "hint", textContent: "Scroll sideways for more →"}));
  box.hint.hidden = !more;
  box.tabIndex = more ? 0 : -1;
}));
for (const box of document.querySelectorAll(".scroll:not(.static)")) [box, box.firstElementChild].forEach(part => scrolling.observe(part));

// The first setting at once, others when they come near: a report may have hundreds of charts.
const [first, ...others] = document.querySelectorAll("section:has(.chart)");
const near = new IntersectionObserver(entries => entries.forEach(({isIntersecting, target}) => {
  if (isIntersecting && !drawn.has(target)) draw(target);
}), {rootMargin: "1000px"});
others.forEach(section => near.observe(section));
dark.addEventListener("change", () => [...drawn.keys()].forEach(draw));
(first ? draw(first) : Promise.resolve()).then(() => { document.body.dataset.ready = "1"; });
