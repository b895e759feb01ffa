"use strict";
(() => {
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 600px)");
  const drawn = new Map();

  // Plotly is only read as a script when the first chart comes into view.
  const plotly = () => {
    if (!window.Plotly) {
      const script = document.createElement("script");
      script.textContent = document.getElementById("plotly-source").textContent;
      document.head.append(script);
    }
    return window.Plotly;
  };

  const style = () => getComputedStyle(document.documentElement);
  const named = (found, name) => found.getPropertyValue(`--${name}`).trim();

  const faded = (hex) => {
    const [r, g, b] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
    return `rgba(${r},${g},${b},0.16)`;
  };

  // Names of colours, as the charts have them, become those of the theme.
  const themed = (value, found) => {
    if (Array.isArray(value)) {
      return typeof value[0] === "object" ? value.map((one) => themed(one, found)) : value;
    }
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, one]) => {
        const isColour = (key === "color" || key === "fillcolor") && typeof one === "string";
        if (!isColour) return [key, themed(one, found)];
        if (one.startsWith("band:")) return [key, faded(named(found, one.slice(5)))];
        return [key, named(found, one) || one];
      }));
    }
    return value;
  };

  const layoutOf = (spec, found) => {
    const axis = { gridcolor: named(found, "line"), zerolinecolor: named(found, "line"),
      linecolor: named(found, "line"), automargin: true, title: { standoff: 8 } };
    const given = themed(spec.layout, found);
    const whole = (one) => ({ ...axis, ...one, title: { ...axis.title, ...one.title } });
    const x = whole(given.xaxis);
    if (narrow.matches && x.tickvals && x.tickvals.length > 5) {
      const kept = x.tickvals.map((_, at) => at).filter((at) => at % 2 === 0);
      x.ticktext = kept.map((at) => x.ticktext[at]);
      x.tickvals = kept.map((at) => x.tickvals[at]);
    }
    return {
      ...given, xaxis: { ...x, fixedrange: true },
      yaxis: { ...whole(given.yaxis), fixedrange: true },
      showlegend: false, hovermode: "closest", dragmode: false,
      margin: { l: 50, r: 12, t: 10, b: 44 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: named(found, "text"), family: "system-ui, sans-serif", size: 12 },
      hoverlabel: { bgcolor: named(found, "card"), bordercolor: named(found, "line"),
        font: { color: named(found, "text") } },
    };
  };

  const options = { responsive: true, displayModeBar: false, scrollZoom: false };

  const draw = (place) => {
    const spec = data[place.dataset.chart];
    if (!spec) return;
    const found = style();
    const traces = spec.data.map((trace) => themed({ type: "scatter", ...trace }, found));
    plotly().react(place, traces, layoutOf(spec, found), options);
    drawn.set(place, true);
  };

  const charts = [...document.querySelectorAll("[data-chart]")];
  const watching = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting && !drawn.has(entry.target)) draw(entry.target);
    }
  }, { rootMargin: "150px" });
  charts.forEach((place) => watching.observe(place));
  const again = () => [...drawn.keys()].forEach(draw);
  dark.addEventListener("change", again);
  narrow.addEventListener("change", again);

  // The matching diagram: a slider over checkpoints.
  for (const figure of document.querySelectorAll("[data-diagram]")) {
    const { frames } = data[figure.dataset.diagram];
    const slider = figure.querySelector("input");
    const said = figure.querySelector("output");
    const rows = [...figure.querySelectorAll("tbody tr")];
    slider.addEventListener("input", () => {
      const frame = frames[Number(slider.value)];
      said.textContent = `step ${frame.step}`
        + (frame.exact ? `, exact accuracy ${frame.exact}` : "");
      slider.setAttribute("aria-valuetext", said.textContent);
      rows.forEach((row, y) => {
        [...row.querySelectorAll("td.num")].forEach((cell, x) => {
          const value = frame.values[y][x];
          cell.style.setProperty("--v", value === null ? 0 : value);
          cell.classList.toggle("boxed", Boolean(frame.held[y][x]));
          cell.querySelector(".value").textContent = value === null ? "-" : value.toFixed(2);
          cell.querySelector(".hint").textContent = frame.told[y][x];
        });
        row.querySelector(".said").textContent = frame.verdicts[y];
      });
    });
  }

  // Attention: a pixel for each query and key, in the colours of cividis.
  const ramp = [[0, 34, 78], [53, 69, 108], [102, 105, 112], [148, 142, 119], [200, 184, 102],
    [254, 232, 56]];
  const coloured = (share) => {
    const at = Math.min(0.9999, Math.max(0, share)) * (ramp.length - 1);
    const below = Math.floor(at);
    return ramp[below].map((one, i) => one + (at - below) * (ramp[below + 1][i] - one));
  };
  for (const figure of document.querySelectorAll("[data-patterns]")) {
    const { views } = data[figure.dataset.patterns];
    const choice = figure.querySelector("select");
    const said = figure.querySelector("output");
    const canvases = [...figure.querySelectorAll("canvas")];
    const show = () => {
      const view = views[Number(choice.value)];
      const size = view.axis.length;
      for (const canvas of canvases) {
        const pattern = view.heads[Number(canvas.dataset.head)];
        canvas.width = size;
        canvas.height = size;
        const context = canvas.getContext("2d");
        const image = context.createImageData(size, size);
        pattern.forEach((row, q) => row.forEach((share, k) => {
          image.data.set([...coloured(share / 100), 255], 4 * (q * size + k));
        }));
        context.putImageData(image, 0, 0);
        for (const axis of canvas.parentElement.querySelectorAll(".axis")) {
          axis.replaceChildren(...(size > 12 ? [] : view.axis).map((label, i) => {
            const mark = document.createElement("span");
            mark.textContent = i ? label : "B";
            return mark;
          }));
        }
      }
    };
    choice.addEventListener("change", show);
    for (const canvas of canvases) {
      canvas.addEventListener("pointermove", (event) => {
        const view = views[Number(choice.value)];
        const box = canvas.getBoundingClientRect();
        const size = view.axis.length;
        const place = (offset, whole) =>
          Math.min(size - 1, Math.max(0, Math.floor((offset / whole) * size)));
        const k = place(event.clientX - box.left, box.width);
        const q = place(event.clientY - box.top, box.height);
        const name = canvas.closest(".head").querySelector(".head-name").textContent;
        const share = view.heads[Number(canvas.dataset.head)][q][k];
        const at = (i) => (i ? `${view.axis[i]} (position ${i})` : "BOS");
        said.textContent = `${name}: ${at(q)} looks at ${at(k)}: ${share}%`;
      });
    }
    show();
  }

  // Tables that can be sorted: a button in every heading.
  const keyOf = (row, column) => {
    const cell = row.cells[column];
    const given = cell.dataset.sort;
    if (given === undefined) return cell.textContent.trim();
    const value = Number(given);
    return given !== "" && !Number.isNaN(value) ? value : given;
  };
  const compare = (one, other) => {
    const numbers = typeof one === "number" && typeof other === "number";
    if (numbers) return one - other;
    if (typeof one === "number") return -1;
    if (typeof other === "number") return 1;
    return one.localeCompare(other, "en", { numeric: true });
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.querySelectorAll("thead th")];
    heads.forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((each) => each.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const body = table.tBodies[0];
        const rows = [...body.rows];
        rows.sort((a, b) => (down ? -1 : 1) * compare(keyOf(a, column), keyOf(b, column)));
        body.append(...rows);
      });
    });
  }

  // On paper everything is shown.
  addEventListener("beforeprint", () => {
    document.querySelectorAll("details").forEach((each) => { each.open = true; });
    charts.forEach((place) => { if (!drawn.has(place)) draw(place); });
  });
})();
